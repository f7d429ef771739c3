"""Chooses the seconds of a long utterance that the page shows and plays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.records.transcripts import Word
from pipeline.report.selection import Kind

CLIP_S = 20.0
"""Maximum of seconds shown and played of one utterance."""
_LEAD_S = 0.3


def choose_stretch(
    words: Sequence[Word], start_s: float, duration_s: float, kind: Kind, longest_s: float = CLIP_S
) -> tuple[float, float]:
    """Choose the part of an utterance to show.

    For an utterance longer than `longest_s`, this is the part with the most speech. For one of the worst utterances,
    and for a suspect reference, it is the part with the most uncertain words. Without words, it is the beginning.

    Args:
        words: Words of the utterance.
        start_s: Start of the utterance in its file, in seconds.
        duration_s: Duration of the utterance in seconds.
        kind: Why the utterance is shown.
        longest_s: Maximum of seconds to show.

    Returns:
        First and last second in the file.
    """
    end_s = start_s + duration_s
    if duration_s <= longest_s or not words:
        return start_s, min(end_s, start_s + longest_s)
    starts, ends = np.array([word.start_s for word in words]), np.array([word.end_s for word in words])
    weights = ends - starts
    if kind in ("worst", "suspect"):
        weights = weights * (1.0 - np.array([word.probability for word in words]))
    firsts = np.clip(starts - _LEAD_S, start_s, max(start_s, end_s - longest_s))
    sums = np.concatenate([[0.0], np.cumsum(weights)])
    inside = sums[np.searchsorted(ends, firsts + longest_s, "right")] - sums[np.searchsorted(starts, firsts, "left")]
    first = float(firsts[int(np.argmax(inside))])
    return first, min(end_s, first + longest_s)
