"""Resamples waveforms as `torchaudio.functional.resample` does with default arguments, but three times as fast.

torchaudio's kernel has (new / gcd) x (2 x width + orig / gcd) entries, but only a few dozen per row are not zero: from
16,001 Hz to 16 kHz it takes 1 GB. This module computes the same entries where they are not zero, and applies them as
matrix products on overlapping views of the waveform, without copies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.audio.rates import resampled_length

# The default arguments of torchaudio.functional.resample.
_LOWPASS_WIDTH = 6
_ROLLOFF = 0.99
_BLOCK_ELEMENTS = 2**20
_GROUP = 16
"""Output samples that one product computes together, because they depend on nearly the same input samples."""


def resample(waveform: Tensor, orig_rate: int, new_rate: int) -> Tensor:
    """Resample with a windowed sinc.

    Args:
        waveform: `(..., samples)`, float32, on the CPU.
        orig_rate: Sample rate of the waveform in Hz.
        new_rate: Sample rate of the result in Hz.

    Returns:
        `(..., resampled)`, with `pipeline.audio.rates.resampled_length` samples. The result equals torchaudio's up to
        float32 rounding.

    Raises:
        ValueError: A rate is not positive, or the waveform is not float32.
    """
    if orig_rate <= 0 or new_rate <= 0:
        raise ValueError(f"sample rates must be positive, not {orig_rate} and {new_rate} Hz")
    if waveform.dtype != torch.float32:
        raise ValueError(f"the waveform must be float32, not {waveform.dtype}")
    if orig_rate == new_rate:
        return waveform
    target = resampled_length(waveform.shape[-1], orig_rate, new_rate) if waveform.shape[-1] else 0
    if waveform.numel() == 0:
        return waveform.new_zeros((*waveform.shape[:-1], target))
    blocks = _blocks(*_reduced(orig_rate, new_rate))
    rows = [_apply(row, blocks, target) for row in waveform.reshape(-1, waveform.shape[-1])]
    return torch.stack(rows).reshape(*waveform.shape[:-1], target)


def resample_samples(samples: NDArray[np.float32], orig_rate: int, new_rate: int) -> NDArray[np.float32]:
    """`resample` for a program without torch: `(samples,)` float32, and `(resampled,)`."""
    resampled: NDArray[np.float32] = resample(torch.from_numpy(samples), orig_rate, new_rate).numpy()
    return resampled


def source_window(start: int, stop: int, orig_rate: int, new_rate: int) -> tuple[int, int]:
    """Return the input samples on which samples `start` to `stop` of the resampled waveform depend.

    Returns:
        First and last input sample (exclusive, possibly beyond the end of the waveform). The first begins a block of
        the filter, so that resampling from there computes the same sums.
    """
    if orig_rate == new_rate:
        return start, stop
    orig, new = _reduced(orig_rate, new_rate)
    blocks, reach = _blocks(orig, new), _width(orig, new)
    first_block = max(0, start // blocks.outputs - math.ceil(reach / blocks.inputs))
    last_frame = (stop - 1) // new
    return first_block * blocks.inputs, (last_frame + 1) * orig + reach


def resample_window(waveform: Tensor, first: int, start: int, stop: int, orig_rate: int, new_rate: int) -> Tensor:
    """Compute samples `start` to `stop` of a resampled waveform from the window that `source_window` returns.

    Args:
        waveform: `(samples,)` float32, the window of the whole waveform; shorter if the whole waveform ends in it.
        first: First sample of the window, from `source_window`.
        start: First sample of the resampled waveform to compute.
        stop: Last sample of the resampled waveform to compute, exclusive.
        orig_rate: Sample rate of the waveform in Hz.
        new_rate: Sample rate of the result in Hz.

    Returns:
        `(stop - start,)` float32.
    """
    if orig_rate == new_rate:
        return waveform[start - first : stop - first]
    orig, new = _reduced(orig_rate, new_rate)
    offset = first // orig * new
    # Samples beyond the end count as zero, as in torchaudio, which may round the length of a long recording up.
    missing = max(0, math.ceil((stop - offset) * orig / new) + 1 - len(waveform))
    resampled = resample(torch.nn.functional.pad(waveform, (0, missing)), orig_rate, new_rate)
    return resampled[start - offset : stop - offset]


@dataclass(frozen=True, slots=True)
class _Blocks:
    """The filter as matrices. A block of input samples gives a block of output samples, `_GROUP` of them by a matrix.

    Attributes:
        inputs: Input samples from one block to the next.
        outputs: Output samples of a block.
        first: The first input sample of each group, relative to its block.
        weights: `(groups, taps, _GROUP)` float32. The last group may have columns that are not used.
    """

    inputs: int
    outputs: int
    first: list[int]
    weights: Tensor


def _reduced(orig_rate: int, new_rate: int) -> tuple[int, int]:
    divisor = math.gcd(orig_rate, new_rate)
    return orig_rate // divisor, new_rate // divisor


def _width(orig: int, new: int) -> int:
    """Return the number of input samples on either side of a filter's centre, rounded as in torchaudio."""
    return math.ceil(_LOWPASS_WIDTH * orig / (min(orig, new) * _ROLLOFF))


def _taps(orig: int, new: int) -> tuple[Tensor, Tensor]:
    """Compute the entries of `torchaudio.functional._get_sinc_resample_kernel` that are not zero.

    Phase j is at j x orig / new input samples. More than `width` samples away from there, the window is zero up to
    float32 rounding. The operations have the same order as in torchaudio: at these ratios torchaudio's rounding error
    is far larger than one unit in the last place, and this function must reproduce it.

    Returns:
        `(phases,)` int64, the first input sample of each phase's filter, relative to its frame; and `(phases, taps)`
        float32.
    """
    width, base = _width(orig, new), min(orig, new) * _ROLLOFF
    num_taps = 2 * width + 4
    phases = torch.arange(new)
    first = ((phases * orig) // new - width - 1).clamp(min=-width)
    offsets = torch.arange(0, -new, -1, dtype=torch.float32) / new
    weights = torch.empty(new, num_taps)
    rows = max(1, _BLOCK_ELEMENTS // num_taps)
    for begin in range(0, new, rows):
        chosen = slice(begin, begin + rows)
        index = first[chosen, None] + torch.arange(num_taps)
        t = offsets[chosen, None] + index.to(torch.float32) / orig
        t *= base
        t = t.clamp_(-_LOWPASS_WIDTH, _LOWPASS_WIDTH)
        window = torch.cos(t * math.pi / _LOWPASS_WIDTH / 2) ** 2
        t *= math.pi
        kernel = torch.where(t == 0, torch.tensor(1.0), t.sin() / t)
        kernel *= window * (base / orig)
        weights[chosen] = kernel.masked_fill_(index >= width + orig, 0.0)
    return first, weights


# A corpus mixes a handful of rates. Matrices take about 110 bytes for each Hz of the larger rate: 86 MB at 768 kHz.
@lru_cache(maxsize=8)
def _blocks(orig: int, new: int) -> _Blocks:
    """Lay the filters of consecutive frames into matrices."""
    phase_first, taps = _taps(orig, new)
    num_taps = taps.shape[1]
    # So many frames that the windows of consecutive blocks do not overlap, as BLAS demands of rows.
    frames = math.ceil((_GROUP * orig / new + num_taps + 1) / orig)
    outputs = frames * new
    first = (torch.arange(frames)[:, None] * orig + phase_first).flatten()
    group = torch.arange(outputs) // _GROUP
    begins = first[::_GROUP]
    offsets = first - begins[group]
    weights = torch.zeros(len(begins), int(offsets.max()) + num_taps, _GROUP)
    rows = offsets[:, None] + torch.arange(num_taps)
    weights[group[:, None], rows, (torch.arange(outputs) % _GROUP)[:, None]] = taps.repeat(frames, 1)
    return _Blocks(frames * orig, outputs, begins.tolist(), weights)


def _apply(signal: Tensor, blocks: _Blocks, target: int) -> Tensor:
    """Resample a signal `(samples,)` and return `(target,)`."""
    count = math.ceil(target / blocks.outputs)
    groups, num_taps, _ = blocks.weights.shape
    before = -blocks.first[0]
    after = (count - 1) * blocks.inputs + blocks.first[-1] + num_taps - len(signal)
    padded = torch.nn.functional.pad(signal, (before, max(0, after)))
    output = signal.new_empty(count, groups * _GROUP)
    for index, (first, weights) in enumerate(zip(blocks.first, blocks.weights, strict=True)):
        windows = padded.as_strided((count, num_taps), (blocks.inputs, 1), before + first)
        torch.mm(windows, weights, out=output[:, index * _GROUP : (index + 1) * _GROUP])
    return output[:, : blocks.outputs].reshape(-1)[:target]
