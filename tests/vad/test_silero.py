"""The stretches of speech that `vad=silero` finds, beside those of the package's own functions."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import silero_vad
import soundfile
import torch

from pipeline.audio.reader import read_header
from pipeline.audio.resampling import resample
from pipeline.audio.waveforms import Extent, WaveformReader, read_waveform
from pipeline.runtime.errors import AudioError, UserError
from pipeline.vad.engine import recording
from pipeline.vad.silero import Detector, Options

DATA = Path(__file__).parents[1] / "data"
JFK = DATA / "long" / "jfk.flac"
LIBRIVOX = DATA / "librivox" / "sense_and_sensibility_01_austen_64kb-0870.wav"


@pytest.fixture(scope="module", autouse=True)
def threads():
    """The detector and its package set the threads of the process that they run in."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def their_model(threads):
    return silero_vad.load_silero_vad()


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """Spoken digits at 8 kHz with pauses of 0.3 to 5 s of faint noise between them, longer than one block."""
    noise, parts = np.random.default_rng(7), []
    for number, path in enumerate(sorted((DATA / "fsdd").glob("*_0.wav"))[:30]):
        pause = 0.001 * noise.standard_normal(int((0.3, 1.5, 5.0)[number % 3] * 8000))
        parts += [soundfile.read(path)[0], pause]
    path = tmp_path_factory.mktemp("digits") / "digits.wav"
    soundfile.write(path, np.concatenate(parts), 8000)
    assert 70 < soundfile.info(path).duration < 100
    return path


def found(path: Path, **options) -> list[tuple[float, float]]:
    return Detector(Options(**options)).stretches(Extent(str(path)), read_header(str(path)), lambda: None)


def theirs(path: Path, model, **options) -> list[tuple[float, float]]:
    samples, rate = read_waveform(str(path))
    waveform = resample(torch.from_numpy(samples), rate, 16000)
    given = Options(**options)
    stretches = silero_vad.get_speech_timestamps(
        waveform,
        model,
        threshold=given.threshold,
        min_speech_duration_ms=1000 * given.min_speech_s,
        min_silence_duration_ms=1000 * given.min_silence_s,
        speech_pad_ms=1000 * given.pad_s,
        max_speech_duration_s=given.max_speech_s or float("inf"),
    )
    return [(each["start"] / 16000, each["end"] / 16000) for each in stretches]


@pytest.mark.parametrize(
    ("source", "options"),
    [
        ("digits", {}),
        (LIBRIVOX, {"threshold": 0.7, "min_silence_s": 0.1, "pad_s": 0.03}),
        (JFK, {"min_silence_s": 0.1, "pad_s": 0.03}),
        (JFK, {"min_silence_s": 2.0, "max_speech_s": 4.0}),
        (JFK, {"min_speech_s": 2.0, "pad_s": 0.0}),
    ],
)
def test_stretches_are_those_of_the_package(source, options, digits, their_model):
    path = digits if source == "digits" else source
    mine, expected = found(path, **options), theirs(path, their_model, **options)
    assert len(mine) == len(expected) > 0
    np.testing.assert_allclose(mine, expected, atol=0.0011)  # times are whole milliseconds


def test_probabilities_are_those_of_the_package_in_blocks_of_any_length(digits, their_model, monkeypatch):
    samples, rate = read_waveform(str(digits))
    waveform = resample(torch.from_numpy(samples), rate, 16000)[: 16000 * 20]
    soundfile.write(path := digits.with_name("begin.wav"), samples[: rate * 20], rate, subtype="FLOAT")
    with torch.inference_mode():
        expected = their_model.audio_forward(waveform[None], 16000)[0].numpy()
    weights, header = Detector(Options()).weights, read_header(str(path))
    for frames in (2048, 7):
        monkeypatch.setattr(recording, "BLOCK_SAMPLES", frames * 512)
        mine = recording.speech_probabilities(Extent(str(path)), header, weights)
        # The last frames hear the samples after 20 s through the filter of the resampler.
        np.testing.assert_allclose(mine[:-2], expected[:-2], atol=2e-5)


def test_a_long_recording_is_read_block_by_block(digits, monkeypatch):
    read, lengths = WaveformReader.read, []

    def noting(self, extent, window):
        samples, rate = read(self, extent, window)
        lengths.append(len(samples) / rate)
        return samples, rate

    monkeypatch.setattr(recording, "BLOCK_SAMPLES", 100 * 512)
    whole = found(digits)
    monkeypatch.setattr(WaveformReader, "read", noting)
    assert found(digits) == whole
    assert len(lengths) > 20
    assert max(lengths) < 3.4


def test_silence_has_no_speech_and_a_channel_is_heard_alone(tmp_path):
    speech, rate = soundfile.read(LIBRIVOX, dtype="float32")
    soundfile.write(path := tmp_path / "call.wav", np.stack([np.zeros_like(speech), speech], 1), rate)
    detector, header = Detector(Options()), read_header(str(path))
    assert detector.stretches(Extent(str(path), channel=1), header, lambda: None) == []
    assert detector.stretches(Extent(str(path), channel=2), header, lambda: None)


def test_a_recording_that_ends_early_is_an_error(tmp_path):
    path, header = tmp_path / "cut.flac", read_header(str(JFK))
    shutil.copyfile(JFK, path)
    path.write_bytes(path.read_bytes()[:500_000])
    with pytest.raises(AudioError):
        Detector(Options()).stretches(Extent(str(path)), header, lambda: None)


@pytest.mark.parametrize(
    "options",
    [{"threshold": 1.5}, {"threshold": 0.0}, {"min_speech_s": -1.0}, {"pad_s": 61.0}, {"max_speech_s": 1.1}],
)
def test_an_impossible_setting_is_refused_with_its_key(options):
    (key,) = options
    with pytest.raises(UserError, match=rf"^vad\.{key}={options[key]}: must be "):
        Options(**options)


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr("pipeline.vad.silero.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^vad=silero: .*pip install .*extra silero"):
        Detector(Options())
