"""Emissions and features as small pictures, waveforms as outlines: each fills its width with time."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from pipeline.report.figures import log_probabilities

MAX_COLUMNS = 1_200
"""Frames of a picture; where there are more, neighbours share a column."""
MAX_LABELS = 40
"""Labels of a picture: all of a model that spells; of one with thousands, those that come up."""
MAX_DIMS = 128
LOWEST_PROBABILITY = 1e-4
"""What is less likely than this looks the same."""
# Fewer shades than a byte has: noise compresses twice as well, and nobody sees the difference.
_SHADES = 64


@dataclass(frozen=True)
class EmissionPicture:
    """Classes by frames, as in the torchaudio tutorial; the first label on top.

    Attributes:
        source: A PNG as a data URI.
        labels: Indices of the labels shown, top to bottom.
        frames: Frames shown.
    """

    source: str
    labels: tuple[int, ...]
    frames: int


@dataclass(frozen=True)
class FeaturePicture:
    """Dimensions by frames of one layer.

    Attributes:
        source: A PNG as a data URI.
        layer: 1 is the first transformer layer.
        dim: Dimensions stored.
        every: Only every so many-th of them is shown.
        low, high: Values of the darkest and of the brightest shade.
    """

    source: str
    layer: int
    dim: int
    every: int
    low: float
    high: float


def draw_emission(emission: NDArray[np.float32]) -> EmissionPicture:
    """Log-probabilities of labels over time.

    Args:
        emission: `(frames, labels)`: logits, or log-probabilities, which come out as they are.
    """
    logprobs = log_probabilities(emission)
    labels = np.arange(emission.shape[1])
    if len(labels) > MAX_LABELS:
        labels = np.sort(np.argsort(-logprobs.max(axis=0), kind="stable")[:MAX_LABELS])
    lowest = np.log(LOWEST_PROBABILITY)
    shown = _pooled(logprobs[:, labels])
    source = _png((shown.T - lowest) / -lowest)
    return EmissionPicture(source, tuple(int(label) for label in labels), len(emission))


def draw_features(feature: NDArray[np.float32], layer: int) -> FeaturePicture:
    """Values of one layer's dimensions over time; the few most extreme ones, which would hide the rest, are cut.

    Args:
        feature: `(frames, dim)`.
        layer: Its number.
    """
    every = -(-feature.shape[1] // MAX_DIMS)
    low, high = (float(value) for value in np.quantile(feature, [0.01, 0.99]))
    shown = _pooled(feature[:, ::every])
    source = _png((shown.T - low) / max(high - low, 1e-9))
    return FeaturePicture(source, layer, feature.shape[1], every, low, high)


def outline(envelope: NDArray[np.float32]) -> str:
    """The path of a waveform in a box of 1000 by 100, its loudest sample at the edge.

    Args:
        envelope: `(2, bins)` lowest and highest samples.
    """
    peak = max(float(np.abs(envelope).max()), 1e-4)
    x = np.linspace(0, 1000, envelope.shape[1])
    low, high = 50 - 48 * envelope / peak
    top = [f"{a:.1f} {b:.1f}" for a, b in zip(x, high - 0.4, strict=True)]
    bottom = [f"{a:.1f} {b:.1f}" for a, b in zip(x[::-1], low[::-1] + 0.4, strict=True)]
    return f"M{'L'.join([*top, *bottom])}Z"


def data_uri(media_type: str, data: bytes) -> str:
    """Bytes as an address that needs no network."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def scale_colours(steps: int = 9) -> Sequence[str]:
    """The colours of the pictures from the lowest to the highest value, for a legend."""
    return [f"rgb({r} {g} {b})" for r, g, b in _palette()[np.linspace(0, _SHADES - 1, steps).astype(int)]]


def _pooled(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """`(frames, rows)` with at most `MAX_COLUMNS` frames: of neighbours the highest value is kept."""
    if len(values) <= MAX_COLUMNS:
        return values
    starts = np.linspace(0, len(values), MAX_COLUMNS, endpoint=False).astype(np.int64)
    pooled: NDArray[np.float32] = np.maximum.reduceat(values, starts, axis=0)
    return pooled


def _png(levels: NDArray[np.floating]) -> str:
    """Levels from 0 to 1, `(rows, columns)`, as a picture with a palette."""
    shades = (np.clip(levels, 0.0, 1.0) * (_SHADES - 1)).round().astype(np.uint8)
    image = Image.fromarray(shades)
    image.putpalette(_palette().astype(np.uint8).tobytes())
    data = io.BytesIO()
    image.save(data, "PNG", optimize=False, compress_level=9)
    return data_uri("image/png", data.getvalue())


def _palette() -> NDArray[np.int64]:
    """Viridis, which colour-blind people read and which prints in grey, `(shades, 3)`."""
    colours: NDArray[np.int64] = (colormaps["viridis"](np.linspace(0, 1, _SHADES))[:, :3] * 255).round().astype(int)
    return colours
