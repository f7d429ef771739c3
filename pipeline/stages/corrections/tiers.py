"""Says which tiers of an annotation tool hold utterances, and whose."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pipeline.stages.corrections.correction import Correction

_UTTERANCES = re.compile(r"(?:.* - )?utterances(?: \d+)?", re.IGNORECASE)
_PARTS = re.compile(r"(?:.* - )?(?:words?|phones?)(?: \d+)?", re.IGNORECASE)
_CHANNEL = re.compile(r"c(\d{1,4}) - .*")


@dataclass(frozen=True, slots=True)
class Tier:
    """A tier: its name, and start (s), end (s) and text of each interval."""

    name: str
    intervals: tuple[tuple[float, float, str], ...]


def corrections_of(place: str, recording: str, tiers: Iterable[Tier]) -> Iterator[Correction]:
    """Yield a correction for each interval that has a text, except in tiers of words and phones.

    If there are tiers with the names that an export gives to utterances, only these are read: somebody may have added a
    tier of notes. A tier whose name begins with `c2 - ` belongs to the second channel, as exports name it.
    """
    tiers = [*tiers]
    exported = [tier for tier in tiers if _UTTERANCES.fullmatch(tier.name)]
    for tier in exported or (tier for tier in tiers if not _PARTS.fullmatch(tier.name)):
        channel = _CHANNEL.fullmatch(tier.name)
        for start_s, end_s, text in tier.intervals:
            if text.strip():
                yield Correction(
                    place,
                    f"{place}: {start_s:g} s",
                    text,
                    recording=recording,
                    start_s=start_s,
                    end_s=end_s,
                    channel=int(channel[1]) if channel else None,
                )
