"""The network of Silero VAD for many frames at once.

The model of the package (`silero_vad.jit`) takes one frame of 32 ms a call. Only its LSTM cell depends on the frame
before. This module has the same layers with the same weights, and gives the convolutions all frames of a block
together, which takes about a twentieth of the time. Architecture: github.com/snakers4/silero-vad, version 5 and later.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

SAMPLE_RATE = 16_000
FRAME_SAMPLES = 512
_CONTEXT_SAMPLES = 64
"""Samples before a frame that the network hears too."""
_HOP, _BINS, _STATE = 128, 129, 128
_STRIDES = (1, 2, 2, 1)


class Network:
    """Computes the probability of speech for each frame of one recording, block after block.

    A recording begins with a new instance, or after `reset`.
    """

    def __init__(self, weights: Path) -> None:
        """Load the weights.

        Args:
            weights: The file `silero_vad.jit` of the package `silero-vad`.
        """
        found = torch.jit.load(weights, map_location="cpu").state_dict()  # type: ignore[no-untyped-call]
        mine = {key.removeprefix("_model."): value for key, value in found.items() if key.startswith("_model.")}
        self._basis = mine["stft.forward_basis_buffer"]
        names = [f"encoder.{layer}.reparam_conv" for layer in range(len(_STRIDES))]
        self._convolutions = [(mine[f"{name}.weight"], mine[f"{name}.bias"]) for name in names]
        self._lstm = torch.nn.LSTM(_STATE, _STATE)
        rnn = {f"{name}_l0": mine[f"decoder.rnn.{name}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
        self._lstm.load_state_dict(rnn)
        self._output = (mine["decoder.decoder.2.weight"].flatten(), mine["decoder.decoder.2.bias"])
        self.reset()

    def reset(self) -> None:
        """Forget the recording."""
        self._state: tuple[Tensor, Tensor] | None = None
        self._context = torch.zeros(_CONTEXT_SAMPLES)

    @torch.inference_mode()
    def probabilities(self, samples: Tensor) -> NDArray[np.float32]:
        """Return the probability of speech for each frame of the next samples of the recording.

        Args:
            samples: `(samples,)` float32 at 16 kHz. Only the last samples of a recording may fill no whole number of
                frames.

        Returns:
            `(frames,)`.
        """
        missing = -len(samples) % FRAME_SAMPLES
        heard = torch.cat([self._context, samples, samples.new_zeros(missing)])
        self._context = heard[-_CONTEXT_SAMPLES:]
        values = functional.pad(
            heard.unfold(0, _CONTEXT_SAMPLES + FRAME_SAMPLES, FRAME_SAMPLES)[:, None], (0, 64), "reflect"
        )
        spectrum = functional.conv1d(values, self._basis, stride=_HOP)
        values = (spectrum[:, :_BINS].square() + spectrum[:, _BINS:].square()).sqrt()
        for (weight, bias), stride in zip(self._convolutions, _STRIDES, strict=True):
            values = functional.conv1d(values, weight, bias, stride, padding=1).relu()
        hidden, self._state = self._lstm(values.transpose(1, 2), self._state)
        weight, bias = self._output
        result: NDArray[np.float32] = torch.sigmoid(hidden[:, 0].relu() @ weight + bias).numpy()
        return result
