"""Draws charts as inline SVG. The style sheet of the page sets the colours. Charts contain no text from users."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from pipeline.report.timing import Timing

# Hides messages about the font cache.
logging.getLogger("matplotlib").setLevel(logging.ERROR)

WIDE, NARROW = (4.3, 2.2), (3.6, 2.3)
"""Sizes of charts in units of 100 px. On a phone, a chart shrinks to the width of its column."""
BINS = 40
_MAX_POINTS = 60
# Placeholder colours, which `_inline` replaces by variables of the style sheet.
_INK, _MUTED, _GRID = "#0a0b01", "#0a0b02", "#0a0b03"
_SERIES = {"model": "#0a0b11", "load": "#0a0b12", "write": "#0a0b13", "other": "#0a0b14", "bar": "#0a0b15"}
_VARIABLES = {
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _GRID: "var(--grid)",
    **{colour: f"var(--{name})" for name, colour in _SERIES.items()},
}
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text
    "font.size": 12,
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _MUTED,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "ytick.major.size": 0,
    "text.color": _INK,
    "figure.dpi": 72,  # a unit of the SVG is a pixel
}


def speed_chart(timing: Timing) -> str:
    """Draw the seconds of audio per second of work over time. A dashed line marks the start of a session."""
    with _chart("speed", "speed over time", WIDE) as (axes, out):
        work_s = timing.model_s + timing.load_s + timing.write_s + timing.other_s
        edges, audio_s, work_s = _folded(timing, timing.audio_s, work_s)
        real_time = audio_s / np.maximum(work_s, 1e-9)
        axes.stairs(real_time, edges, color=_SERIES["model"], linewidth=1.8, baseline=None)
        _time_axis(axes, timing)
        axes.set_ylim(0, 1.1 * max(real_time.max(), 1e-9))
        axes.set_ylabel("x real time")
    return out[0]


def time_chart(timing: Timing) -> str:
    """Draw the shares of time: model, waiting for recordings, waiting for the writer, and the rest."""
    with _chart("time", "where time went", WIDE) as (axes, out):
        edges, *parts = _folded(timing, timing.model_s, timing.load_s, timing.write_s, timing.other_s)
        whole = np.maximum(np.sum(parts, axis=0), 1e-12)
        base = np.zeros(len(whole))
        for name, part in zip(("model", "load", "write", "other"), parts, strict=True):
            top = base + 100 * part / whole
            axes.stairs(top, edges, baseline=base, fill=True, color=_SERIES[name], linewidth=0)
            base = top
        _time_axis(axes, timing)
        axes.set_ylim(0, 100)
        axes.set_ylabel("% of the time")
    return out[0]


def histogram(name: str, description: str, values: NDArray[np.float64], unit: str, *, cap: float | None = None) -> str:
    """Draw a histogram of utterances, with a line at the median. Rare extremes are counted in the outermost bars.

    Args:
        name: Name of the chart, unique in the page.
        description: Text for screen readers.
        values: One or more finite numbers.
        unit: Label of the axis.
        cap: Larger values are counted in the last bar. Without a cap, the axis is logarithmic if values vary much.
    """
    with _chart(name, description, NARROW) as (axes, out):
        low, high = (float(value) for value in np.quantile(values, [0.002, 0.998]))
        if cap is not None:
            low, high = 0.0, min(cap, max(high, cap / 4))
        log = cap is None and low > 0 and high / low > 50
        if log:
            edges = np.geomspace(low, high, BINS + 1)
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
        else:
            pad = 0.5 * (abs(low) or 1.0) if high <= low else 0.0
            edges = np.linspace(low - pad, high + pad, min(BINS, max(10, int(2 * len(values) ** 0.5))) + 1)
            axes.xaxis.set_major_locator(MaxNLocator(6))
        counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
        axes.stairs(counts, edges, fill=True, color=_SERIES["bar"])
        median = float(np.clip(np.median(values), edges[0], edges[-1]))
        axes.axvline(median, color=_INK, linewidth=1.2, linestyle=(0, (4, 3)))
        right = median > (edges[0] * edges[-1]) ** 0.5 if log else median > (edges[0] + edges[-1]) / 2
        axes.annotate(
            f"median {np.median(values):.3g}".replace("-", "\N{MINUS SIGN}"),
            (median, 1.0), (-5 if right else 5, 1), fontsize=11,
            xycoords=("data", "axes fraction"), textcoords="offset points",
            ha="right" if right else "left", va="bottom",
        )  # fmt: skip
        axes.set_xlabel(unit)
        axes.set_ylabel("utterances")
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    return out[0]


def _folded(timing: Timing, *bins: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Merge neighbouring bins so that about `_MAX_POINTS` remain. Return their edges on the axis, then each sum."""
    fold = -(-len(bins[0]) // _MAX_POINTS)
    starts = np.arange(0, max(1, len(bins[0]) - fold // 2), fold)  # a short remainder is added to the last bin
    edges = np.append(starts * timing.width_s, timing.wall_s)
    return [np.maximum.accumulate(edges) / _unit(timing)[0], *(np.add.reduceat(each, starts) for each in bins)]


def _unit(timing: Timing) -> tuple[float, str]:
    """Return the number of seconds in the axis' unit, and the name of the unit."""
    units = ((3600.0, "hours"), (60.0, "minutes"))
    return next((unit for unit in units if timing.wall_s > 2 * unit[0]), (1.0, "seconds"))


def _time_axis(axes: Axes, timing: Timing) -> None:
    unit, name = _unit(timing)
    for start in timing.sessions[1:]:
        axes.axvline(start / unit, color=_MUTED, linewidth=1, linestyle=(0, (2, 3)))
    axes.set_xlim(0, max(timing.wall_s, 1e-6) / unit)
    axes.xaxis.set_major_locator(MaxNLocator(7))
    axes.set_xlabel(f"{name} of work")


@contextmanager
def _chart(name: str, description: str, size: tuple[float, float]) -> Iterator[tuple[Axes, list[str]]]:
    """Yield axes to draw on, and a list that holds the SVG after the context. The state of pyplot is not changed."""
    out: list[str] = []
    style: Any = {**_STYLE, "svg.hashsalt": name}  # matplotlib types the names of its settings one by one
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(size[0] * 100 / 72, size[1] * 100 / 72), layout="constrained")
        yield figure.subplots(), out
        data = io.StringIO()
        figure.savefig(
            data, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    out.append(_inline(data.getvalue(), description))


def _inline(svg: str, description: str) -> str:
    """Turn matplotlib's SVG file into an element of the page. The style sheet sets size, fonts and colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    box = re.search(r'viewBox="[^"]+"', svg)
    assert box is not None, "matplotlib wrote an SVG without a viewBox"
    svg = re.sub(r"<svg[^>]*>", f'<svg {box[0]} role="img" aria-label="{description}">', svg, count=1)
    svg = re.sub(r" font-family: [^;\"]*;", "", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    # Charts share the names of their groups, and a page must not have a name twice. What is referred to has its own.
    referred = set(re.findall(r"#([\w-]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in referred else "", svg)
    return re.sub(r"\s*\n\s*", " ", svg)


__all__ = ["histogram", "speed_chart", "time_chart"]
