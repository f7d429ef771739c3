"""One recording, segment, channel or window of it to a mono waveform at the file's own rate, or a named error.

A long recording is read window by window, so that memory is bounded by the window and not by the file, and
segments and windows have the samples that the whole file has there. A lossy codec needs its history for that, so
it is sought a second too early; a recording that cannot be sought, or does not say how long it is, stays open and
is decoded on from where the last window or segment ended.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.audio.reader import AudioError, Recording, named_errors, open_recording

SEGMENT_SLACK_S = 0.1
"""What a lossy codec may round away, and a segment may say too much."""
MAX_PEAK = 1e15
"""The squares of larger samples, summed over some hours, are beyond float32: a model would hear silence in them."""
PREROLL_S = 1.0
"""History of a lossy codec: MP3's bit reservoir, Opus' convergence, Vorbis' overlap take a tenth of it."""


@dataclass(frozen=True, slots=True)
class Extent:
    """What to read of a file.

    Attributes:
        path: As in the manifest; `%XX` stands for an undecodable byte.
        start_s, end_s: The segment in seconds; `None` for the file's beginning or end. Up to 0.1 s beyond the
            recording's end is taken as its end.
        channel: 1 is the first; `None` averages all.
        file_size: Bytes the file had when the manifest was made, where that is known.
    """

    path: str
    start_s: float | None = None
    end_s: float | None = None
    channel: int | None = None
    file_size: int | None = None


def read_waveform(
    path: str,
    *,
    start_s: float | None = None,
    end_s: float | None = None,
    file_size: int | None = None,
    channel: int | None = None,
) -> tuple[NDArray[np.float32], int]:
    """Decodes a recording, or one segment of it, to mono; the arguments are those of `Extent`.

    Returns:
        `(samples,)` in [-1, 1], and the sample rate in Hz.

    Raises:
        AudioError: One of the twelve names and the reason; nothing else escapes for a bad file.
    """
    return WaveformReader().read(Extent(path, start_s, end_s, channel, file_size))


class WaveformReader:
    """Reads waveforms; keeps the last recording open that cannot be sought."""

    def __init__(self) -> None:
        self._tape: _Tape | None = None

    def read(self, extent: Extent, window: tuple[int, int | None] = (0, None)) -> tuple[NDArray[np.float32], int]:
        """Decodes to mono.

        Args:
            extent: The recording, segment and channel.
            window: First and last sample (exclusive; `None` for the end), counted at the file's rate from the
                segment's start. Those of one recording are cheapest in ascending order; they may overlap.

        Returns:
            `(samples,)` in [-1, 1], and the sample rate in Hz. A window beyond the end gives what is there.

        Raises:
            AudioError: One of the twelve names and the reason; nothing else escapes for a bad file.
        """
        source = (extent.path, extent.channel, extent.file_size)
        with named_errors():
            if self._tape is None or self._tape.source != source:
                self.close()
                stack = ExitStack()
                recording = stack.enter_context(open_recording(extent.path, extent.file_size))
                if recording.seekable:
                    with stack:
                        return _read(recording, extent, window), int(recording.decoder.samplerate)
                self._tape = _Tape(source, recording, stack)
            try:
                return self._tape.read(extent, window), self._tape.rate
            except _Behind:
                self.close()
                return self.read(extent, window)
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Closes the recording that is kept open, if there is one."""
        if self._tape is not None:
            tape, self._tape = self._tape, None
            tape.stack.close()


class _Behind(Exception):
    """What is asked for lies before what a tape still holds."""


class _Tape:
    """A recording that is read forwards only; holds the last stretch, which the next one may overlap."""

    def __init__(self, source: tuple[str, int | None, int | None], recording: Recording, stack: ExitStack) -> None:
        self.source = source
        self.stack = stack
        self.rate = int(recording.decoder.samplerate)
        self._recording = recording
        self._first = 0
        self._held = np.zeros(0, np.float32)

    def read(self, extent: Extent, window: tuple[int, int | None]) -> NDArray[np.float32]:
        """A window of a segment; what lies before it is decoded and dropped."""
        first, last = _stretch(extent, window, self.rate, self._recording.num_samples)
        if first < self._first:
            raise _Behind
        position = self._first + len(self._held)
        if position < first:
            self._first, self._held = position, np.zeros(0, np.float32)
            _skip(self._recording, first - position, first, self.rate)
            self._first = position = first
        wanted = None if last is None else max(0, last - position)
        held = self._held[first - self._first :]
        self._held = np.concatenate([held, *_mono(self._recording, wanted, self.source[1])])
        self._first = first
        samples = self._held if last is None else self._held[: last - first]
        _check(samples, first, last, self._recording, self.rate)
        return samples


def _read(recording: Recording, extent: Extent, window: tuple[int, int | None]) -> NDArray[np.float32]:
    """A window of a segment of a recording that knows its length."""
    rate = int(recording.decoder.samplerate)
    first, last = _stretch(extent, window, rate, recording.num_samples)
    if first:
        early = first if recording.exact else max(0, first - round(PREROLL_S * rate))
        recording.decoder.seek(early)
        _skip(recording, first - early, first, rate)
    blocks = list(_mono(recording, None if last is None else max(0, last - first), extent.channel))
    samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    _check(samples, first, last, recording, rate)
    return samples


def _mono(recording: Recording, num_samples: int | None, channel: int | None) -> Iterator[NDArray[np.float32]]:
    channels = recording.decoder.channels
    if channel is not None and not 1 <= channel <= channels:
        raise AudioError("unreadable", f"channel {channel} is asked for, and it has {channels}")
    for block in recording.blocks(num_samples):
        if channel is not None:
            yield block[:, channel - 1].copy()  # a view would keep the other channels in memory
        elif channels == 1:
            yield block[:, 0]
        else:
            with np.errstate(all="ignore"):
                yield block.mean(axis=1, dtype=np.float32)


def _skip(recording: Recording, num_samples: int, first: int, rate: int) -> None:
    """Decodes past the samples before `first`.

    Raises:
        AudioError: The recording ends before.
    """
    if num_samples and sum(len(block) for block in recording.blocks(num_samples)) < num_samples:
        raise AudioError("truncated", f"the recording ends before {first / rate:.3f} s, where the segment starts")


def _check(samples: NDArray[np.float32], first: int, last: int | None, recording: Recording, rate: int) -> None:
    """Refuses samples that are too few, none, not finite, or absurd; `first` and `last` are their place in the file."""
    missing = 0 if last is None else last - first - len(samples)
    if missing > (0 if recording.exact else SEGMENT_SLACK_S * rate):
        place = f", from {first / rate:.3f} s on" if first else ""
        count = f"{len(samples)} of {len(samples) + missing} samples"
        raise AudioError("truncated", f"{count} could be decoded at {rate} Hz{place}")
    if len(samples) == 0:
        raise AudioError("empty", "no audio could be decoded")
    # The comparison is false for NaN, which both ends of the range take over.
    if not max(samples.max(), -samples.min()) <= MAX_PEAK:
        broken = int(np.argmin(np.abs(samples) <= MAX_PEAK))
        place, value = f"sample {first + broken} ({(first + broken) / rate:.3f} s) is", float(samples[broken])
        if math.isfinite(value):
            raise AudioError("non_finite", f"{place} {value:.3g}, too large to compute with; scale it to [-1, 1]")
        raise AudioError("non_finite", f"{place} NaN or infinite")


def _stretch(extent: Extent, window: tuple[int, int | None], rate: int, total: int | None) -> tuple[int, int | None]:
    """A window of a segment as samples of the file."""
    start, stop = _bounds(extent, rate, total)
    ends = (stop, None if window[1] is None else start + window[1])
    return start + window[0], min((end for end in ends if end is not None), default=None)


def _bounds(extent: Extent, rate: int, total: int | None) -> tuple[int, int | None]:
    """First and last sample (exclusive) of a segment; `None` for an end nobody knows."""
    start_s, end_s = extent.start_s, extent.end_s
    if not all(math.isfinite(time) for time in (start_s, end_s) if time is not None):
        raise AudioError("empty", f"the segment {start_s} to {end_s} s has no finite times")
    start = max(0, round((start_s or 0.0) * rate))
    stop = total if end_s is None else round(end_s * rate)
    if end_s is not None and end_s * rate <= start:
        raise AudioError("empty", f"the segment ends at {end_s} s, not after its start at {start_s or 0.0} s")
    if total is not None and stop is not None:
        bounds = f"the recording ends at {total / rate:.3f} s"
        if start >= total:
            raise AudioError("truncated", f"the segment starts at {start_s} s, {bounds}")
        if stop > total + SEGMENT_SLACK_S * rate:
            raise AudioError("truncated", f"the segment ends at {end_s} s, {bounds}")
        stop = min(stop, total)
    if start == stop:
        raise AudioError("empty", f"the segment {start_s} to {end_s} s holds no sample at {rate} Hz")
    return start, stop
