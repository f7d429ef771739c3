"""How many bytes of audio the headers of CAF, NIST SPHERE, VOC and AVR files claim, read before libsndfile sees them.

Of each of these libsndfile takes what is there: a cut one would be short without a word. IRCAM, PAF and PVF say
nothing of their size, and XI holds an instrument; whether one of those was cut is not noticed.
"""

from __future__ import annotations

import re
import struct
from typing import BinaryIO

from pipeline.audio.containers.riff import Container, read_at

_MAX_ELEMENTS = 10_000
_NIST_FIELD = re.compile(rb"^(channel_count|sample_count|sample_n_bytes) -i ([0-9]{1,18})\s*$", re.MULTILINE)
_NIST_PACKED = re.compile(rb"^sample_coding -s[0-9]+ \S*(embedded|mpeg)", re.MULTILINE)


def read_rarer(file: BinaryIO, file_size: int) -> Container | None:
    """Looks at the header of an open regular file; `None` if it is none of these.

    Args:
        file: Seekable; its position is moved.
        file_size: Bytes.

    Raises:
        OSError: The file cannot be read.
    """
    head = read_at(file, 0, 32)
    if head[:4] == b"caff":
        return _caf(file, file_size)
    if head[:8] == b"NIST_1A\n":
        return _nist(file, head, file_size)
    if head[:20] == b"Creative Voice File\x1a" and len(head) >= 26:
        return _voc(file, head, file_size)
    if head[:4] == b"2BIT" and len(head) == 32:
        return _avr(head, file_size)
    return None


def _caf(file: BinaryIO, file_size: int) -> Container:
    """Core Audio Format: chunks of four letters, a 64-bit size, a body; -1 is a size that is not known yet."""
    position = 8
    for _ in range(_MAX_ELEMENTS):
        head = read_at(file, position, 12)
        size = int.from_bytes(head[4:], "big", signed=True)
        if len(head) < 12 or size < 0:
            break
        if head[:4] == b"data":
            return Container(claimed=size, present=max(0, file_size - position - 12), demuxer="caf")
        position += 12 + size
    return Container(demuxer="caf")


def _nist(file: BinaryIO, head: bytes, file_size: int) -> Container:
    """NIST SPHERE: lines of a name, a type, a value; what was packed is not of the size they say."""
    length = head[8:16].strip()
    if not length.isdigit():
        return Container()
    header = read_at(file, 0, min(int(length), 2**16))
    fields = {name: int(value) for name, value in _NIST_FIELD.findall(header)}
    if len(fields) < 3 or _NIST_PACKED.search(header):
        return Container()
    claimed = fields[b"sample_count"] * fields[b"sample_n_bytes"] * fields[b"channel_count"]
    return Container(claimed=claimed, present=max(0, file_size - int(length)))


def _voc(file: BinaryIO, head: bytes, file_size: int) -> Container:
    """Creative Voice: blocks of a type, a 24-bit size, a body; the last is a zero alone."""
    position = int.from_bytes(head[20:22], "little")
    for _ in range(_MAX_ELEMENTS):
        block = read_at(file, position, 4)
        if len(block) < 4 or block[0] == 0:
            break
        position += 4 + int.from_bytes(block[1:], "little")
    return Container(claimed=position, present=file_size)


def _avr(head: bytes, file_size: int) -> Container:
    """Audio Visual Research: channels, bits and samples at fixed places, then 128 bytes of header are over."""
    stereo, bits = struct.unpack(">hh", head[12:16])
    (num_samples,) = struct.unpack(">I", head[26:30])
    bytes_per_sample = (2 if stereo else 1) * (2 if bits > 8 else 1)
    return Container(claimed=num_samples * bytes_per_sample, present=max(0, file_size - 128))
