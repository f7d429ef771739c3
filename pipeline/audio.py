"""One path (and segment) to a mono waveform at the file's own rate, or a named error.

Files are opened here and handed to libsndfile as a descriptor: given a name, it decodes an HTML page called
`x.au` as u-law noise, because it falls back to the extension. Nothing is allocated from a header's count.

When is a recording shorter than it should be (`truncated`)? Where every sample has its bytes (PCM, float,
u-law, A-law, FLAC) as soon as one sample is missing. The others (MP3, Vorbis, Opus, ADPCM, GSM) round to
frames and trim encoder delay, so up to 0.1 s may be missing. An MP3 without a length of its own is decoded
to its end, and must have been read up to its last 64 KiB (tags may follow the audio).
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray

from pipeline.containers import Stream, read_container
from pipeline.paths import encode_path, resolve_path
from pipeline.records import AudioHeader, ErrorName

__all__ = [
    "AudioError",
    "encode_path",
    "read_header",
    "read_waveform",
    "resolve_path",
]

MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 1_000, 768_000
MAX_CHANNELS = 1_024
SEGMENT_SLACK_S = 0.1
_BLOCK_BYTES = 4 * 2**20
_UNREAD_BYTES = 64 * 2**10
# No codec of libsndfile packs more: a FLAC frame of 65,535 silent samples takes 11 bytes.
_MAX_SAMPLES_PER_BYTE = 8_192
# libsndfile's count where the header has none (FLAC from a pipe) is the largest 64-bit integer.
_UNKNOWN_COUNT = 2**62
# Codes of libsndfile (src/common.h) for contents it has no decoder for, and for ends before the end.
_UNSUPPORTED_CODES = frozenset((1, 4, 18, 78, 92, 100, 106, 110, 123, 159))
_ENDED_CODES = frozenset((39, 158))
_EXACT_SUBTYPES = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW")


class AudioError(Exception):
    """Why a recording has no waveform: one of the names users group by, and a line without the path."""

    def __init__(self, error: ErrorName, message: str) -> None:
        super().__init__(error, message)
        self.error: ErrorName = error
        self.message = " ".join(message.split())

    def __str__(self) -> str:
        return f"{self.error}: {self.message}"


def read_header(path: str) -> AudioHeader:
    """What the file says of itself; where it does not say how long it is, the samples are counted.

    Raises:
        AudioError: not_found, unreadable, empty, unsupported_format, bad_sample_rate or truncated.
    """
    with _open(path, None) as recording:
        num_samples = recording.num_samples
        if num_samples is None:
            num_samples = sum(len(block) for block in _blocks(recording, None))
            if num_samples == 0:
                raise AudioError("empty", "no audio could be decoded")
        decoder = recording.decoder
        return AudioHeader(decoder.samplerate, decoder.channels, num_samples, recording.file_size)


def read_waveform(
    path: str, *, start_s: float | None = None, end_s: float | None = None, file_size: int | None = None
) -> tuple[NDArray[np.float32], int]:
    """Decodes a recording, or one segment of it, to mono.

    Args:
        path: As in the manifest; `%XX` stands for an undecodable byte.
        start_s: Seconds; `None` for the beginning. Nothing outside is decoded where the format can seek.
        end_s: Seconds; `None` for the end. Up to 0.1 s beyond the recording's end is taken as its end.
        file_size: Bytes the file had when the manifest was made.

    Returns:
        `(samples,)` in [-1, 1], channels averaged, and the sample rate in Hz.

    Raises:
        AudioError: One of the twelve names and the reason; nothing else escapes for a bad file.
    """
    with _open(path, file_size) as recording:
        rate, total = recording.decoder.samplerate, recording.num_samples
        start, stop = _segment(start_s, end_s, rate, total)
        if start and total is not None:
            recording.decoder.seek(start)
        elif start and sum(len(block) for block in _blocks(recording, start)) < start:
            raise AudioError("truncated", f"the segment starts at {start / rate:.3f} s, beyond the end")
        wanted = None if stop is None else stop - start
        mixed = []
        for block in _blocks(recording, wanted):
            with np.errstate(all="ignore"):
                mixed.append(block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32))
        waveform = np.concatenate(mixed) if mixed else np.zeros(0, np.float32)
        missing = 0 if wanted is None else wanted - len(waveform)
        if missing > (0 if recording.exact else SEGMENT_SLACK_S * rate):
            got, expected = len(waveform), len(waveform) + missing
            raise AudioError("truncated", f"{got} of {expected} samples could be decoded at {rate} Hz")
        if len(waveform) == 0:
            raise AudioError("empty", "no audio could be decoded")
        finite = np.isfinite(waveform)
        if not finite.all():
            first = start + int(np.argmin(finite))
            raise AudioError("non_finite", f"sample {first} ({first / rate:.3f} s) is NaN or infinite")
        return waveform, rate


def _segment(start_s: float | None, end_s: float | None, rate: int, total: int | None) -> tuple[int, int | None]:
    """First and last sample (exclusive) of a segment; `None` for an end nobody knows."""
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


class _Decoder(soundfile.SoundFile):  # type: ignore[misc, unused-ignore]  # soundfile is not typed
    """Decodes in one go: `soundfile` seeks to where it already is after every read.

    libsndfile then restarts lossy codecs, which costs time, precision and lines on stderr.
    """

    def seek(self, frames: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_SET and frames == self.tell():
            return frames
        return int(super().seek(frames, whence))


@dataclass(frozen=True, slots=True)
class _Recording:
    """An open recording; `num_samples` is `None` where only decoding tells."""

    decoder: _Decoder
    stream: Stream | None
    num_samples: int | None
    file_size: int
    exact: bool


@contextmanager
def _open(path: str, file_size: int | None) -> Iterator[_Recording]:
    """Opens a recording and turns everything that can go wrong while it is open into `AudioError`."""
    try:
        found = resolve_path(path)
        _require_regular(os.stat(found))
        # A FIFO that takes the file's place meanwhile must not block.
        with open(found, "rb", buffering=0, opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            _require_regular(status)
            if file_size is not None and status.st_size != file_size:
                raise AudioError("changed", f"{status.st_size} bytes, {file_size} when the manifest was made")
            if status.st_size == 0:
                raise AudioError("empty", "the file has 0 bytes")
            yield from _decode(file, status.st_size)
    except soundfile.LibsndfileError as error:
        name: ErrorName = "truncated" if error.code in _ENDED_CODES else "unreadable"
        raise AudioError(name, error.error_string) from None
    except MemoryError:
        raise AudioError("out_of_memory", "not enough memory to decode it") from None
    except (FileNotFoundError, NotADirectoryError):
        raise AudioError("not_found", "no such file") from None
    except OSError as error:
        raise AudioError("unreadable", error.strerror or type(error).__name__) from None
    except (ValueError, RuntimeError) as error:
        raise AudioError("unreadable", str(error) or type(error).__name__) from None


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _require_regular(status: os.stat_result) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
    kind = kinds.get(stat.S_IFMT(status.st_mode), "a device")
    raise AudioError("unreadable", f"{kind}, not a recording; it was not opened")


def _decode(file: BinaryIO, file_size: int) -> Iterator[_Recording]:
    container = read_container(file, file_size)
    if container.sample_rate is not None:
        _require_sample_rate(container.sample_rate)
    if container.num_channels is not None and not 1 <= container.num_channels <= MAX_CHANNELS:
        raise AudioError("unreadable", f"{container.num_channels} channels; 1 to {MAX_CHANNELS} can be read")
    if container.claimed is not None and container.claimed > container.present:
        raise AudioError("truncated", f"{container.claimed} bytes expected, {container.present} are there")
    special = container.unmeasured or container.zero_size_at is not None
    stream = Stream(file, file_size, container) if special else None
    file.seek(0)
    try:
        decoder = _Decoder(file.fileno() if stream is None else stream, closefd=False)
    except soundfile.LibsndfileError as error:
        if error.code not in _UNSUPPORTED_CODES:
            raise
        file.seek(0)
        message = f"{error.error_string} It begins with {file.read(16)!r}"
        raise AudioError("unsupported_format", message) from None
    with decoder:
        _require_sample_rate(decoder.samplerate)
        num_samples = decoder.frames
        if num_samples == 0:
            raise AudioError("empty", "the header says 0 samples")
        counted = not container.unmeasured and num_samples < _UNKNOWN_COUNT
        if counted and num_samples > file_size * _MAX_SAMPLES_PER_BYTE:
            raise AudioError("truncated", f"{file_size} bytes cannot hold the header's {num_samples} samples")
        exact = decoder.subtype.startswith(_EXACT_SUBTYPES)
        yield _Recording(decoder, stream, num_samples if counted else None, file_size, exact)


def _require_sample_rate(sample_rate: int) -> None:
    if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        allowed = f"{MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz can be read"
        raise AudioError("bad_sample_rate", f"{sample_rate} Hz; {allowed}")


def _blocks(recording: _Recording, num_samples: int | None) -> Iterator[NDArray[np.float32]]:
    """Decodes at most `num_samples` from here, `(samples, channels)` a block; `None` reads to the end."""
    decoder = recording.decoder
    block_samples = max(1, _BLOCK_BYTES // (4 * decoder.channels))
    done = 0
    while num_samples is None or done < num_samples:
        count = block_samples if num_samples is None else min(block_samples, num_samples - done)
        try:
            block: NDArray[np.float32] = decoder.read(count, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            name: ErrorName = "truncated" if error.code in _ENDED_CODES else "unreadable"
            expected = "" if num_samples is None else f" of {num_samples}"
            message = f"damaged between samples {done} and {done + count}{expected}: {error.error_string}"
            raise AudioError(name, message) from None
        if len(block) == 0:
            break
        done += len(block)
        yield block
    stream = recording.stream
    at_end = num_samples is None or done < num_samples
    if at_end and stream is not None and stream.furthest < recording.file_size - _UNREAD_BYTES:
        message = f"the decoder gave up at byte {stream.furthest} of {recording.file_size}"
        raise AudioError("truncated", message)
