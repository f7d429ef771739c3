"""Draws the figures of torchaudio's tutorial "Speech Recognition with Wav2Vec2", with the words above.

https://docs.pytorch.org/audio/stable/tutorials/speech_recognition_pipeline_tutorial.html
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any
from unicodedata import east_asian_width

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pipeline.report.excerpts import Excerpt
from pipeline.report.fonts import FIRST
from pipeline.report.pictures import LOWEST_PROBABILITY
from pipeline.results.arrays import log_probabilities
from pipeline.runtime.terminal import counted

MAX_LABELS = 64
"""Maximum of labels in a picture. If a model has more, the most likely ones are shown."""
MAX_COLUMNS = 3_600
"""Maximum of frames in a picture that are drawn one by one. If there are more, neighbouring frames share a column."""
_WIDEST_IN = 36.0  # has room for each of MAX_COLUMNS, and for most words of a minute
_LETTER_IN, _LINE_IN = 0.085, 0.15  # width of a letter and height of a line, in inches
_TICK_IN = 1.1  # for a label such as 7210.125
_WORD, _INK = "#0b5394", "#333333"

# Fixed settings, so that neither a user's matplotlibrc nor a `$` in a name changes the pictures.
_STYLE: Any = {
    "text.parse_math": False,
    "text.usetex": False,
    "font.size": 10,
    "font.family": [FIRST],
    "axes.edgecolor": _INK,
    "axes.formatter.useoffset": False,
    "savefig.facecolor": "white",
    "svg.hashsalt": "pipeline",
}
# For each kind of value: what the colour bar says, its lowest value, and the ends at which values are beyond it.
_SCALES: dict[str, tuple[str, float | None, Any]] = {
    "logits": ("logits (no unit)", None, "neither"),
    "log-probabilities": ("log-probabilities (natural logarithm)", float(np.log(LOWEST_PROBABILITY)), "min"),
}


def feature_figure(feature: NDArray[np.floating], layer: int, excerpt: Excerpt) -> Figure:
    """Draw the features of one layer, `(frames, dim)`; 1 is the first transformer layer."""
    with matplotlib.rc_context(_STYLE | {"font.family": list(excerpt.families)}):
        figure, axes, above = _panels(len(feature), height_in=4.2, excerpt=excerpt)
        values = feature.astype(np.float32)
        # In some layers, a few dimensions are so large that all others would have the same colour.
        low, high = np.percentile(values, (1, 99))
        columns = _pooled(values, np.add) / _pooled(np.ones((len(values), 1), np.float32), np.add)
        image = axes.imshow(columns.T, vmin=low, vmax=high, **_placed(values, excerpt))
        axes.set(ylabel="Feature dimension")
        above.set_title(f"Feature from transformer layer {layer}", loc="left", fontweight="bold", fontfamily=FIRST)
        label = "value; 1 % of the values are lower, 1 % are higher"
        figure.colorbar(image, ax=[above, axes], extend="both", pad=0.01, aspect=40, label=label)
        return figure


def emission_figure(emission: NDArray[np.floating], values_are: str, excerpt: Excerpt) -> Figure:
    """Draw an emission, `(frames, labels)`, with the names of the labels.

    Log-probabilities below that of `LOWEST_PROBABILITY` have the colour of this one.

    Args:
        emission: The emission.
        values_are: `logits` or `log-probabilities`.
        excerpt: The part of the utterance, with the names of the labels.
    """
    values, labels, shown = emission.astype(np.float32), list(excerpt.labels), "Class"
    if len(labels) > MAX_LABELS:
        shown = f"Class (of {len(labels):,}, the {MAX_LABELS} most likely)"
        chosen = np.sort(np.argsort(-log_probabilities(values).max(axis=0), kind="stable")[:MAX_LABELS])
        values, labels = values[:, chosen], [labels[label] for label in chosen]
    with matplotlib.rc_context(_STYLE | {"font.family": list(excerpt.families)}):
        figure, axes, above = _panels(len(values), height_in=max(1.5, 0.17 * len(labels)), excerpt=excerpt)
        unit, lowest, more = _SCALES[values_are]
        columns = _pooled(values, np.maximum)  # a label is often the best one for a single frame
        image = axes.imshow(columns.T, vmin=lowest, vmax=None if lowest is None else 0.0, **_placed(values, excerpt))
        axes.set_yticks(range(len(labels)), [_shortened(label, 20) for label in labels], fontsize=8)
        axes.tick_params(axis="y", length=0)
        axes.set(ylabel=shown)
        above.set_title("Classification result", loc="left", fontweight="bold", fontfamily=FIRST)
        figure.colorbar(image, ax=[above, axes], pad=0.01, aspect=40, label=unit, extend=more)
        return figure


def encode(figure: Figure, format_: str) -> bytes:
    """Return a figure as the bytes of a `png`, `svg` or `pdf` file. The same figure gives the same bytes."""
    written = io.BytesIO()
    undated = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[format_]
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a missing glyph is drawn as a box
        figure.savefig(written, format=format_, dpi=120, metadata=undated)
    return written.getvalue()


def _panels(frames: int, height_in: float, excerpt: Excerpt) -> tuple[Figure, Axes, Axes]:
    """Create a figure with axes for a picture of `height_in` inches, and axes for the words above it."""
    width_in = float(np.clip(5 + 0.02 * frames, 9, _WIDEST_IN))
    seconds = frames * excerpt.stride_s
    upright = _is_crowded(excerpt.words, seconds, 0.85 * width_in)
    longest = max((_letters(word) for word, *_ in excerpt.words), default=0)
    words_in = 0.1 + (_LETTER_IN * min(longest, 20) if upright else _LINE_IN)
    figure = Figure(figsize=(width_in, height_in + words_in + 1.1), layout="constrained")
    above, axes = figure.subplots(2, 1, sharex=True, height_ratios=[words_in, height_in])
    figure.get_layout_engine().set(h_pad=0.05, hspace=0.0)  # type: ignore[union-attr, call-arg]
    room = int((width_in - 3.6) / 0.075) - len(excerpt.seconds)  # beside the title
    name = _shortened(excerpt.name, max(20, room))
    above.set_title(f"{name}  \N{MIDDLE DOT}  {excerpt.seconds}", loc="right", fontsize=9, color=_INK)
    left_out = _draw_words(above, excerpt.words, upright, seconds / (0.85 * width_in))
    of_words = f"; {left_out} of {counted(len(excerpt.words), 'word')} have no room" if left_out else ""
    axes.set_xlabel(excerpt.time_axis + of_words)
    axes.set_xlim(excerpt.start_s, excerpt.start_s + seconds)
    axes.xaxis.set_major_locator(MaxNLocator(int(0.85 * width_in / _TICK_IN), steps=[1, 2, 2.5, 5, 10]))
    return figure, axes, above


def _is_crowded(words: Sequence[tuple[str, float, float]], seconds: float, width_in: float) -> bool:
    """Whether horizontal words would overlap."""
    ends = -np.inf
    for word, start_s, end_s in words:
        middle = (start_s + end_s) / 2 / seconds * width_in
        half = (_letters(word) + 1) * _LETTER_IN / 2
        if middle - half < ends:
            return True
        ends = middle + half
    return False


def _letters(word: str) -> int:
    """Return the width of a word in Latin letters. A Chinese character is as wide as two."""
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in word)


def _draw_words(above: Axes, words: Sequence[tuple[str, float, float]], upright: bool, s_per_in: float) -> int:
    """Draw a line over the time of each word, and the word above the line if there is room.

    Returns:
        Number of words that have no room.
    """
    above.axis("off")
    above.set_ylim(0, 1)
    room = _LINE_IN * s_per_in if upright else 0.0
    shown, drawn = -np.inf, 0
    for word, start_s, end_s in words:
        above.plot([start_s, end_s], [0, 0], color=_WORD, linewidth=3, clip_on=False, solid_capstyle="butt")
        middle = (start_s + end_s) / 2
        if middle - shown >= room:
            turned = 90 if upright else 0
            above.text(middle, 0.1, _shortened(word, 20), ha="center", va="bottom", fontsize=9, rotation=turned)
            shown, drawn = middle, drawn + 1
    return len(words) - drawn


def _placed(values: NDArray[np.float32], excerpt: Excerpt) -> dict[str, Any]:
    """Return options of `imshow` that place a picture of `(frames, rows)` on the time axis, with row 0 at the top."""
    frames, rows = values.shape
    extent = (excerpt.start_s, excerpt.start_s + frames * excerpt.stride_s, rows - 0.5, -0.5)
    return {"aspect": "auto", "interpolation": "nearest", "extent": extent}


def _pooled(values: NDArray[np.float32], pool: np.ufunc) -> NDArray[np.float32]:
    """Reduce values `(frames, rows)` to at most `MAX_COLUMNS` frames, with the sum or the maximum of neighbours."""
    if len(values) <= MAX_COLUMNS:
        return values
    starts = np.linspace(0, len(values), MAX_COLUMNS, endpoint=False).astype(np.int64)
    return np.asarray(pool.reduceat(values, starts, axis=0))


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest // 2]}\N{HORIZONTAL ELLIPSIS}{text[-longest // 2 :]}"
