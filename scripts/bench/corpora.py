"""Corpora of real speech in realistic mixes of durations, made from the recordings that the project ships."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio
from common import ROOT, ready
from numpy.typing import NDArray

RATE = 16_000
DISTINCT = 400
"""Recordings of a corpus that differ; a larger corpus links to them again."""

Samples = NDArray[np.float32]


def speech() -> Samples:
    """Half a minute of read and spoken English at 16 kHz: LibriVox, an address of 1961, VOiCES."""
    data = ROOT / "tests" / "data"
    voices = ROOT / "pipeline" / "shipped" / "voices" / "source-16k"
    paths = [*sorted((data / "librivox").glob("*.wav")), data / "long" / "jfk.flac", *sorted(voices.rglob("*.wav"))]
    return np.concatenate([read(path) for path in paths])


def read(path: Path | str, rate: int = RATE) -> Samples:
    """Mono, at a rate: what a user of torchaudio would write, with soundfile to read the file."""
    samples, own = soundfile.read(path, dtype="float32", always_2d=True)
    waveform = torch.from_numpy(samples.mean(axis=1))
    return torchaudio.functional.resample(waveform, own, rate).numpy() if own != rate else waveform.numpy()


def cut(source: Samples, num_samples: int, offset: int) -> Samples:
    """A stretch of the source, which begins again where it ends."""
    return source.take(np.arange(offset, offset + num_samples), mode="wrap")


def utterances(count: int, longest_s: float = 16.0, seed: int = 0, shortest_s: float = 2.0) -> list[Samples]:
    """Lengths as LibriSpeech has them, from 2 to 16 s in equal parts and in random order: 9 s on average.

    The shortest has at most half of the longest.
    """
    generator = np.random.default_rng(seed)
    source = speech()
    lengths = generator.permutation(np.linspace(min(shortest_s, longest_s / 2), longest_s, count))
    return [cut(source, round(length * RATE), int(generator.integers(len(source)))) for length in lengths]


def commands(count: int, seed: int = 0) -> list[Samples]:
    """Spoken digits, two or three in a recording: about a second."""
    generator = np.random.default_rng(seed)
    paths = sorted((ROOT / "tests" / "data" / "fsdd").glob("*.wav"))
    chosen = generator.integers(len(paths), size=(count, 2))
    return [np.concatenate([read(paths[index]) for index in pair]) for pair in chosen]


def write(folder: Path, recordings: list[Samples], count: int | None = None, suffix: str = "flac") -> Path:
    """Recordings as files, 16 bit; beyond their number links to them, which count as recordings of their own."""
    empty(folder)
    for index, samples in enumerate(recordings):
        soundfile.write(folder / f"{index:06d}.{suffix}", samples, RATE, subtype="PCM_16")
    for index in range(len(recordings), count or 0):
        (folder / f"{index:06d}.{suffix}").symlink_to(f"{index % len(recordings):06d}.{suffix}")
    return folder


def librispeech(folder: Path, count: int, longest_s: float = 16.0) -> Path:
    return write(folder, utterances(min(count, DISTINCT), longest_s), count)


def short(folder: Path, count: int) -> Path:
    return write(folder, commands(min(count, DISTINCT)), count, "wav")


def seconds_long(folder: Path, count: int) -> Path:
    """From half a second to one and a half: one second on average."""
    return write(folder, utterances(min(count, DISTINCT), 1.5, shortest_s=0.5), count)


def long(folder: Path, minutes: float) -> Path:
    """One recording."""
    return write(folder, [cut(speech(), round(minutes * 60 * RATE), 0)])


def single_digits(folder: Path, count: int) -> Path:
    """Links to the digits' own files, 8 kHz WAV of 0.4 s."""
    paths = sorted((ROOT / "tests" / "data" / "fsdd").glob("*.wav"))
    empty(folder)
    for index in range(count):
        (folder / f"{index:06d}.wav").symlink_to(paths[index % len(paths)])
    return folder


def beginning(folder: Path, of: Path, count: int) -> Path:
    """Links to the first recordings of another corpus."""
    empty(folder)
    for path in files(of)[:count]:
        (folder / path.name).symlink_to(path.resolve())
    return folder


def empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    ready(folder)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in (".flac", ".wav"))


def seconds(folder: Path) -> float:
    """Seconds of audio in a corpus."""
    return sum(soundfile.info(path).duration for path in files(folder))
