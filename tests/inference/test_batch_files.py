"""A batch on its way from a loading process: what is written to a file in memory is what is read from it."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator

import pytest
import torch

from pipeline.inference.batches import BatchFiles, Waveform, collate
from pipeline.models.samples import in_float32
from pipeline.records import Chunk, PlannedBatch, Rejected


@pytest.fixture
def files() -> Iterator[BatchFiles]:
    files = BatchFiles()
    files.open(workers=2, prefetch=1)
    yield files
    files.close()


def batch_of(*lengths: int, bits: int = 24) -> tuple[PlannedBatch, list[Waveform | Rejected]]:
    """A planned batch, and what is loaded for it; a length of 0 is a chunk that cannot be loaded."""
    chunks = tuple(Chunk(row, length) for row, length in enumerate(lengths))
    half = 2 ** (bits - 1)
    items = [
        Waveform(chunk, torch.randint(-half, half, (chunk.num_samples,)).float() / half)
        if chunk.num_samples
        else Rejected(chunk, "load", "empty", "")
        for chunk in chunks
    ]
    return PlannedBatch(index=0, shard=0, chunks=chunks), items


def test_a_file_that_is_used_again_gives_the_batch_that_was_written_last(files: BatchFiles) -> None:
    for lengths in [(7000, 300, 0, 5000), (20, 900), (0,), (4000, 8000, 1)] * 2:
        plan, items = batch_of(*lengths)
        stored = files.write(1, plan, iter(items))
        read, expected = stored.read(), collate(plan, items)
        assert torch.equal(read.waveforms, expected.waveforms)
        assert torch.equal(read.lengths, expected.lengths)
        assert (read.plan, read.chunks, read.rejected) == (plan, expected.chunks, expected.rejected)
        assert os.fstat(stored.file).st_size < 4 * sum(lengths) + 1000  # the memory of a larger batch was given back


def test_samples_of_16_bits_take_two_bytes_and_no_bit_changes(files: BatchFiles) -> None:
    plan, items = batch_of(7000, 0, 5000, bits=16)
    stored = files.write(0, plan, iter(items))
    read, expected = stored.read(), collate(plan, items)
    assert (read.waveforms.dtype, stored.waveform_bytes) == (torch.int16, 2 * 12_000)
    assert torch.equal(in_float32(read.waveforms), expected.waveforms)


@pytest.mark.parametrize("sample", [1.0, -1.0 - 2**-15, 2**-16, 1e15, -1e-30])
def test_a_batch_with_one_other_sample_is_read_in_float32(files: BatchFiles, sample: float) -> None:
    plan, items = batch_of(7000, 3000, 5000, bits=16)
    waveform = items[1]
    assert isinstance(waveform, Waveform)
    waveform.samples[99] = sample
    stored = files.write(0, plan, iter(items))
    assert stored.waveform_bytes == 2 * 12_000 + 4 * 3_000
    read = stored.read().waveforms
    assert read.dtype == torch.float32
    assert torch.equal(read, collate(plan, items).waveforms)


def test_only_one_waveform_of_a_batch_is_in_memory(files: BatchFiles) -> None:
    """So a loading process takes no more memory for a batch than for its longest recording."""
    earlier: list[weakref.ref[torch.Tensor]] = []

    def loading(plan: PlannedBatch) -> Iterator[Waveform]:
        for chunk in plan.chunks:
            assert all(waveform() is None for waveform in earlier)
            samples = torch.rand(chunk.num_samples)
            earlier.append(weakref.ref(samples))
            waveform = Waveform(chunk, samples)
            del samples
            yield waveform
            del waveform

    plan, _ = batch_of(1000, 2000, 3000)
    assert files.write(0, plan, loading(plan)).read().lengths.tolist() == [1000, 2000, 3000]
