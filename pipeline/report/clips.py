"""Reads parts of recordings as sound for the browser, in separate processes because recordings are untrusted."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import soundfile
from numpy.typing import NDArray

from pipeline.audio.reader import AudioError, read_header
from pipeline.audio.waveforms import Extent, WaveformReader
from pipeline.records import ErrorName
from pipeline.runtime.sandbox import Reason
from pipeline.runtime.supervisor import Lost, Supervisor

TIMEOUT_S = 30.0
"""Seconds after which reading a recording stops. The page then has no sound for it."""
MAX_SAMPLES = 960_000
"""Maximum of samples in a clip: 20 s at 48 kHz."""
ENVELOPE_BINS = 800
_PROCESSES = 2
_PLAYABLE_HZ = 3_000
"""Browsers refuse lower rates (`media::limits` of Chromium), so such a recording is interpolated."""

_WORDS: dict[str, str] = {
    "not_found": "the recording does not exist any more",
    "changed": "the recording has changed since the run",
    "unreadable": "the recording cannot be read any more",
    "timeout": f"the recording took more than {TIMEOUT_S:.0f} s to read",
    "worker_died": "the process that read the recording died",
    "out_of_memory": "the recording took too much memory to read",
}
assert _WORDS.keys() <= {*get_args(ErrorName), *get_args(Reason)}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A part of an utterance to read.

    Attributes:
        extent: The utterance.
        start_s, end_s: The part, in seconds from the start of the utterance.
        sample_rate: Sample rate of the file when the manifest was made, in Hz; `None` if it was unknown.
    """

    extent: Extent
    start_s: float
    end_s: float
    sample_rate: int | None


@dataclass(frozen=True, slots=True)
class Clip:
    """A part of an utterance that can be played.

    Attributes:
        data: A mono FLAC file, or a WAV file if FLAC does not support the rate.
        media_type: `audio/flac` or `audio/wav`.
        sample_rate: Sample rate of the recording in Hz.
        num_samples: Number of samples at this rate.
        envelope: `(2, bins)` lowest and highest sample in each of equal parts.
    """

    data: bytes
    media_type: str
    sample_rate: int
    num_samples: int
    envelope: NDArray[np.float32]

    @property
    def duration_s(self) -> float:
        """Duration in seconds."""
        return self.num_samples / self.sample_rate


def read_clips(wanted: Sequence[Wanted]) -> list[Clip | str]:
    """Read each part. If a part cannot be read, return the reason in words instead."""
    if not wanted:
        return []
    try:
        with Supervisor(_read, processes=min(_PROCESSES, len(wanted)), timeout_s=TIMEOUT_S) as readers:
            return [_WORDS[found.reason] if isinstance(found, Lost) else found for found in readers.map(wanted)]
    except OSError as error:
        return [f"no process could be started to read the recording ({error.strerror})"] * len(wanted)


def _read(wanted: Wanted, alive: Callable[[], None]) -> Clip | str:
    """Read one part. This runs in a separate process.

    Raises:
        MemoryError: There is not enough memory.
    """
    try:
        rate = wanted.sample_rate or read_header(wanted.extent.path).sample_rate
        first, last = round(wanted.start_s * rate), round(wanted.end_s * rate)
        samples, found = WaveformReader().read(wanted.extent, (first, min(last, first + MAX_SAMPLES)))
        if found != rate:
            raise AudioError("changed", f"{found} Hz, {rate} when the manifest was made")
    except AudioError as error:
        if error.error == "out_of_memory":
            raise MemoryError from None
        return f"{_WORDS.get(error.error, error.error)} ({error.message})"
    return _encoded(samples, rate)


def _encoded(samples: NDArray[np.float32], rate: int) -> Clip:
    # Samples of float files may exceed full scale, and would be clipped in 16 bits.
    played, played_rate = samples / max(1.0, float(np.abs(samples).max())), rate
    if rate < _PLAYABLE_HZ:
        times = -(-_PLAYABLE_HZ // rate)
        places = np.arange(len(samples) * times) / times
        played, played_rate = np.interp(places, np.arange(len(samples)), played), rate * times
    data = io.BytesIO()
    try:
        soundfile.write(data, played, played_rate, format="FLAC", subtype="PCM_16")
        media_type = "audio/flac"
    except soundfile.LibsndfileError:  # FLAC does not support this rate
        data = io.BytesIO()
        soundfile.write(data, played, played_rate, format="WAV", subtype="PCM_16")
        media_type = "audio/wav"
    starts = np.unique(np.linspace(0, len(samples), ENVELOPE_BINS, endpoint=False).astype(np.int64))
    envelope = np.stack([np.minimum.reduceat(samples, starts), np.maximum.reduceat(samples, starts)])
    return Clip(data.getvalue(), media_type, rate, len(samples), envelope)
