"""The account of one recording: seconds decoded, of speech, of speech without text, of text without speech.

All are lengths of unions of stretches: |A and B| is |A| + |B| - |A or B|, and |A but not B| is |A or B| - |B|.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

COLLAR_S = 0.5
"""Seconds by which a word reaches beyond its own times when speech without text is counted, and speech beyond its ends
when text without speech is. CTC marks a short part of each word, and people pause between words."""
_TICKS = 10**6
"""Times are counted in whole microseconds, so that sums are exact."""

Ticks = NDArray[np.int64]
"""Stretches `(stretches, 2)`: first and last microsecond of each, ascending, none touching another."""


def merged(stretches: Iterable[NDArray[np.float64]], end_s: float = np.inf, collar_s: float = 0.0) -> Ticks:
    """Return the union of stretches.

    Args:
        stretches: Arrays `(n, 2)` of starts and ends in seconds; they may overlap.
        end_s: Stretches are cut at 0 and here.
        collar_s: Seconds that are added on either side first.
    """
    seconds = np.concatenate([np.zeros((0, 2)), *stretches])
    seconds = (seconds + np.array([-collar_s, collar_s])).clip(0.0, min(end_s, 1e12))
    ticks = np.rint(seconds * _TICKS).astype(np.int64)
    ticks = ticks[ticks[:, 0] < ticks[:, 1]]
    ticks = ticks[np.argsort(ticks[:, 0], kind="stable")]
    ends = np.maximum.accumulate(ticks[:, 1]) if len(ticks) else ticks[:, 1]
    first = np.flatnonzero(np.append(True, ticks[1:, 0] > ends[:-1])) if len(ticks) else np.zeros(0, np.int64)
    last = np.append(first[1:], len(ticks)) - 1 if len(ticks) else first
    return np.stack([ticks[first, 0], ends[last]], axis=1)


def _length(*unions: Ticks) -> int:
    """Return the length of the union of unions, in microseconds."""
    if len(unions) > 1:
        unions = (merged([union / _TICKS for union in unions]),)
    return int((unions[0][:, 1] - unions[0][:, 0]).sum())


@dataclass
class Account:
    """What is known of one recording. The arrays are `(n, 2)`, starts and ends in seconds of the recording.

    Attributes:
        duration_s: Length of the recording; `None` if it is not known.
        decoded: Utterances with a result.
        failed: Utterances that failed.
        words: The words of the transcripts.
        speech: Stretches of speech; `None` if the recording could not be searched.
    """

    duration_s: float | None = None
    decoded: list[NDArray[np.float64]] = field(default_factory=list)
    failed: list[NDArray[np.float64]] = field(default_factory=list)
    words: list[NDArray[np.float64]] = field(default_factory=list)
    speech: NDArray[np.float64] | None = None

    def seconds(self) -> Mapping[str, float | None]:
        """Return the columns of `coverage.parquet` that are in seconds.

        `duration_s` = decoded + failed + left out; `speech_s` = with text + without text + failed + left out; and
        `text_s` = with speech + without speech. What was decoded once and failed once counts as decoded.
        """
        end_s = np.inf if self.duration_s is None else self.duration_s
        decoded, failed = merged(self.decoded, end_s), merged(self.failed, end_s)
        words = merged(self.words, end_s)
        found = {"decoded_s": _length(decoded), "failed_s": _length(decoded, failed) - _length(decoded)}
        found["text_s"] = _length(words)
        if self.duration_s is not None:
            found["duration_s"] = round(self.duration_s * _TICKS)
            found["left_out_s"] = found["duration_s"] - found["decoded_s"] - found["failed_s"]
        if self.speech is not None:
            speech, heard = merged([self.speech], end_s), merged([self.speech], end_s, COLLAR_S)
            text = merged(self.words, end_s, COLLAR_S)
            outside = _length(speech, text, decoded) - _length(text, decoded)
            found["speech_s"] = _length(speech)
            found["speech_with_text_s"] = _length(speech) + _length(text) - _length(speech, text)
            found["speech_left_out_s"] = _length(speech, text, decoded, failed) - _length(text, decoded, failed)
            found["speech_failed_s"] = outside - found["speech_left_out_s"]
            found["speech_without_text_s"] = found["speech_s"] - found["speech_with_text_s"] - outside
            found["text_without_speech_s"] = _length(words, heard) - _length(heard)
            found["text_with_speech_s"] = found["text_s"] - found["text_without_speech_s"]
        return {name: found[name] / _TICKS if name in found else None for name in SECONDS}


SECONDS = (
    "duration_s",
    "decoded_s",
    "failed_s",
    "left_out_s",
    "speech_s",
    "speech_with_text_s",
    "speech_without_text_s",
    "speech_failed_s",
    "speech_left_out_s",
    "text_s",
    "text_with_speech_s",
    "text_without_speech_s",
)
"""The columns in seconds, in the order of the table."""
