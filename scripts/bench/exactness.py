"""Compare batched results with results of each recording alone, for stock torchaudio, transformers and this project.

Example:
    python scripts/bench/exactness.py tests/data/librivox/*.wav
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torchaudio
from rich.console import Console
from rich.table import Table

from pipeline.audio.resampling import resample
from pipeline.audio.waveforms import read_waveform
from pipeline.models.forward import ExactForward
from pipeline.models.labels import ENGLISH_LABELS
from pipeline.models.sources import named

LAYERS = 4
"""Of the checkpoint that transformers makes; with more, it would only take longer to make."""


def differences(model: torch.nn.Module, waveforms: list[torch.Tensor]) -> tuple[list[float], list[float]]:
    """Largest difference of a logit and share of changed labels: stock batched, then ours."""
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    padded = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True)
    with torch.inference_mode():
        alone = [model(waveform[None])[0][0] for waveform in waveforms]
        stock, _ = model(padded, lengths)
        output = ExactForward(copy.deepcopy(model))(padded, lengths, [])
        assert output.logits is not None
    return _compared(alone, (stock, output.split(output.logits)))


def transformers_differences(waveforms: list[torch.Tensor]) -> tuple[list[float], list[float]]:
    """The same for a checkpoint that transformers makes and saves, and that this project reads.

    Stock transformers pads as the checkpoint's extractor says, as for wav2vec2-base-960h: without an attention mask.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    tokens = {token: index for index, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", *ENGLISH_LABELS[1:]])}
    model = transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(num_hidden_layers=LAYERS)).eval()
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        extractor.save_pretrained(folder)
        (Path(folder) / "vocab.json").write_text(json.dumps(tokens))
        source = named("huggingface", checkpoint=folder)
        body = source.facts.body
        forward = ExactForward(
            source.build(), normalize_waveform=body.normalize_waveform, normalize_epsilon=body.normalize_epsilon
        )
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    given = [waveform.numpy() for waveform in waveforms]

    def values(some: list[Any]) -> torch.Tensor:
        inputs: torch.Tensor = extractor(some, sampling_rate=16_000, padding=True, return_tensors="pt").input_values
        return inputs

    with torch.inference_mode():
        alone = [model(values([each])).logits[0] for each in given]
        stock = model(values(given)).logits
        output = forward(torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True), lengths, [])
        assert output.logits is not None
    return _compared(alone, (stock, output.split(output.logits)))


def _compared(
    alone: Sequence[torch.Tensor], both: Sequence[Sequence[torch.Tensor] | torch.Tensor]
) -> tuple[list[float], list[float]]:
    frames = sum(map(len, alone))
    largest, changed = [], []
    for batched in both:
        pairs = [(batched[i][: len(emission)], emission) for i, emission in enumerate(alone)]
        largest.append(max(float((a - b).abs().max()) for a, b in pairs))
        changed.append(sum(int((a.argmax(-1) != b.argmax(-1)).sum()) for a, b in pairs) / frames)
    return largest, changed


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recordings", nargs="+", type=Path)
    options = parser.parse_args()
    waveforms = []
    for path in options.recordings:
        samples, rate = read_waveform(str(path))
        waveforms.append(resample(torch.from_numpy(samples), rate, 16_000))
    torch.manual_seed(0)
    base = torchaudio.models.wav2vec2_base(aux_num_out=29).eval()
    shipped = named("digits").build()
    table = Table("model", "batched by", "largest difference of a logit", "labels changed")
    for name, stock, found in (
        ("base architecture, random weights", "stock torchaudio", differences(base, waveforms)),
        ("digits", "stock torchaudio", differences(shipped, waveforms)),
        (
            f"Wav2Vec2ForCTC of base width, {LAYERS} layers, random weights",
            "stock transformers",
            transformers_differences(waveforms),
        ),
    ):
        for rival, difference, share in zip((stock, "this project"), *found, strict=True):
            table.add_row(name, rival, f"{difference:.1e}", f"{share:.1%}")
    seconds = sum(map(len, waveforms)) / 16_000
    print(f"{len(waveforms)} recordings, {seconds:.1f} s, in one padded batch; torch {torch.__version__} on the CPU")
    Console().print(table)


if __name__ == "__main__":
    main()
