"""The greedy decoder reads a batch of utterances, and each of them as the plain decoder does: bit for bit."""

from __future__ import annotations

from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_greedy import PlainDecoder

from pipeline.decoding import greedy
from pipeline.inference.transcription import Transcription
from pipeline.records import BestPath, Chunk, Emission, Labels, UtteranceEmission
from pipeline.records.transcripts import Transcript, Transcripts, Word
from pipeline.storage import tables

STRIDE_S = 0.02

names = st.lists(st.one_of(st.sampled_from(["-", "|", "A", "B"]), st.text(max_size=4)), min_size=1, max_size=7)


@st.composite
def alphabets(draw: st.DrawFn) -> Labels:
    """Any labels, of any length and even twice; the blank anywhere; a delimiter or none, or one that is no label."""
    labels = tuple(draw(names))
    delimiter = draw(st.one_of(st.sampled_from(labels), st.just(""), st.just("|")))
    indices = st.integers(0, len(labels) - 1)
    return Labels(labels, draw(indices), delimiter, draw(st.frozensets(indices, max_size=3)), draw(st.booleans()))


def emissions_of(labels: Labels, runs: list[list[tuple[int, int]]], seed: int) -> list[UtteranceEmission]:
    """Utterances whose labels last for some frames each."""
    generator = np.random.default_rng(seed)
    made = []
    for each in runs:
        path = np.repeat([label % len(labels.names) for label, _ in each], [frames for _, frames in each])
        logprobs = -generator.exponential(0.2, len(path)).astype(np.float32)
        made.append(UtteranceEmission(BestPath(path.astype(np.int64), logprobs), None, generator.uniform(0, 5000)))
    return made


utterances = st.lists(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4)), max_size=40), min_size=1, max_size=8
)  # labels, and the frames that each lasts


@settings(max_examples=300, deadline=None)
@given(alphabets(), utterances, st.integers(0, 2**32))
def test_each_utterance_of_a_batch_is_decoded_as_the_plain_decoder_does(
    labels: Labels, runs: list[list[tuple[int, int]]], seed: int
) -> None:
    emissions = emissions_of(labels, runs, seed)
    plain = PlainDecoder(labels, STRIDE_S)
    expected = [plain(each) for each in emissions]
    found = greedy.Decoder(greedy.Options(), labels, STRIDE_S)(emissions)
    assert len(found) == len(expected)
    assert list(found) == expected
    assert table_of(found).equals(table_of(Transcripts.of(expected)))


@settings(max_examples=60, deadline=None)
@given(utterances, st.integers(0, 2**32), st.lists(st.integers(0, 200), max_size=5), st.integers(1, 4))
def test_utterances_whose_chunks_come_in_different_batches_are_decoded_as_one(
    runs: list[list[tuple[int, int]]], seed: int, joins: list[int], batches: int
) -> None:
    labels = Labels(("-", "|", "A", "B", "CD"), 0, "|")
    emissions = emissions_of(labels, runs, seed)
    pieces = []
    for row, emission in enumerate(emissions):
        path, logprobs = emission.path.labels, emission.path.logprobs
        bounds = [0, *sorted({join for join in joins if join < len(path)}), len(path)]
        for place, (first, last) in enumerate(pairwise(bounds), start=2):
            chunk = Chunk(row, 0, last=place == len(bounds))
            best = BestPath(path[first:last], logprobs[first:last])
            pieces.append(Emission(chunk, last - first, None, {}, best))
    decoder = greedy.Decoder(greedy.Options(), labels, STRIDE_S)
    transcription = Transcription(decoder, lambda row: emissions[row].start_s)
    found: dict[int, Transcript] = {}
    size = -(-len(pieces) // batches)
    for index in range(0, len(pieces), size):
        done = transcription.take(pieces[index : index + size], [])
        found |= {} if done is None else dict(zip(done.rows, done.transcripts, strict=True))
    plain = PlainDecoder(labels, STRIDE_S)
    assert found == {row: plain(emission) for row, emission in enumerate(emissions)}


def table_of(transcripts: Transcripts) -> pa.Table:
    return tables.transcript_columns(transcripts)


words = st.lists(st.builds(Word, st.text(max_size=5), st.floats(0, 9e3), st.floats(0, 9e3), st.floats(0, 1)))
transcripts = st.builds(
    Transcript,
    st.text(),
    st.text(),
    st.floats(-9, 0),
    st.integers(0, 2**31 - 1),
    words.map(tuple),
)


@settings(deadline=None)
@given(st.lists(transcripts, max_size=5))
def test_columns_hold_any_transcripts_and_make_the_same_table_as_rows(given_: list[Transcript]) -> None:
    columns = Transcripts.of(given_)
    assert list(columns) == given_
    table = table_of(columns)
    table.validate(full=True)
    schema = pa.schema([field for field in tables.TRANSCRIPT_FIELDS if field.name in table.column_names])
    rows = [asdict(each) for each in given_]
    assert table.select(schema.names).equals(pa.Table.from_pylist(rows, schema=schema))


@pytest.mark.parametrize("delimiter", ["|", ""])
def test_nothing_is_read_across_the_end_of_an_utterance(delimiter: str) -> None:
    labels = Labels(("-", "A", "|"), 0, delimiter)
    emissions = emissions_of(labels, [[(1, 2)], [], [(1, 3)], [(0, 2)], [(2, 1)], [(1, 1)]], 0)
    found = list(greedy.Decoder(greedy.Options(), labels, STRIDE_S)(emissions))
    assert [each.ctc_text for each in found] == ["A", "", "A", "", "|", "A"]
    assert [each.text for each in found] == ["A", "", "A", "", "" if delimiter else "|", "A"]
    assert [each.num_frames for each in found] == [2, 0, 3, 2, 1, 1]
