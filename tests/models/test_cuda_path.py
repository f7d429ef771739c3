"""What a CPU can show of the path for CUDA: its shapes, where the host would wait, and how much it launches."""

from __future__ import annotations

import pytest
import torch
from exactness import exact
from fake_cuda import CUDA, FakeCuda, fake_cuda, run
from small_models import KINDS, small

from pipeline.models.catalog import MODELS


def batch(count: int) -> torch.Tensor:
    return torch.linspace(32_000, 5_000, count).long()


def traced(name: str, precision: str, count: int) -> tuple[FakeCuda, torch.Tensor]:
    facts, lengths = MODELS[name], batch(count)
    with fake_cuda() as mode:
        output = run(mode, exact(small(facts), facts, precision, pack=False), lengths)
    frames = output.num_frames
    assert frames.tolist() == [facts.num_frames(int(length)) for length in lengths]
    for values in (output.logits, *output.features.values()):
        if values is not None:
            assert (values.shape[0], values.dtype) == (int(frames.sum()), torch.float32)
            assert values.device.type == CUDA.type
    assert (output.logits is None) == (not facts.labels)
    return mode, frames


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", KINDS)
def test_the_host_waits_for_nothing_and_launches_as_much_for_a_large_batch_as_for_a_small_one(
    name: str, precision: str
) -> None:
    modes = [traced(name, precision, count)[0] for count in (2, 7)]
    for mode in modes:
        assert len(mode.uploads) > 1
        assert len(mode.downloads) == (6 if MODELS[name].labels else 2)
        assert all(mode.uploads + mode.downloads)
    assert modes[0].calls == modes[1].calls
    flash = precision == "bf16" and not name.startswith("wavlm")
    assert modes[0].calls["_varlen_attn"] == (3 if flash else 0)  # once for each layer


def test_a_copy_that_waits_is_found() -> None:
    with fake_cuda() as mode:
        with mode:
            torch.arange(3).to(CUDA)
            torch.arange(3).to(CUDA, non_blocking=True)
            torch.arange(3).pin_memory().to(CUDA, non_blocking=True)
            torch.ones(3, device=CUDA).cpu()
            torch.ones(3, device=CUDA).to("cpu", non_blocking=True)
        assert mode.uploads == [False, False, True]
        assert mode.downloads == [False, True]
        with mode, pytest.raises(Exception, match="_local_scalar_dense"):
            torch.arange(3).to(CUDA).sum().item()
