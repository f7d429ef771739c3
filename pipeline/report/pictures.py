"""Draws emissions and features as small pictures, and waveforms as outlines. The width of each is the time axis."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from pipeline.results.arrays import log_probabilities

MAX_COLUMNS = 1_200
"""Maximum of columns in a picture. If there are more frames, neighbouring frames share a column."""
MAX_LABELS = 40
"""Maximum of labels in a picture. If a model has more, the most likely ones are shown."""
MAX_DIMS = 128
LOWEST_PROBABILITY = 1e-4
"""Lower probabilities have the colour of this one."""
# Fewer than 256 shades, because noise then compresses twice as well without a visible difference.
_SHADES = 64


@dataclass(frozen=True)
class EmissionPicture:
    """Labels by frames, as in the torchaudio tutorial, with the first label at the top.

    Attributes:
        source: A PNG as a data URI.
        labels: Indices of the labels, from top to bottom.
        frames: Number of frames.
    """

    source: str
    labels: tuple[int, ...]
    frames: int


@dataclass(frozen=True)
class FeaturePicture:
    """Dimensions by frames of one layer.

    Attributes:
        source: A PNG as a data URI.
        layer: The layer; 1 is the first transformer layer.
        dim: Number of stored dimensions.
        every: Step between the dimensions that are shown.
        low, high: Values of the darkest and the brightest shade.
    """

    source: str
    layer: int
    dim: int
    every: int
    low: float
    high: float


def draw_emission(emission: NDArray[np.float32]) -> EmissionPicture:
    """Draw the log-probabilities of labels over time.

    Args:
        emission: `(frames, labels)` logits or log-probabilities.
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
    """Draw the values of one layer's dimensions over time. The most extreme 1 % at each end are clipped.

    Args:
        feature: `(frames, dim)`.
        layer: Number of the layer.
    """
    every = -(-feature.shape[1] // MAX_DIMS)
    low, high = (float(value) for value in np.quantile(feature, [0.01, 0.99]))
    shown = _pooled(feature[:, ::every])
    source = _png((shown.T - low) / max(high - low, 1e-9))
    return FeaturePicture(source, layer, feature.shape[1], every, low, high)


def outline(envelope: NDArray[np.float32]) -> str:
    """Return the SVG path of a waveform in a box of 1000 by 100. The loudest sample touches the edge.

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
    """Return bytes as a data URI."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def scale_colours(steps: int = 9) -> Sequence[str]:
    """Return the colours of the pictures from the lowest to the highest value, for a legend."""
    return [f"rgb({r} {g} {b})" for r, g, b in _palette()[np.linspace(0, _SHADES - 1, steps).astype(int)]]


def _pooled(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Reduce values `(frames, rows)` to at most `MAX_COLUMNS` frames. Each column has the maximum of its frames."""
    if len(values) <= MAX_COLUMNS:
        return values
    starts = np.linspace(0, len(values), MAX_COLUMNS, endpoint=False).astype(np.int64)
    pooled: NDArray[np.float32] = np.maximum.reduceat(values, starts, axis=0)
    return pooled


def _png(levels: NDArray[np.floating]) -> str:
    """Return levels from 0 to 1, `(rows, columns)`, as a PNG in a data URI."""
    shades = (np.clip(levels, 0.0, 1.0) * (_SHADES - 1)).round().astype(np.uint8)
    image = Image.fromarray(shades)
    image.putpalette(_palette().astype(np.uint8).tobytes())
    data = io.BytesIO()
    image.save(data, "PNG", optimize=False, compress_level=9)
    return data_uri("image/png", data.getvalue())


def _palette() -> NDArray[np.int64]:
    """Return the colours of viridis, `(shades, 3)`, which suit colour-blind readers and grey printers."""
    colours: NDArray[np.int64] = (colormaps["viridis"](np.linspace(0, 1, _SHADES))[:, :3] * 255).round().astype(int)
    return colours
