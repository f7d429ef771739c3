"""Reads RTTM, which says who spoke when. Every SPEAKER line is a row: one segment of one speaker.

    SPEAKER meeting 1 12.34 3.64 <NA> <NA> alice <NA> <NA>

The format is defined in appendix A of NIST's Rich Transcription 2009 evaluation plan. The id is `meeting#12340-15980`,
followed by `#alice` if several lines have the same file and times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass

from pipeline.datasets.formats import Listing, Row
from pipeline.datasets.formats.keyed import Repeated, fields
from pipeline.datasets.formats.source import Source
from pipeline.datasets.formats.values import channel, number_in, path, point, seconds, segment_mark, shown

# fmt: off
_OTHER_TYPES = frozenset((
    "SEGMENT", "NOSCORE", "NO_RT_METADATA", "LEXEME", "NON-LEX", "NON-SPEECH", "FILLER", "EDIT", "IP", "SU", "CB",
    "A/P", "SPKR-INFO", "SPKR_INFO",
))
# fmt: on


@dataclass(frozen=True, slots=True)
class _Turn:
    """One SPEAKER line: the name of the file, the channel as written, start and end in seconds, and the speaker."""

    file: str
    channel: str
    start_s: float
    end_s: float
    speaker: str | None

    @property
    def id(self) -> str:
        return f"{self.file}{segment_mark(self.start_s, self.end_s)}"


def listing(source: Source, find: Callable[[Set[str]], Mapping[str, str]]) -> Listing:
    """Return the segments in an RTTM file.

    Args:
        source: The file.
        find: Maps the names of recordings in the RTTM file to paths. Maps names that are not found too.
    """

    def rows() -> Iterator[Row]:
        channels: dict[str, set[str]] = {}
        for _, turn in _turns(source):
            channels.setdefault(turn.file, set()).add(turn.channel)
        repeated = Repeated(turn.id for _, turn in _turns(source))
        paths = find(channels.keys())
        for number, turn in _turns(source):
            try:
                # Most programs write channel 1 even for a mixture of channels. The number means a channel only if the
                # file also has lines with another number.
                side = channel("channel", number_in(turn.channel)) if len(channels[turn.file]) > 1 else None
            except ValueError as error:
                raise source.refusal(number, error) from None
            id_ = turn.id if side is None else f"{turn.id}#c{side}"
            if turn.id in repeated and turn.speaker is not None:
                id_ = f"{id_}#{turn.speaker}"
            yield Row(paths[turn.file], id_, None, turn.start_s, turn.end_s, side, {"speaker": turn.speaker})

    return Listing(rows)


def _turns(source: Source) -> Iterator[tuple[int, _Turn]]:
    for number, line in source.lines():
        parts = fields(line)
        if not parts or parts[0].startswith(";;") or parts[0] in _OTHER_TYPES:
            continue
        try:
            yield number, _turn(parts)
        except ValueError as error:
            raise source.refusal(number, error) from None


def _turn(parts: list[str]) -> _Turn:
    if parts[0] != "SPEAKER":
        raise ValueError(f"{shown(parts[0])} is not a line type of RTTM; expected SPEAKER")
    if len(parts) < 8:
        raise ValueError(f"{len(parts)} fields; expected SPEAKER file channel start duration <NA> <NA> speaker")
    name = path("file", parts[1])
    if "/" in name:
        raise ValueError(f"file={shown(name)}: must be the name of a recording, without folders")
    start, duration = point("start", number_in(parts[3])), seconds("duration", number_in(parts[4]))
    assert start is not None, "a field of a line is always text"
    assert duration is not None, "a field of a line is always text"
    return _Turn(name, parts[2], start, start + duration, None if parts[7] == "<NA>" else parts[7])
