"""Joins words to the speakers of an RTTM file, which says who spoke when."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.datasets.formats import rttm
from pipeline.datasets.formats.naming import spelled
from pipeline.datasets.formats.source import Source, line
from pipeline.datasets.formats.turns import Turn
from pipeline.datasets.formats.values import shown
from pipeline.results.recording_names import stem_of
from pipeline.runtime.errors import UserError

SPEAKER, OVERLAP = "speaker", "overlap"
FIELDS = (pa.field(SPEAKER, pa.string()), pa.field(OVERLAP, pa.bool_()))
"""Columns of words that are joined: who says the word, and whether somebody else speaks during the word."""


@dataclass(frozen=True)
class _Turns:
    """The turns of one channel of a recording, sorted by start."""

    starts: Sequence[float]
    ends: Sequence[float]
    speakers: Sequence[str]
    longest_s: float

    def during(self, start_s: float, end_s: float) -> dict[str, float]:
        """Return how many seconds each speaker talks in a stretch, in the order of their starts."""
        found: dict[str, float] = {}
        for index in range(bisect_left(self.starts, start_s - self.longest_s), bisect_left(self.starts, end_s)):
            overlap = min(end_s, self.ends[index]) - max(start_s, self.starts[index])
            if overlap > 0:
                found[self.speakers[index]] = found.get(self.speakers[index], 0.0) + overlap
        return found


@dataclass(frozen=True)
class Speakers:
    """The turns of an RTTM file, by recording.

    Attributes:
        name: The file, for messages.
        turns: The turns by file name in the RTTM and by channel; `None` has the turns of all channels, and stands alone
            where all lines of a file have the same channel, because most programs write 1 also for a mixture of
            channels.
    """

    name: str
    turns: Mapping[str, Mapping[int | None, _Turns]]

    def of(self, path: str, channel: int | None, words: Iterable[tuple[float, float]]) -> list[tuple[str | None, bool]]:
        """Return the speaker of each word, and whether somebody else speaks during the word.

        The speaker is the one who talks longest during the word. Of several, it is the one whose turn begins first. A
        word during which nobody talks has no speaker. A word without length counts as one of a microsecond.

        Args:
            path: Path of the recording, as in the manifest.
            channel: Channel of the utterance, from 1; `None` if it has all channels.
            words: Start and end of each word in seconds.
        """
        sides = self.turns.get(_key(path), {})
        turns = sides.get(None if len(sides) == 1 else channel)
        if turns is None:
            return [(None, False) for _ in words]
        found = [turns.during(start_s, max(end_s, start_s + 1e-6)) for start_s, end_s in words]
        return [(max(each, key=each.__getitem__) if each else None, len(each) > 1) for each in found]

    def beside(self, words: pa.Table, path: Mapping[str, str], channel: Mapping[str, int]) -> pa.Table:
        """Return a table of words with the columns `FIELDS`.

        Args:
            words: Rows with id, start_s and end_s. The words of an utterance are together.
            path: Path of each utterance, by id.
            channel: Channel of an utterance that has one, by id.
        """
        ids = words["id"].to_pylist()
        times = list(zip(words["start_s"].to_pylist(), words["end_s"].to_pylist(), strict=True))
        bounds = [0, *(np.flatnonzero(np.array(ids[1:]) != np.array(ids[:-1])) + 1).tolist(), len(ids)]
        found: list[tuple[str | None, bool]] = []
        for first, last in pairwise(bounds):
            if first < last:
                found += self.of(path[ids[first]], channel.get(ids[first]), times[first:last])
        for field, values in zip(FIELDS, zip(*found, strict=True) if found else ((), ()), strict=True):
            words = words.append_column(field, pa.array(values, field.type))
        return words


def read_speakers(path: str | Path, recordings: Iterable[str]) -> Speakers:
    """Read an RTTM file.

    Args:
        path: The file.
        recordings: Paths of the recordings of the run. RTTM names a recording without folder and extension.

    Raises:
        UserError: The file cannot be read, a line is wrong, no line names a recording, or a name may be any of several
            recordings.
    """
    source = Source(os.path.abspath(os.path.expanduser(path)), os.fspath(path))
    lines: dict[str, list[Turn]] = {}
    for number, text in source.lines():
        try:
            turn = rttm.parse(text)
        except ValueError as error:
            raise source.refusal(line(number), error) from None
        if turn is not None and turn.speaker is not None and turn.end_s > turn.start_s:
            lines.setdefault(spelled(turn.file), []).append(turn)
    path_of: dict[str, str] = {}
    for recording in recordings:
        key = _key(recording)
        if key in lines and path_of.setdefault(key, recording) != recording:
            both = f"{shown(path_of[key])} and {shown(recording)}"
            raise UserError(f"{source.name}: {shown(key)} matches both {both}; give each recording its own file name")
    if not path_of:
        first = f"; the first line names {shown(next(iter(lines)))}" if lines else ", for it has no SPEAKER line"
        raise UserError(f"{source.name}: no line names a recording of the run{first}")
    turns: dict[str, dict[int | None, _Turns]] = {}
    for key, found in lines.items():
        sides: dict[int | None, list[Turn]] = {None: found}
        if len({turn.channel for turn in found}) > 1:
            for turn in found:
                if (side := _side(turn.channel)) is not None:
                    sides.setdefault(side, []).append(turn)
        turns[key] = {side: _sorted(each) for side, each in sides.items()}
    return Speakers(source.name, turns)


def _sorted(turns: list[Turn]) -> _Turns:
    rows = sorted((turn.start_s, turn.end_s, turn.speaker or "") for turn in turns)
    starts, ends, speakers = zip(*rows, strict=True)
    return _Turns(starts, ends, speakers, max(end - start for start, end, _ in rows))


def _side(channel: str) -> int | None:
    """Return the number of a channel, from 1; A and B are 1 and 2. `None` if it is neither."""
    return {"A": 1, "B": 2}.get(channel.upper(), int(channel) if channel.isdecimal() else None)


def _key(path: str) -> str:
    return spelled(stem_of(path))
