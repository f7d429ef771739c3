"""The main job end to end, as a person runs it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from running import (
    DATA,
    SHIPPED,
    assert_accounting,
    command,
    environment,
    execute,
    ids,
    listed,
    main,
    mtimes,
    read,
    run,
    run_prepared,
    server,
    wait_until,
)

from pipeline.results import open_run
from pipeline.stages import infer as stages
from pipeline.storage import tables


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VOICES_ROOT", raising=False)


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """One run of the demo, and what it printed."""
    folder = tmp_path_factory.mktemp("digits")
    asked = ["dataset=digits", "shard.hours=0.01", "features.layers=all"]  # every stage
    done = server().run("pipeline.run", asked, cwd=folder, env=environment(), timeout=240)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "digits" / "digits", done.stdout


def test_digits_become_tables_that_account_for_every_utterance(digits_run: tuple[Path, str]) -> None:
    run_dir, _ = digits_run
    assert_accounting(run_dir, layers=4)
    assert len(ids(run_dir, "transcripts")) == 60
    assert len(list((run_dir / "commits").glob("*.json"))) > 2
    for table in ("transcripts", "emissions", "features", "failures"):
        assert len(list((run_dir / table).glob("*.parquet"))) == len(list((run_dir / "commits").glob("*.json")))


def test_the_run_directory_holds_what_the_contract_lists_and_nothing_else(digits_run: tuple[Path, str]) -> None:
    run_dir, _ = digits_run
    assert sorted(path.name for path in run_dir.iterdir()) == [
        ".staging", "commits", "config.yaml", "confusions.parquet", "emissions", "failures", "features", "logs",
        "manifest.parquet", "report", "run.json", "scores.parquet", "transcripts",
    ]  # fmt: skip
    assert [path.name for path in (run_dir / "report").iterdir()] == ["index.html"]
    assert [path.name for path in (run_dir / ".staging").iterdir()] == ["lock"]
    assert run_dir.parents[1].name == "runs"
    assert [path.name for path in run_dir.parents[2].iterdir()] == ["runs"]


def test_the_shipped_model_reads_the_shipped_corpus(digits_run: tuple[Path, str]) -> None:
    run_dir, printed = digits_run
    frame = open_run(run_dir).transcripts
    assert frame.word_errors.sum() / frame.reference_words.sum() <= 0.05
    assert "\nWER " in printed
    assert f'pandas.read_parquet("{Path("runs/digits/digits/transcripts")}")' in printed
    assert "60 of 60 utterances" in printed


def test_schemas_are_those_of_the_contract(digits_run: tuple[Path, str]) -> None:
    run_dir, _ = digits_run
    own = {"speaker": "string", "num_digits": "int16"}
    manifest = tables.manifest_schema(own)
    for name, schema in {
        "transcripts": tables.transcripts_schema(manifest, audio_digests=True),
        "emissions": tables.emissions_schema("float32"),
        "features": tables.features_schema("float16"),
        "failures": tables.FAILURES,
    }.items():
        for path in (run_dir / name).glob("*.parquet"):
            assert pq.read_schema(path).equals(schema, check_metadata=False), path
    assert pq.read_schema(run_dir / "manifest.parquet").equals(manifest, check_metadata=False)


def test_features_are_sorted_by_layer_then_id_and_a_row_group_holds_one_layer(digits_run: tuple[Path, str]) -> None:
    for path in (digits_run[0] / "features").glob("*.parquet"):
        file = pq.ParquetFile(path)
        rows = [(row["layer"], row["id"]) for row in file.read(["layer", "id"]).to_pylist()]
        assert rows == sorted(rows)
        for group in range(file.num_row_groups):
            assert len(set(file.read_row_group(group, ["layer"])["layer"].to_pylist())) == 1


def test_scores_hold_the_overall_rate_and_a_row_for_each_group(digits_run: tuple[Path, str]) -> None:
    opened = open_run(digits_run[0])
    scores = opened.scores
    assert scores.iloc[0]["group"] == "overall"
    assert scores.iloc[0]["utterances"] == 60
    assert scores.iloc[0]["word_errors"] == opened.transcripts.word_errors.sum()
    assert (scores.group == "speaker").sum() == 6
    assert (scores.group == "num_digits").sum() == 6
    by_hand = opened.transcripts.groupby("speaker")[["word_errors", "reference_words"]].sum()
    for row in scores[scores.group == "speaker"].itertuples():
        assert (row.word_errors, row.reference_words) == tuple(by_hand.loc[row.value])


def test_metrics_have_a_line_for_each_batch_with_the_documented_fields(digits_run: tuple[Path, str]) -> None:
    lines = [json.loads(line) for line in (digits_run[0] / "logs" / "metrics.jsonl").read_text().splitlines()]
    fields = ["time", "batch", "shard", "size", "failed", "padded_s", "valid_s"]
    fields += ["load_s", "forward_s", "write_s", "idle_s"]
    assert all(list(line) == fields for line in lines)
    assert sum(line["size"] for line in lines) == 60
    assert all(line["valid_s"] <= line["padded_s"] for line in lines)


def test_a_finished_run_says_so_without_torch_and_touches_nothing(digits_run: tuple[Path, str]) -> None:
    run_dir, _ = digits_run
    before = mtimes(run_dir)
    again = execute(
        "dataset=digits", "shard.hours=0.01", "features.layers=all", cwd=run_dir.parents[2], PYTHONPROFILEIMPORTTIME="1"
    )
    assert again.returncode == 0
    assert "complete already" in again.stdout
    assert "WER " in again.stdout
    imported = {line.rpartition("|")[2].strip() for line in again.stderr.splitlines()}
    assert "pyarrow" in imported
    assert not imported & {"torch", "torchaudio"}
    assert mtimes(run_dir) == before


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["features.layers=last", "features.dtype=float32"], "features.dtype"),
        (["features.layers=all", "outputs=[transcripts,emissions]", "emissions.dtype=float16"], "emissions.dtype"),
        (["features.layers=all", "shard.hours=0.5"], "shard.hours"),
        (["features.layers=all", "dataset=folder", f"dataset.root={SHIPPED}/digits", "model=digits"], "dataset"),
    ],
)
def test_a_run_directory_made_with_other_settings_is_refused_with_what_differs(
    digits_run: tuple[Path, str], overrides: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = mtimes(digits_run[0])
    given = ["dataset=digits", "shard.hours=0.01", *overrides]
    given = [item for item in given if not any(item != o and o.startswith(item.split("=")[0] + "=") for o in overrides)]
    assert main([*given, f"run_dir={digits_run[0]}"]) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    assert named in said
    assert "run_dir=" in said
    assert mtimes(digits_run[0]) == before


def test_settings_that_do_not_change_results_may_differ(digits_run: tuple[Path, str]) -> None:
    given = ["dataset=digits", "shard.hours=0.01", "features.layers=all", f"run_dir={digits_run[0]}"]
    assert main([*given, "batch.max_seconds=7", "loader.workers=0", "device=cpu", "precision=fp32"]) == 0


def damaged_folder(root: Path) -> Path:
    """Good recordings, and among them one of each kind that is not."""
    root.mkdir()
    for path in sorted((DATA / "fsdd").glob("*_0.wav"))[:6]:
        shutil.copy(path, root)
    shutil.copy(DATA / "broken" / "bad.wav", root / "damaged.wav")
    shutil.copy(DATA / "broken" / "awful.wav", root / "awful.wav")
    (root / "empty.wav").touch()
    (root / "text.wav").write_text("These are not the samples you are looking for.\n")
    whole = (DATA / "fsdd" / "7_theo_1.wav").read_bytes()
    (root / "cut.wav").write_bytes(whole[: len(whole) // 2])
    samples = whole[44 : 44 + 2 * 150]
    header = b"RIFF" + struct.pack("<I", 36 + len(samples)) + whole[8:40] + struct.pack("<I", len(samples))
    (root / "short.wav").write_bytes(header + samples)
    os.mkfifo(root / "pipe.wav")
    (root / "folder.wav").mkdir()
    (root / "gone.wav").symlink_to(root / "nowhere.wav")
    return root


def test_bad_files_cost_a_row_each_with_a_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = damaged_folder(tmp_path / "calls")
    assert main(["dataset=folder", f"dataset.root={root}", "model=digits"]) == 3
    run_dir = Path("runs/folder-calls/digits")
    assert_accounting(run_dir)
    failures = open_run(run_dir).failures.set_index("id")
    expected = {
        "awful.wav": "bad_sample_rate",
        "cut.wav": "truncated",
        "damaged.wav": "unreadable",
        "empty.wav": "empty",
        "gone.wav": "not_found",
        "pipe.wav": "unreadable",
        "short.wav": "too_short",
        "text.wav": "unsupported_format",
    }
    assert failures.error.to_dict() == expected
    assert failures.message.str.len().min() > 10
    assert not failures.message.str.contains("\n").any()
    assert set(failures.stage) == {"manifest", "load"}
    assert len(ids(run_dir, "transcripts")) == 6
    printed = capsys.readouterr().out
    assert "8 failures" in printed
    assert "1 not_found" in printed
    # Complete with failures is still 3 when there is nothing left to do.
    assert main(["dataset=folder", f"dataset.root={root}", "model=digits"]) == 3


def test_failed_shards_are_tried_again_only_when_asked(tmp_path: Path) -> None:
    root = damaged_folder(tmp_path / "calls")
    given = ["dataset=folder", f"dataset.root={root}", "model=digits", "outputs=[transcripts]"]
    assert main(given) == 3
    run_dir = Path("runs/folder-calls/digits")
    before = mtimes(run_dir)
    assert main(given) == 3
    assert mtimes(run_dir) == before
    assert main([*given, "retry_failed=true"]) == 3
    assert set(open_run(run_dir).failures.attempts) == {2}
    assert_accounting(run_dir, ["transcripts"])


def test_a_result_that_is_there_is_kept_when_the_attempt_to_gain_another_loses_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = damaged_folder(tmp_path / "calls")
    given = ["dataset=folder", f"dataset.root={root}", "model=digits", "outputs=[transcripts]", "run_dir=out"]
    assert main(given) == 3
    before = mtimes(Path("out"))
    (root / "7_jackson_0.wav").unlink(missing_ok=True)
    for path in root.glob("*_0.wav"):
        path.rename(path.with_suffix(".away"))
    assert main([*given, "retry_failed=true"]) == 3
    assert mtimes(Path("out")) == before
    assert "kept unchanged" in capsys.readouterr().out


def test_scores_are_those_of_the_committed_tables_also_after_a_kill_while_trying_again(tmp_path: Path) -> None:
    root = tmp_path / "calls"
    root.mkdir()
    for name in ("7_theo_1", "3_theo_1"):
        shutil.copy(DATA / "fsdd" / f"{name}.wav", root)
        (root / f"{name}.txt").write_text("seven")
    whole = (root / "3_theo_1.wav").read_bytes()
    given = ["dataset=folder", f"dataset.root={root}", "model=digits", "outputs=[transcripts]", "run_dir=out"]
    assert main([*given, "stages=[manifest]"]) == 0
    (root / "3_theo_1.wav").unlink()
    assert main(given) == 3
    assert open_run("out").scores.iloc[0].utterances == 1
    (root / "3_theo_1.wav").write_bytes(whole)
    killed = run(*given, "retry_failed=true", cwd=tmp_path, PIPELINE_FAILPOINT="committed")
    assert killed.returncode == -signal.SIGKILL
    assert main(given) == 0
    scores = open_run("out").scores.iloc[0]
    assert (scores.utterances, scores.word_errors, scores.reference_words) == (2, 1, 2)


def test_a_file_that_changed_after_the_manifest_was_made_is_a_failure(tmp_path: Path) -> None:
    root = tmp_path / "calls"
    shutil.copytree(DATA / "fsdd", root, ignore=lambda _, names: [name for name in names if "_0.wav" not in name])
    given = ["dataset=folder", f"dataset.root={root}", "model=digits", "outputs=[transcripts]"]
    assert main([*given, "stages=[manifest]"]) == 0
    shutil.copy(DATA / "fsdd" / "7_theo_1.wav", root / "3_george_0.wav")
    (root / "new.wav").write_bytes((root / "3_george_0.wav").read_bytes())
    assert main(given) == 3
    failures = open_run("runs/folder-calls/digits").failures
    assert failures[["id", "error"]].to_numpy().tolist() == [["3_george_0.wav", "changed"]]


def test_a_run_that_fails_everywhere_is_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = damaged_folder(tmp_path / "calls")
    assert main(["dataset=folder", f"dataset.root={root}", "model=digits", "max_failures=3"]) == 1
    said = capsys.readouterr().err
    assert "max_failures=3" in said
    assert "Traceback" not in said


def test_a_moved_root_goes_on_and_another_corpus_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for path in sorted((DATA / "fsdd").glob("*_0.wav"))[:3]:
            shutil.copy(path, tmp_path / name)
    given = ["dataset=folder", "model=digits", "outputs=[transcripts]", "run_dir=out"]
    assert main([*given, f"dataset.root={tmp_path / 'a'}"]) == 0
    assert main([*given, f"dataset.root={tmp_path / 'b'}"]) == 0
    shutil.copy(DATA / "fsdd" / "7_theo_1.wav", tmp_path / "b" / "0_george_0.wav")
    assert main([*given, "dataset.root=" + str(tmp_path / "c")]) == 2
    capsys.readouterr()
    (tmp_path / "b").rename(tmp_path / "c")
    assert main([*given, f"dataset.root={tmp_path / 'c'}"]) == 2
    assert "root" in capsys.readouterr().err


def test_without_a_voices_root_the_shipped_recording_stands_in_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model=digits", "outputs=[transcripts]"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert "VOICES_ROOT" in lines[0]
    assert "VOICES_ROOT" in lines[-1]
    row = read(Path("runs/voices-sample/digits"), "transcripts").to_pylist()[0]
    assert row["id"] == "Lab41-SRI-VOiCES-src-sp0307-ch127535-sg0042"
    assert row["num_frames"] == 169
    assert row["speaker"] == "sp0307"


def test_a_manifest_of_segments_gives_times_in_the_original_file(tmp_path: Path) -> None:
    jfk = DATA / "long" / "jfk.flac"
    rows = [
        {"audio_filepath": str(jfk), "offset": 3.0, "duration": 2.5, "text": "x", "id": "middle", "speaker": "jfk"},
        {"audio_filepath": str(jfk), "id": "whole"},
    ]
    Path("list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["dataset=manifest", "dataset.path=list.jsonl", "model=digits", "outputs=[transcripts]"]) == 0
    opened = open_run("runs/manifest/digits")
    frame = opened.transcripts.set_index("id")
    assert frame.loc["middle", "num_frames"] == (40_000 - 400) // 320 + 1
    assert frame.loc["middle", "duration_s"] == pytest.approx(2.5)
    assert frame.loc["middle", "speaker"] == "jfk"
    assert pd.isna(frame.loc["whole", "wer"])
    words = opened.words[opened.words.id == "middle"]
    assert len(words) == 0 or words.start_s.min() >= 3.0


def test_silence_is_not_a_failure_and_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np
    import soundfile

    (tmp_path / "quiet").mkdir()
    soundfile.write(tmp_path / "quiet" / "silence.wav", np.zeros(16_000), 16_000)
    assert main(["dataset=folder", f"dataset.root={tmp_path / 'quiet'}", "model=digits"]) == 0
    row = read(Path("runs/folder-quiet/digits"), "transcripts").to_pylist()[0]
    assert row["text"] == ""
    assert row["words"] == []
    assert "1 empty transcript: nothing was heard" in capsys.readouterr().out


def test_odd_names_go_right_through(tmp_path: Path) -> None:
    root = tmp_path / "odd names, (a=b) 'x' 100%"
    root.mkdir()
    names = [
        b"new\nline.wav",
        b'quo"te.wav',
        "emoji \N{SPEAKER}.wav".encode(),
        b"not-utf8-\xff\xfe.wav",
        b"A.wav",
        b"a.wav",
    ]
    names += ["e\N{COMBINING ACUTE ACCENT}.wav".encode(), "\N{LATIN SMALL LETTER E WITH ACUTE}.wav".encode()]
    for name in names:
        shutil.copy(DATA / "fsdd" / "7_theo_1.wav", os.fsencode(root) + b"/" + name)
    assert main(["dataset=folder", f"dataset.root={root}", "model=digits", "run_dir=out"]) == 0
    assert_accounting(Path("out"))
    assert "not-utf8-%FF%FE.wav" in ids(Path("out"), "transcripts")
    assert len(ids(Path("out"), "transcripts")) == len(names)


def test_a_disk_that_cannot_hold_the_tables_refuses_the_run_and_smaller_tables_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2_000_000))
    given = ["dataset=digits", "outputs=[transcripts,features]"]
    assert main([*given, "features.layers=all", "features.dtype=float32"]) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    assert "features.layers=" in said
    assert "2 MB free" in said
    # Nothing is committed, so there is nothing to mix: the same run directory takes the smaller tables.
    assert main(["dataset=digits", "outputs=[transcripts]"]) == 0
    assert_accounting(Path("runs/digits/digits"), ["transcripts"])


def test_the_same_relative_root_elsewhere_is_another_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place, name in (("here", "0_george_0.wav"), ("there", "7_theo_1.wav")):
        (tmp_path / place / "calls").mkdir(parents=True)
        shutil.copy(DATA / "fsdd" / name, tmp_path / place / "calls")
    given = ["dataset=folder", "dataset.root=calls", "model=digits", "outputs=[transcripts]", f"run_dir={tmp_path}/out"]
    monkeypatch.chdir(tmp_path / "here")
    assert main(given) == 0
    monkeypatch.chdir(tmp_path / "there")
    assert main(given) == 2


def test_a_voices_tree_becomes_transcripts_with_its_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "VOiCES_devkit"
    names = {
        "source-16k/train/sp0307/Lab41-SRI-VOiCES-src-sp0307-ch127535-sg0042.wav": "0870",
        "distant-16k/speech/train/rm1/babb/sp0032/"
        "Lab41-SRI-VOiCES-rm1-babb-sp0032-ch021625-sg0005-mc01-stu-clo-dg080.wav": "0880",
        "distant-16k/speech/test/rm2/none/sp0032/"
        "Lab41-SRI-VOiCES-rm2-none-sp0032-ch021625-seg0006-mc05-lav-far-dg120.wav": "0890",
        "distant-16k/distractors/rm1/babb/Lab41-SRI-VOiCES-rm1-babb-mc01-stu-clo.wav": "0920",
        "distant-16k/room-response/rm1/Lab41-SRI-VOiCES-rm1-swp-mc01-stu-clo.wav": "0930",
    }
    for name, recording in names.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(DATA / "librivox" / f"sense_and_sensibility_01_austen_64kb-{recording}.wav", root / name)
    (root / "references").mkdir()
    lines = ["index,file_name,transcript"]
    stems = [Path(name).stem for name in names][:2]
    lines += [f'{index},{stem},"said, number {index}"' for index, stem in enumerate(stems)]
    (root / "references" / "filename_transcripts").write_text("\n".join(lines) + "\n")
    (root / "references" / "Lab41-SRI-VOiCES-speaker-gender-dataset.tbl").write_text("Speaker Gender\n307 M\n32 F\n")
    monkeypatch.setenv("VOICES_ROOT", str(root))
    assert main(["model=digits", "outputs=[transcripts]"]) == 0
    frame = open_run("runs/voices/digits").transcripts.set_index("id")
    assert len(frame) == 3
    source, babble, clean = (frame.loc[stem] for stem in [*stems, Path(list(names)[2]).stem])
    assert (source.source, source.split, source.speaker, source.gender) == (True, "train", "sp0307", "M")
    assert pd.isna(source.room)
    assert pd.isna(source.degrees)
    assert (babble.room, babble.distractor, babble.mic, babble.mic_type, babble.mic_location, babble.degrees) == (
        "rm1", "babb", "mc01", "stu", "clo", 80,
    )  # fmt: skip
    assert babble.reference == "said, number 1"
    assert babble.reference_words == 3
    assert (clean.split, clean.segment, clean.degrees) == ("test", "seg0006", 120)
    assert pd.isna(clean.reference)
    assert pd.isna(clean.wer)
    by_room = frame.groupby("room")[["word_errors", "reference_words"]].sum()
    assert list(by_room.index) == ["rm1", "rm2"]


def test_a_damaged_run_is_not_swept_away_by_other_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"audio_filepath": str(DATA / "fsdd" / f"7_theo_{number}.wav")} for number in range(3)]
    given = [item for item in listed(rows) if not item.startswith("outputs=")]
    assert main([*given, "outputs=[transcripts,emissions]"]) == 0
    with open("out/failures/shard-00000.parquet", "ab") as file:
        file.write(b"x")
    before = mtimes(Path("out"))
    assert main([*given, "outputs=[transcripts,emissions]", "channels=first"]) == 2
    Path("out/run.json").unlink()
    assert main([*given, "outputs=[transcripts]"]) == 2
    assert "run.json: lost" in capsys.readouterr().err
    assert mtimes(Path("out")) == before
    assert main([*given, "outputs=[transcripts,emissions]"]) == 0


def test_a_line_that_ends_before_it_begins_costs_a_row(tmp_path: Path) -> None:
    wav = DATA / "fsdd" / "7_theo_1.wav"
    rows = [{"audio_filepath": str(wav), "offset": 0.3, "duration": -0.1, "id": "odd"}, {"audio_filepath": str(wav)}]
    rows.append({"audio_filepath": str(wav), "offset": 9, "duration": 1, "id": "beyond"})
    Path("list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["dataset=manifest", "dataset.path=list.jsonl", "model=digits", "outputs=[transcripts]"]) == 3
    opened = open_run("runs/manifest/digits")
    assert len(opened.transcripts) == 1
    assert set(opened.failures.set_index("id").error.items()) == {("odd", "empty"), ("beyond", "truncated")}


@pytest.mark.parametrize("wrong", ["device=cuda:99", "dataset.root=empty", "stages=[score]", "precision=fp16"])
def test_a_refused_run_leaves_nothing_behind(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    given = ["dataset=folder", f"dataset.root={SHIPPED / 'digits'}", "model=digits"]
    assert main([item for item in given if item.split("=")[0] != wrong.split("=")[0]] + [wrong]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert wrong.rpartition("=")[2].strip("[]") in said or "no manifest; add manifest to stages=" in said
    assert [path.name for path in Path().iterdir()] == ["empty"]


def test_a_run_outlives_its_terminal(tmp_path: Path) -> None:
    """Nobody reads its output (`| head`), and the hang-up that nohup ignores comes: it goes on."""
    out = tmp_path / "out"
    (tmp_path / "corpus").mkdir()
    for source in sorted((DATA / "fsdd").glob("*.wav"))[::3]:
        (tmp_path / "corpus" / source.name).symlink_to(source)
    given = ("dataset=folder", "dataset.root=corpus", "model=digits", "shard.hours=0.001", f"run_dir={out}")
    reader, writer = os.pipe()
    process = subprocess.Popen(
        ["nohup", *command(*given)], cwd=tmp_path, env=environment(), stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    os.close(reader)
    assert wait_until(lambda: any((out / "commits").glob("*.json")))
    process.send_signal(signal.SIGHUP)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert_accounting(out)


def test_a_full_disk_under_the_output_does_not_end_the_run(tmp_path: Path) -> None:
    full = "import os; os.dup2(os.open('/dev/full', os.O_WRONLY), 1)"
    done = run_prepared(full, "dataset=digits", "outputs=[transcripts]", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert_accounting(tmp_path / "runs/digits/digits", ["transcripts"])


def test_a_torch_that_torchaudio_cannot_be_loaded_with_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise OSError("Could not load this library: /lib/torchaudio/lib/_torchaudio.abi3.so")

    monkeypatch.setattr(stages, "check_beforehand", fail)
    assert main(["dataset=digits", "run_dir=out"]) == 2
    assert capsys.readouterr().err.startswith("error: torchaudio 2")
    assert not Path("out").exists()


def test_help_is_a_page_and_may_be_cut_short(tmp_path: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m pipeline.run --help | head -2", shell=True, capture_output=True, text=True,
        env=environment(), check=True,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.startswith("usage: python -m pipeline.run")
