"""Runs the kernels of `pipeline/models/fused.py` on a CPU, by Triton's interpreter: `python interpreted.py NAME...`.

Prints, as JSON, the largest difference that the kernels make in each of a small model's outputs. Triton decides when it
is imported whether it interprets, so this takes a process of its own. The interpreter cuts bfloat16 off where a device
rounds it; float16 is rounded.
"""

from __future__ import annotations

import json
import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import torch
from exactness import exact, pad
from small_models import small

from pipeline.models.catalog import MODELS
from pipeline.models.forward import ModelOutput


def computed(name: str, precision: str, fused: bool) -> ModelOutput:
    generator = torch.Generator().manual_seed(0)
    waveforms, lengths = pad([0.1 * torch.randn(length, generator=generator) for length in (800, 720, 400)])
    forward = exact(small(MODELS[name]), MODELS[name], precision, together=True, fused=fused)
    output: ModelOutput = forward(waveforms, lengths, [1, 2, 3])
    return output


def differences(name: str, precision: str) -> list[float]:
    plain, fused = (computed(name, precision, fused) for fused in (False, True))
    pairs = [(plain.features[layer], fused.features[layer]) for layer in (1, 2, 3)]
    if plain.logits is not None and fused.logits is not None:
        pairs.append((plain.logits, fused.logits))
    return [float((left - right).abs().max()) for left, right in pairs]


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {
        f"{name} {precision}": differences(name, precision) for name in sys.argv[1:] for precision in ("fp32", "fp16")
    }
    print(json.dumps(found))
