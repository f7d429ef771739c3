"""Linear layers that are joined, or packed for a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def linear_of(weight: Tensor, bias: Tensor) -> nn.Linear:
    """Make a linear layer that shares the given weights."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    linear.weight, linear.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    return linear


def joined(*parts: nn.Linear) -> nn.Linear:
    """Join linear layers with the same input into one layer. The parts lose their weights, which are not kept twice."""
    whole = linear_of(torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts]))
    for part in parts:
        part.register_parameter("weight", None)
    return whole


class PackedLinear(nn.Module):
    """Computes a linear layer in float32 on a CPU with oneDNN.

    Its weights are stored once in the order in which oneDNN's kernels read them. torch's own layer calls MKL, which
    runs slower code on processors that are not Intel's, and packs the weights in every call. The operators are those
    that `torch.compile` uses for a frozen model (torch/_inductor/mkldnn_lowerings.py).
    """

    def __init__(self, linear: nn.Linear) -> None:
        """Pack the weights of `linear`."""
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.bias = linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """Compute `(rows, features out)` from `(rows, features in)`."""
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return result


def pack_linears(module: nn.Module) -> None:
    """Replace the linear layers that `module` itself has by `PackedLinear`s. The layers lose their weights."""
    for name, child in [*module.named_children()]:
        if isinstance(child, nn.Linear):
            setattr(module, name, PackedLinear(child))
            child.register_parameter("weight", None)
