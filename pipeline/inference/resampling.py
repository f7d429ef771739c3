"""Change of sample rate, equal to `torchaudio.functional.resample` with its default arguments.

torchaudio's kernel has (new / gcd) x (2 x width + orig / gcd) entries, of which a few dozen a row are not
zero: 1 GB for 16,001 Hz to 16 kHz. Ordinary ratios go through torchaudio itself; for the others only the
non-zero taps are computed, with the same float32 arithmetic.
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
    """Resamples with a windowed sinc.

    Args:
        waveform: `(..., samples)`, float32, on the CPU.
        orig_rate: Hz of the waveform.
        new_rate: Hz wanted.

    Returns:
        `(..., resampled)`, as many as `pipeline.audio.rates.resampled_length` says. Equal bit for bit to
        torchaudio's where its kernel takes at most 32 MB, else within float32 rounding of it.

    Raises:
        ValueError: A rate is not positive, or the waveform is not float32.
    """
    if orig_rate <= 0 or new_rate <= 0:
        raise ValueError(f"sample rates must be positive, not {orig_rate} and {new_rate} Hz")
    if waveform.dtype != torch.float32:
        raise ValueError(f"a float32 waveform is expected, not {waveform.dtype}")
    if orig_rate == new_rate:
        return waveform
    if waveform.numel() == 0:  # torchaudio cannot reshape it
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
    """The samples of a waveform that the samples `start` to `stop` of the resampled one are computed from.

    Returns:
        First and last sample (exclusive, perhaps beyond the waveform's end). The first lies on the filter's
        grid, so that resampling from there meets the same phases.
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
    """Samples `start` to `stop` of a resampled waveform, from the stretch that `source_window` names.

    Args:
        waveform: `(samples,)` float32, from sample `first` of the whole on; shorter where the whole ends.
        first: As `source_window` says.
        start: First sample of the resampled whole to give.
        stop: Last one, exclusive.
        orig_rate: Hz of the waveform.
        new_rate: Hz wanted.
    """
    if orig_rate == new_rate:
        return waveform[start - first : stop - first]
    divisor = math.gcd(orig_rate, new_rate)
    orig, new = orig_rate // divisor, new_rate // divisor
    offset = first // orig * new
    # Beyond the end lies silence, as in torchaudio, whose count of a long recording rounds up into it.
    missing = max(0, math.ceil((stop - offset) * orig / new) + 1 - len(waveform))
    resampled = resample(torch.nn.functional.pad(waveform, (0, missing)), orig_rate, new_rate)
    return resampled[start - offset : stop - offset]


# Eight ratios: a corpus mixes a handful of rates, and eight kernels take 256 MB at the very worst.
@lru_cache(maxsize=8)
def _dense(orig_rate: int, new_rate: int) -> Resample:
    # functional.resample computes the kernel in the waveform's own type.
    return Resample(orig_rate, new_rate, dtype=torch.float32)


@dataclass(frozen=True, slots=True)
class _Taps:
    """The filter of every phase.

    Attributes:
        first: `(phases,)` first input sample of a phase's filter, relative to its frame, int64.
        weights: `(phases, taps)` float32.
    """

    first: Tensor
    weights: Tensor


def _width(orig: int, new: int) -> int:
    """Input samples on either side of a filter's centre, as torchaudio rounds it."""
    return math.ceil(_LOWPASS_WIDTH * orig / (min(orig, new) * _ROLLOFF))


# A table takes about 50 bytes for each Hz of the larger rate: 38 MB at 768 kHz.
@lru_cache(maxsize=2)
def _sparse_taps(orig: int, new: int) -> _Taps:
    """`torchaudio.functional._get_sinc_resample_kernel` at its non-zero places only.

    Phase j lies at j x orig / new input samples; beyond `width` samples from there the window is zero up to
    float32 rounding. The order of the operations is torchaudio's: at these ratios its float32 rounding is
    far larger than one unit in the last place, and has to be met, not improved on.
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
    """Gathers, multiplies and sums: `(samples,)` to `(target,)`, in blocks of bounded memory."""
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
