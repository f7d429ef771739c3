"""`python -m pipeline.export`: what it reads, where it writes, what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from make_run import Spoken, make_run

from pipeline.export import __main__ as command
from pipeline.export import reading, sorted_lines
from pipeline.export.exporting import export
from pipeline.export.formats import ctm
from pipeline.export.output import MARK
from pipeline.sample import __main__ as sample


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert command.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_the_last_line_says_what_is_written_and_what_is_left_out(
    odd_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "all.ctm"
    assert command.main([str(odd_run), "--format", "ctm", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"5 utterances of 3 recordings in {out}; left out: 1 failed, 1 pending\n"
    stm = ["--format", "stm", "--text", "reference", "--out", str(tmp_path / "all.stm")]
    assert command.main([str(odd_run), *stm]) == 0
    said = "3 utterances of 2 recordings in {}; left out: 1 failed, 1 pending, 2 without a reference\n"
    assert capsys.readouterr().out == said.format(tmp_path / "all.stm")


def test_a_recording_that_is_gone_costs_its_utterances_only(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [[Spoken("a", path="/not/there.wav")]], outputs=["transcripts"])
    said = export(run, "webdataset", out=tmp_path / "out")
    assert said.endswith("left out: 1 whose recording cannot be read now")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [MARK]


def test_a_folder_is_replaced_whole_and_only_if_an_export_wrote_it(
    odd_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "subtitles"
    given = [str(odd_run), "--format", "srt", "--out", str(out)]
    assert command.main(given) == 0
    (out / "stale.srt").touch()
    assert command.main(given) == 0
    before = sorted(path.name for path in out.iterdir())
    assert "stale.srt" not in before

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.export.formats.srt._content", full)
    assert command.main(given) == 1
    assert "No space left on device; nothing exported" in capsys.readouterr().err
    assert sorted(path.name for path in out.iterdir()) == before
    assert [path.name for path in tmp_path.iterdir()] == ["subtitles"]
    (out / MARK).unlink()
    assert "there is something that no export has written" in refused(given, capsys)


def test_wrong_options_are_refused_in_one_line(
    odd_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(odd_run)
    assert "--format=strt: not allowed (did you mean srt?)" in refused([run, "--format", "strt"], capsys)
    assert "has no times" not in refused([run, "--format", "ctm", "--text", "refs"], capsys)
    assert "which srt needs" in refused([run, "--format", "srt", "--text", "reference"], capsys)
    assert "is inside the run directory" in refused([run, "--format", "ctm", "--out", f"{run}/a.ctm"], capsys)
    assert "no run there" in refused([str(tmp_path), "--format", "ctm"], capsys)
    (tmp_path / "full").symlink_to("/dev/full")
    for odd in (tmp_path / "full", tmp_path):
        assert "a link or a device; give the name" in refused([run, "--format", "ctm", "--out", str(odd)], capsys)
    assert (tmp_path / "full").is_symlink()
    features = make_run(tmp_path / "features", [[Spoken("a")]], outputs=["emissions"])
    assert "the run has no transcripts" in refused([str(features), "--format", "ctm"], capsys)


def test_memory_holds_a_window_of_utterances_and_recordings_stay_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The segments of ten recordings lie all over the shards; three utterances and three lines are held at a time."""
    rows = [
        Spoken(f"{name}#{part}", [(f"w{name}{part}", 0, 10, 1.0)], path=f"/x/{name}.wav", start_s=part, num_frames=50)
        for part in (2, 0, 1)
        for name in "hbjdfaigec"
    ]
    run = make_run(tmp_path / "run", [rows[:7], rows[7:20], rows[20:]], outputs=["transcripts"])
    export(run, "nemo", out=tmp_path / "whole.jsonl")
    export(run, "ctm", out=tmp_path / "whole.ctm")
    monkeypatch.setattr(reading, "WINDOW_ROWS", 3)
    monkeypatch.setattr(reading, "_BLOCK_ROWS", 2)
    monkeypatch.setattr(sorted_lines, "MAX_HELD", 3)
    export(run, "nemo", out=tmp_path / "few.jsonl")
    export(run, "ctm", out=tmp_path / "few.ctm")
    assert (tmp_path / "few.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()
    assert (tmp_path / "few.ctm").read_text() == (tmp_path / "whole.ctm").read_text()
    ids = [json.loads(line)["id"] for line in (tmp_path / "few.jsonl").read_text().splitlines()]
    assert ids == [f"{name}#{part}" for name in "hbjdfaigec" for part in (0, 1, 2)]
    assert len((tmp_path / "few.ctm").read_text().splitlines()) == 30


def test_line_breaks_in_paths_references_and_speakers_break_no_line(tmp_path: Path) -> None:
    spoken = Spoken("a", [("hi", 0, 9, 1.0)], "one\ntwo", {"speaker": "the\nboss"}, path="/x/a\nb.wav")
    run = make_run(tmp_path / "run", [[spoken]], {"speaker": "string"}, ["transcripts"])
    said = export(run, "kaldi", out=tmp_path / "kaldi", references=True)
    assert said.endswith("left out: 1 with a line break in the path")
    for format, references, line in (
        ("stm", True, "a_b 1 the_boss 0.000 1.000 one two"),
        ("rttm", False, "SPEAKER a_b 1 0.000 0.180 <NA> <NA> the_boss <NA> <NA>"),
    ):
        export(run, format, out=tmp_path / format, references=references)
        assert (tmp_path / format).read_text().splitlines() == [line]


@pytest.mark.parametrize(("speakers", "named"), [(("s", "s"), ["c1", "c2"]), (("s", "t"), ["s", "t"])])
def test_the_sides_of_a_call_are_told_apart_by_channel_unless_the_dataset_names_both(
    speakers: tuple[str, str], named: list[str], tmp_path: Path
) -> None:
    sides = [
        Spoken(
            f"call#c{n}", [("hi", n, 9, 1.0)], path="/x/call.wav", columns={"channel": n, "speaker": speakers[n - 1]}
        )
        for n in (1, 2)
    ]
    run = make_run(tmp_path / "run", [sides], {"channel": "int16", "speaker": "string"}, ["transcripts"])
    export(run, "rttm", out=tmp_path / "all.rttm")
    assert [line.split()[7] for line in (tmp_path / "all.rttm").read_text().splitlines()] == named


def test_a_damaged_table_is_named_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", [[Spoken("a", [("hi", 0, 9, 1.0)])]], outputs=["transcripts"])
    table = run / "transcripts" / "shard-00000.parquet"
    table.write_bytes(bytes(table.stat().st_size))
    given = [str(run), "--out", str(tmp_path / "out")]
    assert "a table cannot be read (ArrowInvalid" in refused([*given, "--format", "ctm"], capsys)
    assert sample.main(given) == 2
    assert "a table cannot be read (ArrowInvalid" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_help_page_names_every_format(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--help"]) == 0
    assert f"  ctm           {ctm.DESCRIPTION}\n" in capsys.readouterr().out
