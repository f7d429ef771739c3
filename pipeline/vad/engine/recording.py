"""One recording of any length: from its file to stretches of speech, a minute at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.audio.rates import resampled_length
from pipeline.audio.resampling import resample_window, source_window
from pipeline.audio.waveforms import Extent, WaveformReader
from pipeline.records import AudioHeader
from pipeline.vad.engine.network import FRAME_SAMPLES, SAMPLE_RATE, Network

if TYPE_CHECKING:
    from pipeline.vad import Stretches
    from pipeline.vad.silero import Options

BLOCK_SAMPLES = 2048 * FRAME_SAMPLES
"""Samples at 16 kHz that are in memory at once: 65.5 s."""


@lru_cache(maxsize=1)
def _network(weights: Path) -> Network:
    torch.set_num_threads(1)  # of this process, which was forked to detect speech on one core
    return Network(weights)


def speech_probabilities(
    extent: Extent, header: AudioHeader, weights: Path, alive: Callable[[], None] = lambda: None
) -> NDArray[np.float32]:
    """Return the probability of speech for each frame of 32 ms of a recording, `(frames,)`.

    Memory depends on the sample rate of the file, not on its length, except for 4 bytes a frame.

    Args:
        extent: The recording and its channel.
        header: Its header.
        weights: As in `Network`.
        alive: Called after each block.

    Raises:
        AudioError: The recording cannot be decoded to its end.
    """
    network, reader = _network(weights), WaveformReader()
    network.reset()
    length = resampled_length(header.num_samples, header.sample_rate, SAMPLE_RATE)
    found = []
    for start in range(0, length, BLOCK_SAMPLES):
        stop = min(start + BLOCK_SAMPLES, length)
        first, last = source_window(start, stop, header.sample_rate, SAMPLE_RATE)
        samples, rate = reader.read(extent, (first, None if stop == length else last))
        waveform = resample_window(torch.from_numpy(samples), first, start, stop, rate, SAMPLE_RATE)
        found.append(network.probabilities(waveform))
        alive()
    reader.close()
    return np.concatenate([np.zeros(0, np.float32), *found])


def stretches_of(probabilities: NDArray[np.float32], header: AudioHeader, options: Options) -> Stretches:
    """Return the stretches of speech in seconds, by the rules of the package `silero-vad` itself.

    Args:
        probabilities: Probability of speech of each frame, `(frames,)`.
        header: The header of the recording.
        options: The settings.
    """
    from silero_vad.utils_vad import get_speech_timestamps_from_probs

    found = get_speech_timestamps_from_probs(
        probabilities.tolist(),
        sampling_rate=SAMPLE_RATE,
        threshold=options.threshold,
        min_speech_duration_ms=1000 * options.min_speech_s,
        min_silence_duration_ms=1000 * options.min_silence_s,
        speech_pad_ms=1000 * options.pad_s,
        max_speech_duration_s=math.inf if options.max_speech_s is None else options.max_speech_s,
        audio_length_samples=resampled_length(header.num_samples, header.sample_rate, SAMPLE_RATE),
    )
    seconds = [(round(each["start"] / SAMPLE_RATE, 3), round(each["end"] / SAMPLE_RATE, 3)) for each in found]
    end_s = header.duration_s
    return [(first, min(last, end_s)) for first, last in seconds if first < min(last, end_s)]
