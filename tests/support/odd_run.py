"""A run with everything that makes an export hard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from make_run import Spoken, make_run

TALK, CALL, NOISE, GONE = "día/talk 1.wav", "calls/a#1%C3.wav", "noise.wav", "gone.wav"


def make_odd_run(root: Path) -> Path:
    """A talk in two segments, which are in two shards, the later one first; a call of two channels, whose sides
    overlap; noise without words; a failure; and a shard that is not done."""
    generator = np.random.default_rng(0)
    for name, channels, seconds in ((TALK, 1, 6), (CALL, 2, 4), (NOISE, 1, 1)):
        path = root / name
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, generator.uniform(-0.5, 0.5, (16000 * seconds, channels)), 16000)
    talk, call = str(root / TALK), str(root / CALL)

    def side(number: int, words: list[tuple[str, int, int, float]]) -> Spoken:
        columns = {"channel": number, "num_channels": 2}
        return Spoken(f"{CALL}#c{number}", words, path=call, columns=columns, num_frames=200, reference="hello")

    later = [("good", 10, 30, 0.5), ("morning", 30, 60, 0.75)]
    first = [("it's", 0, 20, 0.9), ("<b>", 22, 40, 0.8), ('"so"', 100, 110, 0.7)]
    shards = [
        [
            Spoken(f"{TALK}#3000-6000", later, path=talk, start_s=3.0, num_frames=150),
            side(1, [("hello", 10, 40, 0.9), ("bye", 150, 170, 0.9)]),
            side(2, [("hi", 30, 60, 0.6)]),
        ],
        [
            Spoken(f"{TALK}#0-3000", first, path=talk, start_s=0.0, num_frames=150, reference="it's so"),
            Spoken(NOISE, path=str(root / NOISE)),
            Spoken(GONE, path=str(root / GONE), failed=True),
        ],
        [Spoken("later.wav", path=str(root / "later.wav"))],
    ]
    return make_run(root / "run", shards, {"channel": "int16"}, ["transcripts"], uncommitted=[2])
