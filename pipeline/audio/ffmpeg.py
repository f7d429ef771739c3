"""Decodes recordings that libsndfile has no decoder for (M4A, MP4, WebM, AMR, WMA) by FFmpeg, through PyAV.

torchcodec is faster, but PyAV has three advantages: its wheels contain FFmpeg, it does not depend on torch, and it
exposes packets, which this project needs to detect damage and padding. `scripts/bench/decoders.py` compares the two;
`scripts/results/decoders.md` has the numbers. PyAV comes with the extra `formats`:

    pip install av

The samples equal those of `ffmpeg -i FILE -f f32le -`: encoder delay, pre-skip and discard padding are cut off as the
container says. FFmpeg 8 leaves the padding of an M4A's last frame in place; this module cuts it, as FFmpeg 9 does.

Recordings are untrusted. The caller picks the demuxer by the content, so FFmpeg never probes for a playlist. FFmpeg
reads one open file, does not learn the file's name, and cannot open another file. No video decoder is started.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from functools import cache
from typing import Any, BinaryIO, Literal, cast

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from numpy.typing import NDArray

from pipeline.audio.ffmpeg_packets import decode, error_message, error_name
from pipeline.runtime.errors import AudioError

__all__ = ["FFmpegDecoder"]

# NumPy types by FFmpeg's sample formats, and the factors that scale integers to [-1, 1]
# (libswresample/audioconvert.c).
_TYPES = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}
_SCALES = {"u8": 2.0**-7, "s16": 2.0**-15, "s32": 2.0**-31, "s64": 2.0**-63}


class FFmpegDecoder:
    """Decodes the main audio stream of an open file from its beginning, as `soundfile.SoundFile` does.

    The main stream is the one that `ffmpeg` picks: a stream marked as default before others, then the stream with the
    most channels, then the first.

    Attributes:
        samplerate: Sample rate of the decoded samples in Hz.
        channels: Number of channels of the decoded samples.
    """

    def __init__(self, file: BinaryIO, demuxer: str, *, measured: bool = True) -> None:
        """Open the container and decode the first frame.

        Args:
            file: A seekable file. It stays open, and nobody else may use it while the decoder is open.
            demuxer: FFmpeg's name of the container's format.
            measured: Whether the header states the length. Otherwise FFmpeg guesses it from the bitrate.

        Raises:
            AudioError: The file has no audio that can be decoded.
            OSError: The file cannot be read.
        """
        self.samplerate = self.channels = 0
        self._position = 0
        file.seek(0)
        self._container = _open_container(file, demuxer)
        try:
            self._frames = decode(self._container, _main_stream(self._container), measured)
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
        """Free what FFmpeg holds. The file stays open."""
        self._container.close()

    def next_sample(self) -> int:
        """Return the index of the next sample."""
        return self._position

    def seekable(self) -> bool:
        """Return false.

        FFmpeg seeks only to near a packet, and the first samples after a seek depend on what was decoded before.
        """
        return False

    def seek(self, frames: int) -> int:
        """Decode up to a later sample, and return the index of the next sample.

        Raises:
            ValueError: The sample lies before the current position.
        """
        if frames < self._position:
            raise ValueError(f"sample {frames} is before {self._position}; open the recording again")
        while self._position < frames and len(self.read(min(frames - self._position, 2**16))):
            pass
        return self._position

    def read(self, frames: int, dtype: Literal["float32"] = "float32", always_2d: bool = True) -> NDArray[np.float32]:
        """Decode at most `frames` samples.

        Args:
            frames: Samples to decode; fewer are returned only at the end.
            dtype: Only float32, as in `soundfile.SoundFile.read`.
            always_2d: Ignored; the result always has two dimensions.

        Returns:
            `(samples, channels)` in [-1, 1].

        Raises:
            AudioError: The file is damaged, or the sample rate or the number of channels changes within it.
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
        """Return the samples of the next frame in the decoder's own type; no samples at the end."""
        try:
            for frame, num_samples in self._frames:
                self._require_same(frame)
                if num_samples:
                    return _samples(frame)[:num_samples]
        except av.FFmpegError as error:
            raise AudioError(error_name(error), f"damaged: {error_message(error)}") from None
        return np.zeros((0, self.channels), np.float32)

    def _require_same(self, frame: AudioFrame) -> None:
        """Refuse a frame whose sample rate, channels or sample format differ from those of the first frame."""
        rate, channels, kind = frame.sample_rate, frame.layout.nb_channels, frame.format.name
        if not self.channels:
            self.samplerate, self.channels, self._kind = rate, channels, kind
        if (rate, channels, kind) != (self.samplerate, self.channels, self._kind):
            was = f"{self.samplerate} Hz, {self.channels} channels, {self._kind}"
            message = f"the audio changes from {was} to {rate} Hz, {channels} channels, {kind}"
            raise AudioError("unreadable", message)


def _open_container(file: BinaryIO, demuxer: str) -> InputContainer:
    try:
        return av.open(
            _NamelessFile(file),
            mode="r",
            format=demuxer,
            container_options={"codec_whitelist": _audio_decoders()},
            metadata_errors="replace",
            io_open=_open_nothing,
        )
    except av.FFmpegError as error:
        raise AudioError(error_name(error), f"FFmpeg cannot open the file: {error_message(error)}") from None


def _main_stream(container: InputContainer) -> AudioStream:
    streams = [stream for stream in container.streams.audio if stream.codec_context is not None]
    if streams:
        return max(streams, key=lambda stream: (bool(stream.disposition & Disposition.default), stream.channels))
    if container.streams.audio:
        raise AudioError("unsupported_format", "FFmpeg has no decoder for the file's audio")
    kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
    raise AudioError("empty", f"the file holds no audio, only {kinds}")


def _samples(frame: AudioFrame) -> NDArray[Any]:
    """Return `(samples, channels)` in the decoder's own type; `AudioFrame.to_ndarray` takes three times as long."""
    type_ = _TYPES[frame.format.name.removesuffix("p")]
    buffers = cast("tuple[memoryview, ...]", frame.planes)
    if not frame.format.is_planar:
        count = frame.samples * frame.layout.nb_channels
        return np.frombuffer(buffers[0], type_, count).reshape(frame.samples, -1)
    planes = [np.frombuffer(buffer, type_, frame.samples) for buffer in buffers]
    return planes[0][:, None] if len(planes) == 1 else np.stack(planes, axis=1)


def _scaled(samples: NDArray[Any]) -> NDArray[np.float32]:
    """Scale samples of any type to float32 in [-1, 1]."""
    kind = next(kind for kind, type_ in _TYPES.items() if samples.dtype == type_)
    if kind not in _SCALES:
        return samples.astype(np.float32, copy=False)
    zero = np.int16(128) if kind == "u8" else 0
    return (samples - zero).astype(np.float32) * np.float32(_SCALES[kind])


@cache
def _audio_decoders() -> str:
    """Return the names of all audio decoders, comma-separated.

    FFmpeg may use no others. Without this list, it starts a video decoder to learn the size of the picture.
    """
    names = []
    for name in sorted(av.codecs_available):
        with suppress(ValueError):  # the name belongs to an encoder
            if av.Codec(name, "r").type == "audio":
                names.append(name)
    return ",".join(names)


def _open_nothing(url: str, flags: int, options: dict[str, str]) -> BinaryIO:
    """Refuse a file that FFmpeg wants to open because the recording refers to it."""
    raise AudioError("unreadable", "the file refers to another file, which was not opened")


class _NamelessFile:
    """Wraps a file without its `name`, which PyAV would tell FFmpeg."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.read = file.read
        self.tell = file.tell

    def seek(self, offset: int, whence: int) -> int:
        """Return the new position, or a negative error number if a damaged file leads to an impossible position."""
        try:
            return self._file.seek(offset, whence)
        except (OSError, OverflowError):
            return -errno.EINVAL
