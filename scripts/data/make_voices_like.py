"""Make a small corpus with the layout and the names of VOiCES from the shipped recordings of spoken digits.

Reverberation simulates the rooms. Noise simulates the distractors: `none`, `babb` (several voices) and `musi` (tones).
The corpus shows rooms, distractors, speakers and imperfect transcripts offline, where VOiCES itself is not at hand.

Example:
    python scripts/data/make_voices_like.py /tmp/VOiCES_devkit
    python -m pipeline.run dataset=voices dataset.root=/tmp/VOiCES_devkit model=digits features.layers=all
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from pipeline.datasets import SHIPPED

REVERBERATION_S = {"rm1": 0.1, "rm2": 0.3}
"""Seconds until an echo has fallen by 60 dB."""
SNR_DB = {"none": None, "babb": 24.0, "musi": 20.0}
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
DISTANT = "Lab41-SRI-VOiCES-{room}-{distractor}-sp{speaker:04d}-ch{chapter:06d}-sg{segment:04d}-mc01-stu-clo-dg090"
SOURCE = "Lab41-SRI-VOiCES-src-sp{speaker:04d}-ch{chapter:06d}-sg{segment:04d}"
Samples = NDArray[np.float32]


def make_corpus(folder: Path, recordings: int | None = None, *, damaged: bool = True) -> None:
    """Write the tree.

    Args:
        folder: The future `VOiCES_devkit`; need not exist.
        recordings: How many of the shipped recordings to use, the longest first; each is there clean and in every
            room with every distractor. `None` for all.
        damaged: Whether one recording is cut short and another is no recording.
    """
    rng = np.random.default_rng(7)
    with open(SHIPPED / "digits" / "transcripts.csv", encoding="utf-8") as handle:
        rows = sorted(csv.DictReader(handle), key=lambda row: (-int(row["num_digits"]), row["file_name"]))[:recordings]
    voices = [soundfile.read(SHIPPED / "digits" / row["file_name"], dtype="float32") for row in rows]
    echoes = {room: _echo(rng, seconds, voices[0][1]) for room, seconds in REVERBERATION_S.items()}
    texts: list[tuple[str, str]] = []
    for segment, (row, (samples, rate)) in enumerate(zip(rows, voices, strict=True)):
        speaker = SPEAKERS.index(row["speaker"]) + 1
        split, numbers = (
            ("train", "test")[segment % 2],
            {"speaker": speaker, "chapter": 100 + speaker, "segment": segment},
        )
        stem = SOURCE.format(**numbers)
        _write(folder / "source-16k" / split / f"sp{speaker:04d}" / f"{stem}.wav", samples, rate)
        texts.append((stem, row["transcript"]))
        for room, echo in echoes.items():
            there = np.convolve(samples, echo)[: len(samples)]
            for distractor, snr in SNR_DB.items():
                others = [voices[each][0] for each in rng.permutation(len(voices))[:4] if each != segment]
                noise = np.zeros_like(there) if snr is None else _noise(rng, distractor, len(there), rate, others)
                stem = DISTANT.format(room=room, distractor=distractor, **numbers)
                folders = folder / "distant-16k" / "speech" / split / room / distractor / f"sp{speaker:04d}"
                _write(folders / f"{stem}.wav", _mixed(there, noise, snr), rate)
                texts.append((stem, row["transcript"]))
    if damaged:
        found = sorted((folder / "distant-16k").rglob("*.wav"))
        found[3].write_bytes(found[3].read_bytes()[:4_000])
        found[-4].write_bytes(b"<html>the disk was full</html>")
    _references(folder / "references", texts)


def _references(folder: Path, texts: Sequence[tuple[str, str]]) -> None:
    folder.mkdir(parents=True)
    with open(folder / "filename_transcripts", "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(("index", "file_name", "transcript"))
        writer.writerows((index, stem, text) for index, (stem, text) in enumerate(texts))
    lines = [f"{speaker} {'M'}" for speaker in range(1, len(SPEAKERS) + 1)]
    table = "\n".join(["Speaker Gender", *lines, ""])
    (folder / "Lab41-SRI-VOiCES-speaker-gender-dataset.tbl").write_text(table, encoding="utf-8")


def _echo(rng: np.random.Generator, seconds: float, rate: int) -> Samples:
    """An impulse response: the direct sound, then noise that falls by 60 dB in `seconds`."""
    time = np.arange(round(seconds * rate)) / rate
    tail = rng.standard_normal(len(time)) * 10 ** (-3 * time / seconds) * 0.05
    tail[0] = 1.0
    return tail.astype(np.float32)


def _noise(rng: np.random.Generator, distractor: str, length: int, rate: int, others: Sequence[Samples]) -> Samples:
    if distractor == "babb":
        return np.sum([np.resize(np.roll(other, rng.integers(rate)), length) for other in others], axis=0)
    time = np.arange(length) / rate
    chord = 220.0 * 2 ** (np.array([0, 4, 7, 12]) / 12)
    beat = 1 + np.sin(2 * np.pi * 1.5 * time)
    return (beat * np.sin(2 * np.pi * time[:, None] * chord).sum(axis=1) + 0.3 * rng.standard_normal(length)).astype(
        np.float32
    )


def _mixed(speech: Samples, noise: Samples, snr: float | None) -> Samples:
    """Both, the noise `snr` decibels below, the loudest sample at half of full scale."""
    if snr is not None:
        noise = noise * np.sqrt(np.mean(speech**2) / np.mean(noise**2)) * 10 ** (-snr / 20)
    mixed = speech + noise
    return mixed * (0.5 / max(float(np.abs(mixed).max()), 1e-9))


def _write(path: Path, samples: Samples, rate: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype="PCM_16")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--recordings", type=int, help="how many of the shipped recordings to use; all by default")
    options = parser.parse_args()
    make_corpus(options.folder, options.recordings)
