"""Batched answers beside those of unmodified torchaudio for each recording alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from running import DATA, SHIPPED

from pipeline.audio.resampling import resample
from pipeline.audio.waveforms import read_waveform
from pipeline.models.facts import ModelFacts
from pipeline.models.forward import ExactForward, ModelOutput

TOLERANCE = 1e-4
NEAR_TIE = 2e-4
"""A label may change only where the two best logits are closer than this."""


@dataclass(frozen=True)
class Alone:
    """What stock torchaudio gives for one recording: `(frames, dim)` a layer, and `(frames, labels)` or nothing."""

    features: list[torch.Tensor]
    emission: torch.Tensor | None


def recordings(paths: list[Path]) -> list[torch.Tensor]:
    waveforms = []
    for path in paths:
        samples, rate = read_waveform(str(path))
        waveforms.append(resample(torch.from_numpy(samples), rate, 16_000))
    return waveforms


def speech() -> list[torch.Tensor]:
    """Six real recordings of 2.5 to 5 s: LibriVox and VOiCES."""
    return recordings([*sorted((DATA / "librivox").glob("*.wav")), *SHIPPED.glob("voices/source-16k/**/*.wav")])


def pad(waveforms: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    return torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True), lengths


@torch.inference_mode()
def stock_alone(stock: torch.nn.Module, waveforms: list[torch.Tensor]) -> list[Alone]:
    """Both of the tutorial's calls, a recording at a time."""
    has_labels = getattr(stock, "model", stock).aux is not None
    return [
        Alone(
            [layer[0] for layer in stock.extract_features(waveform[None])[0]],
            stock(waveform[None])[0][0] if has_labels else None,
        )
        for waveform in waveforms
    ]


def exact(
    stock: torch.nn.Module,
    facts: ModelFacts | None = None,
    precision: str = "fp32",
    together: bool | None = None,
    fused: bool = False,
    pack: bool = True,
) -> ExactForward:
    """Take over a model as its bundle gives it, as the engine does; it cannot be used as it was afterwards."""
    forward = ExactForward(
        getattr(stock, "model", stock),
        precision,
        normalize_waveform=facts is not None and facts.body.normalize_waveform,
        log_softmax=facts is not None and facts.values == "log_probs",
        together=together,
        fused=fused,
    )
    if pack:
        forward.pack()
    return forward


def assert_same(together: ModelOutput, alone: list[Alone]) -> float:
    """Every layer and emission of a batch is that of the recordings alone; returns the largest difference."""
    largest = 0.0
    for index, answer in enumerate(alone):
        frames = int(together.num_frames[index])
        assert list(together.features) == list(range(1, len(answer.features) + 1))
        for layer, expected in enumerate(answer.features, start=1):
            assert len(expected) == frames
            difference = float((together.split(together.features[layer])[index] - expected).abs().max())
            assert difference <= TOLERANCE, f"layer {layer} of recording {index}: {difference}"
            largest = max(largest, difference)
        if answer.emission is None:
            assert together.logits is None
            continue
        logits = together.split(together.logits)[index]
        difference = float((logits - answer.emission).abs().max())
        assert difference <= TOLERANCE, f"emission of recording {index}: {difference}"
        largest = max(largest, difference)
        best = answer.emission.topk(2).values
        changed = logits.argmax(-1) != answer.emission.argmax(-1)
        assert not (changed & (best[:, 0] - best[:, 1] > NEAR_TIE)).any()
    return largest
