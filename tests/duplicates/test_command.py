"""`python -m pipeline.duplicates` and the section of the report, over a list in which recordings appear twice."""

from __future__ import annotations

import csv
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import soundfile
from report_fixtures import page, text_of
from running import SHIPPED, main

from pipeline.duplicates import __main__ as command
from pipeline.storage.run_directory import RunDirectory

SOURCES = sorted((SHIPPED / "digits").glob("*-1digits-*.flac"))
ODD = "<b>\N{RIGHT-TO-LEFT OVERRIDE}&amp;"
LISTED = (  # id, source, reference, split, speaker
    ("u0", 0, "one", "train", "x"),
    ("u1", 1, "two", "train", "x"),
    ("u2", 2, "three", "test", "y"),
    (f"u3{ODD}", 0, "One!", "test", "x"),
    ("u4", 1, "eight", "train", ""),
    ("u5", 0, "", "dev", f"z{ODD}"),
    ("u6", 3, "", "dev", "y"),
)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("duplicates")
    with open(folder / "list.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "path", "text", "split", "speaker"])
        for number, (id_, source, reference, split, speaker) in enumerate(LISTED):
            samples, rate = soundfile.read(SOURCES[source], dtype="int16")
            soundfile.write(folder / f"{number}.wav", samples, rate)
            writer.writerow([id_, folder / f"{number}.wav", reference, split, speaker])
    given = ["dataset=manifest", f"dataset.path={folder / 'list.csv'}", "model=digits", "outputs=[transcripts]"]
    assert main([*given, "shard.hours=0.0001", f"run_dir={folder / 'out'}"]) == 0
    return folder / "out"


def test_it_says_what_is_there_twice_and_where_it_leaks(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(out)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "3 of 7 utterances (43 %)" in said
    assert "2 sounds occur more than once: 3 times" in said
    assert "1 sound with different references, so that one must be wrong: u1: two u4: eight" in said
    assert "several values of split 1 3" in said
    assert "dev and test 1 2" in said
    assert "test and train 1 2" in said
    assert r"u3<b>\u202e&amp; (test) u0 (train)" in said or r"u3<b>\u202e&amp; (test) u5 (dev)" in said
    assert r"x and z<b>\u202e&amp; 1 3" in said
    assert "dev and train" in said
    assert "no sound has several values" not in said


def test_asked_for_columns_are_searched_and_the_list_is_written(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path.stat().st_mtime_ns for path in out.rglob("*"))
    for name in ("list.csv", "list.parquet"):
        assert command.main([str(out), "--by", "split+speaker", "-o", str(tmp_path / name)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "several values of split+speaker 1 3" in said
    assert f"list in {tmp_path / 'list.csv'}" in said
    rows = pq.read_table(tmp_path / "list.parquet").to_pylist()
    assert [(row["sound"], row["id"], row["same_as"]) for row in rows] == [
        (1, "u0", None), (1, f"u3{ODD}", "u0"), (1, "u5", "u0"), (2, "u1", None), (2, "u4", "u1"),
    ]  # fmt: skip
    assert [*rows[0]][3:] == ["path", "start_s", "end_s", "duration_s", "reference", "speaker", "split"]
    with open(tmp_path / "list.csv", newline="", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    assert [row["id"] for row in written] == [row["id"] for row in rows]
    assert [row["split"] for row in written] == ["train", "test", "dev", "train", "train"]
    assert sorted(path.stat().st_mtime_ns for path in out.rglob("*")) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["list.csv", "list.parquet"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--by", "room"], "--by=room: the dataset has no column 'room'; its own columns are speaker, split"),
        (["-o", "list.txt"], "--out=list.txt: must end in .csv or .parquet"),
        (["-o", "OUT/list.csv"], "list.csv: is inside the run directory"),
        (["--split"], "unrecognized arguments: --split; usage: python -m pipeline.duplicates RUN_DIR"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    out: Path, arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([str(out), *(each.replace("OUT", str(out)) for each in arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert reason in line


def test_a_folder_without_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(tmp_path)]) == 2
    assert "no run there" in capsys.readouterr().err


def test_a_run_that_is_not_complete_compares_what_is_committed(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = RunDirectory(out)
    name = directory.commit_name(0)  # the shard of u0 alone
    record = directory.read(name)
    directory.retract(0)
    try:
        assert command.main([str(out)]) == 0
    finally:
        directory.write(name, record)
    said = " ".join(capsys.readouterr().out.split())
    assert "2 of 6 utterances (33 %)" in said
    assert "1 utterance without a transcript could not be compared" in said


def test_without_duplicates_it_says_so_and_the_report_has_no_section(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for source in SOURCES[:2]:
        (tmp_path / "calls").mkdir(exist_ok=True)
        (tmp_path / "calls" / source.name).write_bytes(source.read_bytes())
    given = ["dataset=folder", f"dataset.root={tmp_path / 'calls'}", "model=digits", "outputs=[transcripts]"]
    assert main([*given, f"run_dir={tmp_path / 'out'}"]) == 0
    assert "the same audio" not in capsys.readouterr().out
    assert command.main([str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == "no two of 2 utterances have the same audio\n"
    assert 'id="duplicates"' not in page(tmp_path / "out")


def test_the_report_shows_them_and_escapes_what_strangers_chose(out: Path) -> None:
    markup = page(out)
    section = markup.partition('<section id="duplicates">')[2].partition("</section>")[0]
    said = text_of(section)
    assert "3 of 7 utterances (43 %)" in said
    assert "Same audio under several values of split" in said
    assert "Same audio, different references" in said
    assert "u1 two u4 eight" in said
    assert "<b>" not in section
    assert r"u3&lt;b&gt;\u202e&amp;amp;" in section
    assert '<a href="#duplicates">' in markup
