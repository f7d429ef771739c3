"""One recording, segment, channel or window of it to a mono waveform at the file's own rate, or a named error.

A long recording is read window by window, so that memory is bounded by the window and not by the file. Where
every sample has its bytes a window is sought; a lossy codec that is sought begins without its history and gives
other samples, so there the recording stays open and is decoded on from where the last window ended.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.audio import AudioError, Recording, named_errors, open_recording

SEGMENT_SLACK_S = 0.1
"""What a lossy codec may round away, and a segment may say too much."""


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
    """Reads waveforms; keeps the recording of the last window open where its codec cannot be sought."""

    def __init__(self) -> None:
        self._tape: _Tape | None = None

    def read(self, extent: Extent, window: tuple[int, int | None] | None = None) -> tuple[NDArray[np.float32], int]:
        """Decodes to mono.

        Args:
            extent: The recording, segment and channel.
            window: First and last sample (exclusive; `None` for the end), counted at the file's rate from the
                segment's start. Windows of one extent are cheapest in ascending order; they may overlap.

        Returns:
            `(samples,)` in [-1, 1], and the sample rate in Hz. A window beyond the end gives what is there.

        Raises:
            AudioError: One of the twelve names and the reason; nothing else escapes for a bad file.
        """
        with named_errors():
            if window is None:
                self.close()
                with open_recording(extent.path, extent.file_size) as recording:
                    return _read(recording, extent, None), int(recording.decoder.samplerate)
            return self._read_window(extent, window)

    def close(self) -> None:
        """Closes the recording that is kept open, if there is one."""
        if self._tape is not None:
            tape, self._tape = self._tape, None
            tape.close()

    def _read_window(self, extent: Extent, window: tuple[int, int | None]) -> tuple[NDArray[np.float32], int]:
        tape = self._tape
        if tape is None or tape.extent != extent or window[0] < tape.first:
            self.close()
            tape = _Tape(extent)
            if tape.recording.exact:
                with tape.stack:
                    return _read(tape.recording, extent, window), tape.rate
            self._tape = tape
        try:
            return tape.read(*window), tape.rate
        except BaseException:
            self.close()
            raise


class _Tape:
    """A recording that is read forwards only; holds the last window, which the next one may overlap."""

    def __init__(self, extent: Extent) -> None:
        self.extent = extent
        self.stack = ExitStack()
        self.recording = self.stack.enter_context(open_recording(extent.path, extent.file_size))
        self.rate = int(self.recording.decoder.samplerate)
        self._start, stop = _bounds(extent, self.rate, self.recording.num_samples)
        self._length = None if stop is None else stop - self._start
        self._begun = False
        self.first = 0
        self._held = np.zeros(0, np.float32)

    def close(self) -> None:
        """Closes the file."""
        self.stack.close()

    def read(self, first: int, last: int | None) -> NDArray[np.float32]:
        """The window; `first` is not before that of the last window."""
        if not self._begun:
            _skip(self.recording, self._start, self.rate)
            self._begun = True
        position = self.first + len(self._held)
        if position < first:
            position += _decode_past(self.recording, first - position)
        stop = min((end for end in (last, self._length) if end is not None), default=None)
        wanted = None if stop is None else max(0, stop - position)
        held = self._held[first - self.first :]
        samples = np.concatenate([held, *_mono(self.recording, wanted, self.extent.channel)])
        self.first, self._held = first, samples
        window = samples if stop is None else samples[: max(0, stop - first)]
        _check(window, self._start + first, None if stop is None else stop - first, self.recording, self.rate)
        return window


def _read(recording: Recording, extent: Extent, window: tuple[int, int | None] | None) -> NDArray[np.float32]:
    """A whole segment, or a window of it."""
    rate = int(recording.decoder.samplerate)
    start, stop = _bounds(extent, rate, recording.num_samples)
    if window is not None:
        ends = (stop, None if window[1] is None else start + window[1])
        start, stop = start + window[0], min((end for end in ends if end is not None), default=None)
    if start and recording.num_samples is not None:
        recording.decoder.seek(start)
    else:
        _skip(recording, start, rate)
    wanted = None if stop is None else max(0, stop - start)
    blocks = list(_mono(recording, wanted, extent.channel))
    samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    _check(samples, start, wanted, recording, rate)
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


def _skip(recording: Recording, num_samples: int, rate: int) -> None:
    """Decodes past the samples before a segment.

    Raises:
        AudioError: The recording ends before.
    """
    if num_samples and _decode_past(recording, num_samples) < num_samples:
        raise AudioError("truncated", f"the segment starts at {num_samples / rate:.3f} s, beyond the end")


def _decode_past(recording: Recording, num_samples: int) -> int:
    return sum(len(block) for block in recording.blocks(num_samples))


def _check(samples: NDArray[np.float32], start: int, wanted: int | None, recording: Recording, rate: int) -> None:
    """Refuses samples that are too few, none, or not finite; `start` is their place in the file."""
    missing = 0 if wanted is None else wanted - len(samples)
    if missing > (0 if recording.exact else SEGMENT_SLACK_S * rate):
        raise AudioError("truncated", f"{len(samples)} of {wanted} samples could be decoded at {rate} Hz")
    if len(samples) == 0:
        raise AudioError("empty", "no audio could be decoded")
    finite = np.isfinite(samples)
    if not finite.all():
        first = start + int(np.argmin(finite))
        raise AudioError("non_finite", f"sample {first} ({first / rate:.3f} s) is NaN or infinite")


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
