"""What stands in a report, whatever is missing of a run; how it is written, and what it costs."""

from __future__ import annotations

import base64
import html
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from report_fixtures import copied, hostile_run, page, rewritten, table_of, text_of, utterances, voices_like_run
from running import DATA, SHIPPED, environment, run

from pipeline.audio.waveforms import read_waveform
from pipeline.config.schema import ReportSettings
from pipeline.report import __main__ as command
from pipeline.report import write_report
from pipeline.report.freshness import is_current
from pipeline.report.stretches import CLIP_S
from pipeline.report.table import choose_rows
from pipeline.report.texts import shown
from pipeline.results import open_run
from pipeline.runtime.errors import UserError
from pipeline.storage.run_directory import RunDirectory
from pipeline.verify import __main__ as verify
from pipeline.verify.audit import audit
from scripts.bench.large_report import make_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return voices_like_run(tmp_path_factory.mktemp("voices"))


@pytest.fixture(scope="module")
def finished_page(finished: Path) -> str:
    return page(finished)


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    return copied(finished, tmp_path)


def infer(folder: Path, *overrides: str, code: int = 0) -> Path:
    done = run(*overrides, "model=digits", f"run_dir={folder / 'out'}", cwd=folder)
    assert done.returncode == code, done.stderr
    return folder / "out"


# The whole page


def test_the_page_says_how_the_run_went(finished: Path, finished_page: str) -> None:
    text = text_of(finished_page)
    assert "voices · digits" in text
    assert re.search(r"Word error rate \d+\.\d\d % 95 %: \d+\.\d\d % to \d+\.\d\d %, [\d,]+ reference words", text)
    assert "Utterances 47 of 49" in text
    assert "Failures 2" in text
    assert "device cpu, fp32" in text
    assert "x real time" in text
    assert f"folder {finished}" in text
    assert re.search(r"started \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", text)
    assert " complete " in text
    recorded = json.loads((finished / "run.json").read_text())
    assert recorded["identity"]["weights_sha256"] in text
    assert recorded["identity"]["manifest"] in text
    assert f"version of torch {recorded['versions']['torch']}" in text
    assert "shard: hours: 0.02" in text  # the configuration


def test_rates_by_group_stand_with_their_intervals(finished_page: str) -> None:
    text = text_of(finished_page)
    kinds = r"\d+ substitutions \d+ deletions \d+ insertions"
    rate = rf"babb {kinds} [\d.]+ % [\d.]+.[\d.]+ [\d.]+ % (?:13|14) "
    assert re.search(rf"distractor value drawn WER 95 % CER utterances {rate}", text)
    assert re.search(
        r"Character error rate [\d.]+ % 95 %: [\d.]+ % to [\d.]+ % Substitutions \d+ [\d.]+ % of the", text
    )
    assert "intervals: 95 %, 1000 bootstrap samples of speakers" in text
    assert re.search(r"Substitutions reference text count \w+ \w+ \d+", text)


def test_joined_columns_stand_before_the_others_and_with_each_utterance(
    out: Path, finished_page: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = pq.read_table(out / "manifest.parquet")["path"].to_pylist()
    lines = [f"{path},{'phone' if index % 2 else 'mic'}\n" for index, path in enumerate(paths)]
    (tmp_path / "devices.csv").write_text("".join(["path,device\n", *lines[:-5], "gone.wav,mic\n"]))
    before = {path: path.read_bytes() for path in out.rglob("*.parquet")}
    assert command.main([str(out), "--metadata", str(tmp_path / "devices.csv"), "--on", "path"]) == 0
    found = capsys.readouterr()
    assert f"{len(paths) - 5} of {len(paths) - 4} rows belong to an utterance, the first that does not has" in found.err
    assert found.out == f"report in {out}/report/index.html\n"
    markup = (out / "report" / "index.html").read_text()
    groups = r"device value drawn WER 95 % CER utterances mic \d+ sub.* no value .* distractor value drawn"
    assert re.search(groups, text_of(markup))
    assert any("device" in text_of(part) for part in utterances(markup).values())
    assert table_of(markup)["own"][0]["name"] == "device"
    assert "device value drawn" not in text_of(finished_page)
    assert {path: path.read_bytes() for path in out.rglob("*.parquet")} == before
    assert not is_current(RunDirectory(out), ReportSettings())  # the next run writes its own page


def test_metadata_that_cannot_be_joined_is_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "devices.csv").write_text("path,device\nx.wav,mic\n")
    for options, reason in (
        (["--metadata", str(tmp_path / "devices.csv")], "devices.csv: no column is known to hold the id"),
        (["--metadata", str(tmp_path / "devices.csv"), "--on", "path"], "0 of 1 rows belong to an utterance"),
        (["--metadata", "/gone.csv"], "error: /gone.csv: no such file"),
        (["--on", "path"], "error: --on=path: says how the rows of --metadata name utterances"),
        (["--metadata", "/gone.csv", "--on", "room"], "invalid choice: 'room'"),
    ):
        assert command.main([str(finished), *options]) == 2
        assert reason in capsys.readouterr().err


def test_failures_stand_with_their_reasons(finished_page: str) -> None:
    text = text_of(finished_page)
    assert re.search(r"truncated 1 .* What to do: Copy or .* Lab41\S+ \d+ bytes expected, 3956 are there", text)
    assert re.search(r"unsupported_format 1 .* What to do: .* pip install av.* Lab41\S+ .*<html>the disk", text)
    assert "2 of 49 utterances have no result. When a cause is removed, the same command with retry_failed=true" in text


def test_what_matters_first_stands_first(finished_page: str) -> None:
    sections = re.findall(r'<section id="(\w+)">', finished_page)
    assert sections == ["summary", "failures", "scores", "utterances", "distributions", "speed", "configuration"]
    assert re.findall(r'<a href="#(\w+)">', finished_page.partition("</nav>")[0]) == sections


def test_a_page_is_called_after_the_corpus_and_says_what_is_new_since_it_grew(tmp_path: Path) -> None:
    calls = tmp_path / "spring calls"
    calls.mkdir()
    for name in ("0_theo_0", "1_theo_1", "2_jackson_1"):
        shutil.copy(DATA / "fsdd" / f"{name}.wav", calls)
        (calls / f"{name}.txt").write_text("zero")
    given = ("dataset=folder", f"dataset.root={calls}", "outputs=[transcripts]", "stages=[manifest,infer]")
    out = infer(tmp_path, *given)
    assert "New since" not in text_of(page(out, utterances=0))
    shutil.copy(DATA / "fsdd" / "7_george_0.wav", calls)
    text = text_of(page(infer(tmp_path, *given), utterances=0))
    assert "report spring calls · digits" in text
    assert re.search(r"New 1 since \d{4}-\d\d-\d\d", text)
    assert "New since the corpus grew: 1 utterances, and 0 failures" in text
    assert "Comparison" not in text
    other = tmp_path / "a b-vs-out"
    other.mkdir()
    (other / "comparison.html").write_text("")
    markup = page(out, utterances=0)
    assert '<a href="../../a%20b-vs-out/comparison.html">Comparison <bdi>a b-vs-out</bdi></a>' in markup
    assert (out / "report" / "../../a b-vs-out/comparison.html").is_file()


def test_utterances_are_worst_typical_and_best_and_none_is_shown_twice(finished_page: str) -> None:
    found = utterances(finished_page)
    assert list(found) == [f"{kind}-{rank}" for kind in ("worst", "typical", "best") for rank in (1, 2, 3, 4)]
    ids = [re.search(r'class="id"><bdi>(.*?)<', part)[1] for part in found.values()]  # type: ignore[index]
    assert len(set(ids)) == 12
    rates = [int(re.search(r"WER <b>(\d+) %", part)[1]) for part in found.values()]  # type: ignore[index]
    assert rates == [*sorted(rates[:4], reverse=True), *rates[4:8], *rates[8:]]
    assert rates[0] > rates[4] >= rates[8] == 0


def test_each_utterance_has_its_sound_words_emission_and_layers(finished: Path, finished_page: str) -> None:
    for part in utterances(finished_page).values():
        id_ = re.search(r'class="id"><bdi>(.*?)<', part)[1]  # type: ignore[index]
        sound = re.search(r'src="data:audio/flac;base64,([^"]+)"', part)[1]  # type: ignore[index]
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(sound)), dtype="float32")
        (path,) = (finished.parent / "VOiCES_devkit").rglob(f"{id_}.wav")
        expected, expected_rate = read_waveform(str(path))
        assert (rate, len(samples)) == (expected_rate, len(expected))
        assert np.abs(samples - expected).max() < 2**-14
        words = re.findall(r'class="word" .*?<bdi>(.*?)</bdi>', part)
        assert " ".join(words) == " ".join(re.findall(r'<button[^>]* title="(\S+):', part))
        assert part.count("data:image/png;base64,") == 1 + 3  # the emission; the first, the middle and the last layer
        assert [int(layer) for layer in re.findall(r"features of layer (\d+)", part)] == [1, 3, 4]
        assert "<span><bdi>blank</bdi></span><span><bdi>delimiter</bdi></span>" in part
        assert "<bdi>Z</bdi>" in part


def test_layers_are_those_asked_for_and_others_are_refused(finished: Path) -> None:
    markup = page(finished, layers=[2], utterances=1)
    assert {*re.findall(r"features of layer (\d+)", markup)} == {"2"}
    with pytest.raises(UserError, match=r"report\.layers=\[2, 9\]: \[9\] is not stored; this run has layers \[1, 2"):
        page(finished, layers=[2, 9])


def test_the_page_needs_nothing_but_itself(finished_page: str) -> None:
    named = re.findall(r'\s(?:src|srcset|href|xlink:href|poster|data|action)="([^"]*)"', finished_page)
    assert len(named) > 60
    assert [each for each in named if not each.startswith(("#", "data:"))] == []
    assert {*re.findall(r"url\((.)", finished_page)} <= {"#"}
    assert "@import" not in finished_page
    policy = html.unescape(*re.findall(r'Content-Security-Policy" content="([^"]+)"', finished_page))
    assert policy.startswith("default-src 'none'; img-src data:; media-src data:; style-src 'sha256-")
    assert "unsafe-inline" not in policy.replace("style-src-attr 'unsafe-inline'", "")


# The table of utterances


def test_the_table_has_every_utterance_with_its_words_difference_and_metadata(
    finished: Path, finished_page: str
) -> None:
    table = table_of(finished_page)
    rows = open_run(finished).transcripts
    assert table["id"] == rows["id"].tolist()
    for key in ("text", "reference", "word_errors", "reference_words", "path"):
        assert table[key] == rows[key].tolist()
    assert table["wer"] == [round(value, 4) for value in rows["wer"]]
    (room,) = (column for column in table["own"] if column["name"] == "room")
    values = [None if code < 0 else room["values"][code] for code in room["codes"]]
    assert values == pq.read_table(finished / "transcripts")["room"].to_pylist()
    counts = np.cumsum([0, *table["words"]["counts"]])
    for row, words in enumerate(rows["words"]):
        times = slice(counts[row], counts[row + 1])
        starts, lengths = (table["words"][name][times] for name in ("starts", "lengths"))
        ends = np.cumsum(np.array(starts) + lengths)
        assert (ends / 100).tolist() == pytest.approx([word["end_s"] for word in words], abs=0.006)
        letters = table["pairs"].get(str(row), "=" * rows["reference_words"][row])
        assert len(letters) - letters.count("=") == rows["word_errors"][row]
    shown_with_audio = table["examples"]
    assert len(shown_with_audio) == 12
    part = utterances(finished_page)["worst-1"]
    (row,) = (int(row) for row, name in shown_with_audio.items() if name == "worst-1")
    assert f"<bdi>{table['id'][row]}</bdi>" in part


def test_of_a_large_run_the_table_has_the_worst_the_least_certain_and_a_sample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.report.table.SAMPLED", 200)
    random = np.random.default_rng(1)
    wer, logprob = random.random(30_000), -random.random(30_000)
    wer[:29_900], logprob[5] = 0.0, np.nan
    positions, why = choose_rows(wer, logprob)
    assert why is not None
    worst = {int(at) for at, name in zip(positions, why, strict=True) if "worst" in name}
    assert worst == set(range(29_900, 30_000))  # not one without an error
    least = {int(at) for at, name in zip(positions, why, strict=True) if "least certain" in name}
    assert least == {*np.argsort(logprob)[:200].tolist()}
    assert sum("random" in name for name in why) == 200
    again, _ = choose_rows(wer, logprob)
    assert (again == positions).all()
    assert (np.diff(positions) > 0).all()
    everything, nothing = choose_rows(wer[:20_000], logprob[:20_000])
    assert (len(everything), nothing) == (20_000, None)


def test_words_that_are_not_those_of_the_text_and_paths_that_are_no_links_are_spelled_out(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(row: dict[str, Any]) -> dict[str, Any]:
        written = {"text": f"Twenty-one, {row['text']}", "path": f"/a%20b/{row['id']}?token=s3cr3ts3cr3t"}
        return {**row, **written, "word_errors": 3}

    ids = table_of(page(out, utterances=0))["id"]
    rewritten(out, "transcripts", changed)
    table = table_of(page(out, utterances=0))
    assert len(table["words"]["spelled"]) == len(ids)
    letters, ours, theirs = table["pairs"]["0"]
    assert len(letters) == len(ours) == len(theirs)
    assert theirs[:2] == ["twenty", "one"]
    assert set(table["links"].values()) == {""}
    monkeypatch.setattr("pipeline.report.table.MAX_CHARACTERS", 20)
    monkeypatch.setattr("pipeline.report.table.MAX_WORDS", 2)
    table = table_of(page(out, utterances=0))
    assert {len(text) for text in table["text"]} == {21}
    assert table["text"][0].startswith("Twenty-one, ")
    assert table["text"][0].endswith("…")
    assert max(table["words"]["counts"]) == 2
    assert "s3cr3t" not in str(table)


# What may be missing


def test_without_scores_the_page_says_how_to_get_them(out: Path) -> None:
    RunDirectory(out).remove_scores()
    text = text_of(page(out, utterances=0))
    assert "stages=[score,report]" in text
    assert re.search(r"Word error rate \d+\.\d\d % [\d,]+ reference words", text)  # commits keep the sums
    assert "Most frequent errors" not in text
    assert "No utterances are shown" in text


def test_without_metrics_log_and_configuration_the_rest_stands(out: Path) -> None:
    shutil.rmtree(out / "logs")
    (out / "config.yaml").unlink()
    markup = page(out, utterances=1)
    text = text_of(markup)
    assert "Speed" not in text
    assert "config.yaml" not in text
    assert "Utterances 47 of 49" in text
    assert re.search(r"started \d{4}-", text)  # when the first shard was committed
    assert len(utterances(markup)) == 3


def test_an_unfinished_run_says_what_is_left(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = sorted((out / "commits").iterdir())[0]
    left = json.loads(first.read_text())["utterances"]
    first.unlink()
    text = text_of(page(out, utterances=1))
    assert f"unfinished {left} utterances (" in text
    assert "run the same command again to continue" in text
    monkeypatch.setattr(RunDirectory, "is_locked", lambda self: True)  # by another process
    assert f"running {left} utterances (" in text_of(page(out, utterances=0))


def test_a_run_that_has_only_a_manifest_says_so(out: Path) -> None:
    for name in ("commits", "logs", "transcripts", "emissions", "features", "failures"):
        shutil.rmtree(out / name)
    for name in ("run.json", "config.yaml", "scores.parquet", "confusions.parquet"):
        (out / name).unlink()
    text = text_of(page(out))
    assert "Nothing is committed yet." in text
    assert "has only a manifest" in text
    assert "unfinished 49 utterances" in text


def test_a_run_in_which_everything_failed_shows_the_reasons(tmp_path: Path) -> None:
    (tmp_path / "calls").mkdir()
    for name in ("a.wav", "b.wav"):
        (tmp_path / "calls" / name).write_text("no recording")
    text = text_of(page(infer(tmp_path, "dataset=folder", f"dataset.root={tmp_path / 'calls'}", code=3)))
    assert "all utterances so far failed" in text
    assert re.search(r"unsupported_format 2 .* What to do: .* a\.wav .* b\.wav", text)
    assert "Utterances 0 of 2" in text


def test_features_alone_are_shown_with_their_sound(tmp_path: Path) -> None:
    (tmp_path / "calls").mkdir()
    for name in ("0_theo_0", "1_theo_1", "2_jackson_1"):
        shutil.copy(DATA / "fsdd" / f"{name}.wav", tmp_path / "calls")
    (tmp_path / "calls" / "broken.wav").write_text("no recording")
    markup = page(infer(tmp_path, "dataset=folder", f"dataset.root={tmp_path / 'calls'}", "outputs=[features]", code=3))
    found = utterances(markup)
    assert list(found) == ["sample-1", "sample-2", "sample-3"]
    for part in found.values():
        assert "data:audio/flac" in part
        assert part.count("data:image/png") == 1
        assert "button" not in part
    assert "This run has no transcripts" in text_of(markup)
    assert "distribution of avg_logprob" not in markup


def test_each_side_of_a_call_plays_its_own_channel_and_there_need_be_no_references(tmp_path: Path) -> None:
    (tmp_path / "calls").mkdir()
    sides = [soundfile.read(DATA / "fsdd" / f"{name}.wav")[0] for name in ("7_george_0", "2_jackson_1")]
    call = np.zeros((max(map(len, sides)), 2))
    for channel, side in enumerate(sides):
        call[: len(side), channel] = side
    soundfile.write(tmp_path / "calls" / "call.wav", call, 8000)
    given = ("dataset=folder", f"dataset.root={tmp_path / 'calls'}", "channels=each", "outputs=[transcripts]")
    markup = page(infer(tmp_path, *given))
    played = {}
    for part in utterances(markup).values():
        sound = re.search(r'src="data:audio/flac;base64,([^"]+)"', part)[1]  # type: ignore[index]
        id_ = re.search(r'class="id"><bdi>(.*?)<', part)[1]  # type: ignore[index]
        played[id_] = soundfile.read(io.BytesIO(base64.b64decode(sound)))[0]
    assert {*played} == {"call.wav#c1", "call.wav#c2"}
    for channel in (0, 1):
        assert np.abs(played[f"call.wav#c{channel + 1}"] - call[:, channel]).max() < 2**-14
    text = text_of(markup)
    assert "no references, so there is nothing to score" in text
    assert re.search(r"Certainty -0\.\d{3} median log-probability of a frame", text)
    assert "data:image" not in markup
    assert "This run has no emissions and no features (outputs=...)" in text_of(markup)


def test_segments_and_hours_show_twenty_seconds_at_the_file_s_own_times(tmp_path: Path) -> None:
    rows = [soundfile.read(path) for path in sorted((SHIPPED / "digits").glob("*-6digits-*.flac"))]
    samples, rate = np.concatenate([row[0] for row in rows] * 3), rows[0][1]
    soundfile.write(tmp_path / "long.flac", samples, rate)
    part = {"offset": 5.0, "duration": 4.0}
    listed = [{"audio_filepath": "long.flac", "id": "whole"}, {"audio_filepath": "long.flac", "id": "part", **part}]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, listed)))
    markup = page(infer(tmp_path, "dataset=manifest", f"dataset.path={tmp_path / 'list.jsonl'}", "chunk.seconds=20"))
    by_id = {re.search(r'class="id"><bdi>(.*?)<', part)[1]: part for part in utterances(markup).values()}  # type: ignore[index]
    for id_, seconds in (("whole", CLIP_S), ("part", 4.0)):
        start, end = (float(value) for value in re.search(r'data-start="(.*?)" data-end="(.*?)"', by_id[id_]).groups())  # type: ignore[union-attr]
        assert end - start == pytest.approx(seconds, abs=0.01)
        sound = re.search(r'src="data:audio/flac;base64,([^"]+)"', by_id[id_])[1]  # type: ignore[index]
        played = soundfile.read(io.BytesIO(base64.b64decode(sound)))[0]
        first = round(start * rate)
        assert np.abs(played - samples[first : first + len(played)]).max() < 2**-14
        times = [float(each) for each in re.findall(r'<button[^>]* data-start="([\d.]+)"', by_id[id_])]
        assert len(times) > 3
        assert all(start - 1 < each < end for each in times)
    assert 'class="stage" data-start="5.0"' in by_id["part"]
    assert re.search(r"Shown and played: [\d.]+ to [\d.]+ s of the file", text_of(by_id["whole"]))
    assert "Shown and played" not in by_id["part"]


def test_a_recording_that_is_gone_or_has_changed_is_shown_without_its_sound(finished: Path, tmp_path: Path) -> None:
    moved = copied(finished.parent, tmp_path)
    rows = utterances(page(finished, utterances=1))
    ids = [re.search(r'class="id"><bdi>(.*?)<', part)[1] for part in rows.values()]  # type: ignore[index]
    paths = [next((moved / "VOiCES_devkit").rglob(f"{id_}.wav")) for id_ in ids]
    paths[0].unlink()
    paths[1].write_bytes(paths[1].read_bytes() + b"more")
    samples, rate = soundfile.read(paths[2], dtype="int16")
    soundfile.write(paths[2], samples, rate * 2)  # of the same size

    def here(row: dict[str, object]) -> dict[str, object]:
        return {**row, "path": str(row["path"]).replace(str(finished.parent), str(moved))}

    manifest = pq.read_table(moved / "out" / "manifest.parquet")
    changed = pa.Table.from_pylist([here(row) for row in manifest.to_pylist()], schema=manifest.schema)
    pq.write_table(changed, moved / "out" / "manifest.parquet")
    rewritten(moved / "out", "transcripts", here)
    parts = [text_of(part) for part in utterances(page(moved / "out", utterances=1)).values()]
    assert "No player: the recording does not exist any more" in parts[0]
    assert re.search(
        r"No player: the recording has changed since the run \(the file has \d+ bytes, but had \d+", parts[1]
    )
    assert "No player: the recording has changed since the run (16000 Hz, 8000 when" in parts[2]
    assert all("words" in part and "layer 1" in part for part in parts)  # everything else is there


# Text of strangers


def test_hostile_text_is_text_wherever_it_stands(finished: Path, tmp_path: Path) -> None:
    markup = page(hostile_run(finished, tmp_path))
    assert markup.count("<script>") == 1
    assert "<img src=x" not in markup
    assert "\u202e" not in markup
    assert "\x07" not in markup
    assert "onerror=&#34;owned=1&#34;" in markup
    text = text_of(markup)
    assert text.count("</script><script>owned=1</script>") > 50
    assert r"'$x^2$\u202eback\x07" in text


def test_what_cannot_be_seen_is_shown_as_an_escape() -> None:
    assert shown("a\u202eb\x00c\u2028d\udcffe\ufeff") == r"a\u202eb\x00c\u2028d%FFe\ufeff"
    assert shown("سلام\u200dक्\u200d") == "سلام\u200dक्\u200d"
    assert shown("x" * 10, limit=4) == "xxxx…"


def test_secrets_are_masked(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORPUS_TOKEN", "hunter2hunter2")
    settings = ("dataset:", "  root: s3://me:pa55word@host/x", "  api_key: kkk12345", "other: hunter2hunter2")
    (out / "config.yaml").write_text("\n".join(settings))
    rewritten(out, "failures", lambda row: {**row, "message": "GET https://host/x?token=s3cr3t failed"})
    markup = page(out)
    for secret in ("pa55word", "kkk12345", "hunter2hunter2", "s3cr3t"):
        assert secret not in markup
    assert "s3://***@host/x" in markup


# How it is written


def test_a_report_replaces_the_one_before_or_leaves_it(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page(out, utterances=0)
    path = out / "report" / "index.html"
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        page(out, utterances=1)
    assert path.read_bytes() == before
    assert not list((out / ".staging").glob("file-*"))
    monkeypatch.undo()
    assert len(page(out, utterances=1)) > len(before)
    assert [each.name for each in path.parent.iterdir()] == ["index.html"]


def test_verify_takes_a_report_for_what_it_is(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page(out, utterances=0)
    found = audit(RunDirectory(out))
    assert found.problems == []
    assert found.notes == []
    (out / "report" / "index.html").write_text("edited")  # no result: it can be written again at any time
    assert verify.main([str(out)]) == 0
    assert "report" not in capsys.readouterr().out


def test_the_command_writes_the_page_and_names_it(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(out), "--utterances", "1", "--layers", "1,2"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"report in {out / 'report' / 'index.html'}"
    markup = (out / "report" / "index.html").read_text()
    assert len(utterances(markup)) == 3
    assert {*re.findall(r"features of layer (\d+)", markup)} == {"1", "2"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: RUN_DIR; usage: python -m pipeline.report"),
        (["nowhere"], "nowhere: no run there (no manifest.parquet); give the run_dir of a run"),
        (["nowhere", "--utterances", "-1"], "--utterances=-1: must be 1 to 20, the number of each kind"),
        (["nowhere", "--utterances", "x"], "invalid int value: 'x'"),
        (["nowhere", "--layers", "1,b"], "--layers=1,b: must be numbers of layers with commas, such as 1,6,12"),
        (["nowhere", "--theme"], "unrecognized arguments: --theme"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], said: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert said in lines[0]
    assert list(elsewhere.iterdir()) == []


def test_a_damaged_table_and_a_place_that_cannot_be_written_are_one_line(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = next((out / "transcripts").iterdir())
    whole = file.read_bytes()
    file.write_bytes(b"x" * len(whole))
    assert command.main([str(out)]) == 2
    assert re.fullmatch(r"error: .*cannot be read .*python -m pipeline\.verify .*\n", capsys.readouterr().err)
    file.write_bytes(whole)
    shutil.rmtree(out / "report", ignore_errors=True)
    (out / "report").write_text("in the way")
    assert command.main([str(out), "--utterances", "1"]) == 1
    assert re.fullmatch(r"error: .*report.*; no report written\n", capsys.readouterr().err)


def interpreted(script: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script]
    return subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=240)


def test_the_command_loads_neither_torch_nor_what_it_does_not_need(tmp_path: Path) -> None:
    script = (
        "import runpy, sys; sys.argv = ['report', '--help']\n"
        "try: runpy.run_module('pipeline.report', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'matplotlib', 'jinja2', 'hydra'} & {*sys.modules}"
    )
    done = interpreted(script, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: python -m pipeline.report RUN_DIR")


def test_a_report_needs_no_torch(finished: Path, tmp_path: Path) -> None:
    out = copied(finished, tmp_path)
    script = (
        "import sys; from pipeline.report.__main__ import main\n"
        f"assert main([{str(out)!r}]) == 0; assert not {{'torch', 'hydra', 'matplotlib.pyplot'}} & {{*sys.modules}}"
    )
    done = interpreted(script, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_page_of_a_large_run_is_that_of_a_small_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.report.table.MAX_ALL", 300)
    monkeypatch.setattr("pipeline.report.table.SAMPLED", 100)
    sizes = {}
    for rows in (300, 3_000):
        markup = page(make_run(tmp_path / str(rows), rows).root, utterances=1)
        assert len(utterances(markup)) == 3
        sizes[rows] = len(markup)
        assert len(table_of(markup)["id"]) < 300
        assert ("This finds any others" in markup) == (rows == 3_000)
    assert sizes[3_000] < 1.1 * sizes[300]


def test_write_report_refuses_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run there"):
        write_report(RunDirectory(tmp_path / "none"), ReportSettings())
    assert not (tmp_path / "none").exists()
