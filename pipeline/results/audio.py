"""Reads the waveform of an utterance as the model heard it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.audio.reader import AudioError
from pipeline.audio.waveforms import Extent, WaveformReader, channel_to_read
from pipeline.storage.tables import CHANNEL


def heard(row: Mapping[str, Any], channels: str, sample_rate: int) -> NDArray[np.float32]:
    """Return the waveform of an utterance at the model's sample rate, `(samples,)`.

    Args:
        row: The row of the manifest.
        channels: mix, first or each, as in the run.
        sample_rate: Sample rate of the model's input in Hz.

    Raises:
        FileNotFoundError: The recording is gone.
        OSError: The recording has changed since the run, or cannot be read.
    """
    known: dict[str, Any] = {name: None if pd.isna(value) else value for name, value in row.items()}
    channel = channel_to_read(known.get(CHANNEL), channels)
    extent = Extent(known["path"], known["start_s"], known["end_s"], channel, known["file_size"])
    try:
        samples, rate = WaveformReader().read(extent)
        if known["sample_rate"] not in (None, rate):
            raise AudioError("changed", f"the sample rate is {rate} Hz, but was {known['sample_rate']} Hz in the run")
    except AudioError as error:
        remedy = "put the recording that the run read back into its place"
        kind = FileNotFoundError if error.error == "not_found" else OSError
        raise kind(f"{known['id']}: {known['path']}: {error}; {remedy}") from None
    if rate == sample_rate:
        return samples
    from pipeline.audio.resampling import resample_samples  # imports torch

    return resample_samples(samples, rate, sample_rate)
