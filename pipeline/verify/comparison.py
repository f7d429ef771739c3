"""Compares an utterance that was run again, alone, with its stored values.

The two are the same if their values differ by at most `TOLERANCE`, and if no label changed where the two best logits
differ by more than `NEAR_TIE`. Values stored in float16 may also differ by the rounding of float16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.records import Emission

TOLERANCE = 1e-4
NEAR_TIE = 2e-4


@dataclass
class Comparison:
    """The comparison of one utterance.

    Attributes:
        id: Id of the utterance.
        stored: The stored values, `(frames, width)`, by name: `emissions`, `features of layer 2`.
        ctc_text: The stored label sequence; `None` if the utterance has no transcript.
        largest: The largest difference by name, minus the rounding of float16.
        labels: Number of frames whose labels have been compared.
        changed: Number of these frames that have another label without a near tie.
        frames: Number of frames so far.
        near_ties: Number of frames whose best two logits differ by at most `NEAR_TIE`.
        wrong: Other differences, in words.
        failure: Why the utterance could not be run again; `None` if it could.
    """

    id: str
    stored: Mapping[str, NDArray[np.floating]]
    ctc_text: str | None
    largest: dict[str, float] = field(default_factory=dict)
    labels: int = 0
    changed: int = 0
    frames: int = 0
    near_ties: int = 0
    wrong: list[str] = field(default_factory=list)
    failure: str | None = None

    @property
    def same(self) -> bool:
        """Whether the utterance is the same within the tolerance."""
        return not self.wrong and not self.changed and all(value <= TOLERANCE for value in self.largest.values())

    def take(self, piece: Emission) -> None:
        """Compare the next frames of the utterance."""
        values = {f"features of layer {layer}": found for layer, found in piece.features.items()}
        if piece.logits is not None:
            values["emissions"] = piece.logits
            two = np.partition(piece.logits, -2, axis=1)[:, -2:] if piece.logits.shape[1] > 1 else piece.logits
            gap = np.abs(two[:, -1] - two[:, 0])
            self.near_ties += int((gap <= NEAR_TIE).sum())
        for name, found in values.items():
            if name not in self.stored:
                continue
            stored = self.stored[name][self.frames : self.frames + len(found)]
            if stored.shape != found.shape:
                continue  # `finish` compares the number of frames
            rounding = _rounding(stored)
            apart = np.abs(found.astype(np.float32) - stored.astype(np.float32)) - rounding
            largest = float(apart.max(initial=0.0))
            self.largest[name] = max(self.largest.get(name, 0.0), largest) if largest == largest else float("inf")
            if name == "emissions":
                other = stored.argmax(1) != found.argmax(1)
                self.labels += len(found)
                self.changed += int((other & (gap > NEAR_TIE + 2 * rounding.max(axis=1, initial=0.0))).sum())
        self.frames += piece.num_frames

    def finish(self, ctc_text: str | None) -> None:
        """Compare the number of frames and, if the utterance was decoded, the label sequence."""
        for name, stored in self.stored.items():
            if len(stored) != self.frames:
                self.wrong.append(f"{len(stored)} frames of {name} are stored, alone there are {self.frames}")
        if None not in (ctc_text, self.ctc_text) and ctc_text != self.ctc_text and not self.near_ties:
            self.wrong.append(f"the stored text is {self.ctc_text!r}, alone it is {ctc_text!r}")


def _rounding(stored: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the largest rounding error of each stored value: half a step of float16, 0 for float32."""
    if stored.dtype != np.float16:
        return np.zeros(stored.shape, dtype=np.float32)
    half: NDArray[np.float32] = np.spacing(np.abs(stored)).astype(np.float32) / np.float32(2)
    return half
