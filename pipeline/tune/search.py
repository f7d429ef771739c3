"""Decodes a part with each setting, and counts the errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoding import DECODERS, Decoder
from pipeline.scoring.bootstrap import speaker_intervals
from pipeline.scoring.counting import count_errors
from pipeline.stages.postprocessing.emissions import StoredEmissions
from pipeline.stages.postprocessing.processes import in_processes
from pipeline.tune.parts import Part


@dataclass(frozen=True)
class Measured:
    """The errors of a decoder on a part.

    Attributes:
        errors, words: `(utterances,)` word errors and reference words of each utterance.
    """

    errors: NDArray[np.int64]
    words: NDArray[np.int64]

    @property
    def wer(self) -> float:
        """Word error rate."""
        return float(self.errors.sum() / self.words.sum())


def measure(name: str, options: Any, stored: StoredEmissions, part: Part) -> Measured:
    """Decode a part, and count the errors.

    Args:
        name: The choice of the group `decoder`.
        options: Its `Options`.
        stored: What the emissions have in common.
        part: The part.

    Raises:
        UserError: The decoder cannot be used.
    """
    decoder: Decoder = DECODERS.load(name).Decoder(options, stored.labels, stored.seconds_per_frame)
    texts = decoder(part.emissions).text.to_list()
    counted = [count_errors(text, reference) for text, reference in zip(texts, part.references, strict=True)]
    return Measured(
        np.asarray([each.word_errors for each in counted], np.int64),
        np.asarray([each.reference_words for each in counted], np.int64),
    )


def search(
    name: str,
    points: Sequence[Any],
    stored: StoredEmissions,
    part: Part,
    processes: int,
    tell: Callable[[int], None],
) -> list[Measured]:
    """Measure each setting on a part, in several processes.

    Args:
        name: The choice of the group `decoder`.
        points: `Options` of the decoder.
        stored: What the emissions have in common.
        part: The part.
        processes: Number of processes.
        tell: Called with the number of settings so far.

    Raises:
        UserError: The decoder cannot be used.
        RunError: A process died.
    """
    found: dict[int, Measured] = {}
    for point, measured in in_processes(
        lambda point: measure(name, points[point], stored, part), range(len(points)), processes, "setting"
    ):
        found[point] = measured
        tell(len(found))
    return [found[point] for point in range(len(points))]


def difference(before: Measured, after: Measured, part: Part) -> tuple[float, tuple[float, float] | None]:
    """Return the rate after minus the rate before, with its interval, from a paired bootstrap over speakers."""
    changed = (after.errors - before.errors)[:, None]
    (interval,) = speaker_intervals(changed, after.words[:, None], part.speakers)
    return after.wer - before.wer, interval
