"""Run one recording of twelve hours through the whole pipeline: memory, speed, and every word where chunks join.

Example:
    python scripts/bench/long_recording.py --hours 12 --kind mono     # 16 kHz mono FLAC
    python scripts/bench/long_recording.py --hours 12 --kind stereo   # 48 kHz stereo FLAC

The recording holds spoken digits in a known order with short pauses. The digits are recordings that the shipped model
was not trained on, and the speaker changes every minute. A word is right if exactly one word was decoded at its place,
and if it is the right one. The share of wrong words where chunks join may not exceed the share elsewhere, and all
processes together may take 2 GiB. The exit code is 1 if one of these conditions does not hold.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import soundfile
import torch
import torchaudio
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pipeline.inference.planning import Chunking  # noqa: E402
from pipeline.models.catalog import MODELS  # noqa: E402
from pipeline.results import open_run  # noqa: E402

WORDS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
PAUSE_S = 0.12
NEAR_S = 1.0
"""A word this near to a join counts as one at it."""
SLACK_S = 0.1
"""What the model's times may be off from the recording's."""
LIMIT_MIB = 2048
KINDS = {"mono": (16_000, 1), "stereo": (48_000, 2)}


@dataclass
class Truth:
    """What was spoken, and from where to where, in seconds."""

    words: list[int] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)


def minutes(rate: int, truth: Truth, seed: int = 0) -> Iterator[NDArray[np.float32]]:
    """Speech without end, about a minute at a time, at `rate`; notes in `truth` what it is."""
    generator = np.random.default_rng(seed)
    spoken: dict[tuple[str, int, int], NDArray[np.float32]] = {}
    for speaker in SPEAKERS:
        for digit in range(10):
            for take in range(5):
                path = ROOT / "tests" / "data" / "fsdd" / f"{digit}_{speaker}_{take}.wav"
                samples, own = soundfile.read(path, dtype="float32")
                waveform = torch.from_numpy(samples / max(0.1, np.abs(samples).max()) * 0.7)
                spoken[speaker, digit, take] = torchaudio.functional.resample(waveform, own, rate).numpy()
    pause = np.zeros(round(PAUSE_S * rate), np.float32)
    at = 0
    while True:
        speaker = SPEAKERS[int(generator.integers(len(SPEAKERS)))]
        pieces, size = [], 0
        while size < 60 * rate:
            digit, take = int(generator.integers(10)), int(generator.integers(5))
            samples = spoken[speaker, digit, take]
            truth.words.append(digit)
            truth.starts.append((at + size) / rate)
            truth.ends.append((at + size + len(samples)) / rate)
            pieces += [samples, pause]
            size += len(samples) + len(pause)
        at += size
        yield np.concatenate(pieces)


def write(path: Path, hours: float, rate: int, channels: int) -> Truth:
    """A FLAC of that length; the second channel is the first, a little quieter."""
    truth = Truth()
    left = round(hours * 3600 * rate)
    with soundfile.SoundFile(path, "w", rate, channels, "PCM_16", format="FLAC") as file:
        for block in minutes(rate, truth):
            mono = block[:left]
            file.write(mono if channels == 1 else np.stack([mono, 0.8 * mono], axis=1))
            left -= len(mono)
            if left == 0:
                break
    whole = sum(end <= hours * 3600 for end in truth.ends)
    return Truth(truth.words[:whole], truth.starts[:whole], truth.ends[:whole])


def resident_mib(pid: int) -> float:
    """What a process and its children hold, pages that they share counted once."""
    total, group = 0.0, os.getpgid(pid)
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.getpgid(int(entry.name)) == group:
                lines = (entry / "smaps_rollup").read_text().splitlines()
                total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
        except (OSError, StopIteration):
            continue
    return total


def run(recording: Path, run_dir: Path) -> tuple[float, float]:
    """Seconds and peak resident memory in MiB of the main job over the folder of `recording`."""
    given = ["dataset=folder", f"dataset.root={recording.parent}", "model=digits", f"run_dir={run_dir}"]
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.run", *given],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    peak = 0.0
    while process.poll() is None:
        try:
            peak = max(peak, resident_mib(process.pid))
        except ProcessLookupError:
            break
        time.sleep(0.5)
    if process.wait() != 0:
        raise SystemExit(f"the run ended with exit code {process.returncode}")
    return time.monotonic() - started, peak


def judge(truth: Truth, run_dir: Path) -> tuple[NDArray[np.bool_], NDArray[np.bool_], dict[str, NDArray[np.bool_]]]:
    """Of every spoken word: whether it lies at a join, whether it was read right, and else what became of it."""
    read = open_run(run_dir).words
    middles = ((read.start_s + read.end_s) / 2).to_numpy()
    said = read.word.to_numpy()
    starts, ends = np.asarray(truth.starts) - SLACK_S, np.asarray(truth.ends) + SLACK_S
    # Between two words the border is the middle of the pause.
    borders = (np.asarray(truth.ends[:-1]) + np.asarray(truth.starts[1:])) / 2
    starts[1:], ends[:-1] = np.maximum(starts[1:], borders), np.minimum(ends[:-1], borders)
    first, last = np.searchsorted(middles, starts), np.searchsorted(middles, ends)
    count = last - first
    expected = np.asarray(WORDS, dtype=object)[truth.words]
    same = np.array([n == 1 and said[i] == word for i, n, word in zip(first, count, expected, strict=True)])
    facts, settings = MODELS["digits"], {"seconds": 60.0, "context": 4.0}
    chunking = Chunking(
        int(settings["seconds"] * facts.sample_rate),
        round(settings["context"] * facts.sample_rate / facts.stride),
        facts.stride,
        facts.min_samples,
    )
    num_samples = int(pq.read_table(run_dir / "manifest.parquet")["duration_s"][0].as_py() * facts.sample_rate)
    joins = np.array([chunk.join for chunk in chunking.chunks(0, num_samples)[1:]]) * facts.seconds_per_frame
    middle = (starts + ends) / 2
    place = np.searchsorted(joins, middle)
    padded = np.concatenate([[-np.inf], joins, [np.inf]])
    near = np.minimum(middle - padded[place], padded[place + 1] - middle) <= NEAR_S
    return near, same, {"lost": count == 0, "twice or more": count > 1, "another word": (count == 1) & ~same}


def main() -> int:
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--hours", type=float, default=12.0)
    made.add_argument("--kind", choices=list(KINDS), default="mono")
    made.add_argument("--work", type=Path, help="folder for the recording and the run; a temporary one if not given")
    options = made.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = (options.work or Path(temporary)).resolve()
        (work / "recording").mkdir(parents=True)
        path = work / "recording" / "long.flac"
        truth = write(path, options.hours, *KINDS[options.kind])
        size = path.stat().st_size
        seconds, peak = run(path, work / "run")
        near, same, others = judge(truth, work / "run")
    console = Console()
    table = Table(title=f"{options.hours:g} h, {options.kind}, {size / 1e6:,.0f} MB, {len(same):,} words")
    for column in ("words", "count", "wrong", "share", *others):
        table.add_column(column, justify="left" if column == "words" else "right")
    shares = []
    for name, chosen in (("at joins", near), ("elsewhere", ~near)):
        wrong = int((~same & chosen).sum())
        shares.append(wrong / max(1, int(chosen.sum())))
        kinds = (f"{int((which & chosen).sum()):,}" for which in others.values())
        table.add_row(name, f"{int(chosen.sum()):,}", f"{wrong:,}", f"{shares[-1]:.2%}", *kinds)
    console.print(table)
    console.print(
        f"{seconds:,.0f} s, {options.hours * 3600 / seconds:,.0f} x real time; the processes together held at most "
        f"{peak:,.0f} MiB"
    )
    # Three standard deviations of a share of so many words.
    spread = 3 * np.sqrt(max(shares[1], 1e-4) / max(1, int(near.sum())))
    sound = peak <= LIMIT_MIB and shares[0] <= shares[1] + spread
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
