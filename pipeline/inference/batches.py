"""Padded batches, and their transfer from the process that loads them to the process that runs the model.

torch's own transfer of tensors is not used. It needs as many bytes of /dev/shm as a batch has, and a container has only
64 MiB there by default. If they do not suffice, the batch is lost without an error.

Here a worker writes each batch to a file in memory (memfd) that was opened before the worker was forked, and sends only
the number of the file. This message is so short that a pipe takes it at once. So a worker that dies while it loads the
next batch cannot leave half a message in the pipe, for which the parent would wait for ever.
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
    """The waveform of one chunk, `(samples,)` float32 at the model's sample rate."""

    chunk: Chunk
    samples: Tensor


@dataclass(frozen=True)
class Batch:
    """A padded batch.

    Attributes:
        plan: The planned batch.
        chunks: The chunk of each waveform; chunks that failed are left out.
        waveforms: `(batch, samples)` float32, zero beyond each length; `(0, 0)` if every chunk failed.
        lengths: `(batch,)` int64, valid samples of each waveform.
        rejected: The planned chunks that could not be loaded.
    """

    plan: PlannedBatch
    chunks: tuple[Chunk, ...]
    waveforms: Tensor
    lengths: Tensor
    rejected: tuple[Rejected, ...]


def collate(plan: PlannedBatch, items: list[Waveform | Rejected]) -> Batch:
    """Pad the waveforms of a batch with zeros to the longest. `items` has one entry for each chunk of the plan."""
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


class BatchFiles:
    """Files in memory that hold the batches on their way from each worker to the parent."""

    def __init__(self) -> None:
        self._files: list[list[int]] = []
        self._sent = 0

    def open(self, workers: int, prefetch: int) -> None:
        """Open the files. Call this before the workers are forked.

        Args:
            workers: Number of worker processes.
            prefetch: Batches that a worker may load before the parent has read them.

        Raises:
            OSError: Too many files are open.
        """
        for _ in range(workers):
            self._files.append([])
            for _ in range(prefetch + 1):
                self._files[-1].append(os.memfd_create("batch"))

    def write(self, worker: int, batch: Batch) -> StoredBatch:
        """Write a batch to the worker's next file. This runs in the worker.

        The worker uses its files in turn, so the batch stays until the worker has written all other files.

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
        return StoredBatch(file, tuple(batch.waveforms.shape), len(rest))

    def close(self) -> None:
        """Close the files, which frees their memory."""
        while self._files:
            for file in self._files.pop():
                os.close(file)


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """A batch in one of the `BatchFiles`; a worker sends this to the parent.

    Attributes:
        file: The descriptor of the file, which is the same in both processes.
        shape: Shape of the waveforms.
        rest_bytes: Bytes of the pickled rest of the batch, after waveforms and lengths.
    """

    file: int
    shape: tuple[int, ...]
    rest_bytes: int

    def read(self, pinned: bool = False) -> Batch:
        """Read the batch into memory of this process; `pinned` takes page-locked memory for CUDA."""
        waveforms = torch.empty(self.shape, pin_memory=pinned)
        lengths = torch.empty(self.shape[0], dtype=torch.int64)
        rest = np.empty(self.rest_bytes, np.uint8)
        position = 0
        for part in (waveforms.numpy(), lengths.numpy(), rest):
            position = self._read_part(part, position)
        os.ftruncate(self.file, 0)
        plan, chunks, rejected = pickle.loads(rest.tobytes())
        return Batch(plan, chunks, waveforms, lengths, rejected)

    def pin_memory(self) -> Batch:
        """Read the batch into page-locked memory. `DataLoader` calls this in a separate thread."""
        return self.read(pinned=True)

    def _read_part(self, part: NDArray[np.generic], position: int) -> int:
        """Fill `part` with the bytes of the file from `position`, and return the position after them."""
        data = part.reshape(-1).data.cast("B") if part.size else memoryview(bytearray())
        while data:
            count = os.preadv(self.file, [data], position)
            if count == 0:
                raise EOFError("the file of a batch ends too early")
            position, data = position + count, data[count:]
        return position
