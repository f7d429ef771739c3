"""Reads how many bytes of audio the headers of CAF, NIST SPHERE, VOC and AVR files claim.

libsndfile reads a cut file of these formats as a shorter recording, without an error; comparing the claim with the
file's size finds the cut. IRCAM, PAF and PVF headers do not state a size, and XI files hold an instrument, so a cut
in a file of those formats goes unnoticed.
"""

from __future__ import annotations

import re
import struct
from typing import BinaryIO

from pipeline.audio.containers.riff import Container, read_at

_MAX_ELEMENTS = 10_000
_NIST_FIELD = re.compile(rb"^(channel_count|sample_count|sample_n_bytes) -i ([0-9]{1,18})\s*$", re.MULTILINE)
_NIST_PACKED = re.compile(rb"^sample_coding -s[0-9]+ (\S*(?:embedded|mpeg)\S*)", re.MULTILINE)


def read_rare_container(file: BinaryIO, file_size: int) -> Container | None:
    """Read the header of an open regular file in CAF, NIST SPHERE, VOC or AVR format.

    Args:
        file: A seekable file. Its position changes.
        file_size: Size in bytes.

    Returns:
        What the header claims; `None` if the file is in another format.

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
    """Read Core Audio Format: chunks of a four-letter name, a 64-bit size (-1 if unknown) and a body."""
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
    """Read NIST SPHERE: header lines of a name, a type and a value. Packed audio has another size than they state."""
    length = head[8:16].strip()
    if not length.isdigit():
        return Container()
    header = read_at(file, 0, min(int(length), 2**16))
    fields = {name: int(value) for name, value in _NIST_FIELD.findall(header)}
    packed = _NIST_PACKED.search(header)
    if packed:
        coding = packed[1].decode("ascii", "backslashreplace")
        tool = "sph2pipe -f wav FILE FILE.wav" if "shorten" in coding else "w_decode of NIST's SPHERE package"
        return Container(undecodable=f"NIST SPHERE with the codec {coding}; convert it with {tool}")
    if len(fields) < 3:
        return Container()
    claimed = fields[b"sample_count"] * fields[b"sample_n_bytes"] * fields[b"channel_count"]
    return Container(claimed=claimed, present=max(0, file_size - int(length)))


def _voc(file: BinaryIO, head: bytes, file_size: int) -> Container:
    """Read Creative Voice: blocks of a type, a 24-bit size and a body. A single zero byte ends the file."""
    position = int.from_bytes(head[20:22], "little")
    for _ in range(_MAX_ELEMENTS):
        block = read_at(file, position, 4)
        if len(block) < 4 or block[0] == 0:
            break
        position += 4 + int.from_bytes(block[1:], "little")
    return Container(claimed=position, present=file_size)


def _avr(head: bytes, file_size: int) -> Container:
    """Read Audio Visual Research: a header of 128 bytes with channels, bits and samples at fixed offsets."""
    stereo, bits = struct.unpack(">hh", head[12:16])
    (num_samples,) = struct.unpack(">I", head[26:30])
    bytes_per_sample = (2 if stereo else 1) * (2 if bits > 8 else 1)
    return Container(claimed=num_samples * bytes_per_sample, present=max(0, file_size - 128))
