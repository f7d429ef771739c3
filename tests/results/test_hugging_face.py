"""Transcripts as a `Dataset` of Hugging Face: the same values, mapped from a file, with no audio decoded."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from make_run import Spoken, make_run
from running import SHIPPED

from pipeline.results import Run, hugging_face, open_run
from pipeline.runtime.errors import UserError


def spoken(number: int, **given: Any) -> Spoken:
    path = str(sorted((SHIPPED / "digits").glob("*.flac"))[number])
    return Spoken(
        f"u{number}", [("A", 3, 9, 0.9)] * number, "a" if number % 2 else None, {"room": f"rm{number % 2}"},
        {1: np.full((50, 3), number)}, path=path, **given,
    )  # fmt: skip


SHARDS = [[spoken(3), spoken(1), spoken(2)], [spoken(5), spoken(4, failed=True)]]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of `datasets`, which is empty."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("made") / "run"
    return open_run(make_run(root, SHARDS, {"room": "string"}))


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as Python values, with `None` for null."""
    return [
        {
            name: [dict(word) for word in value] if name == "words" else None if pd.isna(value) else value
            for name, value in row.items()
        }
        for row in frame.to_dict("records")
    ]


def test_a_dataset_has_the_rows_of_the_transcripts(run: Run, cache: Path) -> None:
    dataset = run.to_datasets()
    assert dataset.to_list() == rows_of(run.transcripts)
    (file,) = dataset.cache_files
    assert Path(file["filename"]).is_relative_to(cache)
    assert dataset[1] == rows_of(run.transcripts)[1]
    assert list(dataset.filter(lambda row: row["room"] == "rm1")["id"]) == ["u1", "u3", "u5"]


def test_a_selection_and_joined_columns_are_in_it(run: Run, cache: Path) -> None:
    ages = pd.DataFrame({"id": ["u1", "u2", "u3", "u4", "u5"], "age": [21, None, 23, 24, 25]})
    some = run.with_metadata(ages.astype({"age": "Int16"})).select(room="rm1")
    dataset = some.to_datasets()
    assert dict(zip(dataset["id"], dataset["age"], strict=True)) == {"u1": 21, "u3": 23, "u5": 25}
    assert dataset.features["age"].dtype == "int16"
    assert dataset.to_list() == rows_of(some.transcripts)
    assert len(run.select([]).to_datasets()) == 0


def test_equal_datasets_share_a_file_and_others_have_their_own(run: Run, cache: Path) -> None:
    assert run.to_datasets().cache_files == run.to_datasets().cache_files
    run.select("u1").to_datasets()
    assert len(list(cache.rglob("*.arrow"))) == 2
    assert len(list((cache / "overnight-speech").iterdir())) == 2


def test_audio_names_whole_recordings_and_decodes_none(run: Run, cache: Path, tmp_path: Path) -> None:
    import datasets

    dataset = run.to_datasets(audio=True)
    assert dataset.features["audio"] == datasets.Audio(sampling_rate=16_000)
    paths = dataset.cast_column("audio", datasets.Audio(decode=False))["audio"]
    assert [each["path"] for each in paths] == run.transcripts["path"].tolist()
    assert all(each["bytes"] is None for each in paths)
    assert dataset.remove_columns("audio").to_list() == run.to_datasets().to_list()


def test_a_part_of_a_file_is_no_audio_of_a_dataset(run: Run, cache: Path, tmp_path: Path) -> None:
    segments = open_run(make_run(tmp_path / "segments", [[spoken(1), spoken(2, start_s=0.1)]], {"room": "string"}))
    with pytest.raises(ValueError, match="audio=True: u2 is a part or one channel of its file"):
        segments.to_datasets(audio=True)
    assert segments.select("u1").to_datasets(audio=True).column_names[-1] == "audio"
    each = run.with_metadata(pd.DataFrame({"id": run.manifest["id"], "audio": 1}))
    assert each.to_datasets()["audio"][0] == 1
    with pytest.raises(ValueError, match="there is a column audio already"):
        each.to_datasets(audio=True)
    hugging_face.check_whole(run.manifest, "first")
    for manifest, channels in (
        (run.manifest.assign(num_channels=2), "first"),
        (run.manifest.assign(channel=2), "each"),
    ):
        with pytest.raises(ValueError, match="u3 is a part or one channel"):
            hugging_face.check_whole(manifest, channels)


def test_one_shard_is_read_at_a_time_and_no_features(run: Run, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    rows = hugging_face.read_rows
    monkeypatch.setattr(hugging_face, "read_rows", lambda stored, ids: read.append(stored.name) or rows(stored, ids))
    assert len(run.to_datasets()) == 4
    assert read == ["transcripts/shard-00000.parquet", "transcripts/shard-00001.parquet"]


def test_what_is_missing_is_named(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = open_run(make_run(tmp_path / "arrays", [[Spoken("a")]], outputs=["emissions"]))
    with pytest.raises(LookupError, match="no transcripts are committed"):
        arrays.to_datasets()
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="which the extra datasets has; run pip install datasets"):
        run.to_datasets()
