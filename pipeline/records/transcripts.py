"""Transcripts: one as an object, and those of many utterances as columns, without a Python object for each word."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Word:
    """One decoded word.

    Attributes:
        word: The word.
        start_s, end_s: Start and end in seconds in the original file; frame i starts at i x stride.
        probability: exp of the mean log-probability over the word's frames.
    """

    word: str
    start_s: float
    end_s: float
    probability: float


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One of the best texts that a decoder found for an utterance.

    Attributes:
        text: As in `Transcript`.
        score: What the decoder ranks texts by; more is better.
    """

    text: str
    score: float


@dataclass(frozen=True, slots=True)
class Transcript:
    """The transcript of one utterance.

    Attributes:
        text: Words separated by single spaces.
        ctc_text: The collapsed label sequence, as in the torchaudio tutorial: `I|HAD|THAT|`.
        avg_logprob: Mean log-probability of the chosen path per frame.
        num_frames: Number of frames of the emission.
        words: The words with their times.
        nbest: The best texts, the best one first; `None` from a decoder that finds only one.
    """

    text: str
    ctc_text: str
    avg_logprob: float
    num_frames: int
    words: tuple[Word, ...]
    nbest: tuple[Hypothesis, ...] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """Many texts in one buffer, as Arrow stores strings.

    Attributes:
        data: `(bytes,)` uint8, the UTF-8 of all texts, one after another.
        offsets: `(texts + 1,)` int32; text i is `data[offsets[i] : offsets[i + 1]]`.
    """

    data: NDArray[np.uint8]
    offsets: NDArray[np.int32]

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        """Put texts into one buffer."""
        encoded = [text.encode() for text in texts]
        return cls(np.frombuffer(b"".join(encoded), np.uint8), offsets_of([len(each) for each in encoded]))

    def to_list(self) -> list[str]:
        """Return the texts."""
        data = self.data.tobytes()
        return [data[first:last].decode() for first, last in pairwise(self.offsets.tolist())]


@dataclass(frozen=True, slots=True, eq=False)
class Transcripts:
    """The transcripts of many utterances as columns: what a decoder returns.

    `list(transcripts)` gives one `Transcript` for each utterance, and `Transcripts.of` makes columns of such a list.

    Attributes:
        text, ctc_text: As in `Transcript`.
        avg_logprob: `(utterances,)` float64, as in `Transcript`.
        num_frames: `(utterances,)` int32, as in `Transcript`.
        word_offsets: `(utterances + 1,)` int32; the words of utterance i are `word_offsets[i]` to
            `word_offsets[i + 1]` (exclusive).
        words: The words of all utterances, one utterance after another.
        start_s, end_s, probability: `(words,)` float64, as in `Word`.
        nbest: As in `Transcript`, for each utterance; `None` from a decoder that finds only one text.
    """

    text: Texts
    ctc_text: Texts
    avg_logprob: NDArray[np.float64]
    num_frames: NDArray[np.int32]
    word_offsets: NDArray[np.int32]
    words: Texts
    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    probability: NDArray[np.float64]
    nbest: tuple[tuple[Hypothesis, ...], ...] | None = None

    @classmethod
    def of(cls, transcripts: Sequence[Transcript]) -> Transcripts:
        """Make columns of the transcripts of single utterances."""
        words = [word for each in transcripts for word in each.words]
        return cls(
            text=Texts.of(each.text for each in transcripts),
            ctc_text=Texts.of(each.ctc_text for each in transcripts),
            avg_logprob=np.asarray([each.avg_logprob for each in transcripts], np.float64),
            num_frames=np.asarray([each.num_frames for each in transcripts], np.int32),
            word_offsets=offsets_of([len(each.words) for each in transcripts]),
            words=Texts.of(word.word for word in words),
            start_s=np.asarray([word.start_s for word in words], np.float64),
            end_s=np.asarray([word.end_s for word in words], np.float64),
            probability=np.asarray([word.probability for word in words], np.float64),
            nbest=None
            if all(each.nbest is None for each in transcripts)
            else tuple(e.nbest or () for e in transcripts),
        )

    def __len__(self) -> int:
        """Return the number of utterances."""
        return len(self.num_frames)

    def __iter__(self) -> Iterator[Transcript]:
        """Yield the transcript of each utterance."""
        times = self.start_s.tolist(), self.end_s.tolist(), self.probability.tolist()
        words = [Word(*each) for each in zip(self.words.to_list(), *times, strict=True)]
        rows = self.text.to_list(), self.ctc_text.to_list(), self.avg_logprob.tolist(), self.num_frames.tolist()
        nbest = self.nbest or [None] * len(self)
        bounds = pairwise(self.word_offsets.tolist())
        for row, (first, last), texts in zip(zip(*rows, strict=True), bounds, nbest, strict=True):
            yield Transcript(*row, words=tuple(words[first:last]), nbest=texts)


def offsets_of(lengths: Sequence[int] | NDArray[Any]) -> NDArray[np.int32]:
    """Return where each of some parts begins, and where the last ends: `(parts + 1,)`.

    Args:
        lengths: `(parts,)` length of each part.
    """
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return offsets
