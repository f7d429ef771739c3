"""Triton kernels that do in one pass over memory what takes several with torch's operators.

They are off, because none of them has been measured on a device. `ExactForward(fused=True)` turns them on, and no
setting of a run does. They round values where torch rounds them, so only the order of sums differs.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

ROWS = 16
"""Frames that a program of `_first` computes at a time: with 512 channels, 32 values for each of its 256 threads."""
FEW_ROWS = 4
"""Frames that a program of `_rows` computes at a time."""


def first_convolution(signal: Tensor, mean: Tensor, weight: Tensor, conv: Any, dtype: torch.dtype) -> Tensor:
    """Compute the first convolution, its layer norm if it has one, GELU and the cast.

    The waveform is read once, and the network's largest activation is written once.

    Args:
        signal: `(samples,)` float32, the waveforms of the batch, which take the same number of samples each.
        mean: `(batch, 1, kernel)`, what is subtracted from the windows of each utterance.
        weight: `(batch, kernel + 1, channels)`, with the bias as last row.
        conv: The `Convolution`.
        dtype: Type of the result.

    Returns:
        `(frames, channels)`.
    """
    batch, _, channels = weight.shape
    frames = ((len(signal) - conv.kernel) // conv.stride + 1) // batch
    out = signal.new_empty((batch * frames, channels), dtype=dtype)
    layer_norm = isinstance(conv.norm, nn.LayerNorm)
    scale, shift, epsilon = _parameters(conv.norm) if layer_norm else (weight, weight, 0.0)
    _first[(triton.cdiv(frames, ROWS), batch)](
        signal, mean.contiguous(), weight.contiguous(), scale, shift, out, frames, channels, epsilon,
        KERNEL=conv.kernel, STRIDE=conv.stride, NORM=layer_norm, ROWS=ROWS, BLOCK=triton.next_power_of_2(channels),
        num_warps=8,
    )  # fmt: skip
    return out


def norm_gelu_(x: Tensor, norm: nn.Module) -> Tensor:
    """Apply a layer norm and GELU to `(frames, channels)`, in place."""
    return _by_rows(x, x, norm, x, add=False, keep=False, gelu=True)


def add_norm(x: Tensor, residual: Tensor, norm: nn.Module, keep: bool) -> Tensor:
    """Add `residual` to `x`, and return the layer norm of the sum, all `(frames, dim)`.

    Args:
        x: Takes the sum with `keep`, and otherwise the result.
        residual: What to add.
        norm: The layer norm.
        keep: Whether the sum is needed too.
    """
    return _by_rows(x, residual, norm, torch.empty_like(x) if keep else x, add=True, keep=keep, gelu=False)


def _by_rows(x: Tensor, residual: Tensor, norm: nn.Module, out: Tensor, *, add: bool, keep: bool, gelu: bool) -> Tensor:
    assert x.is_contiguous()
    assert residual.is_contiguous()
    scale, shift, epsilon = _parameters(norm)
    rows, width = x.shape
    _rows[(triton.cdiv(rows, FEW_ROWS),)](
        x, residual, scale, shift, out, rows, width, epsilon,
        ADD=add, KEEP=keep, GELU=gelu, ROWS=FEW_ROWS, BLOCK=triton.next_power_of_2(width),
    )  # fmt: skip
    return out


def _parameters(norm: Any) -> tuple[Tensor, Tensor, float]:
    return norm.weight, norm.bias, norm.eps


@triton.jit
def _gelu(x):
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def _normed(x, inside, columns, scale, shift, width, epsilon):
    """The layer norm of rows that are zero outside."""
    centred = tl.where(inside, x - (tl.sum(x, 1) / width)[:, None], 0.0)
    deviation = tl.rsqrt(tl.sum(centred * centred, 1) / width + epsilon)
    factors = tl.load(scale + columns, columns < width, other=0.0).to(tl.float32)
    shifts = tl.load(shift + columns, columns < width, other=0.0).to(tl.float32)
    return centred * deviation[:, None] * factors[None, :] + shifts[None, :]


@triton.jit(do_not_specialize=["frames"])  # so that it is compiled once, and not for some batches again
def _first(
    signal, mean, weight, scale, shift, out, frames, channels, epsilon,
    KERNEL: tl.constexpr, STRIDE: tl.constexpr, NORM: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    utterance = tl.program_id(1)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    known, wide = rows < frames, columns < channels
    inside = known[:, None] & wide[None, :]
    places = utterance.to(tl.int64) * frames + rows
    weights = weight + utterance * (KERNEL + 1) * channels + columns
    bias = tl.load(weights + KERNEL * channels, wide, other=0.0)
    x = tl.zeros((ROWS, BLOCK), tl.float32) + bias[None, :]
    for tap in tl.static_range(KERNEL):
        samples = tl.load(signal + places * STRIDE + tap, known, other=0.0) - tl.load(mean + utterance * KERNEL + tap)
        x += samples[:, None] * tl.load(weights + tap * channels, wide, other=0.0)[None, :]
    if NORM:
        x = _normed(tl.where(inside, x, 0.0), inside, columns, scale, shift, channels, epsilon)
    tl.store(out + places[:, None] * channels + columns[None, :], _gelu(x).to(out.dtype.element_ty), inside)


@triton.jit(do_not_specialize=["num_rows"])
def _rows(
    given, residual, scale, shift, out, num_rows, width, epsilon,
    ADD: tl.constexpr, KEEP: tl.constexpr, GELU: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    inside = (rows < num_rows)[:, None] & (columns < width)[None, :]
    places = rows[:, None] * width + columns[None, :]
    x = tl.load(given + places, inside, other=0.0).to(tl.float32)
    if ADD:
        total = (x + tl.load(residual + places, inside, other=0.0).to(tl.float32)).to(given.dtype.element_ty)
        if KEEP:
            tl.store(given + places, total, inside)
        x = total.to(tl.float32)
    x = _normed(x, inside, columns, scale, shift, width, epsilon)
    if GELU:
        x = _gelu(x.to(out.dtype.element_ty).to(tl.float32))
    tl.store(out + places, x.to(out.dtype.element_ty), inside)
