"""Finds the frames of each utterance among padded frames, and copies small tensors without making the host wait.

On a GPU, one copy per utterance costs more time than the copied bytes. So all utterances are copied at once, with an
index of their frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy a small tensor from the host to a device.

    CUDA copies from page-locked memory while the host continues. From other memory, the host would wait for the batch
    that the device computes.
    """
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def frame_index(begins: Sequence[int], counts: Sequence[int]) -> Tensor:
    """List the frames of all utterances, one utterance after another.

    Args:
        begins: The first frame of each utterance.
        counts: The number of frames of each utterance.

    Returns:
        `(total frames,)` int64 on the host.
    """
    sizes = torch.tensor(counts)
    ends = sizes.cumsum(0)
    return torch.arange(int(ends[-1])) + torch.repeat_interleave(torch.tensor(begins) - ends + sizes, sizes)


def padding_mask(num_valid: Tensor, size: int) -> Tensor:
    """Return `(batch, size)` bool, true beyond the valid samples or frames of each utterance."""
    return torch.arange(size, device=num_valid.device)[None] >= num_valid[:, None]
