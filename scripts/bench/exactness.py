"""Compare batched results with results of each recording alone, for stock torchaudio and this project.

Example:
    python scripts/bench/exactness.py tests/data/librivox/*.wav
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
import torchaudio
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file

from pipeline.audio.waveforms import read_waveform
from pipeline.models import digits
from pipeline.models.forward import ExactForward
from pipeline.models.sources import named
from pipeline.resampling import resample


def differences(model: torch.nn.Module, waveforms: list[torch.Tensor]) -> tuple[list[float], list[float]]:
    """Largest difference of a logit and share of changed labels: stock batched, then ours."""
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    padded = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True)
    with torch.inference_mode():
        alone = [model(waveform[None])[0][0] for waveform in waveforms]
        stock, _ = model(padded, lengths)
        output = ExactForward(copy.deepcopy(model))(padded, lengths, [])
        assert output.logits is not None
        ours = output.split(output.logits)
    frames = sum(map(len, alone))
    largest, changed = [], []
    for batched in (stock, ours):
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
    shipped = digits.build().eval()
    shipped.load_state_dict(load_file(named("digits").weights_path))
    table = Table("model", "batched by", "largest difference of a logit", "labels changed")
    for name, model in (("base architecture, random weights", base), ("digits", shipped)):
        largest, changed = differences(model, waveforms)
        for rival, difference, share in zip(("stock torchaudio", "this project"), largest, changed, strict=True):
            table.add_row(name, rival, f"{difference:.1e}", f"{share:.1%}")
    seconds = sum(map(len, waveforms)) / 16_000
    print(f"{len(waveforms)} recordings, {seconds:.1f} s, in one padded batch; torch {torch.__version__} on the CPU")
    Console().print(table)


if __name__ == "__main__":
    main()
