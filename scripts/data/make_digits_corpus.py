"""Compose the shipped corpus `digits` from test recordings of the Free Spoken Digit Dataset.

Example:
    python scripts/data/make_digits_corpus.py --fsdd DIR --out pipeline/shipped/digits

The corpus uses the recordings with indices 0 to 4, which no model is trained on. The same seed gives the same samples.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import soundfile
from digit_strings import MODERATE, SAMPLE_RATE, Composer, compose, read_recordings

TEST_INDICES = range(5)


def main() -> None:
    """Write FLAC files and `transcripts.csv`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fsdd", type=Path, required=True, help="folder of the recordings")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--utterances", type=int, default=60)
    parser.add_argument("--seed", type=int, default=20)
    options = parser.parse_args()
    composer = Composer([r for r in read_recordings(options.fsdd) if r.index in TEST_INDICES])
    rng = np.random.default_rng(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(options.utterances):
        speaker = composer.speakers[number % len(composer.speakers)]
        pool = composer.by_speaker[speaker]
        count = 1 + (number // len(composer.speakers)) % 6
        waveform, text = compose([pool[i] for i in rng.integers(len(pool), size=count)], MODERATE, rng)
        name = f"{speaker}-{count}digits-{number:02d}.flac"
        soundfile.write(options.out / name, waveform, SAMPLE_RATE, "PCM_16")
        rows.append([name, text.replace("|", " ").lower(), speaker, count])
    with open(options.out / "transcripts.csv", "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(["file_name", "transcript", "speaker", "num_digits"])
        writer.writerows(sorted(rows))


if __name__ == "__main__":
    main()
