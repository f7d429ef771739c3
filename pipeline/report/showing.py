"""What the page shows of an utterance: texts, sound, words and pictures on one time axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.report.axis import PlacedWord, Span
from pipeline.report.differences import Pair, side_by_side
from pipeline.report.pictures import EmissionPicture, FeaturePicture
from pipeline.report.selection import Kind
from pipeline.report.texts import shown


@dataclass(frozen=True)
class Emission:
    """The picture of an emission.

    Attributes:
        picture: The picture.
        span: Its position on the time axis.
        labels: Names of the labels shown, from top to bottom.
        num_labels: Number of labels of the model.
    """

    picture: EmissionPicture
    span: Span
    labels: Sequence[str]
    num_labels: int


@dataclass(frozen=True)
class Feature:
    """The picture of one layer, and its position on the time axis."""

    picture: FeaturePicture
    span: Span


@dataclass(frozen=True)
class ShownUtterance:
    """Everything that the page shows of one utterance.

    Attributes:
        kind, rank: Why the utterance is shown, and its rank within its kind, from 1.
        id, path: As in the tables.
        own: The dataset's own columns.
        duration_s: Duration of the utterance; `None` if unknown.
        start_s, end_s: The part that is shown, in seconds of the file.
        whole: Whether this is the whole utterance.
        wer, word_errors, reference_words, avg_logprob: As in the tables.
        reference, text: Reference and transcript; `None` if there is none.
        pairs: Both, aligned word by word; `None` if one is missing or too long.
        audio: The sound as a data URI; `None` if it cannot be played.
        problem: Why there is no sound; empty if there is.
        wave: SVG path of the waveform.
        words: Words of the part that is shown.
        ticks: Labels of the time axis, and their positions in per cent.
        emission: Picture of the emission; `None` if there is none.
        features: Pictures of the layers.
    """

    kind: Kind
    rank: int
    id: str
    path: str
    own: Mapping[str, str]
    duration_s: float | None
    start_s: float
    end_s: float
    whole: bool
    wer: float | None
    word_errors: int | None
    reference_words: int | None
    avg_logprob: float | None
    reference: str | None
    text: str | None
    pairs: Sequence[Pair] | None
    audio: str | None
    problem: str
    wave: str
    words: Sequence[PlacedWord]
    ticks: Sequence[tuple[str, float]]
    emission: Emission | None = None
    features: Sequence[Feature] = field(default=())

    @property
    def shown_s(self) -> float:
        """Seconds of the part that is shown."""
        return self.end_s - self.start_s


def shown_pairs(reference: str | None, text: str | None) -> list[Pair] | None:
    """Return two texts word by word, safe for the page; `None` if one is missing or too long."""
    if reference is None or text is None:
        return None
    pairs = side_by_side(reference, text)
    if pairs is None:
        return None
    return [Pair(pair.operation, shown(pair.reference, 80), shown(pair.text, 80)) for pair in pairs]
