"""Reads what all pictures of a part of an utterance have in common: its name, its words and the names of labels."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from pipeline.report.fonts import FIRST, fonts_for
from pipeline.report.labels import code_points, label_names
from pipeline.results import Run
from pipeline.runtime.terminal import counted, printable


@dataclass(frozen=True)
class Excerpt:
    """The part of an utterance that a picture shows.

    Attributes:
        name: Id of the utterance.
        seconds: The time range, in words.
        start_s: Start of the first frame in seconds of the file.
        stride_s: Seconds from one frame to the next.
        words: `(word, start, end)` in seconds of the file, in the order of time.
        time_axis: What the time axis shows.
        labels: Names of the labels, in the order of an emission's columns; empty without an emission.
        families: Names of the fonts that have the characters of all these texts.
    """

    name: str
    seconds: str
    start_s: float
    stride_s: float
    words: Sequence[tuple[str, float, float]]
    time_axis: str = "Time in the recording (s)"
    labels: Sequence[str] = ()
    families: Sequence[str] = (FIRST,)


def read_excerpt(run: Run, frames: tuple[int, int], seconds: tuple[float, float], has_emission: bool) -> Excerpt:
    """Read the excerpt of a run of one utterance. Characters that no font has are replaced, and named on stderr.

    Args:
        run: The run, restricted to the utterance.
        frames: First frame and the frame after the last one, counted from the start of the utterance.
        seconds: Start and end of the part in seconds of the file.
        has_emission: Whether to name the labels.
    """
    [row] = run.manifest.itertuples()
    is_segment, stride_s = not pd.isna(row.start_s), run.seconds_per_frame
    begins_s = float(row.start_s) if is_segment else 0.0
    start_s, end_s = (begins_s + frame * stride_s for frame in frames)
    words = [
        (printable(word.word), word.start_s, word.end_s)
        for word in run.words.itertuples()
        if start_s - stride_s / 2 <= word.start_s and word.end_s <= end_s + stride_s / 2
    ]
    segment = f"; the utterance is {begins_s:.2f} to {begins_s + row.duration_s:.2f} s of it" if is_segment else ""
    shown = f"{seconds[0]:.2f} to {seconds[1]:.2f} s, {1000 * stride_s:g} ms a frame"
    excerpt = Excerpt(printable(row.id), shown, start_s, stride_s, words)
    labels = [printable(name) for name in label_names(run.emission_metadata)] if has_emission else []
    return _with_fonts(replace(excerpt, time_axis=f"{excerpt.time_axis}{segment}", labels=labels))


def _with_fonts(excerpt: Excerpt) -> Excerpt:
    """Choose the fonts. Replace characters that none of them has: of a label by code points, of other texts by `?`."""
    fonts = fonts_for([excerpt.name, *excerpt.labels, *(word for word, *_ in excerpt.words)])
    if fonts.missing:
        number, some = counted(len(fonts.missing), "character"), " ".join(map(printable, sorted(fonts.missing)[:3]))
        print(
            f"the fonts of this machine lack {number} of the pictures, such as {some}; "
            "labels show code points (U+0928) and words show ? in their place; after the installation of fonts that "
            "have them, such as fonts-noto-core or fonts-noto-cjk, the same command draws them",
            file=sys.stderr,
        )
    numbers = {ord(character): code_points(character) for character in fonts.missing}
    unknown = dict.fromkeys(numbers, "?")
    return replace(
        excerpt,
        name=excerpt.name.translate(unknown),
        words=[(word.translate(unknown), start_s, end_s) for word, start_s, end_s in excerpt.words],
        labels=[label.translate(numbers) for label in excerpt.labels],
        families=fonts.families,
    )
