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
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.models.samples import in_float32, in_int16
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
        waveforms: `(batch, samples)`, zero beyond each length; `(0, 0)` if every chunk failed. float32, or int16 if all
            samples are those of 16-bit recordings (`in_float32` gives their values).
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

    def write(self, worker: int, plan: PlannedBatch, items: Iterable[Waveform | Rejected]) -> StoredBatch:
        """Write the chunks of a batch to the worker's next file, one after another. This runs in the worker.

        The worker uses its files in turn, so the batch stays until the worker has written all other files. A file keeps
        its memory for the batch that is written to it next, because new memory takes longer than the copy.

        Args:
            worker: Number of the worker.
            plan: The planned batch.
            items: One entry for each chunk of the plan. Only one of them is in memory at a time.

        Raises:
            OSError: There is no memory left.
        """
        files = self._files[worker]
        file = files[self._sent % len(files)]
        self._sent += 1
        position = 0
        chunks, lengths, types, rejected = [], [], [], []
        for item in items:
            if isinstance(item, Rejected):
                rejected.append(item)
                continue
            chunks.append(item.chunk)
            lengths.append(len(item.samples))
            samples = item.samples.numpy()
            integers = in_int16(samples)
            stored = samples if integers is None else integers
            types.append(stored.dtype)
            position = _write(file, stored.data.cast("B"), position)
            # So that the next waveform takes the same memory, which is still in the caches.
            del item, samples, integers, stored
        rest = memoryview(pickle.dumps((plan, tuple(chunks), lengths, types, tuple(rejected))))
        os.ftruncate(file, _write(file, rest, position))
        return StoredBatch(file, position, len(rest))

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
        waveform_bytes: Bytes of the waveforms, which begin the file and are not padded.
        rest_bytes: Bytes of the pickled rest of the batch, which follows.
    """

    file: int
    waveform_bytes: int
    rest_bytes: int

    def read(self, pinned: bool = False) -> Batch:
        """Read the batch into memory of this process, and pad it; `pinned` takes page-locked memory for CUDA."""
        rest = bytearray(self.rest_bytes)
        _read(self.file, memoryview(rest), self.waveform_bytes)
        plan, chunks, lengths, types, rejected = pickle.loads(rest)
        common = torch.int16 if set(types) == {np.dtype(np.int16)} else torch.float32
        waveforms = torch.empty(len(chunks), max(lengths, default=0), dtype=common, pin_memory=pinned)
        position = 0
        for row, length, type_ in zip(waveforms.numpy(), lengths, types, strict=True):
            given = row[:length] if row.dtype == type_ else np.empty(length, type_)
            position = _read(self.file, given.data.cast("B"), position)
            if row.dtype != type_:
                row[:length] = in_float32(torch.from_numpy(given))
            row[length:] = 0
        return Batch(plan, chunks, waveforms, torch.tensor(lengths, dtype=torch.int64), rejected)

    def pin_memory(self) -> Batch:
        """Read the batch into page-locked memory. `DataLoader` calls this in a separate thread."""
        return self.read(pinned=True)


def _write(file: int, data: memoryview, position: int) -> int:
    """Write all bytes of `data` to the file from `position`, and return the position after them."""
    while data:
        written = os.pwrite(file, data, position)
        position, data = position + written, data[written:]
    return position


def _read(file: int, data: memoryview, position: int) -> int:
    """Fill `data` with the bytes of the file from `position`, and return the position after them."""
    while data:
        count = os.preadv(file, [data], position)
        if count == 0:
            raise EOFError("the file of a batch ends too early")
        position, data = position + count, data[count:]
    return position
