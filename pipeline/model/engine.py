"""Padded batches to results on the host: device, precision, and what to do when memory runs out."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torchaudio.models import Wav2Vec2Model

from pipeline.decoding import best_path
from pipeline.errors import UserError
from pipeline.model.catalog import ModelFacts
from pipeline.model.exact import ExactForward, ModelOutput
from pipeline.records import BestPath, Chunk, Emission, Rejected

CPU_BATCH_SECONDS = 30.0
"""On a CPU a batch of one loses nothing; batching only saves calls on short recordings."""
CUDA_BATCH_SECONDS_PER_GIB = 6.0
"""Padded seconds a GiB of device memory holds, with room to spare for the base models in float32."""
MAX_CUDA_BATCH_SECONDS = 600.0


@dataclass(frozen=True)
class EngineSettings:
    """What to compute.

    Attributes:
        layers: Layers whose features are asked for.
        feature_dtype: float16 or float32.
        logits: Whether logits are asked for.
    """

    layers: tuple[int, ...]
    feature_dtype: str
    logits: bool


def resolve_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:1` to a device that is there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    index = int(name.partition(":")[2] or 0)
    device = torch.device(name if index < 100 else "cuda")  # torch counts devices in a byte
    if device.type == "cuda" and index >= torch.cuda.device_count():
        raise UserError(f"device={name}: torch sees {torch.cuda.device_count()} CUDA devices; use device=cpu or auto")
    return device


def resolve_precision(name: str, device: torch.device) -> str:
    """`auto` to fp32 on a CPU and bf16 on CUDA; refuses half precision on a CPU."""
    if name == "auto":
        return "bf16" if device.type == "cuda" else "fp32"
    if device.type == "cpu" and name != "fp32":
        raise UserError(f"precision={name}: needs CUDA, and torch sees none; use precision=fp32 or auto")
    return name


def default_batch_seconds(device: torch.device) -> float:
    """Padded seconds of audio in one batch, from the device's memory."""
    if device.type == "cpu":
        return CPU_BATCH_SECONDS
    memory = torch.cuda.get_device_properties(device).total_memory
    return min(MAX_CUDA_BATCH_SECONDS, CUDA_BATCH_SECONDS_PER_GIB * memory / 2**30)


def default_workers(device: torch.device) -> int:
    """Decoding processes: one beside a model that wants every core, more beside a GPU."""
    cores = len(os.sched_getaffinity(0))
    return 1 if device.type == "cpu" else max(1, min(12, cores - 2))


class Engine:
    """A model on a device, from padded waveforms to one `Emission` or `Rejected` a chunk."""

    def __init__(
        self,
        facts: ModelFacts,
        model: Wav2Vec2Model,
        device: torch.device,
        precision: str,
        settings: EngineSettings,
    ) -> None:
        """Move the model to its device. Float32 means float32: TF32 is switched off everywhere."""
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        self.device = device
        self.settings = settings
        self._forward = ExactForward(
            model,
            precision,
            normalize_waveform=facts.body.normalize_waveform,
            log_softmax=facts.values == "log_probs",
        ).to(device)
        self._working_bytes = self._forward.working_bytes
        self._fits = math.inf
        remedy = "try precision=bf16 or fp32" if precision == "fp16" else "the samples may be far beyond [-1, 1]"
        self._non_finite_message = f"the model gave NaN or infinite values; {remedy}"

    def run(self, chunks: Sequence[Chunk], waveforms: Tensor, lengths: Tensor) -> tuple[list[Emission], list[Rejected]]:
        """Run one padded batch, in pieces if the device's memory asks for it.

        Args:
            chunks: What each waveform is.
            waveforms: `(batch, samples)` float32 on the host.
            lengths: `(batch,)` int64 on the host.
        """
        results: tuple[list[Emission], list[Rejected]] = ([], [])
        pieces = [slice(0, len(chunks))] if chunks else []
        while pieces:
            piece = pieces.pop()
            size = piece.stop - piece.start
            longest = int(lengths[piece].max())
            padded = size * longest
            free, total = self._memory()
            needed = self._working_bytes(size, longest)
            too_large = padded > self._fits or needed > free
            if size == 1 and needed > total:
                results[1].append(self._too_long(chunks[piece.start], longest))
                continue
            if size == 1 or not too_large:
                try:
                    done = self._run(chunks[piece], waveforms[piece, :longest], lengths[piece])
                except (RuntimeError, MemoryError) as error:
                    if not _is_out_of_memory(error):
                        raise
                    if self.device.type == "cuda":
                        torch.cuda.empty_cache()
                    if size == 1:
                        results[1].append(self._too_long(chunks[piece.start], longest))
                        continue
                    self._fits = padded - 1
                else:
                    results[0].extend(done[0])
                    results[1].extend(done[1])
                    continue
            middle = piece.start + size // 2
            pieces += [slice(middle, piece.stop), slice(piece.start, middle)]
        return results

    def _memory(self) -> tuple[float, float]:
        """Bytes free for a forward and all there are; CUDA says by itself when it runs out.

        On a CPU Linux would kill the process instead, so a batch is split when it exceeds what is free, and
        an utterance alone is refused when it exceeds all there is: what is free at the moment is a guess.
        """
        return available_memory() if self.device.type == "cpu" else (math.inf, math.inf)

    def _too_long(self, chunk: Chunk, num_samples: int) -> Rejected:
        message = (
            f"{num_samples} samples do not fit into the memory of {self.device}, even alone; "
            f"set a smaller chunk.seconds=, or run it where there is more memory"
        )
        return Rejected(chunk, "model", "out_of_memory", message)

    @torch.inference_mode()
    def _run(
        self, chunks: Sequence[Chunk], waveforms: Tensor, lengths: Tensor
    ) -> tuple[list[Emission], list[Rejected]]:
        settings = self.settings
        output = self._forward(waveforms.to(self.device, non_blocking=True), lengths, settings.layers)
        reasons: dict[int, str] = {}
        if output.logits is not None:
            reasons = dict.fromkeys(_non_finite(output, output.logits), self._non_finite_message)
        features = {}
        for layer, values in output.features.items():
            kept = values.half() if settings.feature_dtype == "float16" else values
            overflowing = _non_finite(output, kept)
            broken = _non_finite(output, values) if overflowing else []
            for index in overflowing:
                if index in broken:
                    reasons[index] = self._non_finite_message
                else:
                    overflow = f"layer {layer} has values beyond float16; set features.dtype=float32"
                    reasons.setdefault(index, overflow)
            features[layer] = _on_host(output, kept)
        paths = None
        if output.logits is not None:
            paths = [_on_host(output, values) for values in best_path(output.logits)]
        logits = _on_host(output, output.logits) if settings.logits and output.logits is not None else None

        emissions: list[Emission] = []
        rejected: list[Rejected] = []
        for index, (chunk, count) in enumerate(zip(chunks, output.num_frames.tolist(), strict=True)):
            if index in reasons:
                rejected.append(Rejected(chunk, "model", "non_finite", reasons[index]))
                continue
            emissions.append(
                Emission(
                    chunk=chunk,
                    num_frames=count,
                    logits=None if logits is None else logits[index],
                    features={layer: values[index] for layer, values in features.items()},
                    path=None if paths is None else BestPath(*(values[index] for values in paths)),
                )
            )
        return emissions, rejected


def _on_host(output: ModelOutput, values: Tensor) -> list[NDArray[Any]]:
    return [part.numpy() for part in output.split(values.cpu())]


def _non_finite(output: ModelOutput, values: Tensor) -> list[int]:
    """The utterances that have a NaN or infinite value."""
    finite = output.split(torch.isfinite(values).all(dim=-1).cpu())
    return [index for index, frames in enumerate(finite) if not frames.all()]


def available_memory(group: Path = Path("/sys/fs/cgroup")) -> tuple[int, int]:
    """Bytes of memory that are free for this process now, and all there are.

    Of the machine, or of the control group (version 2) where that has less. Cached files count as free: the
    system gives them up when memory is asked for.
    """
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available, total = (int(meminfo[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        cached = int(stat["active_file"]) + int(stat["inactive_file"])
    except (OSError, ValueError, KeyError):  # no group, or no limit ("max")
        return available, total
    return min(available, limit - used + cached), min(total, limit)


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error)
