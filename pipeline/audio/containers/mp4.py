"""Recognises MP4, Matroska, Windows Media, AMR and AAC files by their content and reads what their headers claim.

FFmpeg does not check these claims. It decodes a cut Matroska file as a shorter recording, without an error, and it
allocates a sample table of whatever length an MP4 file states.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

from pipeline.audio.containers.riff import Container, read_at, skip_id3

# The walk stops after this many elements. For comparison, an hour in fragments of one second has 7,200 boxes.
_MAX_ELEMENTS = 100_000
# QuickTime counts PCM frames of compressed audio as samples: IMA ADPCM packs 64 into 34 bytes.
_MAX_PACKETS_PER_BYTE = 8

_FIRST_BOXES = frozenset((b"ftyp", b"styp", b"moov", b"mdat"))
# QuickTime puts an empty `wide` box before `mdat`, as room for a longer size field. The size is part of the pattern,
# because the word alone may begin a text.
_WIDE = b"\0\0\0\x08wide"
_PARENT_BOXES = frozenset((b"moov", b"trak", b"mdia", b"minf", b"stbl"))
# Boxes of the top level. Any other name there is rubbish after the recording, not a box that was cut.
_TOP_BOXES = _FIRST_BOXES | frozenset(
    b"wide|pnot|moof|mfra|free|skip|udta|meta|uuid|sidx|ssix|pdin|emsg|prft".split(b"|")
)

_EBML = b"\x1a\x45\xdf\xa3"
_SEGMENT, _INFO, _CLUSTER, _DURATION = b"\x18\x53\x80\x67", b"\x15\x49\xa9\x66", b"\x1f\x43\xb6\x75", b"\x44\x89"
# SeekHead, Tracks, Cues, Chapters, Tags, Attachments, Void, CRC-32.
_OTHER_ELEMENTS = frozenset(
    bytes.fromhex(id_) for id_ in ("114d9b74", "1654ae6b", "1c53bb6b", "1043a770", "1254c367", "1941a469", "ec", "bf")
)

_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def read_multimedia(file: BinaryIO, file_size: int) -> Container | None:
    """Read the structure of an open regular file that takes FFmpeg to decode.

    Args:
        file: A seekable file. Its position changes.
        file_size: Size in bytes.

    Returns:
        What the headers claim; `None` if the file is in none of these formats.

    Raises:
        OSError: The file cannot be read.
    """
    head = read_at(file, 0, 64)
    if head[4:8] in _FIRST_BOXES or head[:8] == _WIDE:
        return _boxes(file, file_size)
    if head[:4] == _EBML:
        return _matroska(file, file_size)
    if head[:16] == _ASF_HEADER:
        return _asf(file, head, file_size)
    if head[:5] == b"#!AMR":
        return Container(unmeasured=True, demuxer="amr")
    may_be_adts = head[:1] == b"\xff" or head[:3] == b"ID3"
    if may_be_adts and _is_adts(read_at(file, skip_id3(head), 2**14)):
        return Container(unmeasured=True, demuxer="aac")
    return None


def _boxes(file: BinaryIO, file_size: int) -> Container:
    """Read MP4, M4A, 3GP and MOV (ISO/IEC 14496-12, 4.2).

    The file is a sequence of boxes, each with a size, a four-letter name and a body. Some bodies hold boxes.
    """
    position = claimed = num_packets = top_end = 0
    has_index = False
    for _ in range(_MAX_ELEMENTS):
        head = read_at(file, position, 20)
        at_top = position >= top_end
        if len(head) < 8 or (at_top and head[4:8] not in _TOP_BOXES):
            break
        size, name, body = int.from_bytes(head[:4], "big"), head[4:8], 8
        if size == 1 and len(head) >= 16:
            size, body = int.from_bytes(head[8:16], "big"), 16
        end = position + size if size else file_size
        if end < position + body:
            break
        if at_top:
            top_end = claimed = end
        has_index |= name == b"moov"
        if name == b"stsz" and len(head) == 20:
            num_packets = max(num_packets, int.from_bytes(head[16:], "big"))
        position = position + body if name in _PARENT_BOXES else end
        if position >= file_size:
            break
    if num_packets > _MAX_PACKETS_PER_BYTE * file_size:
        claimed = num_packets
    unfinished = None if has_index else "the index (the moov box), which recorders write last, is missing"
    return Container(claimed=claimed, present=file_size, demuxer="mov", unfinished=unfinished)


def _matroska(file: BinaryIO, file_size: int) -> Container:
    """Read Matroska and WebM (RFC 8794, RFC 9559): elements of an id, a size (which may be unknown) and a body."""
    position = claimed = info_end = 0
    measured = whole_known = False
    for _ in range(_MAX_ELEMENTS):
        head = read_at(file, position, 12)
        id_ = head[: _vint_length(head)]
        length = _vint_length(head[len(id_) :])
        in_info = position < info_end
        measured |= in_info and id_ == _DURATION
        if not id_ or not length or len(head) < len(id_) + length:
            break
        if not in_info and id_ not in (_EBML, _SEGMENT, _INFO, _CLUSTER) and id_ not in _OTHER_ELEMENTS:
            break  # rubbish after the recording, or the blocks of a cluster of unknown size
        mask = (1 << 7 * length) - 1
        size = int.from_bytes(head[len(id_) : len(id_) + length], "big") & mask
        body = position + len(id_) + length
        end = body if size == mask else body + size
        claimed = max(claimed, end)
        whole_known |= id_ == _SEGMENT and end > body
        if id_ == _CLUSTER and whole_known:
            break
        info_end = end if id_ == _INFO else info_end
        position = body if id_ in (_SEGMENT, _INFO) else end
        if position >= file_size:
            break
    return Container(claimed=claimed, present=file_size, unmeasured=not measured, demuxer="matroska")


def _vint_length(data: bytes) -> int:
    """Return the bytes of a variable-length number: one more than its leading zero bits, or 0 if `data` has none."""
    return 9 - data[0].bit_length() if data and data[0] else 0


def _asf(file: BinaryIO, head: bytes, file_size: int) -> Container:
    """Read Windows Media (Advanced Systems Format, sections 3 and 5).

    The file is a sequence of objects, each with a GUID, the size of the whole object and a body.
    """
    header_size = int.from_bytes(head[16:24], "little")
    data = read_at(file, header_size, 24) if 30 <= header_size < file_size else b""
    claimed = None
    if data[:16] == _ASF_DATA and len(data) == 24:
        claimed = header_size + int.from_bytes(data[16:], "little")
    position = 30
    properties = b""
    while position < min(header_size, file_size) and properties[:16] != _ASF_FILE_PROPERTIES:
        properties = read_at(file, position, 48)
        position += max(24, int.from_bytes(properties[16:24], "little"))
    # A stream that was captured live states no file size, or the size of another file.
    measured = properties[:16] == _ASF_FILE_PROPERTIES and properties[40:48] == struct.pack("<Q", file_size)
    return Container(claimed=claimed, present=file_size, unmeasured=not measured, demuxer="asf")


def _is_adts(data: bytes) -> bool:
    """Whether `data` begins an AAC stream (ISO/IEC 13818-7, 6.2).

    Two consecutive frame headers must agree, or the file must end after the first frame.
    """
    if len(data) < 7 or data[0] != 0xFF or data[1] & 0xF6 != 0xF0 or data[2] >> 2 & 0xF > 12:
        return False
    size = (data[3] & 3) << 11 | data[4] << 3 | data[5] >> 5
    return size >= 7 and data[size : size + 3] in (data[:3], b"")
