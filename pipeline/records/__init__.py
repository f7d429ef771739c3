"""The small frozen types that the parts of the pipeline pass to one another.

dataset -> `Utterance` -> manifest -> `Chunk` -> `PlannedBatch` -> loader -> model -> `Emission` -> decoder ->
`Transcripts` -> shard writer. A chunk that fails is passed on as a `Rejected` and becomes a `Failure` in a table.
These types hold NumPy arrays. Only the loader and the model use tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

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
    """One recording, or one segment of a recording, as a dataset describes it. The audio has not been opened.

    Attributes:
        id: Id, unique in the corpus and the same on every machine.
        path: Absolute path. Bytes that are not UTF-8 are kept as Python's surrogate escapes.
        reference: Reference transcript; `None` if there is none.
        start_s, end_s: The segment in seconds of the file; `None` means the beginning or end of the file.
        columns: Values of the dataset's own columns by name.
        channel: Channel of the file, from 1; `None` if the setting `channels=` decides.
        error: Why the utterance cannot be used, such as a wrong start in a list. The utterance is then a failure with
            this message, and its recording is not opened. `None` for every other utterance.
        duration_s: Seconds of the recording or of the segment, if they are known so that the header need not be read
            for the manifest.
    """

    id: str
    path: str
    reference: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    columns: Mapping[str, Scalar] = field(default_factory=dict)
    channel: int | None = None
    error: str | None = None
    duration_s: float | None = None


class AudioHeader(NamedTuple):
    """What the header of an audio file says. A header can be wrong, so no memory is allocated from its numbers.

    Attributes:
        sample_rate: Sample rate in Hz.
        num_channels: Number of channels.
        num_samples: Samples per channel.
        file_size: Size of the file in bytes.
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
    """A part of one utterance that the model processes at once. The chunks of an utterance overlap.

    The defaults are those of an utterance that is short enough for one chunk.

    Attributes:
        row: Position of the utterance in the manifest.
        num_samples: Expected samples at the model's rate; 0 if the header could not be read.
        start: First sample of the chunk, at the model's rate from the start of the utterance; a multiple of the stride.
        first_frame: First frame of the chunk, counted in the utterance.
        join: Frame of the utterance from which on this chunk's frames count, and not those of the chunk before.
        context: Frames on either side of the join that both chunks have.
        last: Whether this is the last chunk of the utterance.
        audio_digest: Digest of the samples (`pipeline.audio.digests`), once the chunk is loaded; empty before.
    """

    row: int
    num_samples: int
    start: int = 0
    first_frame: int = 0
    join: int = 0
    context: int = 0
    last: bool = True
    audio_digest: bytes = field(default=b"", compare=False)

    @property
    def whole(self) -> bool:
        """Whether the chunk is the whole utterance."""
        return self.start == 0 and self.last


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """Chunks of one shard that are padded to one length and processed together."""

    index: int
    shard: int
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True, slots=True)
class Rejected:
    """A chunk that failed, and why. Its utterance becomes a `Failure`."""

    chunk: Chunk
    stage: Stage
    error: ErrorName
    message: str
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an utterance has no result: a row of the failures table.

    Attributes:
        id: Id of the utterance.
        path: Path of the recording.
        stage: The stage that failed.
        error: One of the twelve names that users group failures by.
        message: One line with the value, the reason and, if there is one, the remedy.
        attempts: Number of attempts.
    """

    id: str
    path: str
    stage: Stage
    error: ErrorName
    message: str
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of a CTC model.

    Attributes:
        names: Labels in the order of the logits.
        blank: Index of the blank label.
        delimiter: The label between two words; empty where there is none and every label is a word.
        silent: Indices of the labels that are no part of a text, such as those of an unknown letter.
        lower_case: Whether texts are in lower case, whatever the labels are.
    """

    names: tuple[str, ...]
    blank: int
    delimiter: str
    silent: frozenset[int] = frozenset()
    lower_case: bool = False


@dataclass(frozen=True, slots=True)
class BestPath:
    """The best label of every frame.

    Attributes:
        labels: `(frames,)` indices of the labels.
        logprobs: `(frames,)` log-probabilities of the labels.
    """

    labels: NDArray[np.int64]
    logprobs: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Emission:
    """The model's results for one chunk, in host memory.

    Attributes:
        chunk: The chunk.
        num_frames: Number of frames.
        logits: `(frames, labels)` float32, exactly as the model returned them; `None` if they were not asked for.
        features: `(frames, dim)` by layer number; 1 is the first transformer layer.
        path: The best label of every frame; `None` for a model without labels.
    """

    chunk: Chunk
    num_frames: int
    logits: NDArray[np.float32] | None
    features: Mapping[int, NDArray[np.floating]]
    path: BestPath | None

    def cut(self, first: int, last: int) -> Emission:
        """Return the frames `first` to `last` (exclusive), counted from the first frame of the chunk."""
        if first == 0 and last >= self.num_frames:
            return self
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
    """A part of an utterance's emission or feature that is one row of a table.

    Attributes:
        row: Position of the utterance in the manifest.
        part: Number of the part within the utterance, from 0.
        start_frame: First frame of the part.
        values: `(frames, labels)` or `(frames, dim)`.
    """

    row: int
    part: int
    start_frame: int
    values: NDArray[np.floating]
