"""The small frozen types that travel along the pipeline, one per arrow of the data flow.

dataset -> `Utterance` -> manifest -> `Chunk` -> `PlannedBatch` -> loader -> model -> `Emission` -> decoder ->
`Transcript` -> shard writer. A `Rejected` travels the same road and ends as a `Failure` in a table.
Tensors live in `loader` and `model` only; here is NumPy at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Scalar = str | int | float | bool | None

Stage = Literal["manifest", "load", "model", "write"]

ErrorName = Literal[
    "not_found",
    "unreadable",
    "unsupported_format",
    "truncated",
    "empty",
    "too_short",
    "bad_sample_rate",
    "changed",
    "non_finite",
    "timeout",
    "worker_died",
    "out_of_memory",
]


@dataclass(frozen=True, slots=True)
class Utterance:
    """One recording, or one segment of one, as a dataset describes it; no audio has been opened.

    Attributes:
        id: Unique in the corpus and the same on every machine.
        path: Absolute path. Bytes that are not UTF-8 are kept as Python's surrogate escapes.
        reference: What was said, where somebody wrote it down.
        start_s, end_s: The segment in seconds of the original file; `None` for its beginning or end.
        columns: The dataset's own columns, name to value.
        channel: The channel of the file that is meant, 1 the first; `None` leaves it to `channels=`.
    """

    id: str
    path: str
    reference: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    columns: Mapping[str, Scalar] = field(default_factory=dict)
    channel: int | None = None


@dataclass(frozen=True, slots=True)
class AudioHeader:
    """What the header of an audio file says; a header can lie, so nothing is allocated from it.

    Attributes:
        sample_rate: Hz.
        num_channels: Channels.
        num_samples: Samples per channel.
        file_size: Bytes.
    """

    sample_rate: int
    num_channels: int
    num_samples: int
    file_size: int

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.num_samples / self.sample_rate


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stretch of one utterance that the model sees at once; where an utterance is cut, its chunks overlap.

    The defaults are those of an utterance that is short enough to be seen whole.

    Attributes:
        row: Position of the utterance in the manifest.
        num_samples: Expected samples at the model's rate; 0 where the header could not be read.
        start: Its first sample, at the model's rate from the utterance's start; a multiple of the stride.
        first_frame: Frame of the utterance that it begins with.
        join: Frame of the utterance from which on it, and not the chunk before, is to be believed.
        context: Frames on either side of the join that both chunks see.
        last: Whether the utterance ends with it.
    """

    row: int
    num_samples: int
    start: int = 0
    first_frame: int = 0
    join: int = 0
    context: int = 0
    last: bool = True

    @property
    def whole(self) -> bool:
        """Whether it is all of the utterance."""
        return self.start == 0 and self.last


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """Chunks of one shard that are padded to one length and go through the model together."""

    index: int
    shard: int
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True, slots=True)
class Rejected:
    """A chunk that came to nothing, and why; its utterance becomes a `Failure`."""

    chunk: Chunk
    stage: Stage
    error: ErrorName
    message: str
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an utterance has no result. It is a row of the failures table.

    Attributes:
        error: One of the twelve names that users group by.
        message: One line with the value, the reason and, where there is one, the remedy.
        attempts: How often it was tried.
    """

    id: str
    path: str
    stage: Stage
    error: ErrorName
    message: str
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class Word:
    """One decoded word.

    Attributes:
        start_s, end_s: Seconds in the original file; frame i starts at i x stride.
        probability: exp of the mean log-probability over the word's frames.
    """

    word: str
    start_s: float
    end_s: float
    probability: float


@dataclass(frozen=True, slots=True)
class Transcript:
    """What the decoder read in one utterance.

    Attributes:
        text: Words separated by single spaces.
        ctc_text: The collapsed label sequence, as in the torchaudio tutorial: `I|HAD|THAT|`.
        avg_logprob: Mean log-probability of the chosen path per frame.
        num_frames: Frames of the emission.
    """

    text: str
    ctc_text: str
    avg_logprob: float
    num_frames: int
    words: tuple[Word, ...]


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of a CTC model.

    Attributes:
        names: Labels in the order of the logits.
        blank: Index of the blank label.
        delimiter: The label between two words; empty where there is none and every label is a word.
    """

    names: tuple[str, ...]
    blank: int
    delimiter: str


@dataclass(frozen=True, slots=True)
class BestPath:
    """The best label of every frame.

    Attributes:
        labels: `(frames,)` indices.
        logprobs: `(frames,)` their log-probabilities.
    """

    labels: NDArray[np.int64]
    logprobs: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Emission:
    """What the model says of one chunk, on the host.

    Attributes:
        chunk: The chunk.
        num_frames: Frames.
        logits: `(frames, labels)` exactly as the model returned them, float32; `None` where not asked for.
        features: Layer number (1 is the first transformer layer) to `(frames, dim)`.
        path: Best labels; `None` for a model without labels.
    """

    chunk: Chunk
    num_frames: int
    logits: NDArray[np.float32] | None
    features: Mapping[int, NDArray[np.floating]]
    path: BestPath | None

    def cut(self, first: int, last: int) -> Emission:
        """Frames `first` to `last` (exclusive), counted from the chunk's own first."""
        own = slice(first, last)
        return Emission(
            chunk=self.chunk,
            num_frames=max(0, min(last, self.num_frames) - first),
            logits=None if self.logits is None else self.logits[own],
            features={layer: values[own] for layer, values in self.features.items()},
            path=None if self.path is None else BestPath(self.path.labels[own], self.path.logprobs[own]),
        )


@dataclass(frozen=True, slots=True)
class UtteranceEmission:
    """What the model says of one whole utterance, its chunks joined: what a decoder reads.

    Attributes:
        path: Best labels, `(frames,)`.
        logits: `(frames, labels)` exactly as the model returned them; `None` where the decoder does not want them.
        start_s: Where the utterance begins in its file, in seconds.
    """

    path: BestPath
    logits: NDArray[np.float32] | None
    start_s: float


@dataclass(frozen=True, slots=True)
class ArrayPart:
    """A stretch of an utterance's emission or feature that is one row of a table.

    Attributes:
        row: Position of the utterance in the manifest.
        part: 0, 1, ... within the utterance.
        start_frame: Its first frame.
        values: `(frames, width)`.
    """

    row: int
    part: int
    start_frame: int
    values: NDArray[np.floating]
