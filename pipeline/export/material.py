"""What the formats write: the recordings of a run and the words of their utterances. Times are in the original file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

PAUSE_S = 0.5
"""A silence between two words from which on they belong to different stretches of speech."""
UNKNOWN = "unknown"
"""The speaker of a word that is not known, in formats that need one."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word, its times in seconds, its probability, and its speaker; `None` if not known."""

    word: str
    start_s: float
    end_s: float
    probability: float
    speaker: str | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """An utterance of a run.

    Attributes:
        id: Id of the utterance.
        text: What is exported: the transcript, or the reference.
        start_s, end_s: The utterance in seconds of the original file.
        words: The words of the transcript; none where the reference is exported.
        channel: The channel of the file, from 1; `None` for all channels.
        speaker: The speaker of the utterance; `None` if not known.
        whole: Whether the utterance is the whole file with all of its channels.
        reference: The reference transcript; `None` if there is none.
        avg_logprob: Mean log-probability of the transcript.
        overlapping: Number of words during which somebody else speaks.
    """

    id: str
    text: str
    start_s: float
    end_s: float
    words: tuple[Word, ...] = ()
    channel: int | None = None
    speaker: str | None = None
    whole: bool = True
    reference: str | None = None
    avg_logprob: float | None = None
    overlapping: int = 0

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.end_s - self.start_s

    def turns(self, pause_s: float | None = None) -> Iterator[Turn]:
        """Yield what each speaker says without another one in between; see `Recording.turns`."""
        groups = [tuple(group) for _, group in groupby(self.words, key=lambda word: word.speaker)]
        if pause_s is None and len(groups) <= 1:
            speaker = groups[0][0].speaker if groups else self.speaker
            yield Turn(speaker, self.channel, self.start_s, self.end_s, self.text, self.words)
            return
        for group in groups:
            for words in stretches(group, pause_s):
                text = " ".join(word.word for word in words)
                yield Turn(words[0].speaker, self.channel, words[0].start_s, words[-1].end_s, text, words)


@dataclass(frozen=True, slots=True)
class Recording:
    """A file of the corpus.

    Attributes:
        name: A safe name that no other recording has.
        path: Path as in the manifest.
        duration_s: Length in seconds; of a recording that has only segments, the end of the last one.
        sample_rate: Sample rate in Hz.
        num_channels: Number of channels.
        file_size: Size in bytes when the manifest was made.
        is_measured: Whether `duration_s` is that of the whole file.
        segments: The utterances, by start and channel.
    """

    name: str
    path: str
    duration_s: float
    sample_rate: int
    num_channels: int
    file_size: int | None
    is_measured: bool
    segments: tuple[Segment, ...]

    @property
    def voices(self) -> list[str | None]:
        """The speakers of the recording, in the order of their first words; `None` where one is not known."""
        return list(dict.fromkeys(turn.speaker for turn in self.turns()))

    def turns(self, pause_s: float | None = None) -> list[Turn]:
        """Return what each speaker says without another one in between, by start.

        Args:
            pause_s: Also begin a new turn after a silence of this length. The turns then have the times of their words,
                and an utterance without words has none.
        """
        found = [turn for segment in self.segments for turn in segment.turns(pause_s)]
        return sorted(found, key=lambda turn: (turn.start_s, turn.channel or 0))


@dataclass(frozen=True, slots=True)
class Turn:
    """What one speaker says, without another one in between."""

    speaker: str | None
    channel: int | None
    start_s: float
    end_s: float
    text: str
    words: tuple[Word, ...]


@dataclass
class Exported:
    """One export.

    Attributes:
        root: The folder of the recordings.
        audio_prefix: What stands before the path of a recording, relative to the root, in a URL of its audio.
        left_out: Number of utterances that a format cannot take, by reason.
        utterances, recordings: What is written.
        overlapping: Number of words during which somebody else speaks.
    """

    root: str
    audio_prefix: str = ""
    left_out: Counter[str] = field(default_factory=Counter)
    utterances: int = 0
    recordings: int = 0
    overlapping: int = 0


def stretches(words: Sequence[Word], pause_s: float | None) -> Iterator[tuple[Word, ...]]:
    """Yield the words between silences of at least `pause_s` seconds; all words at once if it is `None`."""
    first = 0
    for index in range(1, len(words)):
        if pause_s is not None and words[index].start_s - words[index - 1].end_s >= pause_s:
            yield tuple(words[first:index])
            first = index
    if len(words) > first:
        yield tuple(words[first:])
