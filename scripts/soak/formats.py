"""Run folders with many damaged files of every format among good ones until the time is up, and check each file's row.

    python scripts/soak/formats.py --damaged 300 --seed 7          or: make soak-formats ARGS="--damaged 300"

Each file must have one row, and the good ones must be transcribed as without the damaged ones. The seed determines
every damage. If a row is wrong, the script keeps its folder, prints the seed, and ends with exit code 1.
"""

from __future__ import annotations

import argparse
import io
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
from harness import ALL_OUTPUTS, COMPLETE, DIGITS, FAILURES, LONGEST_S, ROOT, Soak, check, ids, link_digits, run, texts
from numpy.typing import NDArray

FORMATS = ROOT / "tests" / "data" / "formats"
ENCODED = ("AIFF", "AU", "AVR", "CAF", "FLAC", "HTK", "IRCAM", "MP3", "NIST", "OGG", "PAF", "PVF", "RF64", "SDS", "SVX",
           "VOC", "W64", "WAV", "WAVEX", "XI")  # fmt: skip


class Formats(Soak):
    """A folder of good recordings, and their texts."""

    settings = (*Soak.settings, *ALL_OUTPUTS, "shard.hours=0.05")

    def __init__(self, work: Path, chance: random.Random, given: argparse.Namespace) -> None:
        super().__init__(work, chance, given)
        link_digits(work / "good", given.recordings)
        code = self.finish(work / "undisturbed", f"dataset.root={work / 'good'}")
        check(code == COMPLETE, f"the run without damaged files ended with {code}")
        self.texts = texts(work / "undisturbed")
        samples, rate = soundfile.read(DIGITS / "george-1digits-00.flac")
        self.whole = {name: encoded(samples, rate, name) for name in ENCODED}
        self.whole |= {
            path.name: path.read_bytes() for path in FORMATS.iterdir() if path.suffix not in (".md", ".json", ".npz")
        }

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--recordings", type=int, default=300, help="good ones")
        parser.add_argument("--damaged", type=int, default=20, help="damaged files of each format")

    def round(self, number: int) -> Iterator[str]:
        """Run so many damaged files of every format among the good recordings."""
        root, run_dir, each = self.work / f"formats-{number}", self.work / f"formats-{number}-run", self.given.damaged
        shutil.copytree(self.work / "good", root, symlinks=True)
        (root / "damaged").mkdir()
        for name, data in self.whole.items():
            for index in range(each):
                (root / "damaged" / f"{name.replace('.', '-')}-{index}.wav").write_bytes(self.damaged(data))
        code = self.start(run_dir, f"dataset.root={root}").wait(LONGEST_S * max(1, each // 50))
        check(code == FAILURES, f"exit code {code} of a folder with damaged files")
        found = texts(run_dir)
        wrong = [id_ for id_, text in self.texts.items() if found.get(id_) != text]
        check(not wrong, f"damaged files changed other recordings: {wrong[:5]}")
        accounted = ids(run_dir / "transcripts") + ids(run_dir / "failures")
        check(accounted == ids(run_dir / "manifest.parquet"), "not every damaged file has one row")
        shutil.rmtree(root)
        shutil.rmtree(run_dir)
        yield f"{len(self.whole)} formats with {each} damaged files each"

    def damaged(self, data: bytes) -> bytes:
        """Some bytes changed, cut out or put in, mostly where headers are."""
        content = bytearray(data)
        for _ in range(self.chance.randint(1, 4)):
            place = self.chance.randrange(max(1, min(len(content), self.chance.choice((60, 400, len(content))))))
            junk = self.chance.choice((b"\0" * 4, b"\xff" * 4, self.chance.randbytes(self.chance.randint(1, 200))))
            content[place : place + self.chance.choice((0, len(junk), len(content)))] = junk
        return bytes(content)

    def summary(self, rounds: int) -> str:
        return f"{rounds} folders, each file with one row"


def encoded(samples: NDArray[np.float64], rate: int, format_: str) -> bytes:
    """The samples in a format of libsndfile, with its default subtype."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=format_, subtype="DPCM_16" if format_ == "XI" else None)
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(run(Formats, __doc__))
