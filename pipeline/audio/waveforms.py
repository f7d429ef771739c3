"""Reads a recording, or a segment, channel or window of it, as a mono waveform at the file's own sample rate.

A long recording is read window by window, so that memory depends on the window and not on the file. A segment or
window has exactly the samples that the whole file has there. Lossy codecs need the samples before a position to decode
it right, so the reader seeks to one second before the position and decodes from there. A recording in which the
decoder cannot seek, or that does not state its length, stays open between reads and is decoded forwards only.
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
"""Seconds that a lossy codec may round away at the end, and by which a segment may end after its recording."""
MAX_PEAK = 1e15
"""Largest allowed sample. The squares of larger samples, summed over hours, overflow float32 in the normalisation."""
PREROLL_S = 1.0
"""Seconds decoded before a position for a lossy codec. MP3's bit reservoir, Opus' convergence and Vorbis' overlap take
a tenth of it."""


@dataclass(frozen=True, slots=True)
class Extent:
    """The part of a file to read: a segment and a channel.

    Attributes:
        path: Path as in the manifest; `%XX` stands for an undecodable byte.
        start_s, end_s: The segment in seconds; `None` means the beginning or end of the file. An end up to 0.1 s after
            the recording's end counts as the recording's end.
        channel: Channel number, from 1; `None` averages all channels.
        file_size: Size of the file in bytes when the manifest was made; `None` if unknown.
    """

    path: str
    start_s: float | None = None
    end_s: float | None = None
    channel: int | None = None
    file_size: int | None = None


def channel_to_read(channel: int | None, channels: str) -> int | None:
    """Return the channel to read, for `Extent`: the channel of the row, or else what `channels` asks for.

    Args:
        channel: Channel that the manifest row names, from 1; `None` if it names none.
        channels: mix, first or each.
    """
    return channel or (1 if channels == "first" else None)


def read_waveform(
    path: str,
    *,
    start_s: float | None = None,
    end_s: float | None = None,
    file_size: int | None = None,
    channel: int | None = None,
) -> tuple[NDArray[np.float32], int]:
    """Decode a recording, or one segment of it, to mono. The arguments are the attributes of `Extent`.

    Returns:
        `(samples,)` in [-1, 1], and the sample rate in Hz.

    Raises:
        AudioError: The file is bad. The error has one of the twelve names; no other exception is raised.
    """
    return WaveformReader().read(Extent(path, start_s, end_s, channel, file_size))


class WaveformReader:
    """Reads waveforms. Keeps the last recording open if the decoder cannot seek in it."""

    def __init__(self) -> None:
        self._forward: _ForwardReader | None = None

    def read(self, extent: Extent, window: tuple[int, int | None] = (0, None)) -> tuple[NDArray[np.float32], int]:
        """Decode one window of a segment to mono.

        Args:
            extent: The recording, segment and channel.
            window: First and last sample (exclusive; `None` for the end), counted at the file's rate from the start
                of the segment. Windows may overlap. Reading those of one recording in ascending order is fastest.

        Returns:
            `(samples,)` in [-1, 1], and the sample rate in Hz. A window that goes beyond the end is shorter.

        Raises:
            AudioError: The file is bad. The error has one of the twelve names; no other exception is raised.
        """
        source = (extent.path, extent.channel, extent.file_size)
        with named_errors():
            if self._forward is None or self._forward.source != source:
                self.close()
                stack = ExitStack()
                recording = stack.enter_context(open_recording(extent.path, extent.file_size))
                if recording.seekable:
                    with stack:
                        return _read(recording, extent, window), int(recording.decoder.samplerate)
                self._forward = _ForwardReader(source, recording, stack)
            try:
                return self._forward.read(extent, window), self._forward.rate
            except _AlreadyPassedError:
                self.close()
                return self.read(extent, window)
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Close the recording that was kept open, if there is one."""
        if self._forward is not None:
            forward, self._forward = self._forward, None
            forward.stack.close()


class _AlreadyPassedError(Exception):
    """A window begins before the samples that a `_ForwardReader` still holds."""


class _ForwardReader:
    """Reads an open recording forwards only. Holds the samples of the last window, which the next may overlap."""

    def __init__(self, source: tuple[str, int | None, int | None], recording: Recording, stack: ExitStack) -> None:
        self.source = source
        self.stack = stack
        self.rate = int(recording.decoder.samplerate)
        self._recording = recording
        self._first = 0
        self._held = np.zeros(0, np.float32)

    def read(self, extent: Extent, window: tuple[int, int | None]) -> NDArray[np.float32]:
        """Decode a window of a segment, and decode and drop the samples before it.

        Raises:
            _AlreadyPassedError: The window begins before the samples that are still held.
        """
        first, last = _window_range(extent, window, self.rate, self._recording.num_samples)
        if first < self._first:
            raise _AlreadyPassedError
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
    """Read a window of a segment of a recording in which the decoder can seek."""
    rate = int(recording.decoder.samplerate)
    first, last = _window_range(extent, window, rate, recording.num_samples)
    if first:
        early = first if recording.exact else max(0, first - round(PREROLL_S * rate))
        recording.decoder.seek(early)
        _skip(recording, first - early, first, rate)
    blocks = list(_mono(recording, None if last is None else max(0, last - first), extent.channel))
    # Most recordings are one block, which is not copied.
    samples = blocks[0] if len(blocks) == 1 else np.concatenate([np.zeros(0, np.float32), *blocks])
    _check(samples, first, last, recording, rate)
    return samples


def _mono(recording: Recording, num_samples: int | None, channel: int | None) -> Iterator[NDArray[np.float32]]:
    """Decode at most `num_samples` and yield blocks of one channel, or of the average of all, `(samples,)` each."""
    channels = recording.decoder.channels
    if channel is not None and not 1 <= channel <= channels:
        has = f"the recording has {channels} channel{'s' if channels > 1 else ''}"
        raise AudioError("unreadable", f"channel {channel} was asked for, but {has}")
    for block in recording.blocks(num_samples):
        if channel is not None:
            yield block[:, channel - 1].copy()  # a view would keep the other channels in memory
        elif channels == 1:
            yield block[:, 0]
        else:
            with np.errstate(all="ignore"):
                yield block.mean(axis=1, dtype=np.float32)


def _skip(recording: Recording, num_samples: int, first: int, rate: int) -> None:
    """Decode and drop `num_samples` samples, up to the sample `first`.

    Raises:
        AudioError: The recording ends before `first`.
    """
    if num_samples and sum(len(block) for block in recording.blocks(num_samples)) < num_samples:
        raise AudioError("truncated", f"the recording ends before {first / rate:.3f} s, where the segment starts")


def _check(samples: NDArray[np.float32], first: int, last: int | None, recording: Recording, rate: int) -> None:
    """Refuse samples if there are too few or none, or if one is not finite or too large.

    `first` and `last` (exclusive; `None` for the end) are the position of the samples in the file.
    """
    missing = 0 if last is None else last - first - len(samples)
    if missing > (0 if recording.exact else SEGMENT_SLACK_S * rate):
        place = f", from {first / rate:.3f} s on" if first else ""
        count = f"{len(samples)} of {len(samples) + missing} samples"
        raise AudioError("truncated", f"{count} could be decoded at {rate} Hz{place}")
    if len(samples) == 0:
        raise AudioError("empty", "no audio could be decoded")
    # The comparison is false if a sample is NaN, because `max` and `min` then return NaN.
    if not max(samples.max(), -samples.min()) <= MAX_PEAK:
        broken = int(np.argmin(np.abs(samples) <= MAX_PEAK))
        place, value = f"sample {first + broken} ({(first + broken) / rate:.3f} s) is", float(samples[broken])
        if math.isfinite(value):
            raise AudioError(
                "non_finite", f"{place} {value:.3g}, too large to compute with; scale the recording to [-1, 1]"
            )
        raise AudioError("non_finite", f"{place} NaN or infinite")


def _window_range(
    extent: Extent, window: tuple[int, int | None], rate: int, total: int | None
) -> tuple[int, int | None]:
    """Return the first and last sample (exclusive) of a window of a segment, counted in the file."""
    start, stop = _segment_range(extent, rate, total)
    ends = (stop, None if window[1] is None else start + window[1])
    return start + window[0], min((end for end in ends if end is not None), default=None)


def _segment_range(extent: Extent, rate: int, total: int | None) -> tuple[int, int | None]:
    """Return the first and last sample (exclusive) of a segment in its file; the last is `None` if unknown.

    Raises:
        AudioError: The segment is impossible, or not within the recording's `total` samples.
    """
    start_s, end_s = extent.start_s, extent.end_s
    if not all(math.isfinite(time) for time in (start_s, end_s) if time is not None):
        raise AudioError("empty", f"the segment {start_s} to {end_s} s has a time that is not a finite number")
    start = max(0, round((start_s or 0.0) * rate))
    stop = total if end_s is None else round(end_s * rate)
    if end_s is not None and end_s * rate <= start:
        raise AudioError("empty", f"the segment ends at {end_s} s, not after its start at {start_s or 0.0} s")
    if total is not None and stop is not None:
        bounds = f"but the recording ends at {total / rate:.3f} s"
        if start >= total:
            raise AudioError("truncated", f"the segment starts at {start_s} s, {bounds}")
        if stop > total + SEGMENT_SLACK_S * rate:
            raise AudioError("truncated", f"the segment ends at {end_s} s, {bounds}")
        stop = min(stop, total)
    if start == stop:
        raise AudioError("empty", f"the segment {start_s} to {end_s} s contains no sample at {rate} Hz")
    return start, stop
