"""Padded batches to results on the host: device, precision, decoding, and what to do when memory runs out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torchaudio.models import Wav2Vec2Model

from pipeline.decoding import GreedyDecoder
from pipeline.errors import UserError
from pipeline.model.catalog import ModelFacts
from pipeline.model.exact import ExactForward
from pipeline.records import Emission, ErrorName

CPU_BATCH_SECONDS = 30.0
"""On a CPU a batch of one loses nothing; batching only saves calls on short recordings."""
CUDA_BATCH_SECONDS_PER_GIB = 6.0
"""Padded seconds a GiB of device memory holds, with room to spare for the base models in float32."""
MAX_CUDA_BATCH_SECONDS = 600.0


@dataclass(frozen=True)
class Rejected:
    """An utterance that the model could not answer for."""

    row: int
    error: ErrorName
    message: str


@dataclass(frozen=True)
class EngineSettings:
    """What to compute.

    Attributes:
        layers: Layers whose features are asked for.
        feature_dtype: float16 or float32.
        logits, transcripts: Whether each is asked for.
    """

    layers: tuple[int, ...]
    feature_dtype: str
    logits: bool
    transcripts: bool


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
    """A model on a device, from padded waveforms to one `Emission` or `Rejected` an utterance."""

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
        self._forward = ExactForward(model, precision).to(device)
        self._decoder = GreedyDecoder(facts.labels, facts.blank, facts.seconds_per_frame)
        self._fits: int | None = None
        self._remedy = (
            "; try precision=bf16 or fp32" if precision == "fp16" else "; the samples may be far beyond [-1, 1]"
        )
        # Three copies of the first convolution's output, the largest activation, in float32.
        first = model.feature_extractor.conv_layers[0]
        self._bytes_per_sample = 3 * 4 * first.conv.out_channels / first.stride

    def run(
        self, rows: Sequence[int], waveforms: Tensor, lengths: Tensor, start_s: Sequence[float]
    ) -> tuple[list[Emission], list[Rejected]]:
        """Run one padded batch, in pieces if the device's memory asks for it.

        Args:
            rows: Manifest row of each utterance.
            waveforms: `(batch, samples)` float32 on the host.
            lengths: `(batch,)` int64 on the host.
            start_s: Where each utterance begins in its file, in seconds.
        """
        results: tuple[list[Emission], list[Rejected]] = ([], [])
        pieces = [slice(0, len(rows))] if rows else []
        while pieces:
            piece = pieces.pop()
            size = piece.stop - piece.start
            longest = int(lengths[piece].max())
            padded = size * longest
            halves = [slice(piece.start + size // 2, piece.stop), slice(piece.start, piece.start + size // 2)]
            if size > 1 and self._is_too_large(padded):
                pieces += halves
                continue
            try:
                done = self._run(rows[piece], waveforms[piece, :longest], lengths[piece], start_s[piece])
            except (RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error):
                    raise
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
                if size > 1:
                    self._fits = padded - 1
                    pieces += halves
                    continue
                message = (
                    f"{longest} samples do not fit into the memory of {self.device}, even alone; "
                    f"cut the recording, or run it where there is more memory"
                )
                results[1].append(Rejected(rows[piece.start], "out_of_memory", message))
            else:
                results[0].extend(done[0])
                results[1].extend(done[1])
        return results

    def _is_too_large(self, padded_samples: int) -> bool:
        """Whether a batch of this size ran out of memory before, or on a CPU is likely to now."""
        if self._fits is not None and padded_samples > self._fits:
            return True
        return self.device.type == "cpu" and padded_samples * self._bytes_per_sample > available_memory()[0]

    def _refuse_beyond_memory(self, padded_samples: int) -> None:
        """Raise on a CPU what CUDA raises by itself; Linux would kill the process instead.

        Only what exceeds all the memory there is: what is free at the moment is a guess.
        """
        if self.device.type == "cpu" and padded_samples * self._bytes_per_sample > available_memory()[1]:
            raise torch.OutOfMemoryError

    @torch.inference_mode()
    def _run(
        self, rows: Sequence[int], waveforms: Tensor, lengths: Tensor, start_s: Sequence[float]
    ) -> tuple[list[Emission], list[Rejected]]:
        settings = self.settings
        self._refuse_beyond_memory(waveforms.numel())
        output = self._forward(waveforms.to(self.device, non_blocking=True), lengths, settings.layers)
        frames = output.num_frames.tolist()
        bad_logits = [False] * len(rows) if output.logits is None else _non_finite(output.logits, frames)
        bad_features = [False] * len(rows)
        overflows: list[str] = [""] * len(rows)
        features = {}
        for layer, values in output.features.items():
            bad_features = [a or b for a, b in zip(bad_features, _non_finite(values, frames), strict=True)]
            if settings.feature_dtype == "float16":
                values = values.half()
                for index, overflow in enumerate(_non_finite(values, frames)):
                    if overflow:
                        overflows[index] = f"layer {layer} has values beyond float16; set features.dtype=float32"
            features[layer] = values.cpu().numpy()
        transcripts = None
        if settings.transcripts and output.logits is not None:
            transcripts = self._decoder(output.logits, frames, start_s)
        logits = output.logits.cpu().numpy() if settings.logits and output.logits is not None else None

        emissions: list[Emission] = []
        rejected: list[Rejected] = []
        for index, (row, count) in enumerate(zip(rows, frames, strict=True)):
            if bad_logits[index] or bad_features[index]:
                message = f"the model gave NaN or infinite values{self._remedy}"
                rejected.append(Rejected(row, "non_finite", message))
            elif overflows[index]:
                rejected.append(Rejected(row, "non_finite", overflows[index]))
            else:
                emissions.append(
                    Emission(
                        row=row,
                        num_frames=count,
                        logits=None if logits is None else logits[index, :count],
                        features={layer: values[index, :count] for layer, values in features.items()},
                        transcript=None if transcripts is None else transcripts[index],
                    )
                )
        return emissions, rejected


def _non_finite(values: Tensor, frames: Sequence[int]) -> list[bool]:
    """Whether each utterance of `(batch, frames, dim)` has a NaN or infinite value in its valid frames."""
    bad = ~torch.isfinite(values).all(dim=-1)
    return [bool(row[:count].any()) for row, count in zip(bad.cpu(), frames, strict=True)]


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
