"""Some utterances of a run: chosen by metadata, with the same members, reading no more than they need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from make_run import Spoken, make_run

from pipeline.config.schema import ScoreSettings
from pipeline.results import Run, open_run
from pipeline.stages.score import score_run
from pipeline.storage.run_directory import RunDirectory

COLUMNS = {"room": "string", "distractor": "string", "degrees": "int16", "source": "bool", "snr_db": "float64"}


def spoken(id_: str, room: str | None, distractor: str, degrees: int | None, **given: Any) -> Spoken:
    columns = {"room": room, "distractor": distractor, "degrees": degrees, "source": room is None, "snr_db": 5.0}
    seed = int(id_[1:])
    return Spoken(
        id_,
        words=[("A", 3, 9, 0.9), ("B", 12, 20, 0.4)],
        reference="a b" if seed % 2 else "a c",
        columns=columns,
        features={layer: np.full((50, 3), 10 * seed + layer) for layer in (1, 12)},
        emission=np.full((50, 5), seed),
        **given,
    )


SHARDS = [
    # In the list's own order, which is not that of the ids.
    [spoken("u3", "rm1", "none", 40), spoken("u1", "rm1", "babb", 90), spoken("u2", "rm2", "none", None)],
    [spoken("u4", None, "none", 0), spoken("u5", "rm1", "tele", 40, failed=True), spoken("u6", "rm2", "babb", 40)],
    [spoken("u7", "rm1", "none", 7)],
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return open_run(make_run(tmp_path_factory.mktemp("made") / "run", SHARDS, COLUMNS))


def chosen(run: Run) -> set[str]:
    return set(run.manifest.id)


@pytest.mark.parametrize(
    ("columns", "ids"),
    [
        ({"room": "rm1"}, {"u1", "u3", "u5", "u7"}),
        ({"room": "rm1", "distractor": ["none", "babb"]}, {"u1", "u3", "u7"}),
        ({"room": None}, {"u4"}),
        ({"room": [None, "rm2"]}, {"u2", "u4", "u6"}),
        ({"degrees": 40}, {"u3", "u5", "u6"}),
        ({"degrees": np.int64(90)}, {"u1"}),
        ({"degrees": range(10)}, {"u4", "u7"}),
        ({"degrees": pd.NA}, {"u2"}),
        ({"source": True}, {"u4"}),
        ({"snr_db": 5}, {"u1", "u2", "u3", "u4", "u5", "u6", "u7"}),
        ({"shard": 1, "source": False}, {"u5", "u6"}),
        ({"id": {"u1", "u9"}}, {"u1"}),
        ({"room": "rm9"}, set()),
        ({"room": []}, set()),
    ],
)
def test_columns_choose_by_a_value_or_any_of_several(run: Run, columns: dict[str, Any], ids: set[str]) -> None:
    assert chosen(run.select(**columns)) == ids


def test_ids_series_and_functions_choose_too(run: Run) -> None:
    manifest = run.manifest
    assert chosen(run.select(["u3", "u6"])) == {"u3", "u6"}
    assert chosen(run.select("u3")) == {"u3"}
    assert chosen(run.select(id_ for id_ in ("u3", "u6"))) == {"u3", "u6"}
    assert chosen(run.select([])) == set()
    assert chosen(run.select(run.transcripts.query("wer > 0").id)) == {"u2", "u4", "u6"}
    assert chosen(run.select(manifest.degrees > 8)) == {"u1", "u3", "u5", "u6"}  # null is false
    assert chosen(run.select((manifest.degrees > 8).tolist())) == {"u1", "u3", "u5", "u6"}
    assert chosen(run.select(lambda rows: rows.degrees > 8, room="rm2")) == {"u6"}
    assert chosen(run.select(run.transcripts.set_index("id").wer > 0)) == {"u2", "u4", "u6"}
    assert chosen(run.select(room="rm1").select(lambda rows: rows.degrees > 8).select(shard=0)) == {"u1", "u3"}


@pytest.mark.parametrize(
    ("where", "columns", "error", "said"),
    [
        (None, {"rom": "rm1"}, KeyError, ["rom", "did you mean room?", "distractor, degrees, source"]),
        (None, {"degrees": "40"}, TypeError, ["degrees='40'", "whole numbers", "room (str)"]),
        (None, {"degrees": [40, True]}, TypeError, ["degrees=True", "whole numbers", "bool"]),
        (None, {"room": 1}, TypeError, ["room=1", "strings", "int"]),
        (None, {"source": "yes"}, TypeError, ["source='yes'", "true or false"]),
        (None, {"room": {"rm1": 1}}, TypeError, ["room={'rm1': 1}", "strings"]),
        (["u3", "u33"], {}, KeyError, ["u33", "no such id", "did you mean u3?"]),
        ([1, 2], {}, TypeError, ["1", "boolean Series", "ids"]),
        (7, {}, TypeError, ["7", "boolean Series", "ids"]),
        ([None], {}, TypeError, ["boolean Series", "ids"]),
        (pd.Series([1, 0] * 3 + [None], dtype=object), {}, TypeError, ["1", "boolean Series", "ids"]),
        (pd.Series([True, "u3"], dtype=object), {}, TypeError, ["True", "boolean Series", "ids"]),
        (pd.Series([True, False]), {}, ValueError, ["Series of 2 rows does not match", "7", "set_index('id')"]),
        (pd.Series([True, True], index=["u1", "u1"]), {}, ValueError, ["twice"]),
    ],
)
def test_what_cannot_choose_is_refused_with_what_there_is(
    run: Run, where: Any, columns: dict[str, Any], error: type[Exception], said: list[str]
) -> None:
    with pytest.raises(error) as raised:
        run.select(where, **columns)
    for words in said:
        assert words in str(raised.value)


def test_a_series_of_another_table_is_not_taken_for_one_of_the_manifest(tmp_path: Path) -> None:
    run = open_run(make_run(tmp_path / "run", [SHARDS[0]], COLUMNS))
    assert run.transcripts.id.tolist() != run.manifest.id.tolist()
    with pytest.raises(ValueError, match="rows of another table"):
        run.select(run.transcripts.wer > 0)
    assert chosen(run.select(run.transcripts.set_index("id").wer > 0)) == {"u2"}
    assert chosen(run.select(lambda rows: rows.room == "rm2")) == {"u2"}


def test_a_series_made_of_the_manifest_is_taken_whatever_its_order(tmp_path: Path) -> None:
    run = open_run(make_run(tmp_path / "run", [SHARDS[0]], COLUMNS))
    assert run.transcripts.id.tolist() != run.manifest.id.tolist()
    for part, ids in ((run, {"u1", "u3"}), (run.select(["u1", "u2"]), {"u1"})):
        manifest = part.manifest
        for series in (
            manifest.room.str.contains("1"),
            manifest.room.isin(["rm1"]),
            manifest.degrees > 8,
            ~manifest.degrees.isna() & manifest.room.notna(),
            manifest.room.map({"rm1": True, "rm2": False}),
        ):
            assert chosen(part.select(series)) == ids


def test_null_is_false_in_a_series_of_objects_too(run: Run) -> None:
    room, rm1 = run.manifest.room, {"u1", "u3", "u5", "u7"}
    for where, ids in (
        (room.map({"rm1": True, "rm2": False}), rm1),  # NaN where it is null
        (room.map({"rm1": True}), rm1),
        (room.map({"rm1": True, "rm2": False}).replace({np.nan: None}), rm1),
        (pd.Series([True, None, np.nan, pd.NA, np.bool_(True), False, True], dtype=object), {"u3", "u5", "u7"}),
        (pd.Series({"u1": True, "u3": None, "u5": True, "u7": False}, dtype=object), {"u1", "u5"}),
    ):
        assert where.dtype == object
        assert chosen(run.select(where)) == ids
    assert chosen(run.select(room.map({"rm9": True}))) == set()  # all of it is null


def test_a_selection_has_the_members_of_a_run_restricted(run: Run) -> None:
    some = run.select(["u1", "u5", "u6"])
    assert "3 of 7 utterances" in repr(some)
    assert some.manifest.index.tolist() == [0, 1, 2]
    assert some.transcripts.id.tolist() == ["u1", "u6"]
    assert some.failures.id.tolist() == ["u5"]
    assert some.words.id.tolist() == ["u1", "u1", "u6", "u6"]
    assert sorted(some.commits) == [0, 1]
    assert {id_: emission[0, 0] for id_, emission in some.emissions()} == {"u1": 1, "u6": 6}
    assert {id_: feature[0, 0] for id_, feature in some.features(12)} == {"u1": 22, "u6": 72}
    assert some.emission("u6").tolist() == run.emission("u6").tolist()
    assert (some.alphabet, some.layers, some.seconds_per_frame) == (run.alphabet, (1, 12), 0.02)
    with pytest.raises(KeyError, match="u2: no such id in this selection"):
        some.emission("u2")
    with pytest.raises(KeyError, match="u5: failed"):
        some.feature("u5", 1)


def test_a_selection_scores_itself(run: Run) -> None:
    def rates(scores: pd.DataFrame) -> dict[tuple[str, Any], float]:
        return {(row.group, row.value): row.wer for row in scores.itertuples() if row.group in ("overall", "room")}

    some = run.select(room="rm1")
    assert rates(run.scores)[("room", "rm2")] == 0.5
    assert [(group, wer) for (group, _), wer in rates(some.scores).items()] == [("overall", 0.0), ("room", 0.0)]
    assert list(some.scores.columns) == list(run.scores.columns)
    assert run.confusions.to_dict("records") == [
        {"kind": "substitution", "reference": "c", "hypothesis": "b", "count": 3}
    ]
    assert some.confusions.empty
    assert run.select(degrees=None).confusions["count"].tolist() == [1]


def test_a_selection_is_scored_as_the_run_was(tmp_path: Path) -> None:
    """Crossed groups, and texts that are compared as they stand: small letters are wrong."""
    directory = RunDirectory(make_run(tmp_path / "run", SHARDS, COLUMNS))
    settings = ScoreSettings(by=["room+distractor"], normaliser="none")
    score_run(directory, directory.commits(), pq.read_schema(directory.root / "manifest.parquet"), settings)
    some = open_run(directory.root).select(room="rm1").scores
    assert some[["group", "value", "wer"]].fillna("").to_numpy().tolist() == [
        ["overall", "", 1.0],
        ["room+distractor", "rm1+babb", 1.0],
        ["room+distractor", "rm1+none", 1.0],
    ]


def test_an_empty_selection_has_every_column(run: Run) -> None:
    none = run.select([])
    for name in ("manifest", "transcripts", "failures", "words", "scores", "confusions"):
        assert list(getattr(none, name).columns) == list(getattr(run, name).columns), name
        assert getattr(none, name).empty
    assert list(none.emissions()) == list(none.features(1)) == []
    assert none.alphabet == run.alphabet


def spoil(path: Path, sound: set[int]) -> None:
    """Overwrite every row group of a file but the `sound` ones."""
    metadata = pq.read_metadata(path)
    data = bytearray(path.read_bytes())
    for group in set(range(metadata.num_row_groups)) - sound:
        columns = [metadata.row_group(group).column(index) for index in range(metadata.num_columns)]
        start = min(column.dictionary_page_offset or column.data_page_offset for column in columns)
        size = sum(column.total_compressed_size for column in columns)
        data[start : start + size] = b"\xff" * size
    path.write_bytes(data)


def test_only_shards_and_row_groups_that_matter_are_read(tmp_path: Path) -> None:
    shards = [[spoken(f"u{10 * shard + each}", "rm1", "none", 0) for each in range(6)] for shard in (1, 2)]
    run = open_run(make_run(tmp_path / "run", shards, COLUMNS, rows_per_group=2))
    some = run.select(["u12", "u13"])
    first, second = (run.commits[shard].records[0].files for shard in (0, 1))
    for file in second.values():
        (run.path / file.path).unlink()
    spoil(run.path / first["emissions"].path, sound={1})
    spoil(run.path / first["features"].path, sound={4})
    assert [id_ for id_, _ in some.emissions()] == ["u12", "u13"]
    assert some.emission("u13")[0, 0] == 13
    assert [id_ for id_, _ in some.features(12)] == ["u12", "u13"]
    assert some.pooled_table(12)[1].tolist() == [[132.0] * 3, [142.0] * 3]
    assert some.transcripts.id.tolist() == ["u12", "u13"]
    assert len(some.words) == 4
    with pytest.raises(OSError, match="thrift"):
        dict(some.features(1))
