"""Every promised format is decoded as by its reference decoder, and damaged files give named errors."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.audio import ffmpeg
from pipeline.audio.containers.mp4 import read_multimedia
from pipeline.audio.ffmpeg import FFmpegDecoder
from pipeline.audio.reader import AudioError, named_errors, open_recording, read_header
from pipeline.audio.waveforms import Extent as Recording
from pipeline.audio.waveforms import WaveformReader, read_waveform
from pipeline.datasets import EXTENSIONS

DATA = Path(__file__).parents[1] / "data"
FORMATS = DATA / "formats"
SPEECH = DATA / "librivox" / "sense_and_sensibility_01_austen_64kb-0880.wav"
REFERENCES = json.loads((FORMATS / "reference.json").read_text())
EVERY = 11
DEMUXERS = {
    "m4a": "mov", "mp4": "mov", "mov": "mov", "3gp": "mov", "webm": "matroska", "mka": "matroska", "mkv": "matroska",
    "wma": "asf", "aac": "aac", "amr": "amr", "awb": "amr", "ogg": "ogg", "caf": "caf",
}  # fmt: skip

# Subtypes of libsndfile in which every sample has its own bytes, and how many of 32 bits they keep.
INTEGERS = {
    "PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32,
    "ALAC_16": 16, "ALAC_20": 20, "ALAC_24": 24, "ALAC_32": 32,
}  # fmt: skip
WHOLE = {
    "WAV": ["PCM_U8", "PCM_16", "PCM_24", "PCM_32"],
    "WAVEX": ["PCM_U8", "PCM_16", "PCM_24", "PCM_32"],
    "RF64": ["PCM_U8", "PCM_16", "PCM_24", "PCM_32"],
    "W64": ["PCM_U8", "PCM_16", "PCM_24", "PCM_32"],
    "AIFF": ["PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32"],
    "AU": ["PCM_S8", "PCM_16", "PCM_24", "PCM_32"],
    "CAF": ["PCM_S8", "PCM_16", "PCM_24", "PCM_32", "ALAC_16", "ALAC_20", "ALAC_24", "ALAC_32"],
    "FLAC": ["PCM_S8", "PCM_16", "PCM_24"],
    "NIST": ["PCM_S8", "PCM_16", "PCM_24", "PCM_32"],
}
ROUNDED = {
    "WAV": ["FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM", "GSM610", "G721_32"],
    "WAVEX": ["FLOAT", "DOUBLE", "ULAW", "ALAW"],
    "RF64": ["FLOAT", "DOUBLE", "ULAW", "ALAW"],
    "W64": ["FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM", "GSM610"],
    "AIFF": ["FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM", "GSM610"],
    "AU": ["FLOAT", "DOUBLE", "ULAW", "ALAW", "G721_32", "G723_24"],
    "CAF": ["FLOAT", "DOUBLE", "ULAW", "ALAW"],
    "NIST": ["ULAW", "ALAW"],
    "OGG": ["VORBIS", "OPUS"],
    "MP3": ["MPEG_LAYER_III"],
}


def pairs(table: dict[str, list[str]]) -> list[tuple[str, str]]:
    return [(format_, subtype) for format_, subtypes in table.items() for subtype in subtypes]


@pytest.fixture(scope="module")
def integers() -> NDArray[np.int32]:
    """`(16000, 2)`, speech in which the low bits are random, so that all 32 bits are used."""
    speech, _ = soundfile.read(SPEECH, dtype="int32", frames=16_000)
    low_bits = np.random.default_rng(0).integers(0, 2**16, (16_000, 2))
    return (np.stack([speech, speech // 2], axis=1) | low_bits).astype(np.int32)


def save(folder: Path, data: bytes) -> str:
    path = folder / "recording"
    path.write_bytes(data)
    return str(path)


def decoded(path: Path | str) -> tuple[NDArray[np.float32], int]:
    """`(samples, channels)`, before channels are mixed, and the sample rate."""
    with named_errors(), open_recording(str(path)) as recording:
        return np.concatenate(list(recording.blocks(None))), int(recording.decoder.samplerate)


def error_of(path: str) -> tuple[str, str]:
    """Name and message of the error. The name is the same for reading the header and reading the waveform."""
    with pytest.raises(AudioError) as in_header:
        read_header(path)
    with pytest.raises(AudioError) as in_waveform:
        read_waveform(path)
    assert in_header.value.error == in_waveform.value.error
    assert "\n" not in in_header.value.message
    assert path not in in_header.value.message
    return in_header.value.error, in_header.value.message


@pytest.mark.parametrize(("format_", "subtype"), pairs(WHOLE))
def test_integers_are_read_as_written(tmp_path: Path, integers: NDArray[np.int32], format_: str, subtype: str) -> None:
    path = tmp_path / "x"
    kept = integers >> (32 - INTEGERS[subtype]) << (32 - INTEGERS[subtype])
    soundfile.write(path, kept, 16_000, format=format_, subtype=subtype)
    samples, rate = decoded(path)
    assert rate == 16_000
    assert read_header(str(path)).num_samples == len(integers)
    np.testing.assert_array_equal(samples, (kept / 2.0**31).astype(np.float32))


@pytest.mark.parametrize(("format_", "subtype"), pairs(ROUNDED))
def test_the_rest_is_read_as_libsndfile_reads_it_in_one_go(
    tmp_path: Path, integers: NDArray[np.int32], format_: str, subtype: str
) -> None:
    path = tmp_path / "x"
    channels = 1 if subtype in ("GSM610", "G721_32", "G723_24") else 2
    soundfile.write(path, integers[:, :channels] / 2.0**31, 16_000, format=format_, subtype=subtype)
    expected, _ = soundfile.read(path, dtype="float32", always_2d=True)
    samples, rate = decoded(path)
    assert rate == 16_000
    assert read_header(str(path)).num_samples == len(samples)
    # `soundfile.read` first seeks to the beginning, which changes the last bit of what mpg123 decodes.
    np.testing.assert_allclose(samples, expected, rtol=0, atol=1e-7 if format_ == "MP3" else 0)
    if subtype in ("FLOAT", "DOUBLE"):
        np.testing.assert_array_equal(samples, (integers / 2.0**31).astype(np.float32))


@pytest.mark.parametrize("mode", ["CONSTANT", "AVERAGE", "VARIABLE"])
@pytest.mark.parametrize("with_length", [True, False])
def test_mp3_of_every_bitrate_mode(tmp_path: Path, integers: NDArray[np.int32], mode: str, with_length: bool) -> None:
    path = tmp_path / "x.mp3"
    soundfile.write(path, integers / 2.0**31, 16_000, bitrate_mode=mode)
    expected, _ = soundfile.read(path, dtype="float32")
    mp3 = path.read_bytes()
    assert b"Xing" in mp3[:200] or b"Info" in mp3[:200]
    if not with_length:
        path.write_bytes(mp3[mp3.index(mp3[:2], 4) :])
    samples, _ = decoded(path)
    assert read_header(str(path)).num_samples == len(samples)
    if with_length:
        np.testing.assert_allclose(samples, expected, rtol=0, atol=1e-7)
    else:  # without the tag, the encoder's delay and padding are not cut off
        assert 0 <= len(samples) - len(expected) < 5_000


@pytest.mark.parametrize("name", REFERENCES)
def test_samples_are_those_of_ffmpeg(name: str) -> None:
    reference = REFERENCES[name]
    header = read_header(str(FORMATS / name))
    assert {key: getattr(header, key) for key in reference} == reference
    samples, rate = decoded(FORMATS / name)
    assert rate == reference["sample_rate"]
    assert samples.shape == (reference["num_samples"], reference["num_channels"])
    with np.load(FORMATS / "reference.npz") as references:
        expected = references[name] / np.float32(32767)
    np.testing.assert_allclose(samples[::EVERY], expected, atol=2 / 32767)


@pytest.mark.parametrize("name", REFERENCES)
def test_samples_are_those_of_a_plain_decoding_up_to_where_the_container_ends(name: str) -> None:
    parts = []
    with av.open(str(FORMATS / name)) as container:
        for frame in container.decode(audio=0):
            channels = frame.layout.nb_channels
            array = frame.to_ndarray()
            parts.append(array.T if frame.format.is_planar else array.reshape(-1, channels))
    plain = np.concatenate(parts)
    if plain.dtype == np.int16:
        plain = plain.astype(np.float32) / 32768
    samples, _ = decoded(FORMATS / name)
    assert 0 <= len(plain) - len(samples) < 1024
    np.testing.assert_array_equal(samples, plain[: len(samples)])


@pytest.mark.parametrize("name", ["alac.m4a", "flac.mka"])
def test_lossless_is_the_original(name: str) -> None:
    original, _ = soundfile.read(SPEECH, dtype="float32", start=3200, frames=9600, always_2d=True)
    samples, _ = decoded(FORMATS / name)
    np.testing.assert_array_equal(samples, original)


def test_ogg_opus_is_libopus_own_output_not_ffmpegs(tmp_path: Path) -> None:
    """FFmpeg's own decoder resamples the speech layer differently; `opusdec` and libsndfile agree."""
    speech, rate = soundfile.read(SPEECH, dtype="float32", frames=16_000)
    path = tmp_path / "x.opus"
    soundfile.write(path, np.repeat(speech, 3), 3 * rate, format="OGG", subtype="OPUS")
    expected, _ = soundfile.read(path, dtype="float32", always_2d=True)
    samples, rate = decoded(path)
    assert rate == 48_000
    np.testing.assert_array_equal(samples, expected)


@pytest.mark.parametrize("name", [name for name in REFERENCES if name != "aac.m4a"])
def test_a_segment_and_a_window_are_parts_of_the_whole(name: str) -> None:
    path = str(FORMATS / name)
    whole, rate = read_waveform(path)
    first, last = round(0.21 * rate), round(0.43 * rate)
    np.testing.assert_array_equal(read_waveform(path, start_s=0.21, end_s=0.43)[0], whole[first:last])
    reader = WaveformReader()
    for window in ((0, 3000), (2500, 4000), (4000, None), (100, 200)):
        np.testing.assert_array_equal(reader.read(Recording(path), window)[0], whole[slice(*window)])
    reader.close()


def test_a_decoder_goes_on_but_not_back() -> None:
    whole, _ = decoded(FORMATS / "aac.m4a")
    with open(FORMATS / "aac.m4a", "rb", buffering=0) as file, FFmpegDecoder(file, "mov") as decoder:
        assert decoder.seek(20_000) == 20_000
        np.testing.assert_array_equal(decoder.read(1_000), whole[20_000:21_000])
        with pytest.raises(ValueError, match="open the recording again"):
            decoder.seek(0)
        assert decoder.seek(10**9) == len(whole)
        assert decoder.read(10).shape == (0, 2)


def test_the_name_says_nothing(tmp_path: Path) -> None:
    for name in REFERENCES:
        assert read_header(save(tmp_path, (FORMATS / name).read_bytes())).num_samples > 0


def test_a_tag_before_aac_is_skipped(tmp_path: Path) -> None:
    tag = b"ID3\4\0\0\0\0\0\x40" + bytes(64)
    path = save(tmp_path, tag + (FORMATS / "adts.aac").read_bytes())
    assert read_header(path).num_samples == REFERENCES["adts.aac"]["num_samples"]


# -- Several streams -----------------------------------------------------------------------------------------------


def encoded(tracks: list[tuple[int, str, float]], container: str = "mp4") -> bytes:
    """A file with one AAC track per tone; a tone is `(sample rate, channel layout, Hz)`."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        streams = []
        for rate, layout, _ in tracks:
            stream = output.add_stream("aac", rate=rate)
            stream.layout = layout
            streams.append(stream)
        for stream, (rate, layout, hertz) in zip(streams, tracks, strict=True):
            tone = 0.5 * np.sin(2 * np.pi * hertz * np.arange(rate) / rate).astype(np.float32)
            channels = 1 if layout == "mono" else 2
            for start in range(0, rate - 1023, 1024):
                samples = np.ascontiguousarray(np.tile(tone[start : start + 1024], (channels, 1)))
                frame = av.AudioFrame.from_ndarray(samples, "fltp", layout)
                frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
    return buffer.getvalue()


def pitch(samples: NDArray[np.float32], rate: int) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(samples))) * rate / len(samples))


def test_of_two_sounds_the_one_with_most_channels_is_taken_as_ffmpeg_does(tmp_path: Path) -> None:
    path = save(tmp_path, encoded([(16_000, "mono", 440.0), (16_000, "stereo", 880.0)], "matroska"))
    assert read_header(path).num_channels == 2
    assert pitch(*read_waveform(path)) == pytest.approx(880, abs=3)
    path = save(tmp_path, encoded([(16_000, "mono", 440.0), (16_000, "mono", 880.0)], "matroska"))
    assert pitch(*read_waveform(path)) == pytest.approx(440, abs=3)


def test_a_rate_that_changes_is_refused(tmp_path: Path) -> None:
    parts = [encoded([(rate, "mono", 440.0)], "adts") for rate in (16_000, 44_100)]
    name, message = error_of(save(tmp_path, b"".join(parts)))
    assert name == "unreadable"
    assert "16000 Hz" in message
    assert "44100 Hz" in message


# -- Damage --------------------------------------------------------------------------------------------------------


def test_moving_pictures_without_sound_are_empty() -> None:
    name, message = error_of(str(FORMATS / "silent.mp4"))
    assert name == "empty"
    assert "video" in message


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("part", [0.35, 0.5, 0.9, 1.0])
def test_a_cut_recording_is_truncated_never_short(tmp_path: Path, name: str, part: float) -> None:
    whole = (FORMATS / name).read_bytes()
    assert error_of(save(tmp_path, whole[: int(len(whole) * part) - 2]))[0] == "truncated"


def test_a_recording_without_its_index_is_truncated(tmp_path: Path) -> None:
    whole = (FORMATS / "aac.m4a").read_bytes()
    name, message = error_of(save(tmp_path, whole[: whole.index(b"moov") - 4]))
    assert name == "truncated"
    assert "moov" in message
    # The recorder was killed, so it could not write the size of the audio at the end.
    unknown = whole[: whole.index(b"mdat") - 4] + b"\0\0\0\0mdat" + bytes(1000)
    assert error_of(save(tmp_path, unknown))[0] == "truncated"


@pytest.mark.parametrize(
    "name", ["aac.m4a", "video.mp4", "fragmented.mp4", "opus.webm", "live.webm", "video.webm", "flac.mka", "aac.mkv",
             "wmav2.wma", "adts.aac", "nb.amr", "wb.awb", "nb.3gp"],
)  # fmt: skip
def test_rubbish_in_the_middle_is_an_error_never_a_gap(tmp_path: Path, name: str) -> None:
    whole = (FORMATS / name).read_bytes()
    rubbish = np.random.default_rng(0).bytes(400)
    middle = len(whole) // 2
    data = whole[:middle] + rubbish + whole[middle + 400 :]
    assert error_of(save(tmp_path, data))[0] in ("unreadable", "truncated")


@pytest.mark.parametrize("name", ["aac.m4a", "opus.webm", "live.webm", "wmav2.wma", "adts.aac"])
def test_rubbish_after_the_end_is_ignored(tmp_path: Path, name: str) -> None:
    rubbish = b"\xff" + np.random.default_rng(0).bytes(999)
    path = save(tmp_path, (FORMATS / name).read_bytes() + rubbish)
    assert read_header(path).num_samples == REFERENCES[name]["num_samples"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\0\0\0\x14ftypM4A \0\0\0\0M4A ", "truncated"),
        (b"\0\0\0\x14ftypM4A \0\0\0\0M4A \0\0\0\x08mdat", "truncated"),
        (b"\0\0\0\x14ftypM4A \0\0\0\0M4A \0\0\0\x08moov", "empty"),
        (b"\0\0\0\x14ftypM4A \0\0\0\0M4A " + b"\0\0\0\1moov" + b"\xff" * 16, "truncated"),
        (b"\0\0\0\x14ftypM4A \0\0\0\0M4A " + np.random.default_rng(1).bytes(5000), "truncated"),
        (b"\x1a\x45\xdf\xa3", "truncated"),
        (b"\x1a\x45\xdf\xa3\x01" + b"\xff" * 60, "truncated"),
        (b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff", "truncated"),
        (bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c") + b"\xff" * 40, "unreadable"),
        (b"#!AMR\n", "empty"),
        (b"#!AMR\n" + b"\xff" * 100, "unreadable"),
        (b"#!AMR_MC1.0\n" + bytes(100), "unreadable"),
    ],
)
def test_a_header_alone_or_with_rubbish_is_named(tmp_path: Path, data: bytes, expected: str) -> None:
    name, _ = error_of(save(tmp_path, data))
    assert name == expected or {name, expected} <= {"unreadable", "truncated"}


def boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of the boxes on the way to the sample table, and of the boxes in it."""
    position = 0
    while position + 8 <= len(data):
        size, name = struct.unpack(">I4s", data[position : position + 8])
        yield name, position, position + size
        position += 8 if name in (b"moov", b"trak", b"mdia", b"minf", b"stbl") else size


def test_a_sample_table_that_says_it_is_endless_takes_no_memory(tmp_path: Path) -> None:
    whole = bytearray((FORMATS / "aac.m4a").read_bytes())
    start = next(start for name, start, _ in boxes(bytes(whole)) if name == b"stsz")
    # The table claims 2^31 samples of one byte each. FFmpeg's index of them would take 51 GB.
    whole[start + 12 : start + 20] = struct.pack(">II", 1, 2**31)
    assert error_of(save(tmp_path, bytes(whole)))[0] == "truncated"


def test_a_size_that_ffmpeg_refuses_is_damage_where_there_is_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = bytearray((FORMATS / "aac.m4a").read_bytes())
    at = whole.index(b"stts") + 8
    whole[at : at + 4] = b"\x7f\xff\xff\xff"
    path = save(tmp_path, bytes(whole))
    name, message = error_of(path)
    assert name == "unreadable"
    assert "more memory than a recording takes" in message
    monkeypatch.setattr("pipeline.audio.ffmpeg_packets._memory_is_there", lambda: False)
    assert error_of(path)[0] == "out_of_memory"


@pytest.mark.slow
def test_memory_does_not_grow_with_the_recording(tmp_path: Path) -> None:
    aac = (FORMATS / "adts.aac").read_bytes()
    frames = aac[: aac.rindex(aac[:3])]  # without the last frame, which is incomplete
    path = save(tmp_path, frames * 1200)
    code = f"""if True:
        import resource
        from pipeline.audio.reader import open_recording
        def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with open_recording({str(path)!r}) as recording:
            blocks = recording.blocks(None)
            next(blocks)
            before = peak()
            seconds = sum(map(len, blocks)) / 16_000
        print(seconds, peak() - before)
    """
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    seconds, kilobytes = map(float, done.stdout.split())
    assert seconds > 1_000  # 70 MB
    assert kilobytes < 20_000


# -- Trust ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "playlist",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{canary}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {canary}\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>{canary}</BaseURL></MPD>',
        "\0\0\0\x14ftypM4A \0\0\0\0M4A #EXTM3U\n{canary}\n",
    ],
)
def test_a_list_of_other_files_reads_none_of_them(tmp_path: Path, playlist: str) -> None:
    canary = tmp_path / "canary.wav"
    soundfile.write(canary, np.full(16_000, 0.5), 16_000)
    for extension in ("m4a", "mp4", "webm", "aac"):
        path = tmp_path / f"list.{extension}"
        path.write_text(playlist.format(canary=canary.name))
        assert error_of(str(path))[0] in ("unsupported_format", "truncated", "unreadable")


def test_even_a_playlist_taken_for_one_opens_nothing(tmp_path: Path) -> None:
    canary = tmp_path / "canary.wav"
    soundfile.write(canary, np.full(16_000, 0.5), 16_000)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{canary}\n#EXT-X-ENDLIST\n"
    path = save(tmp_path, playlist.encode())
    with open(path, "rb", buffering=0) as file, pytest.raises(AudioError):
        FFmpegDecoder(file, "hls")


def test_what_would_be_opened_is_refused() -> None:
    with pytest.raises(AudioError, match="another file, which was not opened"):
        ffmpeg._open_nothing("file:/etc/passwd", 1, {})


@given(
    st.sampled_from(sorted(REFERENCES)),
    st.lists(st.tuples(st.floats(0, 0.999), st.binary(min_size=1, max_size=8)), max_size=6),
    st.floats(0.01, 1),
)
@settings(deadline=None, max_examples=150)
def test_any_damage_gives_a_waveform_or_a_named_error(
    tmp_path_factory: pytest.TempPathFactory, name: str, changes: list[tuple[float, bytes]], part: float
) -> None:
    data = bytearray((FORMATS / name).read_bytes())
    for place, new in changes:
        at = int(place * len(data))
        data[at : at + len(new)] = new
    path = save(tmp_path_factory.getbasetemp(), bytes(data[: int(part * len(data)) + 1]))
    for read in (read_header, read_waveform):
        with suppress(AudioError):
            read(path)


@given(st.binary(max_size=300), st.sampled_from(sorted(REFERENCES)), st.integers(4, 64))
@settings(deadline=None, max_examples=150)
def test_any_bytes_after_a_beginning_give_a_named_error(
    tmp_path_factory: pytest.TempPathFactory, rest: bytes, name: str, length: int
) -> None:
    path = save(tmp_path_factory.getbasetemp(), (FORMATS / name).read_bytes()[:length] + rest)
    for read in (read_header, read_waveform):
        with suppress(AudioError):
            read(path)


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    for _ in range(10):
        read_waveform(str(FORMATS / "aac.m4a"))
        error_of(str(FORMATS / "silent.mp4"))
        error_of(save(tmp_path, b"#!AMR\n\xff\xff\xff"))
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) <= before + 1


# -- Without the extra ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REFERENCES)
def test_without_the_extra_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delitem(sys.modules, "pipeline.audio.ffmpeg")
    for module in [module for module in sys.modules if module == "av" or module.startswith("av.")]:
        monkeypatch.setitem(sys.modules, module, None)
    error, message = error_of(str(FORMATS / name))
    assert error == "unsupported_format"
    assert "pip install av" in message


def test_what_libsndfile_reads_takes_no_extra() -> None:
    code = f"""if True:
        import sys
        from pipeline.audio.waveforms import read_waveform
        read_waveform({str(SPEECH)!r})
        sys.exit("av" in sys.modules or "torch" in sys.modules)
    """
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_a_text_is_no_movie_and_a_movie_of_old_is_one(tmp_path: Path) -> None:
    assert error_of(save(tmp_path, b"The wide world, and all that is in it. " * 99))[0] == "unsupported_format"
    movie = (FORMATS / "pcm.mov").read_bytes()
    assert movie[20:28] == b"\0\0\0\x08wide"
    # QuickTime files from before `ftyp` begin with `wide`. The `free` box keeps the samples at their offsets.
    path = save(tmp_path, movie[20:28] + b"\0\0\0\x14free" + bytes(12) + movie[28:])
    assert read_header(path).num_samples == REFERENCES["pcm.mov"]["num_samples"]


def test_the_formats_are_recognised_and_looked_for() -> None:
    for name in REFERENCES:
        extension = name.rsplit(".")[-1]
        assert extension in EXTENSIONS
        with open(FORMATS / name, "rb") as file:
            found = read_multimedia(file, os.path.getsize(FORMATS / name))
        if DEMUXERS[extension] not in ("ogg", "caf"):
            assert found is not None
            assert found.demuxer == DEMUXERS[extension]
            assert found.claimed is None or found.claimed <= found.present
