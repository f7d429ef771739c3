"""Results on their way from the device to the host: the host goes on while a GPU computes and copies.

Everything is asked of the device at once and read later. Copies run on a stream of their own into pinned memory, so
the next batch computes meanwhile. On a CPU the same steps happen where they are asked for.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.models.forward import ModelOutput
from pipeline.records import BestPath, Chunk, Emission, Rejected

Moment = float | torch.cuda.Event
"""A place in the device's order of work: seconds on a CPU."""

HALF_MAX = 65520.0
"""From here on float16 rounds to infinity."""


class Streams:
    """The device's order of work and its clock."""

    def __init__(self, device: torch.device) -> None:
        """Make a stream for copies, on CUDA."""
        self._device = device
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    @property
    def overlaps(self) -> bool:
        """Whether the host goes on while the device works."""
        return self._copies is not None

    def now(self) -> Moment:
        """This place in the device's order of work."""
        if self._copies is None:
            return time.monotonic()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def to_host(self, values: Sequence[Tensor]) -> tuple[list[Tensor], torch.cuda.Event | None]:
        """Begin to copy what has been computed, and what to wait for before it is read."""
        if self._copies is None:
            return [each.cpu() for each in values], None
        self._copies.wait_stream(torch.cuda.current_stream(self._device))
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._copies):
            hosted = []
            for each in values:
                each.record_stream(self._copies)  # else its memory is given to the next batch before it is copied
                hosted.append(each.to("cpu", non_blocking=True))
            copied.record(self._copies)
        return hosted, copied


def seconds_between(first: Moment, second: Moment) -> float:
    """Seconds of the device from one place in its work, which it has reached, to another."""
    if isinstance(first, torch.cuda.Event) and isinstance(second, torch.cuda.Event):
        return float(first.elapsed_time(second)) / 1000
    assert isinstance(first, float)
    assert isinstance(second, float)
    return second - first


@dataclass(frozen=True)
class Wanted:
    """What to bring back.

    Attributes:
        logits: Whether logits are asked for.
        feature_dtype: float16 or float32.
        non_finite: What to say of NaN and infinite values.
    """

    logits: bool
    feature_dtype: str
    non_finite: str


@torch.inference_mode()
def best_path(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the best label of every frame and its log-probability, each `(..., frames)`.

    Args:
        logits: `(..., frames, labels)`.
    """
    logprobs, labels = torch.log_softmax(logits, dim=-1).max(dim=-1)
    return labels, logprobs


class Transfer:
    """The results of one forward, on their way to the host."""

    def __init__(self, streams: Streams, wanted: Wanted, chunks: Sequence[Chunk], output: ModelOutput) -> None:
        """Ask the device for what the host will need of `output`."""
        self._wanted = wanted
        self._chunks = chunks
        self._counts: list[int] = output.num_frames.tolist()
        self._layers = list(output.features)
        values: dict[str, Tensor] = {}
        if output.logits is not None:
            values["largest"] = _largest(output.logits)
            values["labels"], values["logprobs"] = best_path(output.logits)
            if wanted.logits:
                values["logits"] = output.logits
        for layer, features in output.features.items():
            values[f"largest {layer}"] = _largest(features)
            values[f"layer {layer}"] = features.half() if wanted.feature_dtype == "float16" else features
        hosted, self._copied = streams.to_host(list(values.values()))
        self._hosted = dict(zip(values, hosted, strict=True))

    def results(self) -> tuple[list[Emission], list[Rejected]]:
        """Wait for them; one `Emission` or `Rejected` a chunk."""
        if self._copied is not None:
            self._copied.synchronize()
        reasons = self._reasons()
        emissions: list[Emission] = []
        rejected: list[Rejected] = []
        logits, labels, logprobs = (self._split(name) for name in ("logits", "labels", "logprobs"))
        features = {layer: self._split(f"layer {layer}") for layer in self._layers}
        for index, (chunk, count) in enumerate(zip(self._chunks, self._counts, strict=True)):
            if index in reasons:
                rejected.append(Rejected(chunk, "model", "non_finite", reasons[index]))
                continue
            emissions.append(
                Emission(
                    chunk=chunk,
                    num_frames=count,
                    logits=None if logits is None else logits[index],
                    features={layer: values[index] for layer, values in features.items() if values is not None},
                    path=None if labels is None or logprobs is None else BestPath(labels[index], logprobs[index]),
                )
            )
        return emissions, rejected

    def _reasons(self) -> dict[int, str]:
        """Why utterances have no result, by their place in the batch."""
        reasons: dict[int, str] = {}
        for name in ("largest", *(f"largest {layer}" for layer in self._layers)):
            for index, frames in enumerate(self._split(name) or []):
                largest = float(frames.max(initial=0.0))  # NaN where any is
                if not np.isfinite(largest):
                    reasons[index] = self._wanted.non_finite
                elif name != "largest" and largest >= HALF_MAX and self._wanted.feature_dtype == "float16":
                    layer = name.removeprefix("largest ")
                    message = f"layer {layer} has values beyond float16; set features.dtype=float32"
                    reasons.setdefault(index, message)
        return reasons

    def _split(self, name: str) -> list[NDArray[Any]] | None:
        """Of each utterance its own; `None` for what was not asked for."""
        values = self._hosted.get(name)
        return None if values is None else [part.numpy() for part in torch.split(values, self._counts)]


def _largest(values: Tensor) -> Tensor:
    """The largest magnitude in each row, NaN where there is one, in one pass over the values."""
    least, most = torch.aminmax(values, dim=-1)
    return torch.maximum(most, -least)
