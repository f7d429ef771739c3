"""Resamples waveforms with the same result as `torchaudio.functional.resample` with default arguments.

torchaudio's kernel has (new / gcd) x (2 x width + orig / gcd) entries, but only a few dozen per row are not zero. From
16,001 Hz to 16 kHz it takes 1 GB. This module uses torchaudio for ordinary ratios. For other ratios it computes only
the taps that are not zero, with the same float32 arithmetic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torchaudio.transforms import Resample

from pipeline.audio.rates import resampled_length

# The default arguments of torchaudio.functional.resample.
_LOWPASS_WIDTH = 6
_ROLLOFF = 0.99
DENSE_KERNEL_BYTES = 32 * 2**20
_BLOCK_ELEMENTS = 2**20


def resample(waveform: Tensor, orig_rate: int, new_rate: int) -> Tensor:
    """Resample with a windowed sinc.

    Args:
        waveform: `(..., samples)`, float32, on the CPU.
        orig_rate: Sample rate of the waveform in Hz.
        new_rate: Sample rate of the result in Hz.

    Returns:
        `(..., resampled)`, with `pipeline.audio.rates.resampled_length` samples. The result equals torchaudio's bit
        for bit if torchaudio's kernel takes at most 32 MB, and otherwise up to float32 rounding.

    Raises:
        ValueError: A rate is not positive, or the waveform is not float32.
    """
    if orig_rate <= 0 or new_rate <= 0:
        raise ValueError(f"sample rates must be positive, not {orig_rate} and {new_rate} Hz")
    if waveform.dtype != torch.float32:
        raise ValueError(f"the waveform must be float32, not {waveform.dtype}")
    if orig_rate == new_rate:
        return waveform
    if waveform.numel() == 0:  # torchaudio cannot reshape an empty waveform
        target = 0 if waveform.shape[-1] == 0 else resampled_length(waveform.shape[-1], orig_rate, new_rate)
        return waveform.new_zeros((*waveform.shape[:-1], target))
    divisor = math.gcd(orig_rate, new_rate)
    orig, new = orig_rate // divisor, new_rate // divisor
    if new * (2 * _width(orig, new) + orig) * 4 <= DENSE_KERNEL_BYTES:
        resampled: Tensor = _dense(orig_rate, new_rate)(waveform.contiguous())
        return resampled
    taps = _sparse_taps(orig, new)
    flat = waveform.reshape(-1, waveform.shape[-1])
    target = resampled_length(waveform.shape[-1], orig, new)
    rows = [_apply(row, taps, orig, new, target) for row in flat]
    return torch.stack(rows).reshape(*waveform.shape[:-1], target)


def source_window(start: int, stop: int, orig_rate: int, new_rate: int) -> tuple[int, int]:
    """Return the input samples on which samples `start` to `stop` of the resampled waveform depend.

    Returns:
        First and last input sample (exclusive, possibly beyond the end of the waveform). The first is a multiple of
        the filter's period, so that resampling from there gives the same phases.
    """
    if orig_rate == new_rate:
        return start, stop
    divisor = math.gcd(orig_rate, new_rate)
    orig, new = orig_rate // divisor, new_rate // divisor
    reach = _width(orig, new)
    first_frame = max(0, start // new - math.ceil(reach / orig))
    last_frame = (stop - 1) // new
    return first_frame * orig, (last_frame + 1) * orig + reach


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
    divisor = math.gcd(orig_rate, new_rate)
    orig, new = orig_rate // divisor, new_rate // divisor
    offset = first // orig * new
    # Samples beyond the end count as zero, as in torchaudio, which may round the length of a long recording up.
    missing = max(0, math.ceil((stop - offset) * orig / new) + 1 - len(waveform))
    resampled = resample(torch.nn.functional.pad(waveform, (0, missing)), orig_rate, new_rate)
    return resampled[start - offset : stop - offset]


# A corpus mixes a handful of rates. Eight kernels take at most 256 MB.
@lru_cache(maxsize=8)
def _dense(orig_rate: int, new_rate: int) -> Resample:
    # `functional.resample` computes the kernel in the type of the waveform, so float32 here as well.
    return Resample(orig_rate, new_rate, dtype=torch.float32)


@dataclass(frozen=True, slots=True)
class _Taps:
    """The filter taps of every phase.

    Attributes:
        first: `(phases,)` int64, the first input sample of each phase's filter, relative to its frame.
        weights: `(phases, taps)` float32.
    """

    first: Tensor
    weights: Tensor


def _width(orig: int, new: int) -> int:
    """Return the number of input samples on either side of a filter's centre, rounded as in torchaudio."""
    return math.ceil(_LOWPASS_WIDTH * orig / (min(orig, new) * _ROLLOFF))


# The taps take about 50 bytes for each Hz of the larger rate: 38 MB at 768 kHz.
@lru_cache(maxsize=2)
def _sparse_taps(orig: int, new: int) -> _Taps:
    """Compute the entries of `torchaudio.functional._get_sinc_resample_kernel` that are not zero.

    Phase j is at j x orig / new input samples. More than `width` samples away from there, the window is zero up to
    float32 rounding. The operations have the same order as in torchaudio: at these ratios torchaudio's rounding error
    is far larger than one unit in the last place, and this function must reproduce it.
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
    return _Taps(first, weights)


def _apply(signal: Tensor, taps: _Taps, orig: int, new: int, target: int) -> Tensor:
    """Apply the taps to a signal `(samples,)` and return `(target,)`, in blocks of bounded memory."""
    num_taps = taps.weights.shape[1]
    width = _width(orig, new)
    windows = torch.nn.functional.pad(signal, (width, width + orig + num_taps)).unfold(0, num_taps, 1)
    output = signal.new_empty(target)
    rows = max(1, _BLOCK_ELEMENTS // num_taps)
    for begin in range(0, target, rows):
        position = torch.arange(begin, min(begin + rows, target))
        phase = position % new
        start = position // new * orig + taps.first[phase] + width
        output[begin : begin + rows] = (windows[start] * taps.weights[phase]).sum(-1)
    return output
