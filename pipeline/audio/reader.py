"""One path to an open decoder and what its header says, or a named error.

Files are opened here and handed to libsndfile as a descriptor: given a name, it decodes an HTML page called
`x.au` as u-law noise, because it falls back to the extension. Nothing is allocated from a header's count.

When is a recording shorter than it should be (`truncated`)? Where every sample has its bytes (PCM, float,
u-law, A-law, FLAC) as soon as one sample is missing. The others (MP3, Vorbis, Opus, ADPCM, GSM) round to
frames and trim encoder delay, so up to 0.1 s may be missing. An MP3 without a length of its own is decoded
to its end, and must have been read up to its last 64 KiB (tags may follow the audio).

What libsndfile has no decoder for is recognised by its content (`pipeline.audio.containers.mp4`) and decoded by FFmpeg
(`pipeline.audio.ffmpeg`), from its beginning to its end. Ogg Opus stays with libsndfile: its samples are those of
`opusdec`, and FFmpeg's own decoder resamples the speech layer otherwise (by 37 microseconds).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray

from pipeline.audio.containers.caf import read_rarer
from pipeline.audio.containers.mp4 import read_multimedia
from pipeline.audio.containers.riff import Container, Stream, read_container
from pipeline.records import AudioHeader, ErrorName
from pipeline.runtime.errors import AudioError
from pipeline.runtime.paths import encode_path, resolve_path

if TYPE_CHECKING:
    from pipeline.audio.ffmpeg import FFmpegDecoder

__all__ = [
    "AudioError",
    "Recording",
    "encode_path",
    "named_errors",
    "open_recording",
    "read_header",
    "resolve_path",
]

MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 1_000, 768_000
MAX_CHANNELS = 1_024
_BLOCK_BYTES = 4 * 2**20
_UNREAD_BYTES = 64 * 2**10
# No codec of libsndfile packs more: a FLAC frame of 65,535 silent samples takes 11 bytes.
_MAX_SAMPLES_PER_BYTE = 8_192
# libsndfile's count where the header has none (FLAC from a pipe) is the largest 64-bit integer.
_UNKNOWN_COUNT = 2**62
# Codes of libsndfile (src/common.h) for contents it has no decoder for, and for ends before the end.
_UNSUPPORTED_CODES = frozenset((1, 4, 18, 78, 92, 100, 106, 110, 123, 159))
_OGG_UNSUPPORTED_CODE = 29  # "internal error", which is what it says of Speex
_ENDED_CODES = frozenset((39, 158))
_MEMORY_CODE = 17
# What it says of these tells a person nothing ("Unspecified internal error.", "Internal psf_fseek() failed.").
_PLAIN_WORDS = {
    29: "libsndfile cannot decode what is there",
    39: "it ends where its header says that more follows",
    43: "it ends where its header says that more follows",
}
_FFMPEG_KINDS = {
    "mov": "M4A, MP4, MOV and 3GP",
    "matroska": "WebM and Matroska",
    "asf": "Windows Media (WMA)",
    "amr": "AMR",
    "aac": "AAC",
    "ogg": "Ogg with this codec",
    "caf": "CAF with this codec",
}
# libsndfile gives zeros where a MIDI sample dump is cut, and cannot go to where a segment starts.
_REFUSED_FORMATS = {"SDS": "a MIDI sample dump"}
_EXACT_SUBTYPES = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW")


def read_header(path: str, go_on: Callable[[], bool] = lambda: True) -> AudioHeader:
    """What the file says of itself; where it does not say how long it is, the samples are counted.

    Args:
        path: As in the manifest.
        go_on: Asked while counting, which may take long; where it is false the count is given up.

    Raises:
        AudioError: not_found, unreadable, empty, unsupported_format, bad_sample_rate or truncated.
    """
    with named_errors(), open_recording(path) as recording:
        num_samples = recording.num_samples
        if num_samples is None:
            num_samples = sum(len(block) for block in takewhile(lambda _: go_on(), recording.blocks(None)))
            if num_samples == 0:
                raise AudioError("empty", "no audio could be decoded")
        decoder = recording.decoder
        return AudioHeader(decoder.samplerate, decoder.channels, num_samples, recording.file_size)


class _Decoder(soundfile.SoundFile):  # type: ignore[misc, unused-ignore]  # soundfile is not typed
    """Decodes in one go: `soundfile` seeks to where it already is after every read.

    libsndfile then restarts lossy codecs, which costs time, precision and lines on stderr.
    """

    def seek(self, frames: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_SET and frames == self.tell():
            return frames
        return int(super().seek(frames, whence))

    def where(self) -> int:
        """The sample that comes next; 0 where the codec cannot tell."""
        return int(self.tell()) if self.seekable() else 0


@dataclass(frozen=True, slots=True)
class Recording:
    """An open recording.

    Attributes:
        decoder: Stands at the sample that `blocks` gives next.
        stream: What the decoder reads instead of the file, where the header does not tell the truth.
        num_samples: Samples per channel; `None` where only decoding tells.
        file_size: Bytes.
        exact: Whether every sample has its bytes, so that none may be missing and a seek is exact and cheap.
    """

    decoder: _Decoder | FFmpegDecoder
    stream: Stream | None
    num_samples: int | None
    file_size: int
    exact: bool

    @property
    def seekable(self) -> bool:
        """Whether the decoder can go to any sample at once."""
        return self.num_samples is not None and self.decoder.seekable()

    def blocks(self, num_samples: int | None) -> Iterator[NDArray[np.float32]]:
        """Decodes at most `num_samples` from here, `(samples, channels)` a block; `None` reads to the end.

        Raises:
            AudioError: truncated or unreadable.
        """
        return _blocks(self, num_samples)


@contextmanager
def open_recording(path: str, file_size: int | None = None) -> Iterator[Recording]:
    """Opens a recording, inside `named_errors`.

    Args:
        path: As in the manifest; `%XX` stands for an undecodable byte.
        file_size: Bytes the file had when the manifest was made.
    """
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


@contextmanager
def named_errors() -> Iterator[None]:
    """Turns everything that can go wrong with a recording into `AudioError`."""
    try:
        yield
    except soundfile.LibsndfileError as error:
        raise AudioError(_name(error), _words(error)) from None
    except MemoryError:
        raise AudioError("out_of_memory", "not enough memory to decode it") from None
    except (FileNotFoundError, NotADirectoryError):
        raise AudioError("not_found", "no such file") from None
    except OSError as error:
        raise AudioError("unreadable", error.strerror or type(error).__name__) from None
    except (ValueError, RuntimeError) as error:
        raise AudioError("unreadable", str(error) or type(error).__name__) from None


def _name(error: soundfile.LibsndfileError) -> ErrorName:
    if error.code == _MEMORY_CODE:
        return "out_of_memory"
    return "truncated" if error.code in _ENDED_CODES else "unreadable"


def _words(error: soundfile.LibsndfileError) -> str:
    words: str = _PLAIN_WORDS.get(error.code, error.error_string)
    return words


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _require_regular(status: os.stat_result) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
    kind = kinds.get(stat.S_IFMT(status.st_mode), "a device")
    raise AudioError("unreadable", f"{kind}, not a recording; it was not opened")


def _decode(file: BinaryIO, file_size: int) -> Iterator[Recording]:
    container = read_multimedia(file, file_size)
    if container is not None:
        _require_possible(container)
        yield from _decode_with_ffmpeg(file, file_size, container)
        return
    container = read_rarer(file, file_size) or read_container(file, file_size)
    _require_possible(container)
    special = container.unmeasured or container.misleading_at is not None
    stream = Stream(file, file_size, container) if special else None
    file.seek(0)
    try:
        decoder = _Decoder(file.fileno() if stream is None else stream, closefd=False)
    except soundfile.LibsndfileError as error:
        of_ogg = container.demuxer == "ogg" and error.code == _OGG_UNSUPPORTED_CODE
        if error.code not in _UNSUPPORTED_CODES and not of_ogg:
            raise
        if container.demuxer is None:
            file.seek(0)
            message = f"{error.error_string} It begins with {file.read(16)!r}"
            raise AudioError("unsupported_format", message) from None
        decoder = None
    if decoder is None:
        yield from _decode_with_ffmpeg(file, file_size, container)
        return
    with decoder:
        if decoder.format in _REFUSED_FORMATS:
            message = f"{_REFUSED_FORMATS[decoder.format]}, which cannot be read reliably; convert it to WAV"
            raise AudioError("unsupported_format", message)
        _require_sample_rate(decoder.samplerate)
        num_samples = decoder.frames
        if num_samples == 0:
            raise AudioError("empty", "the header says 0 samples")
        counted = not container.unmeasured and num_samples < _UNKNOWN_COUNT
        if counted and num_samples > file_size * _MAX_SAMPLES_PER_BYTE:
            raise AudioError("truncated", f"{file_size} bytes cannot hold the header's {num_samples} samples")
        exact = decoder.subtype.startswith(_EXACT_SUBTYPES)
        yield Recording(decoder, stream, num_samples if counted else None, file_size, exact)


def _decode_with_ffmpeg(file: BinaryIO, file_size: int, container: Container) -> Iterator[Recording]:
    """Samples are always counted: a container's duration is off by encoder delay, padding or rounding."""
    assert container.demuxer is not None
    try:
        from pipeline.audio.ffmpeg import FFmpegDecoder
    except ImportError as error:
        remedy = "pip install 'overnight-speech[formats]'"
        message = f"{_FFMPEG_KINDS[container.demuxer]}: needs FFmpeg, which comes with PyAV ({error}); {remedy}"
        raise AudioError("unsupported_format", message) from None
    with FFmpegDecoder(file, container.demuxer, measured=not container.unmeasured) as decoder:
        _require_sample_rate(decoder.samplerate)
        yield Recording(decoder, None, None, file_size, exact=False)


def _require_possible(container: Container) -> None:
    if container.sample_rate is not None:
        _require_sample_rate(container.sample_rate)
    if container.num_channels is not None and not 1 <= container.num_channels <= MAX_CHANNELS:
        raise AudioError("unreadable", f"{container.num_channels} channels; 1 to {MAX_CHANNELS} can be read")
    if container.unpadded is not None:
        raise AudioError("unreadable", f"{container.unpadded} has an odd size, and no pad byte follows; write it again")
    if container.claimed is not None and container.claimed > container.present:
        raise AudioError("truncated", f"{container.claimed} bytes expected, {container.present} are there")
    if container.chained:
        message = (
            "several Ogg streams one after another, of which only the first would be read; join them into one file"
        )
        raise AudioError("unsupported_format", message)
    if container.unfinished is not None:
        raise AudioError("truncated", container.unfinished)


def _require_sample_rate(sample_rate: int) -> None:
    if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        allowed = f"{MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz can be read"
        raise AudioError("bad_sample_rate", f"{sample_rate} Hz; {allowed}")


def _blocks(recording: Recording, num_samples: int | None) -> Iterator[NDArray[np.float32]]:
    """Decodes at most `num_samples` from here, `(samples, channels)` a block; `None` reads to the end."""
    decoder = recording.decoder
    block_samples = max(1, _BLOCK_BYTES // (4 * decoder.channels))
    done, begin = 0, decoder.where()
    while num_samples is None or done < num_samples:
        count = block_samples if num_samples is None else min(block_samples, num_samples - done)
        try:
            block: NDArray[np.float32] = decoder.read(count, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            first, last = begin + done, min(begin + done + count, recording.num_samples or 0)
            place = f"after {first / decoder.samplerate:.1f} s"
            if last:
                place = f"between {first / decoder.samplerate:.1f} and {last / decoder.samplerate:.1f} s"
            raise AudioError(_name(error), f"damaged {place}: {_words(error)}") from None
        if len(block) == 0:
            break
        done += len(block)
        yield block
    stream = recording.stream
    at_end = num_samples is None or done < num_samples
    if at_end and stream is not None and stream.furthest < recording.file_size - _UNREAD_BYTES:
        message = f"the decoder gave up at byte {stream.furthest} of {recording.file_size}"
        raise AudioError("truncated", message)
