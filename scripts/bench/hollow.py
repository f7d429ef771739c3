"""The main job with a forward that computes nothing, for `around.py`: `python scripts/bench/hollow.py OVERRIDES...`.

Frames, logits and features have the right shapes and random values, which are made once. Everything else is the
project's own code.
"""

from __future__ import annotations

import sys
from collections.abc import Collection

import torch
from torch import Tensor

from pipeline import run
from pipeline.models.forward import ExactForward, ModelOutput

FRAMES = 100_000
"""More than a batch has."""


def speechlike(labels: int, generator: torch.Generator) -> Tensor:
    """Logits whose best label lasts for four frames and is the blank (the first) in every second."""
    logits = torch.randn(FRAMES // 4, labels, generator=generator)
    logits[::2, 0] += 8
    return logits.repeat_interleave(4, dim=0)


def main() -> int:
    made: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(0)

    def forward(self: ExactForward, waveforms: Tensor, lengths: Tensor, layers: Collection[int]) -> ModelOutput:
        num_frames = lengths
        for convolution in self.front_end.convolutions:
            num_frames = convolution.num_frames(num_frames)
        total = int(num_frames.sum())
        if not made:
            assert self.aux is not None
            made["logits"] = speechlike(self.aux.out_features, generator).to(waveforms.device)
            made["feature"] = torch.randn(FRAMES, self.encoder.norm.normalized_shape[0], generator=generator).to(
                waveforms.device
            )
        return ModelOutput(num_frames, made["logits"][:total], dict.fromkeys(layers, made["feature"][:total]))

    ExactForward.forward = forward  # type: ignore[method-assign]
    return run.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
