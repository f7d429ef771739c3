"""Collects the stitched pieces of each utterance, and decodes the utterances whose last piece has come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.audio.digests import joined_digest
from pipeline.decoding import Decoder
from pipeline.records import BestPath, Emission, Rejected, UtteranceEmission
from pipeline.records.transcripts import Transcripts


@dataclass(frozen=True)
class Transcribed:
    """Transcripts of utterances.

    Attributes:
        rows: Manifest row of each utterance.
        transcripts: The transcripts.
        audio_digests: Digest of the audio of each utterance, in hexadecimal.
    """

    rows: Sequence[int]
    transcripts: Transcripts
    audio_digests: Sequence[str]


class Transcription:
    """Collects the pieces of each utterance, and decodes each utterance once."""

    def __init__(self, decoder: Decoder, start_s: Callable[[int], float]) -> None:
        """Create a collector without pieces.

        Args:
            decoder: The decoder.
            start_s: Returns the start of a manifest row in its file, in seconds.
        """
        self._decoder = decoder
        self._start_s = start_s
        self._pieces: dict[int, list[Emission]] = {}

    def take(self, pieces: Iterable[Emission], failures: Iterable[Rejected]) -> Transcribed | None:
        """Add pieces, and decode the utterances that are complete, all at once.

        Args:
            pieces: Pieces that `Stitcher.take` returned.
            failures: Failures that `Stitcher.take` returned; their pieces are dropped.

        Returns:
            The transcripts; `None` if no utterance is complete.
        """
        for failure in failures:
            self._pieces.pop(failure.chunk.row, None)
        complete: dict[int, UtteranceEmission] = {}
        digests: list[str] = []
        for piece in pieces:
            row = piece.chunk.row
            self._pieces.setdefault(row, []).append(self._needed(piece))
            if piece.chunk.last:
                whole = self._pieces.pop(row)
                complete[row] = joined(whole, self._start_s(row))
                digests.append(joined_digest(each.chunk.audio_digest for each in whole))
        return Transcribed(list(complete), self._decoder(list(complete.values())), digests) if complete else None

    def _needed(self, piece: Emission) -> Emission:
        """Return the piece without arrays that the decoder does not read, to save memory in long utterances."""
        logits = piece.logits if self._decoder.wants_logits else None
        return Emission(piece.chunk, piece.num_frames, logits, {}, piece.path)


def joined(pieces: Sequence[Emission], start_s: float) -> UtteranceEmission:
    """Concatenate the pieces of an utterance, which are in order."""
    paths = [piece.path for piece in pieces if piece.path is not None]
    assert len(paths) == len(pieces), "a model without labels cannot be decoded"
    if len(pieces) == 1:
        return UtteranceEmission(paths[0], pieces[0].logits, start_s)
    logits = [piece.logits for piece in pieces if piece.logits is not None]
    return UtteranceEmission(
        path=BestPath(
            np.concatenate([path.labels for path in paths]), np.concatenate([path.logprobs for path in paths])
        ),
        logits=np.concatenate(logits) if len(logits) == len(pieces) else None,
        start_s=start_s,
    )
