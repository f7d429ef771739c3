"""Copies batches to the device and results to the host, while the host continues and a GPU computes another batch.

All results of a batch are started to be copied at once, and read later. On CUDA, copies use separate streams and pinned
memory. On a CPU the same functions run synchronously.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.models.forward import ModelOutput
from pipeline.models.samples import in_float32
from pipeline.records import BestPath, Chunk, Emission, Rejected

Moment = float | torch.cuda.Event
"""A point in the device's sequence of work: an event on CUDA, seconds on a CPU."""

HALF_MAX = 65520.0
"""The smallest magnitude that float16 rounds to infinity."""


class Streams:
    """The streams of a device, and its clock."""

    def __init__(self, device: torch.device) -> None:
        """Create two streams for copies if the device is a GPU, one for each direction."""
        self._device = device
        cuda = device.type == "cuda"
        self._uploads = torch.cuda.Stream(device) if cuda else None  # type: ignore[no-untyped-call]
        self._copies = torch.cuda.Stream(device) if cuda else None  # type: ignore[no-untyped-call]

    def now(self) -> Moment:
        """Return the current point in the device's sequence of work."""
        if self._copies is None:
            return time.monotonic()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def to_device(self, waveforms: Tensor) -> Tensor:
        """Copy a batch to the device, while a GPU computes the batch before it. Returns it there in float32.

        This takes a stream of its own. In the stream of `to_host`, the copy would wait for the results of the batch
        before.

        Args:
            waveforms: The batch on the host, float32 or int16, in pinned memory for CUDA.
        """
        if self._uploads is None:
            return in_float32(waveforms)
        computing = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._uploads):
            copied = waveforms.to(self._device, non_blocking=True)
        computing.wait_stream(self._uploads)
        copied.record_stream(computing)  # keeps the memory until it is used
        return in_float32(copied)

    def to_host(self, values: Sequence[Tensor]) -> tuple[list[Tensor], torch.cuda.Event | None]:
        """Start to copy tensors to the host.

        Returns:
            The copies, and the event to wait for before they are read; `None` if they can be read at once.
        """
        if self._copies is None:
            return [each.cpu() for each in values], None
        self._copies.wait_stream(torch.cuda.current_stream(self._device))
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._copies):
            hosted = []
            for each in values:
                each.record_stream(self._copies)  # keeps the memory until it is copied
                hosted.append(each.to("cpu", non_blocking=True))  # torch takes pinned memory for such a copy
            copied.record(self._copies)
        return hosted, copied


def seconds_between(first: Moment, second: Moment) -> float:
    """Return the seconds between two points in the device's work. The device must have reached both."""
    if isinstance(first, torch.cuda.Event) and isinstance(second, torch.cuda.Event):
        return float(first.elapsed_time(second)) / 1000
    assert isinstance(first, float)
    assert isinstance(second, float)
    return second - first


@dataclass(frozen=True)
class Wanted:
    """Which results to copy.

    Attributes:
        logits: Whether to copy logits.
        feature_dtype: Type of the features: float16 or float32.
        non_finite: Message for utterances with NaN or infinite values.
        emission_dtype: Type in which logits are stored: float16 or float32. They are copied in float32.
    """

    logits: bool
    feature_dtype: str
    non_finite: str
    emission_dtype: str = "float32"


@torch.inference_mode()
def best_path(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the best label of every frame and its log-probability, each `(..., frames)`.

    Args:
        logits: `(..., frames, labels)`.
    """
    logprobs, labels = torch.log_softmax(logits, dim=-1).max(dim=-1)
    return labels, logprobs


class Transfer:
    """The results of one forward pass, which are being copied to the host."""

    def __init__(self, streams: Streams, wanted: Wanted, chunks: Sequence[Chunk], output: ModelOutput) -> None:
        """Start the copies.

        Args:
            streams: Streams of the device.
            wanted: Which results to copy.
            chunks: Chunks of the batch.
            output: Output of the model for these chunks.
        """
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
        """Wait for the copies. Each chunk has either an `Emission` or a `Rejected`."""
        if self._copied is not None:
            self._copied.synchronize()
        values = {name: each.numpy() for name, each in self._hosted.items()}
        bounds = [0, *accumulate(self._counts)]
        reasons = self._reasons(values, bounds)
        emissions: list[Emission] = []
        rejected: list[Rejected] = []
        logits = values.get("logits")
        for index, (chunk, (first, last)) in enumerate(zip(self._chunks, pairwise(bounds), strict=True)):
            if index in reasons:
                rejected.append(Rejected(chunk, "model", "non_finite", reasons[index]))
                continue
            own = slice(first, last)
            emissions.append(
                Emission(
                    chunk=chunk,
                    num_frames=last - first,
                    logits=None if logits is None else logits[own],
                    features={layer: values[f"layer {layer}"][own] for layer in self._layers},
                    path=BestPath(values["labels"][own], values["logprobs"][own]) if "labels" in values else None,
                )
            )
        return emissions, rejected

    def _reasons(self, values: Mapping[str, NDArray[Any]], bounds: Sequence[int]) -> dict[int, str]:
        """Return why chunks have no result, by index in the batch.

        Args:
            values: The arrays of the batch by name, each with a row for each frame.
            bounds: The first frame of each chunk, and the number of frames.
        """

        def chunks(frames: NDArray[np.bool_]) -> list[int]:
            """Return the chunks that have any of these frames."""
            found: list[int] = np.unique(np.searchsorted(bounds, np.flatnonzero(frames), side="right") - 1).tolist()
            return found

        reasons: dict[int, str] = {}
        for name, what, key in self._halves():
            message = f"{what} has values too large for float16; set {key}.dtype=float32"
            reasons = dict.fromkeys(chunks(values[name] >= HALF_MAX), message) | reasons
        for name in ("largest", *(f"largest {layer}" for layer in self._layers)):
            if name in values:
                reasons |= dict.fromkeys(chunks(~np.isfinite(values[name])), self._wanted.non_finite)
        return reasons

    def _halves(self) -> Iterator[tuple[str, str, str]]:
        """Yield what is stored in float16: the name of its largest values, itself in words, and its settings."""
        if self._wanted.feature_dtype == "float16":
            for layer in self._layers:
                yield f"largest {layer}", f"layer {layer}", "features"
        if self._wanted.emission_dtype == "float16" and "logits" in self._hosted:
            yield "largest", "the emission", "emissions"


def _largest(values: Tensor) -> Tensor:
    """Return the largest magnitude in each row, or NaN if the row contains NaN, in one pass over the values."""
    least, most = torch.aminmax(values, dim=-1)
    return torch.maximum(most, -least)
