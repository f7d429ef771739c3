"""Columns of a user's table beside those of a run: the right rows, the types kept, nothing written."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from make_run import Spoken, make_run

from pipeline.config.schema import ScoreSettings
from pipeline.results import Run, open_run, scores
from pipeline.runtime.errors import UserError
from pipeline.stages.score import score_run
from pipeline.storage.run_directory import RunDirectory

AGES = {f"u{number}": 20 + number % 3 for number in range(8)}


def spoken(number: int, **given: Any) -> Spoken:
    room = "rm1" if number % 2 else "rm2"
    said = [("A", 3, 9, 0.9), ("B", 12, 20, 0.4)]
    return Spoken(
        f"u{number}", said, "a b" if number % 3 else "a c", {"room": room, "caller": f"s{number % 5}"},
        {1: np.full((50, 3), number)}, path=f"/calls/{room}/w\u00f6d {number}.wav", **given,
    )  # fmt: skip


SHARDS = [[spoken(3), spoken(1), spoken(2)], [spoken(5), spoken(4, failed=True), spoken(0)], [spoken(7), spoken(6)]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("made") / "run"
    return open_run(make_run(root, SHARDS, {"room": "string", "caller": "string"}))


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame({"id": list(AGES), "age": AGES.values()})


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def by_id(table: pd.DataFrame, column: str) -> dict[str, Any]:
    return {id_: None if pd.isna(value) else value for id_, value in table.set_index("id")[column].items()}


def test_every_table_and_a_selection_have_the_columns(run: Run, frame: pd.DataFrame) -> None:
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    joined = run.with_metadata(frame)
    assert by_id(joined.manifest, "age") == AGES
    assert list(joined.manifest) == [*run.manifest, "age"]
    assert by_id(joined.transcripts, "age") == {id_: age for id_, age in AGES.items() if id_ != "u4"}
    assert list(joined.transcripts) == [*run.transcripts, "age"]
    assert by_id(joined.pooled_table(layer=1)[0], "age") == by_id(joined.transcripts, "age")
    young = joined.select(age=[20, 21], room="rm1")
    assert set(young.manifest.id) == {"u1", "u3", "u7"}
    assert by_id(young.transcripts, "age") == {"u1": 21, "u3": 20, "u7": 21}
    assert repr(young) == f"<Run {run.path}: 3 of 8 utterances>"
    assert "age" not in run.manifest
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_a_selection_is_joined_like_the_whole_run(run: Run, frame: pd.DataFrame) -> None:
    later = run.select(room="rm1").with_metadata(frame)
    sooner = run.with_metadata(frame).select(room="rm1")
    for name in ("manifest", "transcripts", "scores", "failures"):
        pd.testing.assert_frame_equal(getattr(later, name), getattr(sooner, name))
    pd.testing.assert_frame_equal(later.score("age"), sooner.score("age"))


def test_types_stay_and_missing_rows_are_nulls(run: Run) -> None:
    number = range(6)
    table = pd.DataFrame(
        {
            "whole": pd.array(number, "int8"),
            "flag": [True, False] * 3,
            "share": [0.5, None, 1, 2, 3, 4],
            "code": ["007", "8", "x", None, "y", "z"],
            "kind": pd.Categorical(["a", "b"] * 3),
            "band": pd.cut(number, [-1, 2, 9]),
            "day": pd.Timestamp("2026-01-02"),
            "tags": [["a", "b"]] * 6,
            "empty": None,
        },
        index=pd.Index([f"u{each}" for each in number], name="id"),
    )
    with pytest.warns(UserWarning, match="table: 6 of 6 rows belong to an utterance; 2 of 8 utterances have no row$"):
        found = run.with_metadata(table).manifest.set_index("id")
    assert {name: str(found[name].dtype) for name in ("whole", "flag", "share", "day")} == {
        "whole": "Int8", "flag": "boolean", "share": "float64", "day": "datetime64[us]"
    }  # fmt: skip
    assert found.loc["u7", list(table)].isna().all()
    assert found.loc["u0", ["whole", "flag", "code", "kind", "band", "tags"]].tolist() == [
        0, True, "007", "a", "(-1, 2]", '["a", "b"]'
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_files_are_read_as_lists_are(run: Run, tmp_path: Path, kind: str) -> None:
    rows = [{"Utt_ID": id_, "age": age, "code": f"0{age}", "note": None} for id_, age in AGES.items()]
    path = tmp_path / f"ages.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pd.DataFrame(rows).to_csv(path, sep="\t" if kind == "tsv" else ",", index=False)
    for given in (path, str(path)):
        found = run.with_metadata(given).manifest
        assert by_id(found, "age") == AGES
        assert str(found["age"].dtype) == "Int64"
        assert by_id(found, "code") == {id_: f"0{age}" for id_, age in AGES.items()}
        assert found["note"].isna().all()


@pytest.mark.parametrize(
    "spelling",
    [
        "/calls/{room}/w\u00f6d {n}.wav",
        "{room}/w\u00f6d {n}.wav",
        "{room}/wo\u0308d {n}",
        "{room}\\w\u00f6d {n}.wav",
        "./{room}//w\u00f6d {n}.wav ",
        "w\u00f6d {n}.wav",
        "w\u00f6d {n}",
    ],
)
def test_paths_match_in_every_spelling_that_a_list_may_have(run: Run, spelling: str) -> None:
    paths = [spelling.format(room="rm1" if number % 2 else "rm2", n=number) for number in range(8)]
    found = run.with_metadata(pd.DataFrame({"file_name": paths, "age": AGES.values()}), on="path")
    assert by_id(found.manifest, "age") == AGES


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose path is so short that messages have all of it."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_a_path_may_be_relative_to_the_folder_of_the_table(short_path: Path) -> None:
    shard = [Spoken(f"{day}-{part}", path=f"{short_path}/{day}/calls.wav") for day in ("mon", "tue") for part in (1, 2)]
    run = open_run(make_run(short_path / "run", [shard], outputs=["transcripts"]))
    (short_path / "mon").mkdir()
    (short_path / "mon" / "ages.csv").write_text("path,age\ncalls.wav,30\n../tue/calls.wav,40\n")
    found = run.with_metadata(short_path / "mon" / "ages.csv", on="path").manifest
    assert by_id(found, "age") == {"mon-1": 30, "mon-2": 30, "tue-1": 40, "tue-2": 40}
    (short_path / "ages.csv").write_text("path,age\ncalls.wav,30\n")
    with pytest.raises(UserError, match=r"row 1 matches both '.*mon.* and '.*tue.*; give the path relative to"):
        run.with_metadata(short_path / "ages.csv", on="path")


def test_what_belongs_to_nothing_is_told_once(run: Run, frame: pd.DataFrame) -> None:
    said: list[str] = []
    frame = pd.concat([frame[2:], pd.DataFrame({"id": ["nobody", None, None], "age": 1})], ignore_index=True)
    found = run.with_metadata(frame.assign(room="a", Text="b"), tell=said.append)
    assert said == [
        "table: 6 of 9 rows belong to an utterance, the first that does not has the id 'nobody'; 2 of 8 utterances "
        "have no row; column 'room' is called 'meta_room' here; column 'Text' is called 'meta_Text' here"
    ]
    assert by_id(found.manifest, "room") == by_id(run.manifest, "room")
    assert found.manifest["age"].notna().sum() == found.manifest["meta_room"].eq("a").sum() == 6
    again = found.with_metadata(frame.assign(height=180), tell=said.append)
    assert list(again.manifest)[-5:] == ["age", "meta_room", "meta_Text", "meta_age", "height"]
    with pytest.warns(UserWarning, match="have no row") as caught:
        run.with_metadata(frame)
    assert [warning.filename for warning in caught] == [__file__]


def test_a_table_that_cannot_be_joined_is_refused_with_the_reason(
    run: Run, frame: pd.DataFrame, tmp_path: Path
) -> None:
    (tmp_path / "cut.csv").write_text("id,age\nu1,20\nu2\n")
    (tmp_path / "twice.csv").write_text("id,age,age\nu1,20,21\n")
    for table, on, reason in (
        (pd.concat([frame, frame]), "id", "table: id 'u0' is in rows 1 and 9; keep one row for each id"),
        (frame.assign(id="x" + frame["id"]), "id", "0 of 8 rows .* has the id 'xu0', and the first utterance has 'u3'"),
        (frame.rename(columns={"id": "who"}), "id", "no column is known to hold the id .* are 'who', 'age'; name one"),
        (frame, "path", "no column is known to hold the path .*, or join on=id, which 'id' holds"),
        (frame.assign(utt_id="a", path="b", wav="c"), "path", "'path' and 'wav' may both hold the path"),
        (frame, "speaker", "on=speaker: not allowed; there are id, path"),
        (frame.assign(age=[1, "x"] * 4), "id", "column 'age' has values of several kinds .*; convert it"),
        (frame.set_axis(["id", "id"], axis=1), "id", "column 'id' appears twice"),
        (tmp_path / "gone.csv", "id", r"gone\.csv: no such file"),
        (tmp_path / "cut.csv", "id", r"cut\.csv: line 3: 1 values instead of 2"),
        (tmp_path / "twice.csv", "id", r"twice\.csv: line 1: column 'age' appears twice"),
    ):
        with pytest.raises(UserError, match=reason):
            run.with_metadata(table, on=on)
    with pytest.raises(TypeError, match=r"list: give a pandas\.DataFrame, or the path of"):
        run.with_metadata([1])  # type: ignore[arg-type]


def test_scores_by_joined_columns_equal_those_of_a_dataset_that_has_them(
    run: Run, frame: pd.DataFrame, tmp_path: Path
) -> None:
    shards = [
        [Spoken(**{**vars(each), "columns": {**each.columns, "age": AGES[each.id]}}) for each in shard]
        for shard in SHARDS
    ]
    own = make_run(tmp_path / "run", shards, {"room": "string", "caller": "string", "age": "int64"})
    directory, by = RunDirectory(own), ["age", "age+room"]
    score_run(directory, directory.commits(), directory.manifest.schema(), ScoreSettings(by=by))
    expected = open_run(own)
    joined = run.with_metadata(frame)
    pd.testing.assert_frame_equal(joined.score(by=by), expected.scores)
    pd.testing.assert_frame_equal(joined.select(room="rm1").score(by), expected.select(room="rm1").scores)
    assert joined.score("age")["wer_low"].notna().any()
    assert joined.score()["group"].unique().tolist() == ["overall", "age", *run.scores["group"].unique()[1:]]
    for each in (run.scores, run.score()):
        pd.testing.assert_frame_equal(joined.scores, each)
    with pytest.raises(
        UserError, match="by=aeg: the dataset has no column 'aeg'; its own columns are room, caller, age"
    ):
        joined.score("aeg")


def test_a_joined_speaker_is_resampled_for_the_intervals(tmp_path: Path) -> None:
    shard = [Spoken(f"u{n}", [("A", 1, 2, 0.9)], "a b" if n % 3 else "a") for n in range(24)]
    run = open_run(make_run(tmp_path / "run", [shard], outputs=["transcripts"]))
    table = pd.DataFrame({"id": [f"u{n}" for n in range(24)], "speaker": [f"s{n % 6}" for n in range(24)]})
    joined = run.with_metadata(table).score("speaker").loc[0, ["wer", "wer_low", "wer_high"]].tolist()
    alone = run.score([]).loc[0, ["wer", "wer_low", "wer_high"]].tolist()
    assert joined[0] == alone[0]
    assert joined[1:] != alone[1:]


def test_scoring_reads_one_shard_at_a_time_and_no_more_columns_than_it_needs(
    run: Run, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined, read = run.with_metadata(frame), []

    def noted(stored: Any, ids: Any, columns: Any) -> pa.Table:
        read.append((stored.name, columns))
        return read_rows(stored, ids, columns)

    read_rows = scores.read_rows
    monkeypatch.setattr(scores, "read_rows", noted)
    joined.score("age")
    assert [name for name, _ in read] == [f"transcripts/shard-0000{shard}.parquet" for shard in range(3)]
    assert {"words", "ctc_text", "path", "age"}.isdisjoint(read[0][1])


def test_a_run_without_references_or_transcripts_has_no_scores(tmp_path: Path) -> None:
    table = pd.DataFrame({"id": ["a"], "age": [1]})
    for name, outputs in (("bare", ["transcripts"]), ("arrays", ["emissions"])):
        run = open_run(make_run(tmp_path / name, [[Spoken("a")]], outputs=outputs)).with_metadata(table)
        assert run.score("age").empty
        assert list(run.transcripts)[-1] == "age"
