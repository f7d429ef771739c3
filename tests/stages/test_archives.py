"""A run over recordings in archives, from the first night to archives that grow, change and are damaged."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from packing import NAMES, recordings, write_parquet, write_tar
from running import NO_REPORT, assert_accounting, assert_same_tables, main, read

from pipeline.audio.archives.members import member_of, unpacked
from pipeline.results import open_run
from pipeline.stages.corrections.correction import Correction
from pipeline.stages.corrections.matching import Utterances


def run(root: Path, out: Path, *overrides: str, stages: str = NO_REPORT) -> int:
    given = ["dataset=folder", f"dataset.root={root}", "model=digits", f"run_dir={out}", stages, *overrides]
    return main([*given, "outputs=[transcripts]"])


def manifest(out: Path) -> dict[str, str]:
    table = pq.read_table(out / "manifest.parquet")
    return dict(zip(table["id"].to_pylist(), table["path"].to_pylist(), strict=True))


def test_an_archive_gives_what_the_unpacked_folder_gives_and_the_report_plays_it(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "x.tar", recordings(3))
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "x", filter="data")
    packed, plain = tmp_path / "packed", tmp_path / "plain"
    assert run(archive, packed, stages="stages=[manifest,infer,score,report]") == run(tmp_path / "x", plain) == 0
    left, right = open_run(packed), open_run(plain)
    assert left.transcripts.drop(columns="path").equals(right.transcripts.drop(columns="path"))
    for id_ in left.transcripts["id"]:
        (heard, rate), (expected, _) = left.audio(id_), right.audio(id_)
        assert rate == left.sample_rate
        assert np.array_equal(heard, expected)
    page = (packed / "report" / "index.html").read_text()
    assert page.count("data:audio/flac;base64,") == 3
    table = left._directory.manifest.read()
    names = Utterances(table, left.recording_root)
    stem = NAMES[1].rpartition(".")[0]
    given = [Correction("", "", "one", recording=name) for name in (NAMES[0], stem)]
    assert {*names.match(given).texts} == {*NAMES[:2]}
    joined = left.with_metadata(_list(tmp_path), on="path")
    assert joined.transcripts.set_index("id").loc[NAMES[1], "dialect"] == "north"


def _list(folder: Path) -> Path:
    path = folder / "list.csv"
    path.write_text(f"path,dialect\n{NAMES[1]},north\n")
    return path


def test_archives_grow_are_written_again_and_lose_members(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = tmp_path / "corpus", tmp_path / "out"
    first = recordings(2)
    write_tar(root / "mon.tar", first)
    archives = ("dataset.archives=true",)
    assert run(root, out, *archives) == 0
    before = manifest(out)
    # Written again with another member in front: every position differs, and nothing is computed again.
    new = {NAMES[2]: recordings()[NAMES[2]]}
    write_tar(root / "mon.tar", {**new, **first})
    write_tar(root / "tue.tar", {"x.flac": recordings()[NAMES[3]]})
    capsys.readouterr()
    assert run(root, out, *archives) == 0
    said = capsys.readouterr().out
    assert "the corpus has changed: 2 new" in said
    assert "replaced" not in said
    after = manifest(out)
    assert [*after] == [*before, f"mon.tar/{NAMES[2]}", "tue.tar/x.flac"]
    assert all(member_of(after[id_]) != member_of(before[id_]) for id_ in before)
    assert len(open_run(out).audio(f"mon.tar/{NAMES[0]}")[0])
    # Only the positions change: the manifest follows.
    write_tar(root / "mon.tar", {**first, **new})
    assert run(root, out, *archives) == 0
    assert [manifest(out)[id_] for id_ in before] == [*before.values()]
    state = {path: path.stat().st_mtime_ns for path in out.glob("*/*.parquet")}
    assert run(root, out, *archives) == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/*.parquet")} == state
    write_tar(root / "mon.tar", {NAMES[0]: recordings()[NAMES[4]]})
    capsys.readouterr()
    run(root, out, *archives)
    assert "the corpus has changed: 2 vanished, 1 replaced" in capsys.readouterr().out


def test_a_damaged_member_costs_its_row_and_a_damaged_archive_what_is_lost(tmp_path: Path) -> None:
    out = tmp_path / "out"
    archive = write_tar(tmp_path / "x.tar", {"bad.flac": b"fLaC no more", **recordings(3)})
    archive.write_bytes(archive.read_bytes()[: member_of_last(archive) + 700])
    assert run(archive, out) == 3
    failures = {row["id"]: row for row in read(out, "failures").to_pylist()}
    assert {*failures} == {"bad.flac", "x.tar"}
    assert unpacked(failures["bad.flac"]["path"]) == f"{archive}/bad.flac"
    assert "ends at byte" in failures["x.tar"]["message"]
    assert_accounting(out, outputs=["transcripts"])
    # A member that the archive loses after it was listed.
    other = tmp_path / "other"
    write_tar(archive, recordings(3))
    assert run(archive, other, stages="stages=[manifest]") == 0
    archive.write_bytes(archive.read_bytes()[: member_of_last(archive) + 700])
    assert run(archive, other, "extend=off") == 3
    (row,) = read(other, "failures").to_pylist()
    assert (row["id"], row["error"]) == (NAMES[2], "truncated")


def member_of_last(archive: Path) -> int:
    with tarfile.open(archive) as tar:
        return tar.getmembers()[-1].offset


def test_rows_of_parquet_and_a_list_of_members_give_the_same_tables(tmp_path: Path) -> None:
    rows = [{"audio": {"bytes": data, "path": name}, "id": name} for name, data in recordings(3).items()]
    write_parquet(tmp_path / "hf" / "data" / "train-0.parquet", rows[:2])
    write_parquet(tmp_path / "hf" / "data" / "train-1.parquet", rows[2:])
    one, two = tmp_path / "one", tmp_path / "two"
    given = ["dataset=manifest", "model=digits", "outputs=[transcripts]"]
    assert main([*given, f"dataset.path={tmp_path / 'hf'}", f"run_dir={one}"]) == 0
    assert [*manifest(one)] == NAMES[:3]
    run_ = open_run(one)
    (tmp_path / "list.jsonl").write_text(run_.manifest[["id", "path"]].to_json(orient="records", lines=True))
    assert main([*given, f"dataset.path={tmp_path / 'list.jsonl'}", f"run_dir={two}"]) == 0
    assert_same_tables(one, two)
