"""What is computed in fewer passes over memory is what torch's operators give, as far as a CPU can show."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from running import ROOT, environment
from small_models import small

from pipeline.models.catalog import MODELS
from pipeline.models.convolution import convolve
from pipeline.models.position import PositionalConvolution

NAMES = ("wav2vec2_asr_base_960h", "hubert_asr_large")
"""A group norm without biases and norms after the layers; layer norms with biases and norms before the layers."""


@pytest.fixture(scope="module")
def differences() -> dict[str, list[float]]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "support" / "interpreted.py"), *NAMES],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[float]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(("precision", "most"), [("fp32", 3e-5), ("fp16", 0.03)])
@pytest.mark.parametrize("name", NAMES)
def test_the_kernels_change_only_the_order_of_sums(
    name: str, precision: str, most: float, differences: dict[str, list[float]]
) -> None:
    found = differences[f"{name} {precision}"]
    assert len(found) == 4
    assert 0 < max(found) <= most  # the outputs are of the order of 1 to 8; no difference would mean no kernels


@pytest.mark.parametrize(
    ("kernel", "floats", "constants"),
    [
        (
            "_first",
            "signal mean weight scale shift",
            {"KERNEL": 10, "STRIDE": 5, "NORM": True, "ROWS": 16, "BLOCK": 512},
        ),
        ("_rows", "", {"ADD": True, "KEEP": True, "GELU": True, "ROWS": 4, "BLOCK": 1024}),
    ],
)
def test_the_kernels_can_be_compiled_for_a_device(
    kernel: str, floats: str, constants: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interpreter also takes what the compiler refuses. Triton's wheel has all that this needs."""
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from pipeline.models import fused

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    function = getattr(fused, kernel)
    types = dict.fromkeys(function.arg_names, "*bf16") | dict.fromkeys(floats.split(), "*fp32")
    types |= dict.fromkeys(("frames", "channels", "num_rows", "width"), "i32") | {"epsilon": "fp32"}
    types |= dict.fromkeys(constants, "constexpr")
    signature = {name: types[name] for name in function.arg_names}
    compiled = compile(ASTSource(function, signature, constants), GPUTarget("cuda", 90, 32), {"num_warps": 8})
    assert kernel in compiled.asm["ptx"]


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (2, 2), (10, 5), (7, 1), (5, 2)])
@pytest.mark.parametrize("frames", [10, 57, 58])
def test_a_convolution_as_one_batched_product_is_torchs(kernel: int, stride: int, frames: int) -> None:
    generator = torch.Generator().manual_seed(frames)
    signal = torch.randn(100 + frames * 6, generator=generator)
    x, weight = signal[100:].view(frames, 6), torch.randn(8, 6, kernel, generator=generator)
    out = torch.empty((frames - kernel) // stride + 1, 8)
    convolve(x, weight.permute(2, 1, 0).flatten(0, 1), stride, out)
    expected = F.conv1d(x.T[None], weight, stride=stride)[0].T
    assert (out - expected).abs().max() <= 1e-5


@pytest.mark.parametrize("counts", [[1], [40, 64, 33, 1, 50], [7, 3, 3]])
@pytest.mark.parametrize("name", ["wav2vec2_asr_base_960h", "digits"])
def test_the_positional_convolution_as_products_is_torchs(name: str, counts: list[int]) -> None:
    embedding = small(MODELS[name]).encoder.transformer.pos_conv_embed
    plain, fused = (PositionalConvolution(embedding, torch.float32, fused) for fused in (False, True))
    x = torch.randn(sum(counts), plain.conv.in_channels, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert (plain(x, counts, together=True) - fused(x, counts, together=True)).abs().max() <= 1e-5
