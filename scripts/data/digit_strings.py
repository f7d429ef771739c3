"""Strings of spoken digits, composed from the Free Spoken Digit Dataset.

All functions work at 8 kHz, the sample rate of the data set. All randomness comes from a NumPy generator, so a seed
determines the result.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

Waveform = NDArray[np.float32]
Sample = tuple[Waveform, str]
Generator = np.random.Generator

SAMPLE_RATE = 8000
WORDS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")


@dataclass(frozen=True)
class Recording:
    """One spoken digit; ``waveform`` is ``[samples]`` at 8 kHz."""

    digit: int
    speaker: str
    index: int
    waveform: Waveform


@dataclass(frozen=True)
class Variation:
    """How far composed strings depart from the bare recordings.

    Ranges are (low, high); probabilities are in [0, 1].
    """

    silence_s: float = 0.5
    """longest pause between digits and longest silence at either end"""
    no_pause: float = 0.3
    """probability that two digits follow each other without any pause"""
    no_edge: float = 0.6
    """probability that an end of the string has no silence"""
    mixed_speakers: float = 0.15
    digit_gain_db: float = 4.0
    """standard deviation of the level of single digits"""
    peak_db: tuple[float, float] = (-24.0, -0.5)
    resample: tuple[float, float] = (0.87, 1.15)
    """playback rate: shifts pitch, formants and tempo together"""
    stretch: float = 0.3
    """probability that the tempo is then changed on its own"""
    duration: tuple[float, float] = (0.85, 1.2)
    """duration relative to the original once the tempo was changed"""
    equalizer: float = 0.5
    equalizer_db: float = 4.0
    noise: float = 0.4
    snr_db: tuple[float, float] = (5.0, 35.0)


STRONG = Variation()
MODERATE = Variation(
    silence_s=0.4,
    no_pause=0.2,
    mixed_speakers=0.1,
    digit_gain_db=2.0,
    peak_db=(-15.0, -1.0),
    resample=(0.95, 1.05),
    stretch=0.0,
    equalizer=0.0,
    noise=0.25,
    snr_db=(15.0, 35.0),
)


def read_recordings(directory: Path) -> list[Recording]:
    """Read every ``{digit}_{speaker}_{index}.wav`` of ``directory``, in a fixed order."""
    recordings = []
    for path in sorted(directory.glob("*.wav")):
        digit, speaker, index = path.stem.split("_")
        waveform, rate = soundfile.read(path, dtype="float32")
        if rate != SAMPLE_RATE or waveform.ndim != 1:
            raise ValueError(f"{path.name}: expected one channel at {SAMPLE_RATE} Hz")
        recordings.append(Recording(int(digit), speaker, int(index), waveform))
    if not recordings:
        raise FileNotFoundError(f"no recordings in {directory}")
    return recordings


def change_rate(waveform: Waveform, rate: float) -> Waveform:
    """Play ``waveform`` ``rate`` times as fast, by cutting or extending its spectrum."""
    length = max(1, round(len(waveform) / rate))
    spectrum = np.fft.rfft(waveform)
    return (np.fft.irfft(spectrum, length) * (length / len(waveform))).astype(np.float32)


def change_duration(waveform: Waveform, factor: float) -> Waveform:
    """Make ``waveform`` ``factor`` times as long at the same pitch (WSOLA).

    Frames of 30 ms are overlap-added; each is moved by up to 7.5 ms to where it
    continues the previous frame best, which keeps voiced speech periodic.
    """
    frame, hop, tolerance = 240, 120, 60
    if len(waveform) < 2 * frame:
        return waveform
    length = round(len(waveform) * factor)
    padded = np.pad(waveform, (tolerance, 2 * frame + tolerance))
    window = np.hanning(frame + 1)[:-1].astype(np.float32)
    output = np.zeros(length + 2 * frame, np.float32)
    weight = np.zeros_like(output)
    start = tolerance
    for position in range(0, length, hop):
        if position > 0:
            target = tolerance + min(round(position / factor), len(waveform))
            region = padded[target - tolerance : target + tolerance + frame]
            continuation = padded[start + hop : start + hop + frame]
            match = np.correlate(region, continuation, "valid")
            start = target - tolerance + int(np.argmax(match))
        output[position : position + frame] += window * padded[start : start + frame]
        weight[position : position + frame] += window
    return (output[:length] / np.maximum(weight[:length], 1e-2)).astype(np.float32)


def equalize(waveform: Waveform, deviation_db: float, rng: Generator) -> Waveform:
    """Filter with a smooth random frequency response, as microphones and rooms do."""
    spectrum = np.fft.rfft(waveform)
    points_db = rng.normal(0.0, deviation_db, 7)
    gain_db = np.interp(np.linspace(0, 6, len(spectrum)), np.arange(7), points_db)
    return np.fft.irfft(spectrum * 10 ** (gain_db / 20), len(waveform)).astype(np.float32)


def draw_noise(length: int, rng: Generator) -> Waveform:
    """Return ``[length]`` samples of white noise, pink noise or mains hum, RMS 1."""
    kind = rng.choice(["white", "pink", "hum"], p=[0.4, 0.4, 0.2])
    if kind == "hum":
        time_s = np.arange(length) / SAMPLE_RATE
        base = rng.choice([50.0, 60.0]) * rng.uniform(0.98, 1.02)
        orders = np.arange(1, 6)[:, None]
        phases = rng.uniform(0, 2 * np.pi, (5, 1))
        levels = rng.uniform(0.1, 1.0, (5, 1)) / orders
        noise = (levels * np.sin(2 * np.pi * base * orders * time_s + phases)).sum(0)
    else:
        noise = rng.standard_normal(length)
        if kind == "pink":
            spectrum = np.fft.rfft(noise)
            spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1.0))
            noise = np.fft.irfft(spectrum, length)
    rms = max(float(np.sqrt(np.mean(noise**2))), 1e-9)
    return np.asarray(noise / rms, np.float32)


def draw_silence(longest_s: float, rng: Generator) -> Waveform:
    """Return a pause: digital silence or dither of -80 to -50 dB full scale."""
    length = int(rng.uniform(0.0, longest_s) * SAMPLE_RATE)
    if rng.random() < 0.3:
        return np.zeros(length, np.float32)
    level = 10 ** (rng.uniform(-80.0, -50.0) / 20)
    return np.float32(level) * rng.standard_normal(length, np.float32)


def _log_uniform(bounds: tuple[float, float], rng: Generator) -> float:
    return float(np.exp(rng.uniform(*np.log(bounds))))


def _vary(waveform: Waveform, rate: float, variation: Variation, rng: Generator) -> Waveform:
    """Vary one digit of a string; ``rate`` is the string's playback rate."""
    rate *= float(np.exp(rng.normal(0.0, 0.01)))
    waveform = change_rate(waveform, rate)
    if rng.random() < variation.stretch:
        waveform = change_duration(waveform, rate * _log_uniform(variation.duration, rng))
    return waveform * np.float32(10 ** (rng.normal(0.0, variation.digit_gain_db) / 20))


def compose(recordings: Sequence[Recording], variation: Variation, rng: Generator) -> Sample:
    """Join ``recordings`` into one string of digits.

    Returns:
        The waveform ``[samples]`` at 8 kHz and its text, words joined by ``|``.
    """
    rate = _log_uniform(variation.resample, rng)
    pieces: list[Waveform] = []
    for position, recording in enumerate(recordings):
        skip = variation.no_pause if position else variation.no_edge
        if rng.random() >= skip:
            pieces.append(draw_silence(variation.silence_s, rng))
        pieces.append(_vary(recording.waveform, rate, variation, rng))
    if rng.random() >= variation.no_edge:
        pieces.append(draw_silence(variation.silence_s, rng))
    waveform = np.concatenate(pieces)
    if rng.random() < variation.equalizer:
        waveform = equalize(waveform, variation.equalizer_db, rng)
    if rng.random() < variation.noise:
        rms = float(np.sqrt(np.mean(waveform**2)))
        level = rms * 10 ** (-rng.uniform(*variation.snr_db) / 20)
        waveform = waveform + np.float32(level) * draw_noise(len(waveform), rng)
    peak = max(float(np.abs(waveform).max()), 1e-4)
    waveform = waveform * np.float32(10 ** (rng.uniform(*variation.peak_db) / 20) / peak)
    return waveform, "|".join(WORDS[recording.digit] for recording in recordings)


def trim_edges(waveform: Waveform, rng: Generator) -> Waveform:
    """Cut up to 10 ms, and never more than 3 %, off either end."""
    longest = min(SAMPLE_RATE // 100, int(0.03 * len(waveform)))
    first, last = rng.integers(0, longest + 1, 2)
    return waveform[first : len(waveform) - last]


def bucket(samples: Sequence[Sample], batch_seconds: float) -> list[list[Sample]]:
    """Cut samples into batches of similar lengths, at most ``batch_seconds`` long with their padding."""
    batches: list[list[Sample]] = [[]]
    for sample in sorted(samples, key=lambda sample: len(sample[0])):
        padded_s = (len(batches[-1]) + 1) * len(sample[0]) / SAMPLE_RATE
        if batches[-1] and padded_s > batch_seconds:
            batches.append([])
        batches[-1].append(sample)
    return batches


class Composer:
    """Draws samples for training and evaluation from a set of recordings."""

    def __init__(self, recordings: Sequence[Recording]) -> None:
        self.recordings = list(recordings)
        self.by_speaker: dict[str, list[Recording]] = defaultdict(list)
        for recording in recordings:
            self.by_speaker[recording.speaker].append(recording)
        self.speakers = sorted(self.by_speaker)

    def string(self, digit_count: int, variation: Variation, rng: Generator) -> Sample:
        """Compose ``digit_count`` recordings, of one speaker unless drawn mixed."""
        pool = self.by_speaker[self.speakers[rng.integers(len(self.speakers))]]
        if rng.random() < variation.mixed_speakers:
            pool = self.recordings
        chosen = [pool[i] for i in rng.integers(len(pool), size=digit_count)]
        return compose(chosen, variation, rng)

    def training_sample(self, rng: Generator, longest: int) -> Sample:
        """Draw one sample: a third are single recordings, bare or barely trimmed."""
        if rng.random() < 1 / 3:
            recording = self.recordings[rng.integers(len(self.recordings))]
            waveform = recording.waveform
            if rng.random() < 0.5:
                waveform = trim_edges(waveform, rng)
            return waveform, WORDS[recording.digit]
        return self.string(int(rng.integers(1, longest + 1)), STRONG, rng)

    def training_batches(self, batch_seconds: float, easy_batches: int, rng: Generator) -> Iterator[list[Sample]]:
        """Draw batches without end, out of a pool large enough that there are lengths to sort.

        The first ``easy_batches`` hold at most two digits: on long strings alone CTC
        stays for long where it answers with blanks only.
        """
        drawn = 0
        while True:
            longest = 2 if drawn < easy_batches else int(rng.choice([6, 8]))
            pool = [self.training_sample(rng, longest) for _ in range(6 * int(batch_seconds))]
            batches = bucket(pool, batch_seconds)
            for i in rng.permutation(len(batches)):
                yield batches[i]
            drawn += len(batches)

    def evaluation_sets(self, string_count: int, seed: int) -> dict[str, list[Sample]]:
        """Compose strings of 1 to 6 digits, and take all single recordings as they are."""
        rng = np.random.default_rng(seed)
        counts = rng.integers(1, 7, string_count)
        return {
            "strings": [self.string(int(count), MODERATE, rng) for count in counts],
            "singles": [(r.waveform, WORDS[r.digit]) for r in self.recordings],
        }
