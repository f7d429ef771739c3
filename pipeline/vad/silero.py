"""`vad=silero`: Silero VAD, whose weights are in its package `silero-vad` (MIT licence)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.audio.waveforms import Extent
from pipeline.records import AudioHeader
from pipeline.runtime.digests import sha256_files
from pipeline.runtime.errors import UserError
from pipeline.runtime.starting import importing_torch

if TYPE_CHECKING:
    from pipeline.vad import Stretches


@dataclass(kw_only=True)
class Options:
    """`vad.*` of `vad=silero`. They mean what the arguments of `silero_vad.get_speech_timestamps` mean.

    Attributes:
        threshold: Probability from which on a frame of 32 ms begins speech. Speech ends 0.15 below it.
        min_speech_s: A shorter stretch of speech is dropped.
        min_silence_s: A shorter pause does not end a stretch.
        pad_s: Seconds that are added on either side of a stretch.
        max_speech_s: A longer stretch is cut at a pause if it has one; `None` for no limit.
    """

    threshold: float = 0.5
    min_speech_s: float = 0.1
    min_silence_s: float = 0.5
    pad_s: float = 0.1
    max_speech_s: float | None = None

    def __post_init__(self) -> None:
        """Refuse impossible values.

        Raises:
            UserError: With the key, the value and what is allowed.
        """
        if not 0 < self.threshold < 1:
            raise UserError(f"vad.threshold={self.threshold}: must be a number above 0 and below 1")
        for key in ("min_speech_s", "min_silence_s", "pad_s"):
            if not 0 <= getattr(self, key) <= 60:
                raise UserError(f"vad.{key}={getattr(self, key)}: must be a number of seconds from 0 to 60")
        if self.max_speech_s is not None and not 1 + 2 * self.pad_s <= self.max_speech_s < math.inf:
            least = f"{1 + 2 * self.pad_s:g} s, a second more than twice vad.pad_s"
            raise UserError(f"vad.max_speech_s={self.max_speech_s}: must be null or at least {least}")


class Detector:
    """Finds stretches of speech with Silero VAD on one core."""

    def __init__(self, options: Options) -> None:
        """Find the weights; load nothing yet.

        Raises:
            UserError: The extra `silero` is not installed.
        """
        found = find_spec("silero_vad")
        if found is None or found.origin is None:
            raise UserError(
                "vad=silero: the package silero-vad is not installed; run pip install 'silero-vad>=6.2.3', which the "
                "extra silero has"
            )
        self.weights = Path(found.origin).parent / "data" / "silero_vad.jit"
        self._options = options

    def identity(self) -> dict[str, Any]:
        """Return the settings by their keys, and the beginning of the weights' SHA-256."""
        settings = {f"vad.{key}": value for key, value in asdict(self._options).items()}
        return {"vad": "silero", "vad.weights": sha256_files([self.weights])[:16], **settings}

    def prepare(self) -> None:
        """Import torch."""
        with importing_torch():
            import pipeline.vad.engine.recording  # noqa: F401

    def stretches(self, extent: Extent, header: AudioHeader, alive: Callable[[], None]) -> Stretches:
        """As `pipeline.vad.Detector.stretches`."""
        from pipeline.vad.engine.recording import speech_probabilities, stretches_of

        probabilities = speech_probabilities(extent, header, self.weights, alive)
        return stretches_of(probabilities, header, self._options)
