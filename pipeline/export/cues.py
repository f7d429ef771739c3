"""Cuts words into subtitles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline.export.material import Recording, Word, stretches

WIDTH = 42
"""Characters in a line of a subtitle, as broadcasters and streaming services allow."""
MAX_S, MIN_S = 7.0, 1.0
"""Seconds that a subtitle is shown."""
BREAK_S = 0.8
"""A silence from which on the words before and after it are never in one subtitle."""
GAP_S = 0.04
"""Seconds between two subtitles, one frame of 25 a second."""
_ENDS = tuple(".?!\N{HORIZONTAL ELLIPSIS}\N{IDEOGRAPHIC FULL STOP}\N{FULLWIDTH QUESTION MARK}")


@dataclass(frozen=True, slots=True)
class Cue:
    """A subtitle: its times in seconds, one or two lines, and the speaker, if the recording has several."""

    start_s: float
    end_s: float
    lines: tuple[str, ...]
    speaker: str | None


def cues_of(recording: Recording, *, names_speakers: bool) -> list[Cue]:
    """Return the subtitles of a recording, by start. Subtitles of different speakers may overlap.

    A subtitle has at most two lines of `WIDTH` characters and lasts at most `MAX_S` seconds. It ends at a silence of
    `BREAK_S` seconds and after a word that ends a sentence. Where there is neither, it ends at the longest silence in
    its second half. It stays until `MIN_S` seconds have passed, if the next one of its speaker does not come before.

    Args:
        recording: The recording.
        names_speakers: Whether the name of the speaker needs room in the first line, if there are several.
    """
    by_speaker: dict[str | None, list[Word]] = {}
    for turn in recording.turns():
        by_speaker.setdefault(turn.speaker, []).extend(turn.words)
    found = []
    for speaker, words in by_speaker.items():
        shown = speaker if len(by_speaker) > 1 else None
        prefix = f"{shown[: WIDTH // 2]}: " if names_speakers and shown is not None else ""
        short = [*_short(words, WIDTH - len(prefix))]
        groups = [group for stretch in stretches(short, BREAK_S) for group in _groups(stretch, prefix)]
        for index, group in enumerate(groups):
            end_s = max(group[-1].end_s, group[0].start_s + MIN_S)
            latest_s = groups[index + 1][0].start_s - GAP_S if index + 1 < len(groups) else recording.duration_s
            end_s = max(min(end_s, latest_s), group[0].start_s + GAP_S)
            found.append(Cue(group[0].start_s, end_s, _lines(group, prefix), shown))
    return sorted(found, key=lambda cue: (cue.start_s, cue.end_s))


def _short(words: Sequence[Word], width: int) -> Iterator[Word]:
    """Yield the words; one that is wider than `width` is cut into parts, which share its time by their length."""
    for word in words:
        if len(word.word) <= width:
            yield word
            continue
        parts = [word.word[start : start + width] for start in range(0, len(word.word), width)]
        per_char = (word.end_s - word.start_s) / len(word.word)
        for index, part in enumerate(parts):
            start_s = word.start_s + index * width * per_char
            yield replace(word, word=part, start_s=start_s, end_s=start_s + len(part) * per_char)


def _groups(words: Sequence[Word], prefix: str) -> Iterator[Sequence[Word]]:
    """Yield the words of each subtitle of a stretch without a long silence."""
    first = 0
    while first < len(words):
        last = first + 1
        while (
            last < len(words)
            and not words[last - 1].word.endswith(_ENDS)
            and words[last].end_s - words[first].start_s <= MAX_S
            and _lines(words[first : last + 1], prefix)
        ):
            last += 1
        if last < len(words) and not words[last - 1].word.endswith(_ENDS):
            middle = first + (last - first + 1) // 2
            silences = [words[index].start_s - words[index - 1].end_s for index in range(middle, last + 1)]
            last = max(middle + max(range(len(silences)), key=lambda index: (silences[index], index)), first + 1)
        yield words[first:last]
        first = last


def _lines(words: Sequence[Word], prefix: str) -> tuple[str, ...]:
    """Return the words in one line, or in two of similar width; nothing if they do not fit."""
    texts = [word.word for word in words]
    whole = prefix + " ".join(texts)
    if len(whole) <= WIDTH:
        return (whole,)
    splits = ((prefix + " ".join(texts[:index]), " ".join(texts[index:])) for index in range(1, len(texts)))
    fitting = [split for split in splits if max(map(len, split)) <= WIDTH]
    return min(fitting, key=lambda split: (max(map(len, split)), len(split[0]))) if fitting else ()
