"""Utterances to transcripts: the stitched pieces of each utterance, collected and decoded when the last has come."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from pipeline.decoding import Decoder
from pipeline.records import BestPath, Emission, Rejected, Transcript, UtteranceEmission


class Transcription:
    """Collects what the decoder needs of each utterance, and decodes the utterance once."""

    def __init__(self, decoder: Decoder, start_s: Callable[[int], float]) -> None:
        """Take the decoder, and what gives the start of a manifest row in its file, in seconds."""
        self._decoder = decoder
        self._start_s = start_s
        self._pieces: dict[int, list[Emission]] = {}

    def take(self, pieces: Iterable[Emission], failures: Iterable[Rejected]) -> dict[int, Transcript]:
        """Decode the utterances that end with one of `pieces`.

        Args:
            pieces: What `Stitcher.take` returned, the pieces of an utterance in order.
            failures: Utterances of which nothing more will come.

        Returns:
            The transcripts by manifest row.
        """
        for failure in failures:
            self._pieces.pop(failure.chunk.row, None)
        transcripts = {}
        for piece in pieces:
            row = piece.chunk.row
            self._pieces.setdefault(row, []).append(self._needed(piece))
            if piece.chunk.last:
                transcripts[row] = self._decoder(joined(self._pieces.pop(row), self._start_s(row)))
        return transcripts

    def _needed(self, piece: Emission) -> Emission:
        """The piece without arrays that the decoder does not read: an utterance may have a million frames."""
        logits = piece.logits if self._decoder.wants_logits else None
        return Emission(piece.chunk, piece.num_frames, logits, {}, piece.path)


def joined(pieces: list[Emission], start_s: float) -> UtteranceEmission:
    """One emission of the pieces of an utterance, in order."""
    paths = [piece.path for piece in pieces if piece.path is not None]
    assert len(paths) == len(pieces), "a model without labels has nothing to decode"
    logits = [piece.logits for piece in pieces if piece.logits is not None]
    return UtteranceEmission(
        path=BestPath(
            np.concatenate([path.labels for path in paths]), np.concatenate([path.logprobs for path in paths])
        ),
        logits=np.concatenate(logits) if len(logits) == len(pieces) else None,
        start_s=start_s,
    )
