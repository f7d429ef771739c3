"""Features pooled per utterance and per word: the right frames, the right rows, in bounded memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from make_run import Spoken, make_run
from numpy.typing import NDArray

from pipeline.results import Run, open_run

RANDOM = np.random.default_rng(3)
COLUMNS = {"speaker": "string", "word": "string", "num_frames_own": "int16"}


def spoken(id_: str, num_frames: int, words: list[tuple[str, int, int, float]], start_s: float | None = None) -> Spoken:
    features = {layer: RANDOM.normal(50, 3, (num_frames, 4)).astype(np.float16) for layer in (1, 2)}
    columns = {"speaker": id_[0], "word": "of the dataset", "num_frames_own": num_frames}
    return Spoken(id_, words, columns=columns, features=features, num_frames=num_frames, start_s=start_s)


SHARDS = [
    [
        spoken("b1", 40, [("one", 3, 9, 0.9), ("two", 9, 10, 0.8), ("three", 30, 40, 0.7)]),
        spoken("a1", 95, [("four", 0, 5, 0.9), ("five", 18, 61, 0.5), ("six", 80, 95, 0.9)], start_s=1234.56),
        spoken("a2", 7, []),
    ],
    [spoken("c1", 21, [("seven", 20, 21, 0.9)])],
]
BY_ID = {each.id: each for shard in SHARDS for each in shard}


@pytest.fixture(scope="module", params=[10**9, 20], ids=["whole", "in parts"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("made") / "run"
    return open_run(make_run(root, SHARDS, COLUMNS, frames_per_part=request.param, rows_per_group=3))


def frames_of(id_: str, layer: int) -> NDArray[np.float64]:
    return np.asarray(BY_ID[id_].features[layer], np.float64)


POOLINGS = {"mean": np.mean, "std": np.std, "max": np.max}


@pytest.mark.parametrize("pooling", POOLINGS)
def test_utterances_are_pooled_over_all_their_frames(run: Run, pooling: str) -> None:
    rows, matrix = run.pooled_table(layer=2, by="utterance", pooling=pooling)
    assert rows.id.tolist() == ["a1", "a2", "b1", "c1"]
    assert rows.num_frames.tolist() == [95, 7, 40, 21]
    assert rows.speaker.tolist() == ["a", "a", "b", "c"]
    assert matrix.dtype == np.float32
    expected = [POOLINGS[pooling](frames_of(id_, 2), axis=0) for id_ in rows.id]
    np.testing.assert_allclose(matrix, expected, rtol=1e-6)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_words_are_pooled_over_the_frames_between_their_times(run: Run, pooling: str) -> None:
    rows, matrix = run.pooled_table(layer=1, by="word", pooling=pooling)
    expected, names = [], []
    for id_ in ("a1", "b1", "c1"):
        for word, first, last, _ in BY_ID[id_].words:
            names.append((id_, word, last - first))
            expected.append(POOLINGS[pooling](frames_of(id_, 1)[first:last], axis=0))
    assert list(zip(rows.id, rows.word, rows.num_frames, strict=True)) == names
    np.testing.assert_allclose(matrix, expected, rtol=1e-6)


def test_rows_say_what_they_are_and_never_hide_the_datasets_own_columns(run: Run) -> None:
    rows, _ = run.pooled_table(layer=1, by="word")
    assert list(rows.columns) == [
        *["id", "word", "start_s", "end_s", "probability", "num_frames"],
        *["speaker", "meta_word", "num_frames_own"],
    ]
    own = run.words.sort_values(["id", "start_s"], ignore_index=True)
    pd.testing.assert_frame_equal(rows[own.columns.tolist()], own)
    assert rows.num_frames_own.tolist() == [BY_ID[id_].num_frames for id_ in rows.id]
    assert set(rows.meta_word) == {"of the dataset"}
    assert list(run.pooled_table(layer=1)[0].columns) == ["id", "num_frames", "speaker", "word", "num_frames_own"]


def test_sums_do_not_lose_what_float16_cannot_hold(tmp_path: Path) -> None:
    values = np.full((5000, 1), 60000.0)
    values[::2] = 59968.0
    long = Spoken("a", features={1: values}, num_frames=5000)
    run = open_run(make_run(tmp_path / "run", [[long]], frames_per_part=1024))
    assert run.pooled_table(1)[1].tolist() == [[59984.0]]
    assert run.pooled_table(1, pooling="std")[1].tolist() == [[16.0]]


def test_a_word_beyond_the_last_frame_or_of_no_length_has_a_frame(tmp_path: Path) -> None:
    odd = spoken("a", 30, [("none", 4, 4, 0.9), ("cut", 25, 45, 0.9), ("beyond", 60, 70, 0.9)])
    rows, matrix = open_run(make_run(tmp_path / "run", [[odd]], COLUMNS)).pooled_table(1, by="word")
    assert rows.num_frames.tolist() == [1, 5, 1]
    frames = np.asarray(odd.features[1], np.float64)
    np.testing.assert_allclose(matrix, [frames[4], frames[25:].mean(0), frames[29]], rtol=1e-6)


@pytest.mark.parametrize("by", ["utterance", "word"])
@pytest.mark.parametrize("max_rows", [1, 2, 3, 100])
def test_chunks_have_no_more_rows_than_asked_for_and_make_up_the_whole(run: Run, by: str, max_rows: int) -> None:
    whole_rows, whole = run.pooled_table(1, by=by)
    chunks = list(run.pooled(1, by=by, max_rows=max_rows))
    assert all(len(rows) == len(matrix) <= max_rows for rows, matrix in chunks)
    assert all(rows.index.tolist() == list(range(len(rows))) for rows, _ in chunks)
    pd.testing.assert_frame_equal(pd.concat([rows for rows, _ in chunks], ignore_index=True), whole_rows)
    assert np.array_equal(np.concatenate([matrix for _, matrix in chunks]), whole)


def test_a_selection_pools_its_own(run: Run) -> None:
    rows, matrix = run.select(speaker="a").pooled_table(1, by="word")
    assert rows.word.tolist() == ["four", "five", "six"]
    assert np.array_equal(matrix, run.pooled_table(1, by="word")[1][:3])
    for by in ("utterance", "word"):
        empty, nothing = run.select([]).pooled_table(1, by=by)
        assert list(empty.columns) == list(run.pooled_table(1, by=by)[0].columns)
        assert (len(empty), nothing.shape, nothing.dtype) == (0, (0, 4), np.float32)


def test_what_cannot_be_pooled_is_refused_at_once(run: Run, tmp_path: Path) -> None:
    with pytest.raises(KeyError, match=r"layers \[1, 2\]"):
        run.pooled(7)
    with pytest.raises(KeyError, match=r"layers \[1, 2\]"):
        run.features(7)
    for given in ({"by": "speaker"}, {"pooling": "median"}, {"max_rows": 0}):
        with pytest.raises(ValueError, match=next(iter(given))):
            run.pooled(1, **given)  # type: ignore[arg-type]
    transcripts = open_run(make_run(tmp_path / "transcripts", SHARDS, COLUMNS, outputs=["transcripts"]))
    with pytest.raises(LookupError, match=r"outputs=\[features\]"):
        transcripts.pooled(1)
    with pytest.raises(LookupError, match="no emissions or features"):
        _ = transcripts.seconds_per_frame
    assert transcripts.layers == ()
    features = open_run(make_run(tmp_path / "features", SHARDS, COLUMNS, outputs=["features"]))
    with pytest.raises(LookupError, match=r"outputs=\[transcripts\]"):
        features.pooled(1, by="word")
    assert (features.seconds_per_frame, features.sample_rate, features.layers) == (0.02, 16000, (1, 2))
    assert len(features.pooled_table(1)[0]) == 4


_POOLS: list[pa.MemoryPool] = []
"""Every pool that was ever used: what Arrow allocated in one may be freed at any time."""


class _Peaks:
    """Bytes at the peak: of Arrow's memory in a pool of its own, and of NumPy's and Python's."""

    def __enter__(self) -> _Peaks:
        self._before = pa.default_memory_pool()
        self._pool = pa.proxy_memory_pool(self._before)
        _POOLS.append(self._pool)
        pa.set_memory_pool(self._pool)
        tracemalloc.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.size = tracemalloc.get_traced_memory()[1] + self._pool.max_memory()
        tracemalloc.stop()
        pa.set_memory_pool(self._before)


def test_memory_does_not_grow_with_the_corpus_nor_with_an_utterance(
    tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    """Four times the utterances, shards or frames: the same peak, well below what is stored."""
    frame = np.zeros((1, 256), np.float16)

    def corpus(shards: int, utterances: int, frames: int) -> Iterator[list[Spoken]]:
        for shard in range(shards):
            yield [
                Spoken(
                    f"{shard}-{index:04}",
                    [("word", at, at + 5, 0.5) for at in range(0, frames, 60)],
                    features={1: np.broadcast_to(frame, (frames, 256))},
                    num_frames=frames,
                )
                for index in range(utterances)
            ]

    peaks = {}
    for name, size in {
        "small": (1, 40, 240),
        "shards": (4, 40, 240),
        "utterances": (1, 160, 240),
        "long": (1, 1, 38_400),
    }.items():
        directory = make_run(tmp_path / name, list(corpus(*size)), rows_per_group=4, frames_per_part=240)
        run = open_run(directory)
        assert len(run.transcripts) == size[0] * size[1]
        for by in ("utterance", "word"):
            with _Peaks() as peak:
                pooled = sum(len(rows) for rows, _ in run.pooled(1, by=by, max_rows=32))
            assert pooled == size[0] * size[1] * (1 if by == "utterance" else size[2] // 60)
            peaks[name, by] = peak.size
    said = ", ".join(f"{name} by {by} {size / 2**20:.1f} MiB" for (name, by), size in peaks.items())
    record_property("measured", f"peak of pooling 5 and 20 MB of features in row groups of 0.5 MB: {said}")
    group = 4 * 240 * 256 * 2
    for (name, by), size in peaks.items():
        assert size < 1.25 * peaks["small", by] + 2**19, (name, by)
        assert size < 8 * group  # Arrow needs most of it while it reads float16
