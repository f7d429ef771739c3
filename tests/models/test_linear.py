"""Linear layers that are joined, or packed for a CPU."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.models.linear import PackedLinear, joined, pack_linears


@pytest.mark.parametrize("rows", [0, 1, 7, 600])
def test_a_packed_layer_computes_what_the_layer_computes(rows: int) -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(96, 40), torch.randn(rows, 96)
    with torch.inference_mode():
        expected = linear(x)
        torch.testing.assert_close(PackedLinear(linear)(x), expected, rtol=1e-5, atol=1e-6)


def test_the_number_of_rows_beside_a_row_changes_a_packed_layer_by_rounding_alone() -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(768, 768), torch.randn(600, 768)
    packed = PackedLinear(linear)
    with torch.inference_mode():
        torch.testing.assert_close(packed(x)[:5], packed(x[:5]), rtol=1e-5, atol=1e-5)


def test_joined_and_packed_layers_keep_no_weight_twice() -> None:
    parts = [nn.Linear(8, 8) for _ in range(3)]
    expected = torch.cat([part.weight for part in parts])
    module = nn.Module()
    module.project = whole = joined(*parts)
    assert torch.equal(whole.weight, expected)
    pack_linears(module)
    assert isinstance(module.project, PackedLinear)
    assert [part.weight for part in (*parts, whole)] == [None] * 4
