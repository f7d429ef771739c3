"""Recordings that libsndfile has no decoder for (M4A, MP4, WebM, AMR, WMA), decoded by FFmpeg through PyAV.

PyAV and not torchcodec, which is faster: PyAV's wheels bring FFmpeg along, it stands apart from torch, and what
it shows of packets tells damage and padding from a recording (`scripts/results/decoders.md` has the numbers, by
`scripts/bench/decoders.py`). It comes with an extra:

    pip install 'overnight-speech[formats]'

The samples are those of `ffmpeg -i FILE -f f32le -`: encoder delay, pre-skip and discard padding are cut off
as the container says. Where FFmpeg 8 leaves the padding of an M4A's last frame, it is cut as FFmpeg 9 does.

A recording is untrusted. The caller picks the demuxer by the content, so that no playlist is ever probed;
FFmpeg reads the one open file, has no name of it, and may open no other; no video decoder is started.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from typing import Any, BinaryIO, Literal, cast

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition
from numpy.typing import NDArray

from pipeline.records import ErrorName
from pipeline.runtime.errors import AudioError

__all__ = ["FFmpegDecoder"]

# NumPy's types of FFmpeg's, and the factors that make [-1, 1] of integers (libswresample/audioconvert.c).
_TYPES = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}
_SCALES = {"u8": 2.0**-7, "s16": 2.0**-15, "s32": 2.0**-31, "s64": 2.0**-63}
# How much less may be decoded than the header claims: Ogg says it to the sample; Windows Media rounds, and its
# decoder keeps the last frame. Other demuxers' claims are estimates, or are looked after otherwise.
_CLAIM_SLACK_S = {"ogg": 0.1, "asf": 0.5}
# Matroska: what stands between two frames of audio is less; what is lost without it is within the rounding.
_MAX_OVERHEAD_BYTES = 256
_GAP_S = 0.1


class FFmpegDecoder:
    """Decodes the main audio stream of an open file from its beginning, as `soundfile.SoundFile` does.

    The main one is the one `ffmpeg` takes: marked as the default before others, then with most channels,
    then the first.

    Attributes:
        samplerate: Hz, of the decoded samples.
        channels: Channels, of the decoded samples.
    """

    def __init__(self, file: BinaryIO, demuxer: str, *, measured: bool = True) -> None:
        """Opens the container and decodes the first frame.

        Args:
            file: Seekable; stays open, and must not be used by others meanwhile.
            demuxer: FFmpeg's name of the container's format.
            measured: The header says how long it is; otherwise FFmpeg guesses from the bitrate.

        Raises:
            AudioError: There is no audio that can be decoded.
            OSError: The file cannot be read.
        """
        self.samplerate = self.channels = 0
        self._position = 0
        file.seek(0)
        self._container = _open_container(file, demuxer)
        try:
            self._frames = _decode(self._container, _main_stream(self._container), measured)
            self._ahead = self._next()
            if not self.channels:
                raise AudioError("empty", "no audio could be decoded")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> FFmpegDecoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees what FFmpeg holds; the file stays open."""
        self._container.close()

    def where(self) -> int:
        """The sample that comes next."""
        return self._position

    def seekable(self) -> bool:
        """FFmpeg seeks to near a packet, and what a decoder returns first depends on what it decoded before."""
        return False

    def seek(self, frames: int) -> int:
        """Goes on to a later sample by decoding up to it; returns where it is.

        FFmpeg seeks to near a packet, and what a decoder returns first depends on what it decoded before.
        """
        if frames < self._position:
            raise ValueError(f"sample {frames} is before {self._position}; open the recording again")
        while self._position < frames and len(self.read(min(frames - self._position, 2**16))):
            pass
        return self._position

    def read(self, frames: int, dtype: Literal["float32"] = "float32", always_2d: bool = True) -> NDArray[np.float32]:
        """Decodes at most `frames` samples, `(samples, channels)` in [-1, 1]; fewer only at the end.

        Raises:
            AudioError: The file is damaged, or changes its sample rate or channels.
            OSError: The file cannot be read.
        """
        parts: list[NDArray[Any]] = []
        wanted = frames
        while wanted:
            if not len(self._ahead):
                self._ahead = self._next()
            if not len(self._ahead):
                break
            parts.append(self._ahead[:wanted])
            wanted -= len(parts[-1])
            self._ahead = self._ahead[len(parts[-1]) :]
        self._position += frames - wanted
        return _scaled(np.concatenate(parts)) if parts else np.zeros((0, self.channels), np.float32)

    def _next(self) -> NDArray[Any]:
        """The next frame's samples, as they were decoded; none at the end."""
        try:
            for frame, num_samples in self._frames:
                self._require_same(frame)
                if num_samples:
                    return _samples(frame)[:num_samples]
        except av.FFmpegError as error:
            raise AudioError(_name(error), f"damaged: {_words(error)}") from None
        return np.zeros((0, self.channels), np.float32)

    def _require_same(self, frame: AudioFrame) -> None:
        rate, channels, kind = frame.sample_rate, frame.layout.nb_channels, frame.format.name
        if not self.channels:
            self.samplerate, self.channels, self._kind = rate, channels, kind
        if (rate, channels, kind) != (self.samplerate, self.channels, self._kind):
            was = f"{self.samplerate} Hz, {self.channels} channels, {self._kind}"
            raise AudioError("unreadable", f"it goes on with {rate} Hz, {channels} channels, {kind} after {was}")


def _open_container(file: BinaryIO, demuxer: str) -> InputContainer:
    try:
        return av.open(
            _Nameless(file),
            mode="r",
            format=demuxer,
            container_options={"codec_whitelist": _audio_decoders()},
            metadata_errors="replace",
            io_open=_open_nothing,
        )
    except av.FFmpegError as error:
        raise AudioError(_name(error), f"FFmpeg cannot open it: {_words(error)}") from None


def _main_stream(container: InputContainer) -> AudioStream:
    streams = [stream for stream in container.streams.audio if stream.codec_context is not None]
    if streams:
        return max(streams, key=lambda stream: (bool(stream.disposition & Disposition.default), stream.channels))
    if container.streams.audio:
        raise AudioError("unsupported_format", "FFmpeg has no decoder for its audio")
    kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
    raise AudioError("empty", f"there is no audio in it, but {kinds}")


def _decode(container: InputContainer, stream: AudioStream, measured: bool) -> Iterator[tuple[AudioFrame, int]]:
    """Frames and how many of their samples count: all, except in the last one of an M4A or MP4.

    There the last packet's duration or the edit list says where the recording ends within its frame
    (ISO/IEC 14496-12, 8.6.1.2 and 8.6.6). Fragments are left alone, as FFmpeg does.
    """
    context, format_ = stream.codec_context, container.format.name
    context.thread_count = 1  # processes are the unit of parallelism here
    padded = format_.startswith("mov") and stream.frames > 0 and context.frame_size > 0
    matroska = format_.startswith("matroska")
    packets = _matroska_packets(container, stream, measured) if matroska else _packets(container, stream)
    held: tuple[AudioFrame, int] | None = None
    done = 0
    for packet in packets:
        for frame in _decode_packet(packet, packets, done):
            if held is not None:
                yield held[0], held[0].samples
            done += frame.samples
            held = frame, packet.duration or 0
    if held is None or stream.time_base is None:
        return
    frame, duration = held
    keep, scale = frame.samples, frame.sample_rate * stream.time_base
    claimed = round((stream.duration or 0) * scale)
    if padded:
        for end in (round(duration * scale), claimed - done + frame.samples):
            keep = end if 0 < end < keep else keep
    yield frame, keep
    missing = claimed - done
    if measured and missing > _CLAIM_SLACK_S.get(format_, math.inf) * frame.sample_rate:
        raise AudioError("truncated", f"{done} of {claimed} samples could be decoded at {frame.sample_rate} Hz")


def _decode_packet(packet: Packet[AudioStream], rest: Iterator[Packet[AudioStream]], done: int) -> list[AudioFrame]:
    """What one packet gives; `done` samples were decoded before."""
    try:
        return packet.decode()
    except av.FFmpegError as error:
        # A recording cut within a packet fails in its last one; what follows that one is empty and ends decoding.
        name = "truncated" if not any(later.size for later in rest) else _name(error)
        raise AudioError(name, f"damaged after sample {done}: {_words(error)}") from None


def _packets(container: InputContainer, stream: AudioStream) -> Iterator[Packet[AudioStream]]:
    for other in container.streams:
        if other is not stream:
            other.discard = Discard.all
    return container.demux(stream)


def _matroska_packets(container: InputContainer, stream: AudioStream, measured: bool) -> Iterator[Packet[AudioStream]]:
    """The stream's packets; at something unreadable FFmpeg skips to the next cluster without a word.

    Then time is missing between two packets, and so are bytes, which a pause does not take; or the last packet
    of all streams comes before the end.
    """
    end_byte, end_s, reached_s, lost = 0, 0.0, 0.0, False
    for packet in container.demux():
        start_s = float((packet.pts or 0) * packet.time_base)
        stop_s = start_s + float((packet.duration or 0) * packet.time_base)
        reached_s = max(reached_s, stop_s)
        if packet.pos is not None:
            lost |= 0 < end_byte < packet.pos - _MAX_OVERHEAD_BYTES
            end_byte = max(end_byte, packet.pos + packet.size)
        if packet.stream is stream:
            if lost and packet.size and start_s > end_s + _GAP_S:
                raise AudioError("unreadable", f"damaged between {end_s:.3f} and {start_s:.3f} s")
            end_s, lost = stop_s, False
            yield cast("Packet[AudioStream]", packet)
    claimed_s = (container.duration or 0) / 1e6
    if measured and reached_s < claimed_s - _GAP_S:
        raise AudioError("truncated", f"{reached_s:.3f} of {claimed_s:.3f} s could be read")


def _samples(frame: AudioFrame) -> NDArray[Any]:
    """`(samples, channels)` in the decoder's own type; `AudioFrame.to_ndarray` takes three times as long."""
    type_ = _TYPES[frame.format.name.removesuffix("p")]
    buffers = cast("tuple[memoryview, ...]", frame.planes)
    if not frame.format.is_planar:
        count = frame.samples * frame.layout.nb_channels
        return np.frombuffer(buffers[0], type_, count).reshape(frame.samples, -1)
    planes = [np.frombuffer(buffer, type_, frame.samples) for buffer in buffers]
    return planes[0][:, None] if len(planes) == 1 else np.stack(planes, axis=1)


def _scaled(samples: NDArray[Any]) -> NDArray[np.float32]:
    kind = next(kind for kind, type_ in _TYPES.items() if samples.dtype == type_)
    if kind not in _SCALES:
        return samples.astype(np.float32, copy=False)
    zero = np.int16(128) if kind == "u8" else 0
    return (samples - zero).astype(np.float32) * np.float32(_SCALES[kind])


def _name(error: av.FFmpegError) -> ErrorName:
    if isinstance(error, MemoryError):
        return "unreadable" if _memory_is_there() else "out_of_memory"
    if isinstance(error, LookupError):
        return "unsupported_format"
    return "truncated" if isinstance(error, EOFError) else "unreadable"


def _words(error: av.FFmpegError) -> str:
    if isinstance(error, MemoryError) and _memory_is_there():
        return "it asks for more memory than a recording takes"
    return error.strerror or type(error).__name__


def _memory_is_there() -> bool:
    """FFmpeg says the same where memory is short and where a damaged file names a size that it refuses."""
    try:
        np.empty(2**26, np.uint8)
    except MemoryError:
        return False
    return True


@cache
def _audio_decoders() -> str:
    """Without this FFmpeg starts a video's decoder to learn the size of its picture."""
    names = []
    for name in sorted(av.codecs_available):
        with suppress(ValueError):  # an encoder
            if av.Codec(name, "r").type == "audio":
                names.append(name)
    return ",".join(names)


def _open_nothing(url: str, flags: int, options: dict[str, str]) -> BinaryIO:
    raise AudioError("unreadable", "it refers to another file, which was not opened")


class _Nameless:
    """A file for PyAV, which tells FFmpeg the name of one that has it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.read = file.read
        self.tell = file.tell

    def seek(self, offset: int, whence: int) -> int:
        """The new position; as FFmpeg wants it, an error's negative number where a damaged file leads nowhere."""
        try:
            return self._file.seek(offset, whence)
        except (OSError, OverflowError):
            return -errno.EINVAL
