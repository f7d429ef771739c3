"""Opens a recording and returns a decoder with what the header says, or raises a named error.

`pipeline.audio.archives.opening` opens the file, or the member of an archive, and libsndfile gets what it has opened.
If libsndfile gets a name, it falls back to the extension and decodes an HTML page called `x.au` as u-law noise. No
memory is allocated from a count in a header.

A recording is `truncated` if it is shorter than its header says. In formats in which every sample has its own bytes
(PCM, float, u-law, A-law, FLAC), no sample may be missing. The other formats (MP3, Vorbis, Opus, ADPCM, GSM) round to
frames and trim encoder delay, so up to 0.1 s may be missing. An MP3 that states no length is decoded to its end, and
the decoder must have read up to the last 64 KiB of the file (tags may follow the audio).

Formats that libsndfile has no decoder for are recognised by their content (`pipeline.audio.containers.mp4`) and
decoded by FFmpeg (`pipeline.audio.ffmpeg`) from beginning to end. libsndfile decodes Ogg Opus, because its samples
equal those of `opusdec`; FFmpeg's own decoder resamples the speech layer differently (by 37 microseconds).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray

from pipeline.audio import libsndfile
from pipeline.audio.archives.opening import open_path
from pipeline.audio.containers.caf import read_rare_container
from pipeline.audio.containers.mp4 import read_multimedia
from pipeline.audio.containers.riff import Container, CorrectedFile, read_container
from pipeline.audio.libsndfile import SndfileDecoder
from pipeline.records import AudioHeader
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
# No codec of libsndfile packs more samples into a byte: a FLAC frame of 65,535 silent samples takes 11 bytes.
_MAX_SAMPLES_PER_BYTE = 8_192
# If the header has no count of samples (FLAC from a pipe), libsndfile returns the largest 64-bit integer.
_UNKNOWN_COUNT = 2**62
# Names of the formats that FFmpeg decodes, by FFmpeg's demuxer.
_FFMPEG_FORMATS = {
    "mov": "M4A, MP4, MOV and 3GP",
    "matroska": "WebM and Matroska",
    "asf": "Windows Media (WMA)",
    "amr": "AMR",
    "aac": "AAC",
    "ogg": "Ogg with this codec",
    "caf": "CAF with this codec",
}
# libsndfile returns zeros for the missing part of a cut MIDI sample dump, and cannot seek in one.
_REFUSED_FORMATS = {"SDS": "a MIDI sample dump"}
_EXACT_SUBTYPES = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW")


def read_header(path: str, go_on: Callable[[], bool] = lambda: True) -> AudioHeader:
    """Read the header of a recording. If the header does not state a length, the samples are decoded and counted.

    Args:
        path: Path as in the manifest.
        go_on: Called after each counted block, because counting may take long. Counting stops if it returns false.

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


@dataclass(frozen=True, slots=True)
class Recording:
    """An open recording.

    Attributes:
        decoder: The decoder, at the sample that `blocks` returns next.
        corrected: What the decoder reads instead of the file if the header does not state the true length.
        num_samples: Samples per channel; `None` if only decoding tells.
        file_size: Size in bytes.
        exact: Whether every sample has its own bytes. Then no sample may be missing, and a seek is exact and cheap.
    """

    decoder: SndfileDecoder | FFmpegDecoder
    corrected: CorrectedFile | None
    num_samples: int | None
    file_size: int
    exact: bool

    @property
    def seekable(self) -> bool:
        """Whether the decoder can seek to any sample."""
        return self.num_samples is not None and self.decoder.seekable()

    def blocks(self, num_samples: int | None) -> Iterator[NDArray[np.float32]]:
        """Decode from the current position and yield blocks of shape `(samples, channels)`.

        Args:
            num_samples: Samples to decode at most; `None` decodes to the end.

        Raises:
            AudioError: truncated or unreadable.
        """
        decoder = self.decoder
        block_samples = max(1, _BLOCK_BYTES // (4 * decoder.channels))
        done, begin = 0, decoder.next_sample()
        while num_samples is None or done < num_samples:
            count = block_samples if num_samples is None else min(block_samples, num_samples - done)
            try:
                block: NDArray[np.float32] = decoder.read(count, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                first, last = begin + done, min(begin + done + count, self.num_samples or 0)
                place = f"after {first / decoder.samplerate:.1f} s"
                if last:
                    place = f"between {first / decoder.samplerate:.1f} and {last / decoder.samplerate:.1f} s"
                message = f"damaged {place}: {libsndfile.error_message(error)}"
                raise AudioError(libsndfile.error_name(error), message) from None
            if len(block) == 0:
                break
            done += len(block)
            yield block
        at_end = num_samples is None or done < num_samples
        if at_end and self.corrected is not None and self.corrected.furthest < self.file_size - _UNREAD_BYTES:
            message = f"the decoder gave up at byte {self.corrected.furthest} of {self.file_size}"
            raise AudioError("truncated", message)


@contextmanager
def open_recording(path: str, file_size: int | None = None) -> Iterator[Recording]:
    """Open a recording. Call it inside `named_errors`.

    Args:
        path: Path as in the manifest; `%XX` stands for an undecodable byte.
        file_size: Size in bytes when the manifest was made; a file of another size is refused.
    """
    with open_path(path) as (file, size):
        if file_size is not None and size != file_size:
            message = f"the file has {size} bytes, but had {file_size} bytes when the manifest was made"
            raise AudioError("changed", message)
        if size == 0:
            raise AudioError("empty", "the file has 0 bytes")
        yield from _decode(file, size)


@contextmanager
def named_errors() -> Iterator[None]:
    """Turn every error that a recording can cause into an `AudioError`."""
    try:
        yield
    except soundfile.LibsndfileError as error:
        raise AudioError(libsndfile.error_name(error), libsndfile.error_message(error)) from None
    except MemoryError:
        raise AudioError("out_of_memory", "there is not enough memory to decode the file") from None
    except (FileNotFoundError, NotADirectoryError):
        raise AudioError("not_found", "no such file") from None
    except OSError as error:
        raise AudioError("unreadable", error.strerror or type(error).__name__) from None
    except (ValueError, RuntimeError) as error:
        raise AudioError("unreadable", str(error) or type(error).__name__) from None


def _decode(file: BinaryIO, file_size: int) -> Iterator[Recording]:
    """Yield the recording once, with the decoder for its content, and close the decoder afterwards."""
    container = read_multimedia(file, file_size)
    if container is not None:
        _require_possible(container)
        yield from _decode_with_ffmpeg(file, file_size, container)
        return
    container = read_rare_container(file, file_size) or read_container(file, file_size)
    _require_possible(container)
    needs_correction = container.unmeasured or container.misleading_at is not None
    corrected = CorrectedFile(file, file_size, container) if needs_correction else None
    decoder = _open_with_libsndfile(file, corrected, container)
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
            message = f"the header claims {num_samples} samples, more than {file_size} bytes can hold"
            raise AudioError("truncated", message)
        exact = decoder.subtype.startswith(_EXACT_SUBTYPES)
        yield Recording(decoder, corrected, num_samples if counted else None, file_size, exact)


def _open_with_libsndfile(
    file: BinaryIO, corrected: CorrectedFile | None, container: Container
) -> SndfileDecoder | None:
    """Open the file with libsndfile; return `None` if libsndfile has no decoder for it and FFmpeg may have one.

    Raises:
        AudioError: unsupported_format.
        soundfile.LibsndfileError: The file is damaged.
    """
    file.seek(0)
    try:
        return SndfileDecoder(corrected or _descriptor(file) or file, closefd=False)
    except soundfile.LibsndfileError as error:
        if container.undecodable is not None:
            raise AudioError("unsupported_format", container.undecodable) from None
        if not libsndfile.has_no_decoder(error, is_ogg=container.demuxer == "ogg"):
            raise
        if container.demuxer is not None:
            return None
        file.seek(0)
        message = f"{error.error_string} The file begins with {file.read(16)!r}"
        raise AudioError("unsupported_format", message) from None


def _descriptor(file: BinaryIO) -> int | None:
    """Return the descriptor of a file, which libsndfile reads faster than a file object; `None` for a member."""
    return file.fileno() if isinstance(file, io.FileIO) else None


def _decode_with_ffmpeg(file: BinaryIO, file_size: int, container: Container) -> Iterator[Recording]:
    """Yield the recording once, decoded by FFmpeg.

    The number of samples is left unknown, because a container's duration is off by encoder delay, padding or rounding.
    """
    assert container.demuxer is not None
    try:
        from pipeline.audio.ffmpeg import FFmpegDecoder
    except ImportError as error:
        kind = _FFMPEG_FORMATS[container.demuxer]
        remedy = "run pip install av, which the extra formats has"
        message = f"{kind} cannot be read without FFmpeg, which comes with PyAV ({error}); {remedy}"
        raise AudioError("unsupported_format", message) from None
    with FFmpegDecoder(file, container.demuxer, measured=not container.unmeasured) as decoder:
        _require_sample_rate(decoder.samplerate)
        yield Recording(decoder, None, None, file_size, exact=False)


def _require_possible(container: Container) -> None:
    """Refuse a header whose claims are impossible, or that no decoder reads right."""
    if container.sample_rate is not None:
        _require_sample_rate(container.sample_rate)
    if container.num_channels is not None and not 1 <= container.num_channels <= MAX_CHANNELS:
        raise AudioError("unreadable", f"{container.num_channels} channels; 1 to {MAX_CHANNELS} can be read")
    if container.unpadded is not None:
        message = f"{container.unpadded} has an odd size, but no pad byte follows; write the file again"
        raise AudioError("unreadable", message)
    if container.claimed is not None and container.claimed > container.present:
        raise AudioError("truncated", f"{container.claimed} bytes expected, {container.present} are there")
    if container.chained:
        message = "several Ogg streams one after another, of which a decoder reads only the first"
        raise AudioError("unsupported_format", f"{message}; convert the file to one stream, for example to WAV")
    if container.unfinished is not None:
        raise AudioError("truncated", container.unfinished)


def _require_sample_rate(sample_rate: int) -> None:
    if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        allowed = f"{MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz can be read"
        raise AudioError("bad_sample_rate", f"{sample_rate} Hz; {allowed}")
