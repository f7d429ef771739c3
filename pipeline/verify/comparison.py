"""One utterance that was run again alone, beside what is stored of it.

The two are the same if their values are at most `TOLERANCE` apart, and no label changed where the two best logits
differ by more than `NEAR_TIE`. Values stored in float16 may be off by the rounding of float16 besides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.records import Emission, Transcript

TOLERANCE = 1e-4
NEAR_TIE = 2e-4


@dataclass
class Comparison:
    """One utterance alone beside what is stored of it.

    Attributes:
        id: Its id.
        stored: Name (`emissions`, `features of layer 2`) to the stored values, `(frames, width)`.
        ctc_text: The stored label sequence; `None` where there are no transcripts.
        largest: Name to the largest difference, float16's rounding taken off.
        labels: Frames whose labels have been compared.
        changed: Of them, those with another label though no other was near.
        frames: Frames so far.
        near_ties: Frames whose best two labels are so near that either may win.
        wrong: Other ways in which it is not the same.
        failure: Why it could not be run again.
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
        """Whether it is the same within the tolerance."""
        return not self.wrong and not self.changed and all(value <= TOLERANCE for value in self.largest.values())

    def take(self, piece: Emission) -> None:
        """Compare the next frames."""
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
                continue  # said at the end, with the number of frames
            rounding = _rounding(stored)
            apart = np.abs(found.astype(np.float32) - stored.astype(np.float32)) - rounding
            largest = float(apart.max(initial=0.0))
            self.largest[name] = max(self.largest.get(name, 0.0), largest) if largest == largest else float("inf")
            if name == "emissions":
                other = stored.argmax(1) != found.argmax(1)
                self.labels += len(found)
                self.changed += int((other & (gap > NEAR_TIE + 2 * rounding.max(axis=1, initial=0.0))).sum())
        self.frames += piece.num_frames

    def finish(self, transcript: Transcript | None) -> None:
        """Compare what is known at the end."""
        for name, stored in self.stored.items():
            if len(stored) != self.frames:
                self.wrong.append(f"{len(stored)} frames of {name} are stored, alone it has {self.frames}")
        if transcript is not None and transcript.ctc_text != self.ctc_text and not self.near_ties:
            self.wrong.append(f"the stored text is {self.ctc_text!r}, alone it is {transcript.ctc_text!r}")


def _rounding(stored: NDArray[np.floating]) -> NDArray[np.float32]:
    """How far each stored value may be from what was stored: half a step of float16, nothing in float32."""
    if stored.dtype != np.float16:
        return np.zeros(stored.shape, dtype=np.float32)
    half: NDArray[np.float32] = np.spacing(np.abs(stored)).astype(np.float32) / np.float32(2)
    return half
