"""Floating-point operations of a forward, counted from a model's configuration and a recording's length."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def forward_flop(params: Mapping[str, Any], num_samples: int) -> dict[str, float]:
    """FLOP of each part for one recording without padding; a multiplication and an addition count two.

    Convolutions, linear layers and attention; norms, activations and softmax are left out, as is usual.

    Args:
        params: Arguments of `torchaudio.models.wav2vec2_model`.
        num_samples: Samples at 16 kHz.
    """
    frames, channels, convolutions = num_samples, 1, 0.0
    for width, kernel, stride in params["extractor_conv_layer_config"]:
        frames = (frames - kernel) // stride + 1
        convolutions += 2.0 * frames * kernel * channels * width
        channels = width
    dim, layers = params["encoder_embed_dim"], params["encoder_num_layers"]
    positions = params["encoder_pos_conv_kernel"] * (dim // params["encoder_pos_conv_groups"])
    return {
        "convolutions": convolutions,
        "projection": 2.0 * frames * channels * dim,
        "position": 2.0 * frames * positions * dim,
        "attention": layers * (2.0 * 4 * frames * dim**2 + 2.0 * 2 * frames**2 * dim),
        "feed-forward": layers * 2.0 * 2 * frames * dim * params["encoder_ff_interm_features"],
        "labels": 2.0 * frames * dim * (params["aux_num_out"] or 0),
    }


def total(params: Mapping[str, Any], lengths: Iterable[int]) -> float:
    """FLOP of recordings of these lengths, in samples."""
    return sum(sum(forward_flop(params, length).values()) for length in lengths)


PEAKS = {"H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "H200": 989e12, "A100": 312e12}
"""FLOP per second of dense bf16 products, as the maker states them, by part of the device's name."""


def peak(device: str) -> float | None:
    """Return the stated peak of a CUDA device, or `None` if the table above lacks the device."""
    return next((value for name, value in PEAKS.items() if name in device), None)
