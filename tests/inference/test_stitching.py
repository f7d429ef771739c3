"""Chunks meet where both read the same, and an utterance that fails leaves one failure and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.decoding import greedy
from pipeline.inference.planning import Chunking
from pipeline.inference.stitching import Stitcher, find_join
from pipeline.inference.transcription import Transcribed, Transcription
from pipeline.records import BestPath, Chunk, Emission, Labels, Rejected, UtteranceEmission
from pipeline.records.transcripts import Transcript, Transcripts

LABELS = ("-", "|", "A", "B", "C")
CHUNKING = Chunking(max_samples=60 * 320 + 80, context=14, stride=320, receptive_field=400)


def emission(chunk: Chunk, path: str, first: int = 0) -> Emission:
    """`path` from frame `first` on; features and logits hold the number of their frame in the utterance."""
    frames = np.arange(first, first + len(path))
    best = BestPath(np.asarray([LABELS.index(label) for label in path]), np.full(len(path), -0.1, np.float32))
    logits = np.repeat(frames[:, None], 5, axis=1).astype(np.float32)
    return Emission(chunk, len(path), logits, {3: frames[:, None].astype(np.float16)}, best)


def seen(chunk: Chunk, path: str) -> Emission:
    """What a chunk says that reads the utterance as `path` spells it."""
    frames = (chunk.num_samples - 400) // 320 + 1
    return emission(chunk, path[chunk.first_frame : chunk.first_frame + frames], chunk.first_frame)


def transcribing(start_s: float = 0.0) -> Transcription:
    """Transcribes rows that begin at `row * start_s` in their files."""
    return Transcription(greedy.Decoder(greedy.Options(), Labels(LABELS, 0, "|"), 0.02), lambda row: start_s * row)


def by_row(transcribed: Transcribed | None) -> dict[int, Transcript]:
    return {} if transcribed is None else dict(zip(transcribed.rows, transcribed.transcripts, strict=True))


def stitch(emissions: list[Emission], batch: int = 1) -> tuple[list[Emission], str]:
    stitcher, transcription = Stitcher(), transcribing()
    pieces: list[Emission] = []
    texts: dict[int, str] = {}
    for index in range(0, len(emissions), batch):
        kept, failures = stitcher.take(emissions[index : index + batch], [])
        assert failures == []
        pieces += kept
        texts |= {row: each.ctc_text for row, each in by_row(transcription.take(kept, failures)).items()}
    return pieces, texts[0]


@given(st.text(alphabet="".join(LABELS), min_size=1, max_size=300), st.integers(1, 5))
def test_chunks_that_agree_give_the_utterance(path: str, batch: int) -> None:
    samples = (len(path) - 1) * 320 + 400
    chunks = CHUNKING.chunks(0, samples)
    pieces, text = stitch([seen(chunk, path) for chunk in chunks], batch)
    _, whole = stitch([emission(Chunk(0, samples), path)])
    assert text == whole
    assert np.concatenate([piece.logits for piece in pieces])[:, 0].tolist() == list(range(len(path)))
    assert np.concatenate([piece.features[3] for piece in pieces]).astype(int).ravel().tolist() == list(
        range(len(path))
    )
    assert [piece.chunk for piece in pieces] == chunks
    assert sum(piece.num_frames for piece in pieces) == len(path)


def two_chunks() -> tuple[Chunk, Chunk, int]:
    """Two chunks, and the frames of the utterance."""
    first, second = CHUNKING.chunks(0, 89 * 320 + 400)
    return first, second, 90


@given(st.integers(-6, 6), st.integers(-3, 3))
def test_a_spike_near_a_join_is_neither_lost_nor_doubled(offset: int, shift: int) -> None:
    """The earlier chunk has the A at one frame, the later one a few frames away from it."""
    first, second, frames = two_chunks()
    texts = []
    for place in (second.join + offset, second.join + offset + shift):
        path = ["-"] * frames
        path[20], path[80], path[place] = "B", "C", "A"
        texts.append("".join(path))
    _, text = stitch([seen(first, texts[0]), seen(second, texts[1])])
    assert text == "BAC"


def test_a_join_stays_where_it_was_planned_if_the_chunks_agree_there() -> None:
    first, second, frames = two_chunks()
    assert find_join(seen(first, "-" * frames), seen(second, "-" * frames)) == second.join


def test_a_join_moves_by_half_of_the_context_at_most_and_stays_if_nothing_agrees() -> None:
    first, second, frames = two_chunks()
    assert find_join(seen(first, "A" * frames), seen(second, "B" * frames)) == second.join
    far = "A" * (second.join + 8) + "-" * (frames - second.join - 8)  # they agree beyond the reach alone
    assert find_join(seen(first, far), seen(second, "-" * frames)) == second.join


def test_without_labels_or_context_a_join_is_where_it_was_planned() -> None:
    first, second, frames = two_chunks()
    left, right = seen(first, "A" * frames), seen(second, "B" * frames)
    assert find_join(Emission(first, 59, None, {}, None), Emission(second, 59, None, {}, None)) == second.join
    bare = Chunking(60 * 320 + 80, 0, 320, 400).chunks(0, 89 * 320 + 400)
    assert find_join(left, Emission(bare[1], right.num_frames, None, {}, right.path)) == bare[1].join


class Utterances:
    """A stitcher, and behind it a decoder, as the loop has them."""

    def __init__(self, start_s: float = 0.0) -> None:
        self._stitcher, self._transcription = Stitcher(), transcribing(start_s)

    def take(
        self, emissions: list[Emission], rejected: list[Rejected]
    ) -> tuple[list[Emission], dict[int, Transcript], list[Rejected]]:
        pieces, failures = self._stitcher.take(emissions, rejected)
        return pieces, by_row(self._transcription.take(pieces, failures)), failures


def test_an_utterance_fails_once_and_what_came_of_its_other_chunks_is_dropped() -> None:
    path = "A-B-" * 100
    chunks = CHUNKING.chunks(0, (len(path) - 1) * 320 + 400)
    assert len(chunks) > 4
    utterances = Utterances()
    assert utterances.take([seen(chunks[0], path)], []) == ([], {}, [])
    kept, _, _ = utterances.take([seen(chunks[1], path)], [])
    assert [piece.chunk for piece in kept] == [chunks[0]]
    lost = Rejected(chunks[2], "load", "truncated", "why")
    assert utterances.take([], [lost, Rejected(chunks[3], "load", "truncated", "too")]) == ([], {}, [lost])
    again = Rejected(chunks[-1], "model", "non_finite", "again")
    assert utterances.take([seen(chunks[4], path)], [again]) == ([], {}, [])
    other = emission(Chunk(1, 10_000), "AB")
    kept, transcripts, failures = utterances.take([other], [])
    assert ([piece.chunk.row for piece in kept], list(transcripts), failures) == ([1], [1], [])


def test_chunks_of_two_utterances_in_one_batch_do_not_mix() -> None:
    paths = ("A-" * 45, "B-" * 45)
    cut = [CHUNKING.chunks(row, 89 * 320 + 400) for row in (0, 1)]
    emissions = [seen(chunk, path) for chunks, path in zip(cut, paths, strict=True) for chunk in chunks]
    pieces, transcripts, _ = Utterances(start_s=10.0).take(emissions, [])
    assert [piece.chunk.row for piece in pieces] == [0, 0, 1, 1]
    assert (transcripts[0].ctc_text, transcripts[1].ctc_text) == ("A" * 45, "B" * 45)
    assert transcripts[1].words[0].start_s == pytest.approx(10.0)


def test_a_decoder_that_wants_logits_gets_those_of_the_whole_utterance() -> None:
    """The logits hold the number of their frame, so each frame is there once and in order."""

    class Reader:
        wants_logits: ClassVar[bool] = True

        def __call__(self, emissions: Sequence[UtteranceEmission]) -> Transcripts:
            (logits,) = [each.logits for each in emissions]
            assert logits is not None
            text = ",".join(str(int(frame)) for frame in logits[:, 0])
            return Transcripts.of([Transcript("", text, 0.0, len(logits), ())])

    path = "A-B-" * 50
    chunks = CHUNKING.chunks(0, (len(path) - 1) * 320 + 400)
    pieces, _ = Stitcher().take([seen(chunk, path) for chunk in chunks], [])
    (transcript,) = by_row(Transcription(Reader(), lambda row: 0.0).take(pieces, [])).values()
    assert transcript.ctc_text == ",".join(map(str, range(len(path))))
