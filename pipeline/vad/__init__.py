"""Voice activity: where in a recording somebody speaks.

A detector is a module of this package. It has a dataclass `Options`, whose fields are the keys `vad.*` of the
configuration, and, except `none`, a class `Detector(options)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from pipeline.audio.waveforms import Extent
from pipeline.records import AudioHeader

Stretches = list[tuple[float, float]]
"""Stretches of speech in a recording: start and end of each in seconds, whole milliseconds, ascending."""


class Detector(Protocol):
    """Finds speech. An instance is handed to forked processes, so that it holds no model before it is used."""

    def identity(self) -> dict[str, Any]:
        """Return what determines the stretches: the settings by their keys, and the weights."""
        ...

    def prepare(self) -> None:
        """Import what `stretches` needs. Called once before processes are forked."""
        ...

    def stretches(self, extent: Extent, header: AudioHeader, alive: Callable[[], None]) -> Stretches:
        """Return the stretches of speech of one recording, whatever its length.

        Args:
            extent: The recording and its channel; no segment.
            header: Its header.
            alive: Called about once for each minute of audio.

        Raises:
            AudioError: The recording cannot be decoded to its end.
        """
        ...
