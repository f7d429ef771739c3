"""Runs padded batches on a device and returns results in host memory. Splits batches that do not fit into memory."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchaudio.models import Wav2Vec2Model

from pipeline.models.facts import ModelFacts
from pipeline.models.forward import ExactForward
from pipeline.models.split import halve
from pipeline.models.transfer import Moment, Streams, Transfer, Wanted, seconds_between
from pipeline.records import Chunk, Emission, Rejected
from pipeline.runtime.errors import UserError
from pipeline.runtime.memory import available_memory, is_out_of_memory

CPU_BATCH_SECONDS = 30.0
"""Padded seconds in a batch on a CPU. Larger batches gain nothing: batches only save calls for short recordings."""
CUDA_BATCH_SECONDS_PER_GIB = 6.0
"""Padded seconds per GiB of device memory. Base models in float32 need less than that."""
MAX_CUDA_BATCH_SECONDS = 600.0


@dataclass(frozen=True)
class EngineSettings:
    """What to compute.

    Attributes:
        layers: Layers whose features to return.
        feature_dtype: Type of the features, float16 or float32.
        logits: Whether to return logits.
    """

    layers: tuple[int, ...]
    feature_dtype: str
    logits: bool


def resolve_device(name: str) -> torch.device:
    """Turn `auto`, `cpu`, `cuda` or `cuda:1` into a device.

    Raises:
        UserError: torch does not see the device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    index = int(name.partition(":")[2] or 0)
    device = torch.device(name if index < 100 else "cuda")  # torch stores the index in one byte
    if device.type == "cuda" and index >= torch.cuda.device_count():
        raise UserError(f"device={name}: torch sees {torch.cuda.device_count()} CUDA devices; use device=cpu or auto")
    return device


def resolve_precision(name: str, device: torch.device) -> str:
    """Turn `auto` into fp32 on a CPU and bf16 on CUDA.

    Raises:
        UserError: Half precision is asked for on a CPU.
    """
    if name == "auto":
        return "bf16" if device.type == "cuda" else "fp32"
    if device.type == "cpu" and name != "fp32":
        raise UserError(f"precision={name}: needs CUDA, and torch sees none; use precision=fp32 or auto")
    return name


def default_batch_seconds(device: torch.device) -> float:
    """Return the padded seconds of audio in one batch, by the memory of the device."""
    if device.type == "cpu":
        return CPU_BATCH_SECONDS
    memory = torch.cuda.get_device_properties(device).total_memory
    return min(MAX_CUDA_BATCH_SECONDS, CUDA_BATCH_SECONDS_PER_GIB * memory / 2**30)


def default_workers(device: torch.device) -> int:
    """Return the number of loading processes: one if the model needs the cores itself, more for a GPU."""
    cores = len(os.sched_getaffinity(0))
    return 1 if device.type == "cpu" else max(1, min(12, cores - 2))


def default_committers(device: torch.device) -> int:
    """Return the number of shards to commit at a time: one if the model needs the cores itself, more for a GPU."""
    return 1 if device.type == "cpu" else max(1, min(8, len(os.sched_getaffinity(0)) // 4))


class Started:
    """A batch that the device has started to compute.

    Attributes:
        parts: The batch in the order of its chunks: results on their way to the host, and chunks that were not run.
        cut: Manifest rows of chunks that did not fit into memory and are computed in halves.
        ended: The moment at which the device has computed the batch.
    """

    def __init__(self, began: Moment, before: Moment | None) -> None:
        """Take the moments at which the device begins this batch and has computed the batch before."""
        self.parts: list[Transfer | Rejected] = []
        self.cut: list[int] = []
        self.ended = self._began = began
        self._before = before

    def results(self) -> tuple[list[Emission], list[Rejected]]:
        """Wait for the results and return an `Emission` or a `Rejected` per chunk, two for a chunk in halves."""
        emissions: list[Emission] = []
        rejected: list[Rejected] = []
        for part in self.parts:
            if isinstance(part, Rejected):
                rejected.append(part)
            else:
                done = part.results()
                emissions += done[0]
                rejected += done[1]
        return emissions, rejected

    @property
    def idle_s(self) -> float | None:
        """Seconds for which the device was idle before this batch; `None` for the first. Read this after `results`."""
        return None if self._before is None else max(0.0, seconds_between(self._before, self._began))

    @property
    def busy_s(self) -> float:
        """Seconds for which the device worked on this batch. Read this after `results`."""
        return seconds_between(self._began, self.ended)


class Engine:
    """Runs a model on a device: takes padded waveforms and returns one `Emission` or `Rejected` per chunk."""

    def __init__(
        self,
        facts: ModelFacts,
        model: Wav2Vec2Model,
        device: torch.device,
        precision: str,
        settings: EngineSettings,
    ) -> None:
        """Move the model to its device, and switches TF32 off in all of torch, so that float32 means float32."""
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        self.device = device
        self._facts = facts
        self._layers = settings.layers
        self._streams = Streams(device)
        self._ended: Moment | None = None
        self._forward = ExactForward(
            model,
            precision,
            normalize_waveform=facts.body.normalize_waveform,
            log_softmax=facts.values == "log_probs",
        ).to(device)
        self._working_bytes = self._forward.working_bytes
        self._fits = math.inf
        remedy = {"fp16": "; try precision=bf16 or fp32", "bf16": "; try precision=fp32"}.get(precision, "")
        if remedy:
            cause = f"precision={precision} is the likely cause{remedy}"
        else:
            cause = "in precision=fp32 samples far beyond [-1, 1] are the likely cause"
        self._wanted = Wanted(
            settings.logits, settings.feature_dtype, f"the model gave NaN or infinite values; {cause}"
        )

    @property
    def overlaps(self) -> bool:
        """Whether the device still works when `start` returns, so that the host can do something else meanwhile."""
        return self._streams.overlaps

    def run(self, chunks: Sequence[Chunk], waveforms: Tensor, lengths: Tensor) -> tuple[list[Emission], list[Rejected]]:
        """Run one padded batch and wait for its results. The arguments are those of `start`."""
        return self.start(chunks, waveforms, lengths).results()

    @torch.inference_mode()
    def start(self, chunks: Sequence[Chunk], waveforms: Tensor, lengths: Tensor) -> Started:
        """Start one padded batch. Split the batch if it does not fit into the device's memory.

        Args:
            chunks: The chunk of each waveform.
            waveforms: `(batch, samples)` float32 on the host, pinned for CUDA.
            lengths: `(batch,)` int64 on the host, valid samples of each waveform.
        """
        started = Started(self._streams.now(), self._ended)
        pieces = [slice(0, len(chunks))] if chunks else []
        while pieces:
            piece = pieces.pop()
            size = piece.stop - piece.start
            given = chunks[piece], waveforms[piece, : int(lengths[piece].max())], lengths[piece]
            transfer = self._try(*given)
            if transfer is not None:
                started.parts.append(transfer)
            elif size == 1:
                started.cut.append(chunks[piece.start].row)
                started.parts += self._start_halves(chunks[piece.start], given[1])
            else:
                middle = piece.start + size // 2
                pieces += [slice(middle, piece.stop), slice(piece.start, middle)]
        started.ended = self._ended = self._streams.now()
        return started

    def _try(self, chunks: Sequence[Chunk], waveforms: Tensor, lengths: Tensor) -> Transfer | None:
        """Start a batch that should fit into memory; return `None` if it does not fit."""
        size, padded = len(chunks), waveforms.numel()
        free, total = self._memory()
        needed = self._working_bytes(size, waveforms.shape[1])
        # The free memory is an estimate, so a single utterance is tried unless it exceeds all memory.
        if needed > total or (size > 1 and (padded > self._fits or needed > free)):
            return None
        try:
            output = self._forward(waveforms.to(self.device, non_blocking=True), lengths, self._layers)
            return Transfer(self._streams, self._wanted, chunks, output)
        except (RuntimeError, MemoryError) as error:
            if not (isinstance(error, torch.OutOfMemoryError) or is_out_of_memory(error)):
                raise
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self._fits = min(self._fits, padded - 1)
        return None

    def _start_halves(self, chunk: Chunk, waveform: Tensor) -> list[Transfer | Rejected]:
        """Start the halves of a chunk that does not fit into memory, recursively.

        Args:
            chunk: The chunk.
            waveform: `(1, samples)`.

        Returns:
            The halves in order, or why the chunk cannot be computed.
        """
        num_samples = waveform.shape[1]
        num_frames = self._facts.num_frames(num_samples)
        halves = halve(chunk, num_samples, num_frames, self._facts.stride, self._facts.min_samples)
        if halves is None:
            return [self._too_long(chunk, num_samples)]
        parts: list[Transfer | Rejected] = []
        for half in halves:
            first = half.start - chunk.start
            own = waveform[:, first : first + half.num_samples]
            started = self._try([half], own, torch.tensor([own.shape[1]]))
            parts += [started] if started is not None else self._start_halves(half, own)
        refused = [part for part in parts if isinstance(part, Rejected)]
        return [replace(refused[0], chunk=chunk)] if refused else parts

    def _memory(self) -> tuple[float, float]:
        """Return the bytes of memory that are free for a batch, and the total.

        On CUDA both are infinite, because CUDA raises an error when memory runs out. On a CPU, Linux would kill the
        process instead. So a batch that exceeds the free memory is split, and so is a single utterance that exceeds the
        total.
        """
        return available_memory() if self.device.type == "cpu" else (math.inf, math.inf)

    def _too_long(self, chunk: Chunk, num_samples: int) -> Rejected:
        message = (
            f"a chunk of {num_samples} samples, as short as it may be cut, does not fit into the memory of "
            f"{self.device}; use a machine with more memory"
        )
        return Rejected(chunk, "model", "out_of_memory", message)
