"""Labels that bf16 changes, for this project in batches beside stock torchaudio on each recording alone.

Example:
    python scripts/bench/precision.py --device cuda

Both are compared with unmodified torchaudio in float32 (TF32 off) on each recording alone. With random weights many
frames are near a tie of two labels, so their share of changed labels is a worst case. The shipped digits model is
trained.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import corpora
import torch
from common import ROOT, Table, parser, prepared, publish, say
from torch import Tensor
from weights import prepare_weights

from pipeline.models.forward import ExactForward
from pipeline.models.sources import load_model, named
from pipeline.runtime.cores import has_bf16

BASE = "wav2vec2_asr_base_960h"
BATCH = 32


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--recordings", type=int, help="of 2 to 16 s; None: 200, on a CPU 20")
    made.add_argument("--models", nargs="+", help="None: base and digits, or digits with --quick")
    options = made.parse_args()
    options.models = options.models or (["digits"] if options.quick else [BASE, "digits"])
    if options.device == "cpu" and not (has_bf16() or options.quick):
        print("precision: skipped, because this CPU has no bf16 arithmetic (AVX-512 BF16 or AMX)")
        sys.exit(0)
    options.recordings = options.recordings or (4 if options.quick else 20 if options.device == "cpu" else 200)
    with prepared(options):
        measured: dict[str, Any] = {}
        table = Table(
            "Against unmodified torchaudio in fp32, each recording alone",
            ["model, contestant", "frames", "labels changed", "largest difference of a logit", "relative rms"],
        )
        for name in options.models:
            for contestant, result in compete(name, options.recordings, options.device):
                measured[f"{name}: {contestant}"] = result
                share = f"{result['changed']:.3%}"
                table.add(f"{name}: {contestant}", int(result["frames"]), share, result["largest"], result["rms"])
                publish("precision", __doc__, [table], options, measured, complete=False)
        publish("precision", __doc__, [table], options, measured)


def recordings(model: str, count: int) -> list[Tensor]:
    """What a model was made for: read speech, or digits."""
    if model == "digits":
        paths = sorted((ROOT / "pipeline" / "shipped" / "digits").glob("*.flac"))[:count]
        return [torch.from_numpy(corpora.read(path)) for path in paths]
    return [torch.from_numpy(samples) for samples in corpora.utterances(count)]


@torch.inference_mode()
def alone(model: torch.nn.Module, waveforms: Sequence[Tensor], device: str, dtype: torch.dtype) -> list[Tensor]:
    """Unmodified torchaudio on one recording after another: `(frames, labels)` float32 on the host."""
    model = model.to(device, dtype)
    return [model(waveform[None].to(device, dtype))[0][0].float().cpu() for waveform in waveforms]


def batched(forward: ExactForward, waveforms: Sequence[Tensor], device: str) -> list[Tensor]:
    """This project on padded batches of unequal recordings: `(frames, labels)` float32 on the host."""
    found: list[Tensor] = []
    for first in range(0, len(waveforms), BATCH):
        group = waveforms[first : first + BATCH]
        lengths = torch.tensor([len(waveform) for waveform in group])
        output = forward(torch.nn.utils.rnn.pad_sequence(list(group), batch_first=True).to(device), lengths, [])
        assert output.logits is not None
        found += output.split(output.logits.cpu())
    return found


def compare(found: Sequence[Tensor], reference: Sequence[Tensor]) -> dict[str, float]:
    frames = sum(map(len, reference))
    pairs = list(zip(found, reference, strict=True))
    changed = sum(int((a.argmax(-1) != b.argmax(-1)).sum()) for a, b in pairs)
    squares = sum(float((a - b).square().sum()) for a, b in pairs)
    scale = sum(float(b.square().sum()) for b in reference)
    largest = max(float((a - b).abs().max()) for a, b in pairs)
    return {"frames": frames, "changed": changed / frames, "largest": largest, "rms": (squares / scale) ** 0.5}


def compete(name: str, count: int, device: str) -> Iterator[tuple[str, dict[str, float]]]:
    """Each contestant with its differences from the reference, for one model."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    say(name)
    prepare_weights(name)
    waveforms = recordings(name, count)

    def stock(dtype: torch.dtype) -> list[Tensor]:
        return alone(load_model(named(name))[0], waveforms, device, dtype)

    def ours(precision: str, fused: bool = False) -> list[Tensor]:
        return batched(ExactForward(load_model(named(name))[0], precision, fused=fused).to(device), waveforms, device)

    contestants: dict[str, Callable[[], list[Tensor]]] = {
        "this project in bf16, batched": lambda: ours("bf16"),
        "stock torchaudio in bf16, alone": lambda: stock(torch.bfloat16),
        "this project in fp32, batched": lambda: ours("fp32"),
    }
    if device == "cuda":
        contestants["this project in bf16, batched, with the kernels that are off"] = lambda: ours("bf16", fused=True)
    reference = stock(torch.float32)
    for contestant, run in contestants.items():
        yield contestant, compare(run(), reference)


if __name__ == "__main__":
    main()
