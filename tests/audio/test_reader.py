"""Real recordings are read right, and damaged, absurd or missing files give named errors."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from bad_inputs import chunk, pcm, wav, with_flac_total
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.audio.containers import riff as containers
from pipeline.audio.rates import resampled_length
from pipeline.audio.reader import AudioError, encode_path, read_header, resolve_path
from pipeline.audio.waveforms import read_waveform

DATA = Path(__file__).parents[1] / "data"
SPEECH = DATA / "librivox" / "sense_and_sensibility_01_austen_64kb-0880.wav"
STEREO = DATA / "long" / "jfk.flac"


@pytest.fixture(scope="module")
def speech() -> NDArray[np.float32]:
    """`(47840,)` at 16 kHz."""
    samples: NDArray[np.float32]
    samples, rate = soundfile.read(SPEECH, dtype="float32")
    assert rate == 16_000
    return samples


def save(folder: Path, name: str, data: bytes) -> str:
    path = folder / name
    path.write_bytes(data)
    return str(path)


def encoded(folder: Path, samples: NDArray[np.float32], format_: str, subtype: str | None = None) -> bytes:
    path = folder / f"encoded.{format_.lower()}"
    soundfile.write(path, samples, 16_000, format=format_, subtype=subtype)
    return path.read_bytes()


def error_of(path: str, **segment: float) -> tuple[str, str]:
    """Name and message of the error; the message is one line and does not repeat the path."""
    with pytest.raises(AudioError) as caught:
        read_waveform(path, **segment)  # type: ignore[arg-type]
    assert "\n" not in caught.value.message
    assert path not in caught.value.message
    return caught.value.error, caught.value.message


def header_error_of(path: str) -> str:
    with pytest.raises(AudioError) as caught:
        read_header(path)
    return caught.value.error


def assert_reads(path: str, expected: NDArray[np.float32], tolerance: float = 0.0) -> None:
    header = read_header(path)
    samples, rate = read_waveform(path, file_size=header.file_size)
    assert rate == header.sample_rate
    assert samples.dtype == np.float32
    assert samples.shape == expected.shape == (header.num_samples,)
    assert np.abs(samples - expected).max() <= tolerance


def test_a_recording_is_read_as_soundfile_reads_it(speech: NDArray[np.float32]) -> None:
    assert_reads(str(SPEECH), speech)
    header = read_header(str(SPEECH))
    assert (header.sample_rate, header.num_channels, header.file_size) == (16_000, 1, SPEECH.stat().st_size)


def test_channels_are_averaged() -> None:
    both, rate = soundfile.read(STEREO, dtype="float32")
    samples, got_rate = read_waveform(str(STEREO))
    assert got_rate == rate == 44_100
    np.testing.assert_array_equal(samples, both.mean(axis=1))


def test_stereo_in_antiphase_is_silence(tmp_path: Path, speech: NDArray[np.float32]) -> None:
    path = tmp_path / "antiphase.wav"
    soundfile.write(path, np.stack([speech, -speech], axis=1), 16_000, subtype="FLOAT")
    samples, _ = read_waveform(str(path))
    assert len(samples) == len(speech)
    assert not samples.any()


@pytest.mark.parametrize(
    ("format_", "subtype", "tolerance"),
    [
        ("WAV", "PCM_U8", 1 / 127),
        ("WAV", "PCM_24", 1e-4),
        ("WAV", "PCM_32", 1e-4),
        ("WAV", "FLOAT", 0.0),
        ("WAV", "DOUBLE", 0.0),
        ("WAV", "ULAW", 0.03),
        ("WAV", "ALAW", 0.03),
        ("WAV", "IMA_ADPCM", 0.3),
        ("WAV", "GSM610", 0.5),
        ("WAVEX", "PCM_16", 1e-4),
        ("RF64", "PCM_16", 1e-4),
        ("W64", "PCM_16", 1e-4),
        ("AIFF", "PCM_16", 1e-4),
        ("AU", "PCM_16", 1e-4),
        ("CAF", "PCM_16", 1e-4),
        ("NIST", "PCM_16", 1e-4),
        ("VOC", "PCM_16", 1e-4),
        ("AVR", "PCM_16", 1e-4),
        ("FLAC", "PCM_16", 1e-4),
        ("OGG", "VORBIS", 0.3),
        ("OGG", "OPUS", 0.5),
        ("MP3", "MPEG_LAYER_III", 0.3),
    ],
)
def test_every_common_encoding_is_read(
    tmp_path: Path, speech: NDArray[np.float32], format_: str, subtype: str, tolerance: float
) -> None:
    path = save(tmp_path, "x.wav", encoded(tmp_path, speech, format_, subtype))
    samples, rate = read_waveform(path)
    assert rate == 16_000
    assert read_header(path).num_samples == len(samples)
    # Block codecs pad their last block.
    assert 0 <= len(samples) - len(speech) < 1024
    assert np.abs(samples[: len(speech)] - speech).max() <= tolerance


def test_the_content_decides_not_the_extension(tmp_path: Path, speech: NDArray[np.float32]) -> None:
    assert_reads(save(tmp_path, "mp3.wav", encoded(tmp_path, speech, "MP3")), speech, tolerance=0.3)
    for extension in ("flac", "wav", "mp3", "au", "snd", "gsm", "vox", "raw"):
        html = b"<!DOCTYPE html>\n<html><body>403 Forbidden</body></html>" * 99
        page = save(tmp_path, f"page.{extension}", html)
        name, message = error_of(page)
        assert name == header_error_of(page) == "unsupported_format"
        assert "<!DOCTYPE html" in message


def test_reading_in_blocks_equals_reading_at_once(
    tmp_path: Path, speech: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    for format_ in ("WAV", "FLAC", "MP3", "OGG VORBIS", "OGG OPUS"):
        path = save(tmp_path, "x", encoded(tmp_path, speech, *format_.split()))
        whole, _ = read_waveform(path)
        monkeypatch.setattr("pipeline.audio.reader._BLOCK_BYTES", 4_004)
        blocks, _ = read_waveform(path)
        monkeypatch.undo()
        np.testing.assert_array_equal(blocks, whole)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0x80000000, 0])
@pytest.mark.parametrize("riff_size", [0xFFFFFFFF, 0, 36])
def test_wav_from_a_pipe_is_read_to_its_end(
    tmp_path: Path, speech: NDArray[np.float32], size: int, riff_size: int
) -> None:
    path = save(tmp_path, "piped.wav", wav(pcm(speech), data_size=size, riff_size=riff_size))
    assert_reads(path, speech, tolerance=1e-4)


def test_wav_from_a_pipe_gives_segments(tmp_path: Path, speech: NDArray[np.float32]) -> None:
    path = save(tmp_path, "piped.wav", wav(pcm(speech), data_size=0))
    samples, _ = read_waveform(path, start_s=1.0, end_s=1.5)
    np.testing.assert_allclose(samples, speech[16_000:24_000], atol=1e-4)


@pytest.mark.parametrize(
    "lie",
    [
        {"riff_size": 1000},
        {"riff_size": 0},
        {"riff_size": 0xFFFFFFFF},
        {"after": chunk(b"LIST", b"INFO" + bytes(41))},
        {"after": b"rubbish"},
        {"before": chunk(b"junk", b"odd")},
        {"before": chunk(b"LIST", b"INFO") * 50},
        {"block_align": 3},
    ],
)
def test_wav_with_whole_data_is_read_whatever_else_its_header_says(
    tmp_path: Path, speech: NDArray[np.float32], lie: dict[str, Any]
) -> None:
    assert_reads(save(tmp_path, "x.wav", wav(pcm(speech), **lie)), speech, tolerance=1e-4)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("zero bytes", b""),
        ("header only", wav(b"")),
        ("empty data before metadata", wav(b"", after=chunk(b"LIST", b"INFO"))),
    ],
)
def test_nothing_recorded_is_empty(tmp_path: Path, name: str, data: bytes) -> None:
    path = save(tmp_path, f"{name}.wav", data)
    assert error_of(path)[0] == header_error_of(path) == "empty"


@pytest.mark.parametrize("rate", [0, 1, 999, 768_001, 4_000_000_000])
def test_impossible_sample_rates_are_named(tmp_path: Path, rate: int) -> None:
    path = save(tmp_path, "x.wav", wav(bytes(3200), rate=rate))
    name, message = error_of(path)
    assert name == header_error_of(path) == "bad_sample_rate"
    assert str(rate) in message


def test_recordings_found_by_fuzzing() -> None:
    assert error_of(str(DATA / "broken" / "awful.wav"))[0] == "bad_sample_rate"
    name, message = error_of(str(DATA / "broken" / "bad.wav"))
    assert name == "unreadable"
    assert "No 'data' chunk" in message


@pytest.mark.parametrize(
    ("lie", "expected"),
    [
        ({"channels": 65_535}, "unreadable"),
        ({"channels": 0}, "unreadable"),
        ({"codec": 0x1234}, "unreadable"),
        ({"bits": 0}, "unsupported_format"),
        ({"codec": 2, "bits": 4, "block_align": 0, "codec_fields": bytes(34)}, "unreadable"),
        ({"codec": 2, "bits": 4, "block_align": 65_535, "codec_fields": bytes(34)}, "unreadable"),
        ({"codec": 0x11, "bits": 4, "block_align": 65_535, "codec_fields": b"\2\0\xff\xff"}, "unreadable"),
    ],
)
def test_absurd_wav_headers_are_refused(tmp_path: Path, lie: dict[str, Any], expected: str) -> None:
    path = save(tmp_path, "x.wav", wav(bytes(70_000), **lie))
    assert error_of(path)[0] == header_error_of(path) == expected


@pytest.mark.parametrize("length", [1, 4, 11, 12, 20, 40, 43])
def test_wav_cut_in_its_header_is_an_error(tmp_path: Path, length: int) -> None:
    path = save(tmp_path, "x.wav", wav(bytes(320))[:length])
    assert error_of(path)[0] in ("unreadable", "unsupported_format", "empty")


@pytest.mark.parametrize(
    "format_", ["WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "NIST", "VOC", "AVR", "FLAC", "MP3", "OGG"]
)
@pytest.mark.parametrize("part", [0.5, 0.9])
def test_a_cut_recording_is_truncated_never_short(
    tmp_path: Path, speech: NDArray[np.float32], format_: str, part: float
) -> None:
    whole = encoded(tmp_path, speech, format_)
    path = save(tmp_path, "cut", whole[: int(len(whole) * part) | 1])
    assert error_of(path)[0] == "truncated"


def test_a_size_that_was_never_written_is_not_missed(tmp_path: Path, speech: NDArray[np.float32]) -> None:
    sphere = encoded(tmp_path, speech, "NIST")
    uncounted = sphere.replace(b"sample_count", b"semple_count", 1)
    assert uncounted != sphere
    assert_reads(save(tmp_path, "live.sph", uncounted), speech, tolerance=1e-4)


def test_wav_that_claims_more_says_how_much(tmp_path: Path, speech: NDArray[np.float32]) -> None:
    name, message = error_of(save(tmp_path, "x.wav", wav(pcm(speech))[:-1]))
    assert name == "truncated"
    assert str(2 * len(speech)) in message
    assert str(2 * len(speech) - 1) in message


def test_flac_without_a_length_is_counted(tmp_path: Path, speech: NDArray[np.float32]) -> None:
    flac = encoded(tmp_path, speech, "FLAC")
    assert_reads(save(tmp_path, "x.flac", with_flac_total(flac, 0)), speech)


def test_flac_that_claims_more_samples_is_truncated(tmp_path: Path, speech: NDArray[np.float32]) -> None:
    flac = encoded(tmp_path, speech, "FLAC")
    assert error_of(save(tmp_path, "x.flac", with_flac_total(flac, len(speech) + 1)))[0] == "truncated"
    absurd = save(tmp_path, "y.flac", with_flac_total(flac, 2**36 - 1))
    assert error_of(absurd)[0] == header_error_of(absurd) == "truncated"


def test_damaged_flac_is_an_error(tmp_path: Path, speech: NDArray[np.float32]) -> None:
    flac = bytearray(encoded(tmp_path, speech, "FLAC"))
    middle = len(flac) // 2
    flac[middle : middle + 50] = bytes(byte ^ 0x55 for byte in flac[middle : middle + 50])
    assert error_of(save(tmp_path, "x.flac", bytes(flac)))[0] in ("unreadable", "truncated")


def without_length(mp3: bytes) -> bytes:
    """The stream without its first frame, which holds only the Xing header."""
    assert b"Xing" in mp3[:200]
    return mp3[mp3.index(mp3[:2], 4) :]


@pytest.mark.parametrize("loud_first", [True, False])
def test_mp3_without_a_length_is_read_to_its_end(tmp_path: Path, speech: NDArray[np.float32], loud_first: bool) -> None:
    # Variable bitrate: libsndfile's own estimate from the first frame is off by a factor of three.
    silence = np.zeros(16_000 * 20, np.float32)
    samples = np.concatenate([speech, silence] if loud_first else [silence, speech])
    path = tmp_path / "vbr.mp3"
    soundfile.write(path, samples, 16_000, bitrate_mode="VARIABLE", compression_level=0.5)
    bare = without_length(path.read_bytes())
    for tags in (b"", b"TAG" + bytes(125)):
        name = save(tmp_path, "bare.mp3", bare + tags)
        waveform, _ = read_waveform(name)
        assert read_header(name).num_samples == len(waveform)
        assert 0 <= len(waveform) - len(samples) < 5_000
        segment, _ = read_waveform(name, start_s=2.0, end_s=2.5)
        np.testing.assert_array_equal(segment, waveform[32_000:40_000])
        assert error_of(name, start_s=2.0, end_s=99.0)[0] == "truncated"
        assert error_of(name, start_s=98.0, end_s=99.0)[0] == "truncated"


def test_mp3_with_an_id3_tag_in_front_keeps_its_length(tmp_path: Path, speech: NDArray[np.float32]) -> None:
    tag = b"ID3\4\0\0\0\0\x10\0" + bytes(2048)
    path = save(tmp_path, "x.mp3", tag + encoded(tmp_path, speech, "MP3"))
    assert read_header(path).num_samples == len(speech)


def test_garbage_in_an_mp3_is_an_error(tmp_path: Path, speech: NDArray[np.float32]) -> None:
    mp3 = encoded(tmp_path, np.tile(speech, 10), "MP3")
    rubbish = np.random.default_rng(0).bytes(5_000)
    for data in (mp3, without_length(mp3)):
        path = save(tmp_path, "x.mp3", data[: len(data) // 3] + rubbish + data[len(data) // 3 :])
        assert error_of(path)[0] in ("truncated", "unreadable")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_named(tmp_path: Path, speech: NDArray[np.float32], value: float) -> None:
    path = tmp_path / "x.wav"
    damaged = np.stack([speech, speech], axis=1)
    damaged[20_000, 1] = value
    soundfile.write(path, damaged, 16_000, subtype="FLOAT")
    name, message = error_of(str(path))
    assert name == "non_finite"
    assert "20000" in message
    assert len(read_waveform(str(path), end_s=1.0)[0]) == 16_000


def test_peaks_beyond_one_are_kept_and_absurd_ones_are_named(tmp_path: Path, speech: NDArray[np.float32]) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, speech.astype(np.float64) * 2**31, 16_000, subtype="DOUBLE")
    np.testing.assert_allclose(read_waveform(str(path))[0], speech * 2.0**31)
    for sign in (1, -1):
        soundfile.write(path, speech.astype(np.float64) * sign * 1e30, 16_000, subtype="DOUBLE")
        name, message = error_of(str(path))
        assert name == "non_finite"
        assert "too large to compute with" in message
    soundfile.write(path, speech.astype(np.float64) * 1e300, 16_000, subtype="DOUBLE")
    assert error_of(str(path))[0] == "non_finite"


@pytest.mark.parametrize(("format_", "tolerance"), [("WAV", 0.0), ("FLAC", 0.0), ("MP3", 1e-6), ("OGG", 0.0)])
def test_a_segment_is_the_same_part_of_the_whole(
    tmp_path: Path, speech: NDArray[np.float32], format_: str, tolerance: float
) -> None:
    path = save(tmp_path, "x", encoded(tmp_path, speech, format_))
    whole, _ = read_waveform(path)
    slightly_beyond = len(whole) / 16_000 + 0.09
    for start_s, end_s in ((0.0, 0.5), (0.7301, 1.9), (1.0, None), (None, 0.3), (2.5, slightly_beyond)):
        segment, _ = read_waveform(path, start_s=start_s, end_s=end_s)
        first = round((start_s or 0) * 16_000)
        expected = whole[first : None if end_s is None else round(end_s * 16_000)]
        assert segment.shape == expected.shape
        assert np.abs(segment - expected).max() <= tolerance


@pytest.mark.parametrize(
    ("segment", "expected"),
    [
        ({"start_s": 5.0}, "truncated"),
        ({"start_s": 5.0, "end_s": 6.0}, "truncated"),
        ({"start_s": 1.0, "end_s": 3.2}, "truncated"),
        ({"start_s": 1.0, "end_s": 1.0}, "empty"),
        ({"start_s": 1.0, "end_s": 0.5}, "empty"),
        ({"start_s": 1.0, "end_s": 1.00001}, "empty"),
        ({"end_s": 0.0}, "empty"),
        ({"start_s": float("nan")}, "empty"),
        ({"end_s": float("inf")}, "empty"),
    ],
)
def test_impossible_segments_are_named(segment: dict[str, float], expected: str) -> None:
    name, message = error_of(str(SPEECH), **segment)
    assert name == expected
    assert " s" in message


def test_a_replaced_file_is_changed(tmp_path: Path, speech: NDArray[np.float32]) -> None:
    path = save(tmp_path, "x.wav", wav(pcm(speech)))
    with pytest.raises(AudioError, match=r"^changed: .* bytes, but had 17 bytes when"):
        read_waveform(path, file_size=17)


def test_what_is_not_a_regular_file_is_never_opened(tmp_path: Path) -> None:
    fifo, folder, listening = tmp_path / "fifo.wav", tmp_path / "folder.wav", tmp_path / "socket.wav"
    os.mkfifo(fifo)
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(listening))
        for path in (fifo, folder, listening, Path("/dev/zero")):
            assert error_of(str(path))[0] == header_error_of(str(path)) == "unreadable"


def test_missing_files_and_links_that_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "dangling.wav").symlink_to(tmp_path / "gone.wav")
    (tmp_path / "loop.wav").symlink_to(tmp_path / "loop.wav")
    save(tmp_path, "file", b"x")
    for missing in ("gone.wav", "dangling.wav", "file/below.wav"):
        assert error_of(str(tmp_path / missing))[0] == "not_found"
    for unreadable in ("loop.wav", "n" * 300, "nul\0.wav"):
        assert error_of(str(tmp_path / unreadable))[0] == "unreadable"


def test_errors_of_the_operating_system_become_reasons(
    speech: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(error: BaseException) -> None:
        def fail(*args: object, **kwargs: object) -> None:
            raise error

        monkeypatch.setattr("pipeline.audio.reader.read_container", fail)

    for error, expected in (
        (PermissionError(13, "Permission denied"), "unreadable: Permission denied"),
        (OSError(5, "Input/output error"), "unreadable: Input/output error"),
        (MemoryError(), "out_of_memory"),
        (RuntimeError("odd"), "unreadable: odd"),
        (ValueError("odd"), "unreadable: odd"),
    ):
        refuse(error)
        with pytest.raises(AudioError, match=expected):
            read_waveform(str(SPEECH))


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    for _ in range(20):
        read_waveform(str(SPEECH))
        error_of(str(DATA / "broken" / "bad.wav"))
        error_of(save(tmp_path, "x.wav", b"text"))
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) <= before + 1


@pytest.mark.parametrize(
    "name", ["line\nbreak", "quo\"te'", "🎙.wav", "e\u0301.wav", "\u00e9.wav", "100%41", "n" * 251 + ".wav"]
)
def test_odd_names_are_opened(tmp_path: Path, speech: NDArray[np.float32], name: str) -> None:
    path = save(tmp_path, name, wav(pcm(speech)))
    assert encode_path(path) == path
    assert len(read_waveform(path)[0]) == len(speech)


def test_undecodable_names_survive_as_text(tmp_path: Path, speech: NDArray[np.float32]) -> None:
    raw = os.fsencode(tmp_path) + b"/caf\xe9 100%41 \xff.wav"
    with open(raw, "wb") as file:
        file.write(wav(pcm(speech)))
    path = os.fsdecode(raw)
    text = encode_path(path)
    assert text == str(tmp_path) + "/caf%E9 100%41 %FF.wav"
    assert resolve_path(text) == path
    for name in (path, text):
        assert len(read_waveform(name)[0]) == read_header(name).num_samples == len(speech)


def test_a_name_that_only_looks_escaped_is_taken_literally(tmp_path: Path) -> None:
    path = save(tmp_path, "%E9.wav", b"")
    assert resolve_path(path) == path


@given(st.binary(min_size=1, max_size=40).filter(lambda raw: b"%" not in raw and b"\0" not in raw))
@settings(deadline=None)
def test_every_name_comes_back(raw: bytes) -> None:
    text = encode_path(os.fsdecode(raw))
    assert text.encode("utf-8")
    assert os.fsencode(resolve_path(text)) == raw


RIFF, FORM = b"RIFF\0\0\0\0WAVE", b"FORM\0\0\0\0AIFF"
MAGICS = [b"", RIFF, RIFF + b"fmt \x10\0\0\0", FORM, b"OggS", b".snd", b"riff", b"fLaC", b"ID3", b"\xff\xfb"]


@given(st.binary(max_size=400), st.sampled_from(MAGICS))
@settings(deadline=None)
def test_any_bytes_give_a_waveform_or_a_named_error(
    tmp_path_factory: pytest.TempPathFactory, rest: bytes, magic: bytes
) -> None:
    path = save(tmp_path_factory.getbasetemp(), "fuzz", magic + rest)
    for read in (read_header, read_waveform):
        with suppress(AudioError):
            read(path)


def test_containers_look_at_w64_and_rf64_sizes(tmp_path: Path, speech: NDArray[np.float32]) -> None:
    for format_ in ("W64", "RF64", "AIFF", "AU"):
        path = save(tmp_path, "x", encoded(tmp_path, speech, format_))
        with open(path, "rb") as file:
            found = containers.read_container(file, os.path.getsize(path))
        assert found.claimed is not None
        assert 0 <= found.claimed - 2 * len(speech) <= 8
        assert found.present >= found.claimed


def test_resampled_length_is_the_ceiling_for_ordinary_lengths() -> None:
    assert resampled_length(0, 44_100, 16_000) == 0
    assert resampled_length(44_100, 44_100, 16_000) == 16_000
    assert resampled_length(44_101, 44_100, 16_000) == 16_001
    assert resampled_length(123, 16_000, 16_000) == 123


def test_reading_audio_does_not_load_torch() -> None:
    code = "import sys, pipeline.audio.waveforms; sys.exit('torch' in sys.modules or 'pyarrow' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def joined(folder: Path, ending: str) -> tuple[Path, int]:
    """Two encoded recordings joined as by `cat`, and the number of their samples."""
    speech, rate = soundfile.read(SPEECH)
    for name, part in (("a", speech), ("b", np.tile(speech, 2))):
        soundfile.write(folder / f"{name}.{ending}", part, rate)
    (folder / f"ab.{ending}").write_bytes(b"".join((folder / f"{name}.{ending}").read_bytes() for name in "ab"))
    return folder / f"ab.{ending}", 3 * len(speech)


def test_mp3s_one_after_another_are_read_to_the_end(tmp_path: Path) -> None:
    path, num_samples = joined(tmp_path, "mp3")
    # Each recording has a few thousand samples of encoder delay and padding.
    assert 0 <= read_header(str(path)).num_samples - num_samples < 8_000
    assert len(read_waveform(str(path))[0]) == read_header(str(path)).num_samples


def test_ogg_streams_one_after_another_are_refused_and_not_cut_short(tmp_path: Path) -> None:
    path, _ = joined(tmp_path, "ogg")
    with pytest.raises(AudioError, match="unsupported_format: several Ogg streams one after another"):
        read_header(str(path))


def test_counting_is_given_up_when_it_is_no_longer_wanted(tmp_path: Path) -> None:
    path, _ = joined(tmp_path, "mp3")
    asked = iter([True, False])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.audio.reader._BLOCK_BYTES", 4_004)
        assert read_header(str(path), lambda: next(asked)).num_samples < 2_000
