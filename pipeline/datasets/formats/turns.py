"""Turns of speakers, as RTTM and STM list them: the name of a recording, a channel, a speaker and times.

Both formats name a recording without folder and extension. The id of a turn is `meeting#12340-15980`, followed by
`#alice` if several lines have the same file and times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from pipeline.datasets.formats import Listing, Row
from pipeline.datasets.formats.keyed import Repeated
from pipeline.datasets.formats.source import Source, line
from pipeline.datasets.formats.values import channel, number_in, path, segment_mark, shown

Find = Callable[[Set[str]], Mapping[str, str]]
"""Maps the names of recordings to paths. Maps names that are not found too."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One line: what one speaker says from one time to another.

    Attributes:
        file: The name of the recording.
        channel: The channel as written.
        start_s, end_s: Start and end in seconds.
        speaker: The speaker; `None` if the line names none.
        reference: The reference transcript; `None` if the format has none.
        extras: All other values by name.
    """

    file: str
    channel: str
    start_s: float
    end_s: float
    speaker: str | None
    reference: str | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The id without channel and speaker."""
        return f"{self.file}{segment_mark(self.start_s, self.end_s)}"


def recording_name(value: str) -> str:
    """Check the name of a recording.

    Raises:
        ValueError: The name is not valid, or has folders.
    """
    name = path("file", value)
    if "/" in name:
        raise ValueError(f"file={shown(name)}: must be the name of a recording, without folders")
    return name


def listing(source: Source, parse: Callable[[str], Turn | None], find: Find) -> Listing:
    """Return the turns in a file.

    Args:
        source: The file.
        parse: Returns the turn of a line; `None` for a line without a turn. Raises `ValueError` for a wrong line.
        find: Finds the recordings.
    """

    def lines() -> Iterator[tuple[str, Turn | ValueError]]:
        for number, text in source.lines():
            try:
                turn = parse(text)
            except ValueError as error:
                yield line(number), error
                continue
            if turn is not None:
                yield line(number), turn

    def turns() -> Iterator[Turn]:
        return (turn for _, turn in lines() if isinstance(turn, Turn))

    def rows() -> Iterator[Row]:
        channels: dict[str, set[str]] = {}
        for turn in turns():
            channels.setdefault(turn.file, set()).add(turn.channel)
        repeated = Repeated(turn.id for turn in turns())
        paths = find(channels.keys())
        for place, found in lines():
            if isinstance(found, ValueError):
                yield Row.wrong(place, found)
                continue
            turn = found
            try:
                # Most programs write channel 1 even for a mixture of channels. The number means a channel only if the
                # file also has lines with another number.
                side = _side(turn.channel) if len(channels[turn.file]) > 1 else None
            except ValueError as error:
                yield Row.wrong(place, error, paths[turn.file])
                continue
            id_ = turn.id if side is None else f"{turn.id}#c{side}"
            if turn.id in repeated and turn.speaker is not None:
                id_ = f"{id_}#{turn.speaker}"
            extras = {"speaker": turn.speaker, **turn.extras}
            yield Row(paths[turn.file], id_, turn.reference, turn.start_s, turn.end_s, side, extras, place)

    return Listing(rows)


def _side(written: str) -> int | None:
    """Return the channel, from 1; A and B are 1 and 2."""
    return channel("channel", {"A": 1, "B": 2}.get(written.upper(), number_in(written)))
