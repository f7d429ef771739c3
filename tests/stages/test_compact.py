"""Stage `compact`: few large files whose rows are those of the shards, at any moment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from make_run import Spoken, make_run
from running import main, read

from pipeline.results import open_run
from pipeline.runtime import failpoints
from pipeline.runtime.errors import UserError
from pipeline.stages import compact as stage
from pipeline.stages.compact import compact
from pipeline.storage import compacted
from pipeline.storage.local_files import LocalFiles
from pipeline.storage.names import TABLES
from pipeline.storage.run_directory import RunDirectory
from pipeline.verify.audit import audit

SHARDS = 6
KEYS = {"features": ["layer", "id", "part"], "emissions": ["id", "part"]}


def spoken(shard: int, number: int) -> Spoken:
    """An utterance whose id is not in the order of the shards."""
    rng = np.random.default_rng(10 * shard + number)
    features = {layer: rng.standard_normal((6, 3)) for layer in (1, 2)}
    words = [(f"w{shard}{number}", 0, 3, 0.5)]
    id_, room = f"u{(7 * shard + number) % 10}-{shard}", [None, "rm2", "rm1"][(shard + number) % 3]
    columns = {"room": room}
    return Spoken(id_, words, columns=columns, features=features, num_frames=6, failed=number == 2)


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    shards = [[spoken(shard, number) for number in range(3)] for shard in range(SHARDS)]
    root = make_run(tmp_path / "run", shards, {"room": "string"}, frames_per_part=4, uncommitted=[5])
    return RunDirectory(root)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, directory: RunDirectory) -> None:
    """Files that are full with two shards of transcripts, and row groups of few rows."""
    sizes = [each.records[0].files["transcripts"].size for each in directory.commits().values()]
    monkeypatch.setattr(compacted, "FULL_BYTES", 2 * min(sizes) - 1)
    monkeypatch.setattr(stage, "_GROUP_BYTES", 1_000)


def rows_of(directory: RunDirectory, table: str, shards: Sequence[int] | None = None) -> pa.Table:
    """The rows of a table of the shards, sorted as a compacted file is."""
    done = directory.commits()
    found = [f.read() for shard in (done if shards is None else shards) for f in directory.tables(done[shard], table)]
    keys = [(key, "ascending") for key in KEYS.get(table, ["id"])]
    return pa.concat_tables(found).replace_schema_metadata(None).sort_by(keys)


def glob(directory: RunDirectory, table: str = "transcripts") -> list[str]:
    """The ids that a reader of the folder finds."""
    return sorted(pq.read_table(directory.locate(f"compacted-{table}"))["id"].to_pylist())


@pytest.mark.parametrize("table", TABLES)
def test_a_compacted_file_has_the_rows_of_its_shards_sorted(
    directory: RunDirectory, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "_GROUP_BYTES", 300)
    compact(directory, directory.commits(), [table])
    (path,) = directory.locate(f"compacted-{table}").iterdir()
    found = pq.read_table(path)
    assert found.replace_schema_metadata(None).equals(rows_of(directory, table))
    assert found.schema.metadata.items() >= directory.table(table, 0).schema().metadata.items()
    file = pq.ParquetFile(path)
    if table == "features":
        groups = [set(file.read_row_group(number)["layer"].to_pylist()) for number in range(file.num_row_groups)]
        assert all(len(layers) == 1 for layers in groups)
    else:
        assert file.metadata.row_group(0).sorting_columns[0].column_index == 0
    column = file.metadata.row_group(0).column(0)
    assert column.has_offset_index
    assert column.statistics.has_min_max


def test_a_file_is_full_at_its_size_and_what_is_done_is_not_done_again(directory: RunDirectory, small: None) -> None:
    said = compact(directory, directory.commits(), ["transcripts"])
    assert said == "3 files in compacted-transcripts, 3 of them written now"
    assert directory.names("compacted-transcripts") == [f"shards-0000{first}.parquet" for first in (0, 2, 4)]
    before = {path: path.stat().st_ino for path in directory.locate("compacted-transcripts").iterdir()}
    assert compact(directory, directory.commits(), ["transcripts"]).endswith("0 of them written now")
    assert before == {path: path.stat().st_ino for path in directory.locate("compacted-transcripts").iterdir()}


def test_memory_holds_a_part_of_the_rows(directory: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rows_of(directory, "features")
    monkeypatch.setattr(stage, "_PART_BYTES", whole.nbytes // 5)
    monkeypatch.setattr(stage, "_GROUP_BYTES", whole.nbytes // 10)
    most: list[int] = []
    read_ahead: list[int] = []
    groups, piece = stage._row_groups, stage._Merged._piece

    def counted(*given: Any) -> Iterator[pa.Table]:
        for number, table in enumerate(groups(*given)):
            read_ahead.append(number)
            yield table

    parts, sort = [], stage._sorted_parts
    monkeypatch.setattr(stage, "_row_groups", counted)
    monkeypatch.setattr(
        stage, "_sorted_parts", lambda *given: (parts.append(len(read_ahead)) or each for each in sort(*given))
    )

    def measured(merged: stage._Merged, order: np.ndarray) -> pa.Table:
        found = piece(merged, order)
        most.append(max(len(found), sum(len(table) for _, table in merged._held.values())))
        assert all(file.metadata.num_rows <= len(whole) / 4 for file in merged._files)
        return found

    monkeypatch.setattr(stage._Merged, "_piece", measured)
    compact(directory, directory.commits(), ["features"])
    assert len(most) > 8
    assert max(most) < len(whole) / 2
    assert parts[0] < len(read_ahead) / 3  # a part is written before the next is read
    found = read(directory.root, "compacted-features")
    assert found.replace_schema_metadata(None).equals(whole)


def test_a_grown_run_adds_its_shards_and_moves_none(tmp_path: Path, directory: RunDirectory, small: None) -> None:
    done = directory.commits()
    compact(directory, {shard: done[shard] for shard in (2, 4)}, ["transcripts"])
    assert directory.names("compacted-transcripts") == ["shards-00002.parquet"]
    seen = [glob(directory)]
    publish = LocalFiles.publish

    def looking(self: LocalFiles, *given: object) -> None:
        publish(self, *given)  # type: ignore[arg-type]
        seen.append(glob(directory))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalFiles, "publish", looking)
        compact(directory, done, ["transcripts"])
    assert all(len(set(ids)) == len(ids) for ids in seen)
    assert all(set(before) <= set(after) for before, after in pairwise(seen))
    assert seen[-1] == sorted(rows_of(directory, "transcripts")["id"].to_pylist())


@pytest.mark.parametrize("point", ["compact", "moved", "compacted", "file", "file-moved"])
def test_a_failure_at_any_point_leaves_each_row_once_and_the_next_compaction_ends_it(
    directory: RunDirectory, small: None, point: str
) -> None:
    done = directory.commits()
    compact(directory, {shard: done[shard] for shard in (0, 1, 2)}, ["transcripts"])
    before, after = glob(directory), sorted(rows_of(directory, "transcripts")["id"].to_pylist())
    failpoints.arm(f"{point}=EIO")
    try:
        with pytest.raises(OSError, match="Input/output"):
            compact(directory, done, ["transcripts"])
    finally:
        failpoints.arm("")
    left = glob(directory)
    assert len(set(left)) == len(left)
    assert {*before} <= {*left} <= {*after}
    compact(directory, done, ["transcripts"])
    assert glob(directory) == after
    assert audit_says(directory) == []


def audit_says(directory: RunDirectory) -> list[str]:
    found = audit(directory)
    return [each.what for each in found.problems if "compacted" in each.path] + [
        note for note in found.notes if "compacted" in note
    ]


def test_verify_finds_damage_and_what_is_out_of_date(directory: RunDirectory) -> None:
    done = directory.commits()
    compact(directory, {0: done[0]}, ["transcripts"])
    assert audit_says(directory)[0].startswith("compacted-transcripts: 1 file of 1 not made of the present shards")
    compact(directory, done, ["transcripts"])
    assert audit_says(directory) == []
    path = directory.locate("compacted-transcripts/shards-00000.parquet")
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    directory.locate("compacted-transcripts/other.parquet").write_bytes(b"")
    assert audit_says(directory) == [
        "does not have the bytes that were committed",
        "is no compacted file, but readers of the folder read it too",
    ]


def test_transcripts_are_sorted_by_a_column_and_row_groups_of_other_values_are_skipped(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = directory.commits()
    monkeypatch.setattr(stage, "_GROUP_BYTES", 500)
    compact(directory, done, ["transcripts", "failures"])
    assert compact(directory, done, ["transcripts", "failures"], by="room").endswith("1 of them written now")
    assert compact(directory, done, ["transcripts", "failures"], by="room").endswith("0 of them written now")
    assert audit_says(directory) == []
    folder = directory.locate("compacted-transcripts")
    rows = rows_of(directory, "transcripts").sort_by([("room", "ascending"), ("id", "ascending")])
    assert pq.read_table(folder).replace_schema_metadata(None).equals(rows)
    stored = directory.compacted("transcripts").table(0)
    with stored.open() as file:
        assert file.metadata.num_row_groups > len(stored.row_groups(pc.field("room") == "rm2")) > 0
    wanted = sorted(rows.filter(pc.field("room") == "rm2")["id"].to_pylist())
    assert sorted(pq.read_table(folder, filters=[("room", "=", "rm2")])["id"].to_pylist()) == wanted
    by_duckdb = duckdb.sql(f"SELECT id FROM '{folder}/*.parquet' WHERE room = 'rm2'").fetchall()
    assert sorted(id_ for (id_,) in by_duckdb) == wanted
    by_polars = polars.scan_parquet(f"{folder}/*.parquet").filter(polars.col("room") == "rm2").collect()
    assert sorted(by_polars["id"].to_list()) == wanted
    assert compact(directory, done, ["transcripts"]).endswith("1 of them written now")
    assert glob(directory) == sorted(rows["id"].to_pylist())


def test_a_column_that_the_dataset_lacks_is_refused(directory: RunDirectory) -> None:
    with pytest.raises(UserError, match=r"compact\.by=rom: the dataset has no column 'rom'; its own columns are room"):
        compact(directory, directory.commits(), ["transcripts"], by="rom")


def test_readers_find_one_id(directory: RunDirectory, small: None) -> None:
    compact(directory, directory.commits(), ["transcripts"])
    folder = directory.locate("compacted-transcripts")
    wanted = open_run(directory.root).transcripts.iloc[0]
    by_arrow = pq.read_table(folder, filters=[("id", "=", wanted["id"])])
    by_duckdb = duckdb.sql(f"SELECT text FROM '{folder}/*.parquet' WHERE id = '{wanted['id']}'").fetchall()
    by_polars = polars.scan_parquet(f"{folder}/*.parquet").filter(polars.col("id") == wanted["id"]).collect()
    assert by_arrow["text"].to_pylist() == by_polars["text"].to_list() == [by_duckdb[0][0]] == [wanted["text"]]


def test_the_stage_follows_a_run_and_can_be_asked_for_later(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from running import SHORT

    asked = [*SHORT, "outputs=[transcripts]", "run_dir=out"]
    assert main([*asked, "stages=[manifest,infer]"]) == 0
    assert main([*asked, "stages=[compact]"]) == 0
    assert "2 files in compacted-transcripts, compacted-failures, 2 of them written now" in capsys.readouterr().out
    assert main([*asked, "stages=[manifest,infer,compact]"]) == 0
    assert "complete already" in capsys.readouterr().out
    assert read(Path("out"), "compacted-transcripts").equals(read(Path("out"), "transcripts"))
    # As after `retry_failed`, when the shards are others than those that the record names.
    Path("out/commits-compacted-transcripts/shards-00000.json").unlink()
    older = "compacted-transcripts: 1 file of 1 not made of the present shards, so its readers find older rows"
    for stages, said in (("manifest,infer", True), ("manifest,infer,compact", False)):
        capsys.readouterr()
        assert main([*asked, f"stages=[{stages}]"]) == 0
        assert (older in capsys.readouterr().out) == said
    assert main([*asked, "stages=[decode,compact]"]) == 2
    assert "compact takes the tables of the run" in capsys.readouterr().err


def test_a_damaged_table_is_named(directory: RunDirectory) -> None:
    path = directory.locate("transcripts/shard-00001.parquet")
    done = directory.commits()
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(UserError, match=r"shard-00001\.parquet: cannot be read .* --retract removes"):
        compact(directory, done, ["transcripts"])
    assert directory.names("compacted-transcripts") == []
