"""Decodes the packets of one audio stream with FFmpeg, detects missing packets, and names FFmpeg's errors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard

from pipeline.records import ErrorName
from pipeline.runtime.errors import AudioError

# Seconds by which the decoded audio may be shorter than the header claims, by demuxer. Ogg states the length to the
# sample. Windows Media rounds it, and its decoder keeps back the last frame. For other demuxers the length is an
# estimate, or is checked in another way.
_CLAIM_SLACK_S = {"ogg": 0.1, "asf": 0.5}
# In a Matroska file, two frames of audio are closer together than this. More bytes between them mean damage.
_MAX_OVERHEAD_BYTES = 256
# Times of Matroska packets are rounded, so a shorter gap may be no gap.
_GAP_S = 0.1


def decode(container: InputContainer, stream: AudioStream, measured: bool) -> Iterator[tuple[AudioFrame, int]]:
    """Yield the frames of a stream, each with the number of its samples that belong to the recording.

    These are all samples, except in the last frame of an M4A or MP4. There the duration of the last packet or the edit
    list says where the recording ends within the frame (ISO/IEC 14496-12, 8.6.1.2 and 8.6.6). Fragmented files keep
    the whole last frame, as in FFmpeg.

    Args:
        container: The open container.
        stream: The stream to decode.
        measured: Whether the header states the length. Otherwise FFmpeg's length is a guess, which is not checked.

    Raises:
        AudioError: The recording is damaged, or shorter than its header claims.
    """
    context, format_ = stream.codec_context, container.format.name
    context.thread_count = 1  # the pipeline reads in several processes; more threads would compete with them
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
    """Decode one packet to frames; `done` samples were decoded before, and `rest` are the packets after this one."""
    try:
        return packet.decode()
    except av.FFmpegError as error:
        # If the file was cut within a packet, decoding fails in the last packet that has content.
        name = "truncated" if not any(later.size for later in rest) else error_name(error)
        raise AudioError(name, f"damaged after sample {done}: {error_message(error)}") from None


def _packets(container: InputContainer, stream: AudioStream) -> Iterator[Packet[AudioStream]]:
    """Yield the packets of one stream; FFmpeg skips those of the others."""
    for other in container.streams:
        if other is not stream:
            other.discard = Discard.all
    return container.demux(stream)


def _matroska_packets(container: InputContainer, stream: AudioStream, measured: bool) -> Iterator[Packet[AudioStream]]:
    """Yield the packets of one stream of a Matroska file, and check that none are missing.

    FFmpeg skips damaged clusters without an error. Damage shows in two ways. Either both time and bytes are missing
    between two packets, while a pause in the recording leaves out only time. Or the last packet of all streams ends
    before the end that the header states.

    Raises:
        AudioError: Packets are missing.
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


def error_name(error: av.FFmpegError) -> ErrorName:
    """Return the name of the failure that an error of FFmpeg means."""
    if isinstance(error, MemoryError):
        return "unreadable" if _memory_is_there() else "out_of_memory"
    if isinstance(error, LookupError):
        return "unsupported_format"
    return "truncated" if isinstance(error, EOFError) else "unreadable"


def error_message(error: av.FFmpegError) -> str:
    """Return FFmpeg's message, or a clearer one."""
    if isinstance(error, MemoryError) and _memory_is_there():
        return "the file asks for more memory than a recording takes"
    return error.strerror or type(error).__name__


def _memory_is_there() -> bool:
    """Whether this process can still allocate memory.

    FFmpeg reports the same error if memory is short and if a damaged file states a size that FFmpeg refuses.
    """
    try:
        np.empty(2**26, np.uint8)
    except MemoryError:
        return False
    return True
