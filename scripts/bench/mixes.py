"""The mixes of recordings that `end_to_end.py` measures."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import corpora
import soundfile
from common import say


@dataclass(frozen=True)
class Mix:
    """A corpus, and the part of it that is enough for who is slower or writes much.

    Attributes:
        name: Of the mix.
        whole, part: Folders.
        lengths: Samples of each recording of `whole`.
        part_s: Seconds of audio in `part`.
    """

    name: str
    whole: Path
    part: Path
    lengths: list[int]
    part_s: float


MIXES = {
    "librispeech": "recordings of 2 to 16 s",
    "busy": "recordings of 2 to 16 s beside two busy processes",
    "short": "commands of a second",
    "long": "one recording",
}


def make_mixes(options: argparse.Namespace, work: Path) -> dict[str, Mix]:
    say("making recordings")
    count = options.recordings
    part = min(count, math.ceil(options.rival_hours * 3600 / 9)) if options.device == "cuda" else count
    makers: dict[str, Callable[[Path], Path]] = {
        "librispeech": lambda folder: corpora.librispeech(folder, count, 1.0 if options.quick else 16.0),
        "busy": lambda folder: corpora.librispeech(folder, min(count, 24)),
        "short": lambda folder: corpora.short(folder, options.commands),
        "long": lambda folder: corpora.long(folder, options.long_minutes),
    }
    mixes = {}
    for name in options.mixes:
        whole = makers[name](work / name)
        paths = corpora.files(whole)
        folder = whole
        if name == "librispeech" and part < count:
            folder = corpora.beginning(work / "librispeech-part", whole, part)
        lengths = [soundfile.info(path).frames for path in paths]
        mixes[name] = Mix(name, whole, folder, lengths, corpora.seconds(folder))
    return mixes


def smaller(mix: Mix, work: Path) -> Mix:
    """For a large model on CUDA: a quarter of what the base model gets, but not less than the rivals'."""
    count = max(len(mix.lengths) // 4, len(corpora.files(mix.part)))
    whole = corpora.beginning(work / "librispeech-quarter", mix.whole, count)
    return replace(mix, whole=whole, lengths=mix.lengths[:count])


def describe(mix: Mix) -> str:
    seconds = sum(mix.lengths) / corpora.RATE
    amount = f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds:.0f} s"
    return f"{len(mix.lengths):,} {MIXES[mix.name]}, {amount}" if mix.name != "long" else f"one recording, {amount}"
