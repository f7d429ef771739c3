"""Padded batches, and how one gets from the process that loaded it to the one that runs the model.

Not as torch sends tensors: that needs as much of /dev/shm as a batch has bytes, of which a container has 64 MiB
to begin with, and drops what finds no place, so that nothing comes and nobody says why. Here a batch is written to
a file in memory, open in both processes before they parted, and only its number is sent. That fits into a pipe at
any time: a process that dies while it loads the next batch leaves no half of a message behind, which would be
waited for without end.
"""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.records import Chunk, PlannedBatch, Rejected


@dataclass(frozen=True)
class Waveform:
    """One chunk: `(samples,)` float32 at the model's rate."""

    chunk: Chunk
    samples: Tensor


@dataclass(frozen=True)
class Batch:
    """A padded batch and where it came from.

    Attributes:
        plan: The planned batch.
        chunks: What each waveform is; chunks that failed are not among them.
        waveforms: `(batch, samples)` float32, zero beyond each length; `(0, 0)` where every chunk failed.
        lengths: `(batch,)` int64: valid samples.
        rejected: The planned chunks that could not be loaded.
    """

    plan: PlannedBatch
    chunks: tuple[Chunk, ...]
    waveforms: Tensor
    lengths: Tensor
    rejected: tuple[Rejected, ...]


def collate(plan: PlannedBatch, items: list[Waveform | Rejected]) -> Batch:
    """Pad the waveforms of a batch to the longest with zeros; `items` has what became of each of its chunks."""
    loaded = [item for item in items if isinstance(item, Waveform)]
    lengths = torch.tensor([len(item.samples) for item in loaded], dtype=torch.int64)
    waveforms = torch.zeros(len(loaded), int(lengths.max()) if loaded else 0)
    for index, item in enumerate(loaded):
        waveforms[index, : len(item.samples)] = item.samples
    return Batch(
        plan=plan,
        chunks=tuple(item.chunk for item in loaded),
        waveforms=waveforms,
        lengths=lengths,
        rejected=tuple(item for item in items if isinstance(item, Rejected)),
    )


class Slots:
    """Files in memory for the batches of each loading process that are on their way."""

    def __init__(self) -> None:
        self._files: list[list[int]] = []
        self._sent = 0

    def open(self, workers: int, under_way: int) -> None:
        """Open the files, before the processes are forked.

        Args:
            workers: Processes.
            under_way: Batches that one of them may be ahead of those that were opened.

        Raises:
            OSError: Too many files are open.
        """
        for _ in range(workers):
            self._files.append([])
            for _ in range(under_way + 1):
                self._files[-1].append(os.memfd_create("batch"))

    def pack(self, worker: int, batch: Batch) -> Parcel:
        """Write a batch into the next of the worker's files, where it stays until the worker has sent all the others.

        Raises:
            OSError: There is no memory left.
        """
        files = self._files[worker]
        file = files[self._sent % len(files)]
        self._sent += 1
        rest = pickle.dumps((batch.plan, batch.chunks, batch.rejected))
        parts = [batch.waveforms.numpy(), batch.lengths.numpy(), np.frombuffer(rest, np.uint8)]
        os.ftruncate(file, 0)
        position = 0
        for part in parts:
            data = part.reshape(-1).data.cast("B") if part.size else memoryview(b"")
            while data:
                written = os.pwrite(file, data, position)
                position, data = position + written, data[written:]
        return Parcel(file, tuple(batch.waveforms.shape), len(rest))

    def close(self) -> None:
        """Give the memory back."""
        while self._files:
            for file in self._files.pop():
                os.close(file)


@dataclass(frozen=True, slots=True)
class Parcel:
    """Where a batch lies.

    Attributes:
        file: The descriptor, the same in both processes.
        shape: Of the waveforms.
        rest_bytes: Length of what is neither waveforms nor lengths.
    """

    file: int
    shape: tuple[int, ...]
    rest_bytes: int

    def open(self, pinned: bool = False) -> Batch:
        """Read the batch into memory of this process, page-locked for CUDA where that is asked for."""
        waveforms = torch.empty(self.shape, pin_memory=pinned)
        lengths = torch.empty(self.shape[0], dtype=torch.int64)
        rest = np.empty(self.rest_bytes, np.uint8)
        position = 0
        for part in (waveforms.numpy(), lengths.numpy(), rest):
            position = self._read(part, position)
        os.ftruncate(self.file, 0)
        plan, chunks, rejected = pickle.loads(rest.tobytes())
        return Batch(plan, chunks, waveforms, lengths, rejected)

    def pin_memory(self) -> Batch:
        """Called by `DataLoader` in a thread of its own, so that the copy to the device need not wait."""
        return self.open(pinned=True)

    def _read(self, part: NDArray[np.generic], position: int) -> int:
        data = part.reshape(-1).data.cast("B") if part.size else memoryview(bytearray())
        while data:
            count = os.preadv(self.file, [data], position)
            if count == 0:
                raise EOFError("a batch was cut short on its way")
            position, data = position + count, data[count:]
        return position
