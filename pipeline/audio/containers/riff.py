"""Reads what the headers of WAV, AIFF, AU, W64, Ogg and MP3 files claim, before a decoder reads the file.

libsndfile makes three mistakes without an error: it reads a cut WAV, AIFF, AU, W64 or Ogg file as a shorter
recording; it reads a WAV whose data size is 0, as programs write it to a pipe, as empty; and it ends an MP3 that
states no length at an estimate of its own. This module collects the claims; `pipeline.audio.reader` decides which of
them are errors.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import BinaryIO

# These tags state the length of an MPEG stream. They stand in its first frame, which has at most 2,881 bytes.
_MPEG_LENGTH_TAGS = (b"Xing", b"Info", b"VBRI")
_MPEG_FRAME_BYTES = 4096
# Tags of up to this many bytes may follow the audio. More bytes are taken as more audio, so samples are counted.
_MPEG_TAIL_BYTES = 2048
_OGG_PAGE_BYTES = 65_307
_MAX_CHUNKS = 10_000
# If one of these follows a data chunk of size 0, the recording is empty. Anything else is audio from a pipe.
_METADATA_CHUNKS = frozenset(
    b"LIST|id3 |ID3 |bext|fact|cue |JUNK|junk|PEAK|_PMX|iXML|PAD |smpl|inst|cart|afsp|LGWV".split(b"|")
)
# If one of these follows a chunk of odd size immediately, the chunk's pad byte is missing.
_AFTER_ODD_CHUNKS = frozenset((b"fmt ", b"data", b"LIST", b"fact", b"COMM", b"SSND"))
_FORMS = frozenset((b"WAVE", b"AIFF", b"AIFC", b"8SVX", b"16SV"))


@dataclass(frozen=True, slots=True)
class Container:
    """What the headers of a file claim. A field keeps its default if the format has no such field.

    Attributes:
        sample_rate: Sample rate in Hz as written, which may be nonsense.
        num_channels: Number of channels as written.
        claimed: Bytes of audio that the header claims; `None` also if the header holds a pipe's placeholder.
        present: Bytes that the file has from the offset from which `claimed` counts.
        misleading_at: Offset of four bytes that mislead a decoder, which therefore sees 0xFFFFFFFF there. They are
            a data size of 0 before audio, or a tag that states the length of only the first of several MP3s.
        unmeasured: Whether the header does not state a length, as in an MPEG stream or a live recording.
        demuxer: FFmpeg's name of the format, if FFmpeg decodes the format or some of its codecs.
        unfinished: What is missing because the recording was never finished, as a clause for a message.
        chained: Whether several Ogg streams follow one another; a decoder reads only the first.
        unpadded: A chunk before the audio whose pad byte is missing, as a clause for a message. No decoder finds
            the chunks behind it.
        undecodable: The codec that no decoder here reads, and what converts the file, as a clause for a message.
    """

    sample_rate: int | None = None
    num_channels: int | None = None
    claimed: int | None = None
    present: int = 0
    misleading_at: int | None = None
    unmeasured: bool = False
    demuxer: str | None = None
    unfinished: str | None = None
    chained: bool = False
    unpadded: str | None = None
    undecodable: str | None = None


def read_container(file: BinaryIO, file_size: int) -> Container:
    """Read the header of an open regular file, and for Ogg also its last page.

    Args:
        file: A seekable file. Its position changes.
        file_size: Size in bytes.

    Returns:
        What the header claims; all defaults if the format is none of those known here.

    Raises:
        OSError: The file cannot be read.
    """
    head = read_at(file, 0, 64)
    magic = head[:4]
    if magic in (b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM") and head[8:12] in _FORMS:
        return _chunked(file, file_size, ">" if magic in (b"RIFX", b"FORM") else "<")
    if magic == b"riff":
        return _w64(file, file_size)
    if magic in (b".snd", b"dns.") and len(head) >= 24:
        return _au(head, file_size)
    if magic == b"OggS":
        return _ogg(file, file_size)
    return _mpeg(file, head)


def is_placeholder(size: int) -> bool:
    """Whether a 32-bit data size is a placeholder of a program that could not seek back to write the true size.

    ffmpeg writes 0xFFFFFFFF. SoX and arecord write a little less than 0x7FFFFFFF. Others write 0x80000000 or 0.
    """
    return size == 0 or 0x7FFF0000 <= size <= 0x80010000 or size >= 0xFFFF0000


def read_at(file: BinaryIO, offset: int, count: int) -> bytes:
    """Read at most `count` bytes from `offset`, which may be beyond the end of the file."""
    file.seek(offset)
    return file.read(count)


def _chunked(file: BinaryIO, file_size: int, order: str) -> Container:
    """Read RIFF, RIFX, RF64 and the IFF family (AIFF, 8SVX): chunks of a four-letter name, a size and a body."""
    position, size64 = 12, None
    sample_rate = num_channels = None
    for _ in range(_MAX_CHUNKS):
        head = read_at(file, position, 8)
        if len(head) < 8:
            break
        name, size = head[:4], struct.unpack(order + "I", head[4:])[0]
        start = position + 8
        if name == b"fmt ":
            body = read_at(file, start, 8)
            if len(body) == 8:
                _, num_channels, sample_rate = struct.unpack(order + "HHI", body)
        elif name == b"ds64":
            body = read_at(file, start, 16)
            size64 = struct.unpack("<QQ", body)[1] if len(body) == 16 else None
        elif name in (b"data", b"SSND", b"BODY"):
            claimed: int | None = size
            misleading_at = None
            if size == 0xFFFFFFFF and size64 not in (None, 0, 2**64 - 1):
                claimed = size64
            elif is_placeholder(size):
                claimed = None
                if size == 0 and name == b"data" and _audio_follows(file, start, file_size, order):
                    misleading_at = position + 4
            return Container(sample_rate, num_channels, claimed, max(0, file_size - start), misleading_at)
        # Chunks are padded to even sizes.
        if size % 2 and read_at(file, start + size, 4) in _AFTER_ODD_CHUNKS:
            return Container(sample_rate, num_channels, unpadded=f"the chunk {name!r} at byte {position}")
        position = start + size + size % 2
    return Container(sample_rate, num_channels)


def _audio_follows(file: BinaryIO, start: int, file_size: int, order: str) -> bool:
    """Whether the bytes from `start` are audio, and not a chunk of metadata."""
    head = read_at(file, start, 8)
    if len(head) < 8:
        return len(head) > 0
    fits = start + 8 + struct.unpack(order + "I", head[4:])[0] <= file_size
    return not (head[:4] in _METADATA_CHUNKS and fits)


def _w64(file: BinaryIO, file_size: int) -> Container:
    """Read Sony Wave64: chunks with a 16-byte name and a 64-bit size, aligned to 8 bytes.

    The size includes the 24 bytes of name and size.
    """
    position = 40
    for _ in range(_MAX_CHUNKS):
        head = read_at(file, position, 24)
        if len(head) < 24:
            break
        size = struct.unpack("<Q", head[16:])[0]
        if size < 24 or size >= 2**62:
            break
        if head[:4] == b"data":
            return Container(claimed=size - 24, present=max(0, file_size - position - 24))
        position += (size + 7) // 8 * 8
    return Container()


def _au(head: bytes, file_size: int) -> Container:
    order = ">" if head[:4] == b".snd" else "<"
    offset, size, _, sample_rate, num_channels = struct.unpack(order + "5I", head[4:24])
    claimed = None if is_placeholder(size) else size
    return Container(sample_rate, num_channels, claimed, max(0, file_size - offset))


def _ogg(file: BinaryIO, file_size: int) -> Container:
    """Compare the end of the last Ogg page with the end of the file (RFC 3533, section 6)."""
    start = max(0, file_size - _OGG_PAGE_BYTES)
    tail = read_at(file, start, _OGG_PAGE_BYTES)
    page = tail.rfind(b"OggS")
    if page < 0:
        return Container(demuxer="ogg")
    head = tail[page : page + 27]
    num_segments = head[26] if len(head) == 27 else 0
    sizes = tail[page + 27 : page + 27 + num_segments]
    end = start + page + 27 + num_segments + sum(sizes)
    return Container(claimed=end, present=file_size, demuxer="ogg", chained=head[14:18] not in _ogg_serials(file))


def _ogg_serials(file: BinaryIO) -> set[bytes]:
    """Return the serial numbers of the streams that begin at the start of the file.

    Their first pages come before all other pages (RFC 3533, section 6).
    """
    serials, position = set(), 0
    for _ in range(_MAX_CHUNKS):
        head = read_at(file, position, 27)
        if len(head) < 27 or head[:4] != b"OggS" or not head[5] & 0x02:
            break
        serials.add(head[14:18])
        sizes = read_at(file, position + 27, head[26])
        position += 27 + head[26] + sum(sizes)
    return serials


def skip_id3(head: bytes) -> int:
    """Return the bytes of the ID3v2 tag before the audio of a file that begins with `head`; 0 if there is none."""
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    # Each byte of an ID3v2 size holds seven bits.
    return 10 + sum((head[6 + at] & 0x7F) << (21 - 7 * at) for at in range(4))


def _mpeg(file: BinaryIO, head: bytes) -> Container:
    start = skip_id3(head)
    frame = read_at(file, start, _MPEG_FRAME_BYTES)
    if len(frame) < 4 or frame[0] != 0xFF or frame[1] & 0xE0 != 0xE0 or frame[1] & 0x06 == 0:
        return Container()
    tags = [place for place in map(frame.find, _MPEG_LENGTH_TAGS) if place >= 0]
    if not tags:
        return Container(unmeasured=True)
    claimed = _claimed_mpeg_bytes(frame[tags[0] :])
    if claimed is None or claimed >= file.seek(0, os.SEEK_END) - start - _MPEG_TAIL_BYTES:
        return Container()
    # Several MP3s were joined into this file, and the tag states the length of only the first.
    return Container(unmeasured=True, misleading_at=start + tags[0])


def _claimed_mpeg_bytes(tag: bytes) -> int | None:
    """Return the bytes of audio that a Xing or Info tag states; `None` if the tag has no such field."""
    if tag[:4] == b"VBRI" or len(tag) < 16:
        return None
    (flags,) = struct.unpack(">I", tag[4:8])
    offset = 8 + 4 * (flags & 1)  # the optional count of frames comes first
    return int(struct.unpack(">I", tag[offset : offset + 4])[0]) if flags & 2 else None


class CorrectedFile:
    """Gives libsndfile the bytes of a file with a corrected length.

    Four misleading bytes (`Container.misleading_at`) read as 0xFFFFFFFF. A file that states no length
    (`Container.unmeasured`) appears much longer than it is: libsndfile would end such an MP3 at an estimate from the
    bitrate of its first frame, which may be 40 times too small (320 against 8 kbit/s), and decodes to the real end if
    the file appears longer. Bytes far beyond the real end read as zeros, because mpg123 looks there for a tag and
    gives up if it cannot read.

    Attributes:
        furthest: Offset after the last byte that was read from the file.
    """

    def __init__(self, file: BinaryIO, file_size: int, container: Container) -> None:
        """Wrap `file`, which is not closed; `file_size` is in bytes."""
        self._file = file
        self._end = file_size
        self._size = 64 * file_size + 2**20 if container.unmeasured else file_size
        self._patch_at = container.misleading_at
        self._position = 0
        self.furthest = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to an offset and return the new position, as `io.RawIOBase.seek` does."""
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def tell(self) -> int:
        """Return the position, as `io.RawIOBase.tell` does."""
        return self._position

    def read(self, count: int) -> bytes:
        """Read at most `count` bytes, as `io.RawIOBase.read` does."""
        if self._position > self._end + 2**16:
            data = bytearray(min(count, 2**16, max(0, self._size - self._position)))
        else:
            data = bytearray(read_at(self._file, self._position, count))
            self.furthest = max(self.furthest, self._position + len(data))
        if self._patch_at is not None:
            first, last = self._patch_at - self._position, self._patch_at + 4 - self._position
            for index in range(max(0, first), min(len(data), last)):
                data[index] = 0xFF
        self._position += len(data)
        return bytes(data)
