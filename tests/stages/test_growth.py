"""A corpus that grows, loses recordings, and whose references are corrected: what the same command does then."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from changing import RECORDINGS, TABLES, Corpus, Kept, assert_equal_to_one_run
from running import main, run

from pipeline import status
from pipeline.datasets.manifest import Dataset, Options
from pipeline.results import open_run
from pipeline.stages import build_manifest, growth, listing
from pipeline.verify import __main__ as verify


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """Six recordings and a run over them."""
    made = Corpus(tmp_path_factory.mktemp("grows") / "corpus")
    made.add(range(6))
    assert made.run() == 0
    return Kept(made)


@pytest.fixture
def corpus(kept: Kept) -> Corpus:
    return kept.restored()


def test_new_recordings_become_new_shards_and_nothing_else_changes(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, shards = corpus.files(), corpus.manifest()["shard"].to_pylist()
    corpus.add(range(6, 9))
    capsys.readouterr()
    assert corpus.run() == 0
    said = capsys.readouterr().out
    assert "the corpus has changed: 3 new" in said
    assert "9 of 9 utterances" in said
    after = corpus.files()
    kept = {name for name in before if name.startswith((*TABLES, "failures", "commits"))}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    grown = corpus.manifest()["shard"].to_pylist()
    assert grown[:6] == shards
    assert min(grown[6:]) == max(shards) + 1
    assert_equal_to_one_run(corpus, tmp_path / "fresh")
    assert status.main([str(corpus.out)]) == 0
    assert "corpus   has grown 1 time, the last time by 3 utterances at 20" in capsys.readouterr().out
    state = corpus.files()
    assert corpus.run() == 0
    assert "complete already; 9 of 9 utterances" in capsys.readouterr().out
    assert corpus.files() == state
    corpus.add(range(9, 10), "a")  # before all others in the order of names
    assert corpus.run() == 0
    assert [len(open_run(corpus.out).manifest), len(open_run(corpus.out).transcripts)] == [10, 10]
    assert_equal_to_one_run(corpus, tmp_path / "fresh again")


def test_check_says_what_is_new_and_off_does_not_look(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    assert corpus.run("extend=check") == 0
    corpus.add(range(6, 8))
    state = corpus.files()
    capsys.readouterr()
    assert corpus.run("extend=check") == 3
    assert capsys.readouterr().out == "the corpus has changed: 2 new\n"
    assert corpus.run("extend=off") == 0
    assert "complete already; 6 of 6" in capsys.readouterr().out
    assert corpus.files() == state
    assert main([*corpus.given("extend=check"), f"run_dir={corpus.out.parent / 'other'}"]) == 2
    assert "extend=check: no run in run_dir=" in capsys.readouterr().err


def test_a_corrected_reference_is_taken_over_without_the_model(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = corpus.root / corpus.manifest()["id"][0].as_py()
    first.with_suffix(".txt").write_text("nine nine")
    before = corpus.files()
    monkeypatch.setattr("pipeline.stages.infer.infer", None)  # not called
    assert corpus.run() == 0
    assert "1 with another reference" in capsys.readouterr().out
    row = open_run(corpus.out).transcripts.set_index("id").loc[f"monday/{first.name}"]
    assert (row.reference, row.reference_words) == ("nine nine", 2)
    assert open_run(corpus.out).scores.reference_words[0] == 2
    first.with_suffix(".txt").write_text(str(row.text))
    assert corpus.run() == 0
    assert "WER 0.00 %" in capsys.readouterr().out
    after = corpus.files()
    arrays = {name for name in before if name.startswith(("emissions", "features", "failures"))}
    assert {name: after[name] for name in arrays} == {name: before[name] for name in arrays}
    assert verify.main([str(corpus.out)]) == 0


def test_a_vanished_recording_keeps_its_result(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    gone = corpus.root / corpus.manifest()["id"][2].as_py()
    kept, transcripts = gone.read_bytes(), corpus.rows("transcripts")
    gone.unlink()
    assert corpus.run() == 0
    assert "1 vanished" in capsys.readouterr().out
    vanished = corpus.manifest()["vanished_at"].to_pylist()
    assert [at is not None for at in vanished] == [False, False, True, False, False, False]
    assert corpus.rows("transcripts") == transcripts
    assert verify.main([str(corpus.out)]) == 0
    assert corpus.run() == 0
    assert "the corpus has changed" not in capsys.readouterr().out
    assert corpus.manifest()["vanished_at"].to_pylist() == vanished
    gone.write_bytes(kept)
    assert corpus.run() == 0
    assert "1 there again" in capsys.readouterr().out
    assert corpus.manifest()["vanished_at"].null_count == 6


def test_a_replaced_recording_is_computed_again_only_when_asked_for(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replaced = corpus.root / corpus.manifest()["id"][1].as_py()
    shutil.copy(RECORDINGS[8], replaced)
    state = corpus.files()
    assert corpus.run() == 0
    assert "1 replaced (redo_changed=true computes them again)" in capsys.readouterr().out
    assert {name: data for name, data in corpus.files().items() if name != "config.yaml"}.items() <= state.items()
    assert corpus.run("redo_changed=true") == 0
    assert_equal_to_one_run(corpus, tmp_path / "fresh")
    assert corpus.run("redo_changed=true") == 0
    assert "complete already" in capsys.readouterr().out


def test_computing_again_never_loses_the_result_of_a_vanished_recording(
    corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = corpus.manifest()["shard"].to_pylist()
    shard = next(shard for shard in shards if shards.count(shard) > 1)
    ids = [id_ for id_, of in zip(corpus.manifest()["id"].to_pylist(), shards, strict=True) if of == shard]
    first, second = ids[:2]
    transcripts = corpus.rows("transcripts")
    (corpus.root / first).unlink()
    shutil.copy(RECORDINGS[8], corpus.root / second)
    assert corpus.run("redo_changed=true") == 0
    assert (
        "1 replaced (1 keep their results, because a vanished recording is in their shard)" in capsys.readouterr().out
    )
    assert corpus.rows("transcripts") == transcripts


def test_a_corpus_may_move_and_grow_at_once_but_not_lose_recordings(
    corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus.root = corpus.root.rename(corpus.root.with_name("moved"))
    corpus.add(range(6, 7))
    assert corpus.run() == 0
    assert "7 of 7 utterances" in capsys.readouterr().out
    corpus.root = corpus.root.rename(corpus.root.with_name("elsewhere"))
    next((corpus.root / "monday").iterdir()).unlink()
    state = corpus.files()
    assert corpus.run() == 2
    assert "utterances: 1 removed" in capsys.readouterr().err
    assert corpus.files() == state


def test_segments_that_are_no_longer_listed_move_with_their_recording(tmp_path: Path) -> None:
    def listed(folder: Path, *starts_s: float) -> build_manifest.Listing:
        rows = "".join(f"a.flac,{start_s},{start_s + 0.2}\n" for start_s in starts_s)
        (folder / "list.csv").write_text(f"path,start,end\n{rows}b.flac,0.0,0.2\n" if starts_s else "path\nb.flac\n")
        return build_manifest.list_utterances(Dataset(Options(path=str(folder / "list.csv"))))

    folder = tmp_path / "calls"
    folder.mkdir()
    for name, recording in zip("ab", RECORDINGS, strict=False):
        shutil.copy(recording, folder / f"{name}.flac")
    manifest = build_manifest.first_generation(listed(folder, 0.0, 0.2), 1.0)
    moved = listed(folder.rename(tmp_path / "moved"), 0.2)
    changes = growth.compare(manifest, moved)
    assert len(changes.vanished) == 1
    table = growth.grown(changes, 1.0, redo=False).table
    assert table["path"].to_pylist() == [str(tmp_path / "moved" / f"{name}.flac") for name in "aab"]


def test_what_a_warning_says_to_set_can_be_set_and_what_vanished_before_a_move_may_be_missing(
    corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, *_ = sorted((corpus.root / "monday").iterdir())
    first.with_suffix(".txt").write_bytes("zwölf".encode("cp1252"))
    second.unlink()
    capsys.readouterr()
    for _ in range(2):  # also where nothing has changed
        assert corpus.run() == 0
        assert "warning: references that cannot be used, so that the recording has none: 1" in capsys.readouterr().out
    corpus.root = corpus.root.rename(corpus.root.with_name("moved"))
    assert corpus.run() == 0
    assert corpus.run("dataset.encoding=cp1252") == 0
    said = capsys.readouterr().out
    assert "the corpus has changed: 1 with another reference" in said
    assert "1 file of transcripts written again, without the model" in said
    assert open_run(corpus.out).transcripts.set_index("id")["reference"].dropna().tolist() == ["zwölf"]
    assert verify.main([str(corpus.out)]) == 0
    corpus.add(range(6, 7))
    assert corpus.run("dataset.encoding=utf-8") == 2  # another option, and other recordings


def test_a_listing_that_fails_changes_nothing(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus.add(range(6, 8))
    state = corpus.files()
    list_utterances = listing.list_utterances

    def broken(*arguments: object, **named: object) -> pa.Table:
        list_utterances(*arguments, **named)
        raise OSError(5, "Input/output error", str(corpus.root))

    with monkeypatch.context() as patch:
        patch.setattr(listing, "list_utterances", broken)
        assert corpus.run() == 1
    assert f"{corpus.root}: Input/output error" in capsys.readouterr().err
    assert corpus.files() == state


def test_a_new_level_of_folders_is_a_column_of_every_transcript(corpus: Corpus) -> None:
    corpus.add(range(6, 7), "monday/late")
    assert corpus.run() == 0
    frame = open_run(corpus.out).transcripts
    assert frame["folder1"].tolist() == ["monday"] * 7
    assert frame["folder2"].dropna().tolist() == ["late"]
    assert verify.main([str(corpus.out)]) == 0


def test_other_settings_are_refused_before_anything_is_taken_over(
    corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus.add(range(6, 7))
    state = corpus.files()
    assert corpus.run("chunk.seconds=30") == 2
    assert "chunk.seconds: 60.0 before, 30.0 now" in capsys.readouterr().err
    assert corpus.files() == state


def test_a_list_grows_by_id(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{RECORDINGS[number]},u{number},four,{number}" for number in range(6)]
    (tmp_path / "list.csv").write_text("\n".join(["path,id,text,age", *rows[:4]]))
    given = [
        *("dataset=manifest", f"dataset.path={tmp_path / 'list.csv'}", "model=digits", "shard.hours=0.0006"),
        *("outputs=[transcripts]", "stages=[manifest,infer,score]", f"run_dir={tmp_path / 'out'}"),
    ]
    assert main(given) == 0
    rows[1] = f"{RECORDINGS[1]},u1,five,x"  # a reference is corrected, and the ages are no numbers any more
    (tmp_path / "list.csv").write_text("\n".join(["path,id,text,age,place", *(f"{row},home" for row in rows[::-1])]))
    capsys.readouterr()
    assert main([*given, "score.by=[place]"]) == 0
    assert "the corpus has changed: 2 new, 1 with another reference, 4 with other columns" in capsys.readouterr().out
    assert open_run(tmp_path / "out").scores["group"].tolist() == ["overall", "place"]
    frame = open_run(tmp_path / "out").transcripts.set_index("id").sort_index()
    assert frame["age"].tolist() == ["0", "x", "2", "3", "4", "5"]
    assert set(frame["place"]) == {"home"}
    assert frame["reference"].tolist() == ["four", "five", "four", "four", "four", "four"]
    assert open_run(tmp_path / "out").manifest["id"].tolist() == ["u0", "u1", "u2", "u3", "u5", "u4"]
    assert verify.main([str(tmp_path / "out")]) == 0


def test_both_channels_of_new_calls_are_new(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = Corpus(tmp_path)

    def call(name: str) -> None:
        one, rate = soundfile.read(RECORDINGS[0])
        soundfile.write(corpus.root / name, np.stack([one, one[::-1]], axis=1), rate)

    call("a.wav")
    assert corpus.run("channels=each") == 0
    call("b.wav")
    assert corpus.run("channels=each") == 0
    assert "the corpus has changed: 2 new" in capsys.readouterr().out
    assert corpus.manifest()["id"].to_pylist() == ["a.wav#c1", "a.wav#c2", "b.wav#c1", "b.wav#c2"]


def test_a_channel_that_is_no_longer_listed_changes_no_other_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{RECORDINGS[0]},u0,", f"{RECORDINGS[1]},u1,1"]
    given = [
        *("dataset=manifest", f"dataset.path={tmp_path / 'list.csv'}", "model=digits", "outputs=[transcripts]"),
        *("stages=[manifest,infer]", f"run_dir={tmp_path / 'out'}"),
    ]
    for listed, said in ((rows, []), (rows[:1], ["the corpus has changed: 1 vanished"]), (rows[:1], [])):
        (tmp_path / "list.csv").write_text("\n".join(["path,id,channel", *listed]))
        assert main(given) == 0
        assert [line for line in capsys.readouterr().out.splitlines() if "has changed" in line] == said
    assert open_run(tmp_path / "out").manifest["channel"].fillna(0).tolist() == [0, 1]


def test_headers_of_known_recordings_are_not_read_again(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.audio.headers import Headers

    read: list[str] = []
    of = Headers.of
    monkeypatch.setattr(Headers, "of", lambda self, paths: read.extend(paths) or of(self, paths))
    (added,) = corpus.add(range(6, 7))
    assert corpus.run("stages=[manifest]") == 0
    assert read == [str(added)]


def test_an_edited_manifest_of_a_grown_corpus_is_found(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    corpus.add(range(6, 7))
    assert corpus.run() == 0
    table = corpus.manifest()
    names = table["id"].to_pylist()
    edited = table.set_column(0, table.schema.field(0), pa.array([names[1], names[0], *names[2:]]))
    pq.write_table(edited, corpus.out / "manifest.parquet")
    capsys.readouterr()
    assert corpus.run() == 2
    assert "manifest.parquet has been edited" in capsys.readouterr().err
    assert verify.main([str(corpus.out)]) == 1


@pytest.mark.parametrize(
    "place", ["described", "renewal-decided", "extend", "file@2", "file-moved@3", "extended", "committed", "scores"]
)
def test_killed_while_it_grows_and_run_again_it_is_as_undisturbed(place: str, corpus: Corpus, tmp_path: Path) -> None:
    corpus.add(range(6, 9))
    (corpus.root / corpus.manifest()["id"][0].as_py()).with_suffix(".txt").write_text("nine")
    (corpus.root / corpus.manifest()["id"][5].as_py()).with_suffix(".txt").write_text("one two")
    killed = run(*corpus.given(), cwd=tmp_path, PIPELINE_FAILPOINT=place)
    assert killed.returncode == -signal.SIGKILL
    assert corpus.run() == 0
    assert_equal_to_one_run(corpus, tmp_path / "fresh")
    assert open_run(corpus.out).scores.reference_words[0] == 3
    assert len(json.loads((corpus.out / "run.json").read_text())["manifests"]) == 1
    assert [path.name for path in (corpus.out / ".staging").iterdir()] == ["lock"]


def test_a_kill_between_the_new_manifest_and_run_json_is_no_damage(corpus: Corpus, tmp_path: Path) -> None:
    (corpus.root / corpus.manifest()["id"][0].as_py()).with_suffix(".txt").write_text("nine")
    killed = run(*corpus.given(), cwd=tmp_path, PIPELINE_FAILPOINT="extended")
    assert killed.returncode == -signal.SIGKILL
    assert verify.main([str(corpus.out)]) == 0
    assert corpus.run() == 0  # computes nothing
    assert len(json.loads((corpus.out / "run.json").read_text())["manifests"]) == 1
    assert verify.main([str(corpus.out)]) == 0


def test_readers_see_every_row_while_a_new_column_is_written(corpus: Corpus, tmp_path: Path) -> None:
    corpus.add(range(6, 7), "monday/late")
    killed = run(*corpus.given(), cwd=tmp_path, PIPELINE_FAILPOINT="described@2")
    assert killed.returncode == -signal.SIGKILL
    opened = open_run(corpus.out)
    assert sorted(opened.transcripts["id"]) == sorted(opened.manifest["id"])
    assert len(opened.words) >= 6
    assert corpus.run() == 0
    assert_equal_to_one_run(corpus, tmp_path / "fresh")


@pytest.mark.parametrize("place", ["retract", "retracted", "extend", "extended", "staged", "renamed"])
def test_killed_while_it_computes_again_and_run_again_it_is_as_undisturbed(
    place: str, corpus: Corpus, tmp_path: Path
) -> None:
    shutil.copy(RECORDINGS[8], corpus.root / corpus.manifest()["id"][1].as_py())
    killed = run(*corpus.given("redo_changed=true"), cwd=tmp_path, PIPELINE_FAILPOINT=place)
    assert killed.returncode == -signal.SIGKILL
    assert corpus.run("redo_changed=true") == 0
    assert_equal_to_one_run(corpus, tmp_path / "fresh")


def test_a_recording_that_was_missing_is_found_at_last(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(RECORDINGS[0], tmp_path / "a.flac")
    (tmp_path / "list.csv").write_text("path,start,end\na.flac,,\nb.flac,,\na.flac,x,0.2\n")
    given = [
        *("dataset=manifest", f"dataset.path={tmp_path / 'list.csv'}", "model=digits", "outputs=[transcripts]"),
        *("stages=[manifest,infer]", f"run_dir={tmp_path / 'out'}"),
    ]
    assert main(given) == 3
    shutil.copy(RECORDINGS[1], tmp_path / "b.flac")
    (tmp_path / "list.csv").write_text("path,start,end\na.flac,,\nb.flac,,\n")
    capsys.readouterr()
    assert main(given) == 3
    assert "1 found at last (retry_failed=true computes them)" in capsys.readouterr().out
    assert main([*given, "retry_failed=true"]) == 3
    assert open_run(tmp_path / "out").transcripts["id"].tolist() == ["a.flac", "b.flac"]
    assert len(open_run(tmp_path / "out").failures) == 1
    assert verify.main([str(tmp_path / "out")]) == 0
