"""Bad inputs, made of real recordings, and what becomes of each: a failure that says why, or the right result.

`FILES` are for one folder, `ROWS` for one list beside good rows; a list of `LISTS` is refused as a whole.
"""

from __future__ import annotations

import io
import os
import shutil
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import ArrayLike, NDArray
from running import DATA

FSDD = DATA / "fsdd"
SEVEN, TWO = FSDD / "7_theo_1.wav", FSDD / "2_jackson_1.wav"
RATE = 8_000
"""Hz of the digits."""

# -- Files with any lie in their header ----------------------------------------------------------------------------


def pcm(samples: NDArray[np.float32]) -> bytes:
    return (samples * 32767).astype("<i2").tobytes()


def wav(
    data: bytes,
    *,
    data_size: int | None = None,
    riff_size: int | None = None,
    codec: int = 1,
    channels: int = 1,
    rate: int = 16_000,
    bits: int = 16,
    block_align: int | None = None,
    codec_fields: bytes = b"",
    before: bytes = b"",
    after: bytes = b"",
) -> bytes:
    """A WAV file with any lie in its header."""
    align = channels * bits // 8 if block_align is None else block_align
    second = min(rate * channels * bits // 8, 0xFFFFFFFF)
    fmt = struct.pack("<HHIIHH", codec, channels, rate, second, align & 0xFFFF, bits) + codec_fields
    body = b"WAVEfmt " + struct.pack("<I", len(fmt)) + fmt + before
    body += b"data" + struct.pack("<I", len(data) if data_size is None else data_size) + data + after
    return b"RIFF" + struct.pack("<I", len(body) if riff_size is None else riff_size) + body


def chunk(name: bytes, body: bytes, padded: bool = True) -> bytes:
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2 if padded else 0)


def with_flac_total(flac: bytes, total: int) -> bytes:
    """STREAMINFO holds the number of samples in the last 36 bits of bytes 18 to 25."""
    fields = int.from_bytes(flac[18:26], "big") >> 36 << 36
    return flac[:18] + (fields | total).to_bytes(8, "big") + flac[26:]


def samples_of(path: Path = SEVEN) -> NDArray[np.int16]:
    """`(samples,)` at 8 kHz."""
    samples: NDArray[np.int16] = soundfile.read(path, dtype="int16")[0]
    return samples


def encoded(samples: ArrayLike, format_: str, subtype: str | None = None, rate: int = RATE) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=format_, subtype=subtype)
    return buffer.getvalue()


def speech(num_samples: int, rate: int = 16_000) -> bytes:
    """A WAV of the first samples of a digit, as if they had been recorded at another rate."""
    return wav(samples_of()[:num_samples].tobytes(), rate=rate)


WHOLE = SEVEN.read_bytes()
HEADER_BYTES = 44
PCM = WHOLE[HEADER_BYTES:]
NUM_SAMPLES = len(PCM) // 2

# -- One folder ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BadFile:
    """A file of the folder.

    Attributes:
        title: What is wrong with it.
        make: Makes it at a path.
        error: The name of its failure; `None` where the result is right.
        message: Regular expression of what the failure says.
        text: What is heard in it; `None` where nobody can tell.
        num_samples: Of the file, at its own rate.
        name: In the folder; by default its title and `.wav`.
        id: By default its name.
        changed: What happens to it after the manifest was made.
    """

    title: str
    make: Callable[[Path], object]
    error: str | None = None
    message: str = ""
    text: str | None = None
    num_samples: int | None = None
    name: str = ""
    id: str = ""
    changed: Callable[[Path], object] | None = None

    @property
    def file_name(self) -> str:
        return self.name or f"{self.title.replace('/', '')}.wav"

    @property
    def row_id(self) -> str:
        return self.id or self.file_name


def _bad(title: str, data: bytes | Callable[[Path], object], error: str, message: str, **others: Any) -> BadFile:
    return BadFile(title, _maker(data), error, message, **others)


def _right(
    title: str,
    data: bytes | Callable[[Path], object] = WHOLE,
    text: str | None = "SEVEN",
    num_samples: int = NUM_SAMPLES,
    **others: Any,
) -> BadFile:
    return BadFile(title, _maker(data), text=text, num_samples=num_samples, **others)


def _maker(data: bytes | Callable[[Path], object]) -> Callable[[Path], object]:
    return data if callable(data) else lambda path: path.write_bytes(data)


def _replaced(replace: Callable[[Path], object]) -> Callable[[Path], object]:
    def unlinked_and_made(path: Path) -> None:
        path.unlink()
        replace(path)

    return unlinked_and_made


def _folder_with_a_recording(path: Path) -> None:
    path.mkdir()
    shutil.copy(SEVEN, path / "inside.wav")


def _unreadable(path: Path) -> None:
    path.write_bytes(WHOLE)
    path.chmod(0)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(path.parent)  # the path of a socket has 107 bytes at most
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


def _with_garbage(mp3: bytes) -> bytes:
    third = len(mp3) // 3
    return mp3[:third] + np.random.default_rng(0).bytes(5_000) + mp3[third:]


_ADPCM = {"bits": 4, "rate": RATE}


def _unmarked(ogg: bytes) -> bytes:
    """Without the mark of the last page, which Android's recorders do not set (RFC 3533, section 6)."""
    start = ogg.rindex(b"OggS")
    page = bytearray(ogg[start:])
    page[5] &= ~0x04
    page[22:26] = bytes(4)
    checksum = 0
    for byte in page:
        checksum ^= byte << 24
        for _ in range(8):
            checksum = (checksum << 1 ^ (0x04C11DB7 if checksum & 0x80000000 else 0)) & 0xFFFFFFFF
    page[22:26] = struct.pack("<I", checksum)
    return ogg[:start] + bytes(page)


_FLAC = encoded(samples_of(), "FLAC")
_OGG = encoded(samples_of(), "OGG")
_FLOATS = samples_of() / 2.0**15
_ONE_INF = np.where(np.arange(NUM_SAMPLES) == 1_000, np.inf, _FLOATS)
_HTML = b"<!DOCTYPE html>\n<html><body>403 Forbidden</body></html>\n" * 99
_LIST = chunk(b"LIST", b"INFO" + bytes(41))

FILES = (
    # Cut, empty, or with a header that lies.
    _bad("zero bytes", b"", "empty", "the file has 0 bytes"),
    _bad("header only", WHOLE[:HEADER_BYTES], "truncated", f"{len(PCM)} bytes expected, 0 are there"),
    _bad("cut within its header", WHOLE[:30], "unreadable", "No 'data' chunk"),
    _bad("cut mid-sample", WHOLE[:-1], "truncated", f"{len(PCM)} bytes expected, {len(PCM) - 1} are there"),
    _right("data size 0", wav(PCM, rate=RATE, data_size=0)),
    _right("data size 0xFFFFFFFF", wav(PCM, rate=RATE, data_size=0xFFFFFFFF, riff_size=0xFFFFFFFF)),
    _right("RIFF size too small", wav(PCM, rate=RATE, riff_size=100)),
    _bad(
        "odd chunk without pad",
        wav(PCM, rate=RATE, before=chunk(b"LIST", b"INFO" + bytes(41), padded=False)),
        "unreadable",
        "chunk b'LIST' at byte 36 has an odd size, but no pad byte follows",
    ),
    _right("odd chunk without pad at the end", wav(PCM, rate=RATE, after=chunk(b"junk", b"odd", padded=False))),
    _right("trailing chunks", wav(PCM, rate=RATE, after=_LIST + chunk(b"id3 ", bytes(100)))),
    _right("trailing rubbish", wav(PCM, rate=RATE, after=b"rubbish")),
    _right("RF64", encoded(samples_of(), "RF64")),
    _bad("no data chunk", (DATA / "broken" / "bad.wav").read_bytes(), "unreadable", "No 'data' chunk"),
    _bad("found by fuzzing", (DATA / "broken" / "awful.wav").read_bytes(), "bad_sample_rate", r"1092676 Hz; 1000 to"),
    _bad("FLAC cut mid-frame", _FLAC[: len(_FLAC) // 2], "truncated", r"\d+ of 2892 samples|s: ", name="cut.flac"),
    _right("FLAC with total samples 0", with_flac_total(_FLAC, 0), name="uncounted.flac"),
    _bad("Ogg cut", _OGG[: len(_OGG) * 2 // 3], "truncated", r"\d+ bytes expected, \d+ are there", name="cut.ogg"),
    _bad(
        "CAF cut", encoded(samples_of(), "CAF")[:-1], "truncated", r"\d+ bytes expected, \d+ are there", name="cut.caf"
    ),
    _bad(
        "NIST SPHERE cut", encoded(samples_of(), "NIST")[:-1], "truncated", "5784 bytes expected, 5783 are there",
        name="cut.sph",
    ),
    _bad(
        "NIST SPHERE with shorten",
        b"NIST_1A\n   1024\nchannel_count -i 1\nsample_count -i 900\nsample_rate -i 8000\nsample_n_bytes -i 2\n"
        b"sample_byte_format -s2 01\nsample_coding -s26 pcm,embedded-shorten-v2.00\nend_head\n".ljust(1024)
        + bytes(900),
        "unsupported_format",
        "the codec pcm,embedded-shorten-v2.00; convert it with sph2pipe",
        name="packed.sph",
    ),
    _bad(
        "MIDI sample dump", encoded(samples_of(), "SDS"), "unsupported_format", "a MIDI sample dump, .* convert it",
        name="dump.sds",
    ),
    _right("Ogg whose last page is not marked", _unmarked(_OGG), name="unmarked.ogg"),
    # Not what the name says.
    _right("MP3 named wav", encoded(samples_of(), "MP3")),
    _bad(
        "garbage in the middle of an MP3",
        _with_garbage(encoded(np.tile(samples_of(), 40), "MP3")),
        "unreadable",
        r"damaged after 0\.0 s: libsndfile cannot decode what is there",
        name="garbage.mp3",
    ),
    _bad("HTML named flac", _HTML, "unsupported_format", "begins with b'<!DOCTYPE html", name="page.flac"),
    _bad("text named wav", b"Not the samples.\n" * 9, "unsupported_format", "begins with b'Not the"),
    _bad(
        "video without audio", (DATA / "formats" / "silent.mp4").read_bytes(), "empty", "no audio, only video",
        name="silent.mp4",
    ),
    # Encodings.
    _bad(
        "MS ADPCM with blocks of 0 bytes",
        wav(bytes(70_000), codec=2, block_align=0, codec_fields=bytes(34), **_ADPCM),
        "unreadable",
        "ADPCM WAV file. Invalid number of samples per block",
    ),
    _bad(
        "MS ADPCM with blocks of 65535 bytes",
        wav(bytes(70_000), codec=2, block_align=65_535, codec_fields=bytes(34), **_ADPCM),
        "unreadable",
        "ADPCM WAV file. Invalid number of samples per block",
    ),
    _bad(
        "IMA ADPCM with blocks of 65535 bytes",
        wav(bytes(70_000), codec=0x11, block_align=65_535, codec_fields=b"\2\0\xff\xff", **_ADPCM),
        "unreadable",
        "libsndfile cannot decode what is there",
    ),
    _bad(
        "all NaN", encoded(np.full(NUM_SAMPLES, np.nan), "WAV", "FLOAT"), "non_finite", r"sample 0 \(0.000 s\) is NaN"
    ),
    _bad("one Inf", encoded(_ONE_INF, "WAV", "FLOAT"), "non_finite", r"sample 1000 \(0.125 s\) is NaN or infinite"),
    _bad("peaks of 1e30", encoded(_FLOATS * 1e30, "WAV", "DOUBLE"), "non_finite", r"e\+2\d, too large to compute with"),
    _right("u-law", encoded(samples_of(), "WAV", "ULAW")),
    _right("A-law", encoded(samples_of(), "WAV", "ALAW")),
    _right("8 bit unsigned", encoded(samples_of(), "WAV", "PCM_U8")),
    _right("24 bit", encoded(samples_of(), "WAV", "PCM_24")),
    _right("32 bit integers", encoded(samples_of(), "WAV", "PCM_32")),
    _bad("no channel", wav(PCM, channels=0), "unreadable", "0 channels; 1 to 1024 can be read"),
    _bad("65535 channels", wav(PCM, channels=65_535), "unreadable", "65535 channels; 1 to 1024 can be read"),
    _bad("sample rate 0", wav(PCM, rate=0), "bad_sample_rate", "0 Hz; 1000 to 768000 Hz can be read"),
    _bad("sample rate 4 GHz", wav(PCM, rate=4_000_000_000), "bad_sample_rate", "4000000000 Hz; 1000 to 768000 Hz"),
    # Nothing to hear.
    _right("stereo in antiphase", encoded(np.stack([_FLOATS, -_FLOATS], axis=1), "WAV", "FLOAT"), ""),
    _right("digital silence", encoded(np.zeros(RATE), "WAV"), "", RATE),
    _right("DC only", encoded(np.full(RATE, 0.25), "WAV"), "", RATE),
    # Too short, and just long enough.
    _bad("0 samples", speech(0), "empty", "the header says 0 samples"),
    _bad("1 sample", speech(1), "too_short", "1 samples at 16000 Hz; the model needs 400"),
    _bad("399 samples", speech(399), "too_short", r"399 samples at 16000 Hz; the model needs 400 \(25 ms\)"),
    _bad("399 samples after resampling", speech(1_098, 44_100), "too_short", "399 samples at 16000 Hz; the model"),
    _right("400 samples", speech(400), None, 400),
    _right("400 samples after resampling", speech(200, RATE), None, 200),
    # Names.
    _right("newline in its name", name="new\nline.wav"),
    _right("quotes in its name", name="quo\"te's.wav"),
    _right("emoji in its name", name="\N{STUDIO MICROPHONE}.wav"),
    _right("bytes in its name that are not UTF-8", name=os.fsdecode(b"caf\xe9 \xff.wav"), id="caf%E9 %FF.wav"),
    _right("name that looks escaped", name="100%E9.wav"),
    _right("name of 255 bytes", name="n" * 251 + ".wav"),
    _right("name in composed letters", name="\N{LATIN SMALL LETTER E WITH ACUTE}.wav"),
    _right("name in decomposed letters", TWO.read_bytes(), "TWO", len(samples_of(TWO)), name="e\u0301.wav"),
    _right("name in capitals", name="TWIN.WAV"),
    _right("name in small letters", TWO.read_bytes(), "TWO", len(samples_of(TWO)), name="twin.wav"),
    # What is no file, or cannot be opened.
    _bad("link to itself", lambda path: path.symlink_to(path.name), "unreadable", "symbolic links"),
    _bad("link that leads nowhere", lambda path: path.symlink_to("nowhere"), "not_found", "no such file"),
    _right("link out of the root", lambda path: path.symlink_to(SEVEN)),
    _bad("named pipe", os.mkfifo, "unreadable", "a named pipe, not a recording; it was not opened"),
    _bad("socket", _socket, "unreadable", "a socket, not a recording"),
    _bad("endless device", lambda path: path.symlink_to("/dev/zero"), "unreadable", "a device, not a recording"),
    _right("folder with the name of a recording", _folder_with_a_recording, name="x.wav", id="x.wav/inside.wav"),
    _bad("unreadable mode", _unreadable, "unreadable", "Permission denied"),
    # Between manifest and load.
    _bad("deleted", WHOLE, "not_found", "no such file", changed=Path.unlink),
    _bad(
        "replaced", WHOLE, "changed", r"has \d+ bytes, but had \d+ bytes when the manifest was made",
        changed=lambda path: shutil.copy(TWO, path),
    ),
    _bad(
        "replaced by one of its size", wav(PCM, rate=RATE), "changed", "sample rate is 16000 Hz, but was 8000 Hz when",
        changed=lambda path: path.write_bytes(wav(PCM, rate=16_000)),
    ),
    _bad("emptied", WHOLE, "changed", r"has 0 bytes, but had \d+ bytes", changed=lambda path: path.write_bytes(b"")),
    _bad("replaced by a pipe", WHOLE, "unreadable", "a named pipe, not a recording", changed=_replaced(os.mkfifo)),
    _bad("replaced by a folder", WHOLE, "unreadable", "a folder, not a recording", changed=_replaced(Path.mkdir)),
    _bad("locked", WHOLE, "unreadable", "Permission denied", changed=lambda path: path.chmod(0)),
)  # fmt: skip

NO_ROWS: dict[str, Callable[[Path], object]] = {
    "empty.wav": Path.mkdir,
    "loop": lambda path: path.symlink_to("."),
    ".hidden.wav": lambda path: path.write_bytes(WHOLE),
}
"""What makes no row: an empty folder with the name of a recording, a link to the folder it is in, a hidden file."""

# -- One list ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BadRow:
    """A row of the list, without its id; error and message as of a `BadFile`, `None` where the result is right."""

    title: str
    cells: dict[str, Any]
    error: str | None
    message: str = ""


ROWS = (
    BadRow("end before start", {"start": 0.3, "end": 0.1}, "empty", r"ends at 0\.1 s, not after its start at 0\.3 s"),
    BadRow("end at the start", {"start": 0.1, "end": 0.1}, "empty", r"ends at 0\.1 s, not after its start at 0\.1 s"),
    BadRow(
        "end beyond the file", {"start": 0.1, "end": 9}, "truncated", r"ends at 9\.0 s, but the recording ends at 0\.36"
    ),
    BadRow("start beyond the file", {"start": 5}, "truncated", r"starts at 5\.0 s, but the recording ends at 0\.361"),
    BadRow("both beyond the file", {"start": 5, "end": 6}, "truncated", r"starts at 5\.0 s, but the recording ends at"),
    BadRow("start in the next century", {"start": 9e7, "end": 9.1e7}, "truncated", "starts at 90000000.0 s"),
    BadRow("between two samples", {"start": 0.1, "end": 0.10001}, "empty", "contains no sample at 8000 Hz"),
    BadRow(
        "shorter than a frame", {"start": 0.1, "end": 0.12}, "too_short", "320 samples at 16000 Hz; the model needs"
    ),
    BadRow(
        "a channel it has not", {"channel": 2}, "unreadable", "channel 2 was asked for, but the recording has 1 channel"
    ),
    BadRow("no such file", {"path": "gone.wav"}, "not_found", "no such file"),
    BadRow("no file's name", {"path": "x" * 300}, "unreadable", "File name too long"),
    BadRow("a folder", {"path": "."}, "unreadable", "a folder, not a recording"),
    BadRow("slightly beyond the file", {"start": 0.0, "end": 0.4}, None),
    BadRow("whole", {}, None),
    BadRow("WHOLE", {}, None),
)


@dataclass(frozen=True)
class BadList:
    """A list that is refused before anything begins: its name, its lines, and what is said of it."""

    title: str
    name: str
    text: str
    message: str


LISTS = (
    BadList("no column of paths", "l.csv", "text,start\nx,1\n", "l.csv: no column is known to hold the path"),
    BadList("a row with a column too few", "l.csv", "path,text\na.wav\n", "l.csv: line 2: 1 values instead of 2"),
    BadList("a row with a column too many", "l.tsv", "path\na.wav\tx\n", "l.tsv: line 2: 2 values instead of 1"),
    BadList("a column twice", "l.csv", "path,path\na.wav,b.wav\n", "l.csv: column 'path' appears twice"),
    BadList("a start that is a word", "l.csv", "path,start\na.wav,soon\n", "line 2: start='soon': must be a number"),
    BadList("a start before the file", "l.csv", "path,start\na.wav,-1\n", "line 2: start=-1: must not be negative"),
    BadList("a channel that is a letter", "l.csv", "path,channel\na.wav,B\n", "channel='B': must be a channel"),
    BadList("a line without a path", "l.jsonl", '{"text": "x"}\n', "no column is known to hold the path"),
    BadList("a path that is a number", "l.jsonl", '{"audio_filepath": 7}\n', "audio_filepath=7: must be a path"),
    BadList("a line that is no object", "l.jsonl", "[1]\n", "item 1: 1 is not an object; expected"),
    BadList("a line that is cut", "l.jsonl", '{"audio_filepath": "a.w', "line 1: not JSON"),
    BadList("nothing", "l.jsonl", "", "lists no recordings"),
)  # fmt: skip
