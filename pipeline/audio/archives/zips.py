"""Reads zip files, also those of more than 4 GB. Members are stored as they are, or deflated."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from pipeline.audio.archives.held import Held
from pipeline.audio.archives.members import Member
from pipeline.audio.archives.ranges import RangeFile, size_of
from pipeline.audio.archives.tars import Found
from pipeline.runtime.errors import AudioError
from pipeline.runtime.paths import encode_path

# PKWARE's APPNOTE, 4.3.7: signature, version, flags, method, time, date, CRC, both sizes, lengths of name and extra.
_HEADER = struct.Struct("<4sHHHHHLLLHH")
_MAX_BYTES = 2**31
# The member that was inflated last, because a long recording is read in several windows.
_LAST = Held(0)
_ENCRYPTED, _SIZES_FOLLOW, _IS_UTF8 = 1, 8, 0x800


def entries(file: BinaryIO) -> Iterator[Found]:
    """Yield every file of an open archive, from the directory at its end.

    Raises:
        AudioError: The archive has no directory, because it ends too early or is damaged.
        OSError: The archive cannot be read.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                if not info.is_dir():
                    name = encode_path(info.orig_filename)
                    yield Found(name, info.header_offset, info.compress_size)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        raise AudioError("unreadable", f"no readable zip file ({error})") from None


def open_entry(file: BinaryIO, member: Member, max_bytes: int | None = None) -> tuple[BinaryIO, int]:
    """Return a member of an open archive as a file, and its size in bytes. A deflated one is inflated into memory.

    Args:
        file: The archive.
        member: The member.
        max_bytes: Bytes after which a deflated member may be cut, because a few bytes can become very many.

    Raises:
        AudioError: The archive has something else there now, or the member cannot be read.
        OSError: The archive cannot be read.
    """
    file.seek(member.position)
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise AudioError("truncated", f"the archive ends before byte {member.position}, where the member begins")
    signature, _, flags, method, _, _, checksum, _, _, name_bytes, extra_bytes = _HEADER.unpack(header)
    name = file.read(name_bytes).decode("utf-8" if flags & _IS_UTF8 else "cp437", "replace")
    if signature != b"PK\3\4" or encode_path(name) != member.name:
        raise AudioError("changed", f"the archive was written again: at byte {member.position} is another member")
    if flags & _ENCRYPTED:
        raise AudioError("unreadable", "encrypted; unpack the archive with its password")
    start, end = member.position + _HEADER.size + name_bytes + extra_bytes, size_of(file)
    if start + member.size > end:
        raise AudioError("truncated", f"the archive ends at byte {end}, within this member")
    if method == zipfile.ZIP_STORED:
        return RangeFile(file, start, member.size), member.size  # type: ignore[return-value]  # is a BinaryIO
    if method != zipfile.ZIP_DEFLATED:
        raise AudioError("unsupported_format", f"compressed with method {method} of zip; write the archive with `zip`")

    def inflate() -> tuple[bytes, int]:
        file.seek(start)
        data = _inflated(file.read(member.size), None if flags & _SIZES_FOLLOW else checksum, max_bytes)
        return data, len(data)

    data = _LAST.get((member, end, max_bytes), inflate)
    return io.BytesIO(data), len(data)


def _inflated(deflated: bytes, checksum: int | None, max_bytes: int | None) -> bytes:
    """Inflate a member, or its first bytes.

    Raises:
        AudioError: The bytes are damaged, or a whole member would be too large.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = inflater.decompress(deflated, max_bytes or _MAX_BYTES)
    except zlib.error as error:
        raise AudioError("unreadable", f"damaged in the archive: {error}") from None
    if max_bytes is not None and len(data) == max_bytes:
        return data
    if len(data) == _MAX_BYTES:
        raise AudioError("unreadable", "more than 2 GB when it is inflated; unpack the archive")
    if not inflater.eof or (checksum is not None and zlib.crc32(data) != checksum):
        raise AudioError("unreadable", "damaged in the archive: its checksum is another one")
    return data
