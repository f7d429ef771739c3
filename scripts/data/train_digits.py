"""Train the digit model with CTC on strings composed from the Free Spoken Digit Dataset.

Example:
    PYTHONPATH=. python scripts/data/train_digits.py --fsdd DIR --out digits.safetensors

Recordings 0 to 4 of each speaker and digit are the test set. Recordings 5 to 7 are the validation set, which chooses
the checkpoint. The other recordings are the training set.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torchaudio
from digit_strings import SAMPLE_RATE, Composer, Sample, bucket, read_recordings
from digits_network import BLANK, LABELS, MODEL_RATE, Batch, build_for_training, collate, ctc_loss, run_model
from rapidfuzz.distance import Levenshtein
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from torchaudio.models import Wav2Vec2Model

from pipeline.models import digits

TEST_INDICES = range(5)
VALIDATION_INDICES = range(5, 8)


class TrainingBatches(IterableDataset[Batch]):
    """Endless batches, each worker with its own chance and its own pool to bucket."""

    def __init__(self, composer: Composer, batch_seconds: float, easy_batches: int, seed: int) -> None:
        self.composer = composer
        self.batch_seconds = batch_seconds
        self.easy_batches = easy_batches
        self.seed = seed

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        rng = np.random.default_rng([self.seed, worker.id if worker else 0])
        easy_batches = self.easy_batches // (worker.num_workers if worker else 1)
        return map(collate, self.composer.training_batches(self.batch_seconds, easy_batches, rng))


def decode(emission: Tensor) -> list[str]:
    """Return the words of the best path through an emission ``[frames, labels]``."""
    best = torch.unique_consecutive(emission.argmax(-1)).tolist()
    return "".join(LABELS[i] for i in best if i != BLANK).replace("|", " ").split()


def word_error_rate(references: Sequence[str], hypotheses: Sequence[list[str]]) -> float:
    """Word edits over reference words, in [0, inf)."""
    words = [reference.split("|") for reference in references]
    return sum(map(Levenshtein.distance, words, hypotheses)) / sum(map(len, words))


@torch.inference_mode()
def validate(model: Wav2Vec2Model, samples: Sequence[Sample], device: torch.device) -> tuple[float, float]:
    """Return word error rate and CTC loss over ``samples``, computed in batches."""
    model.eval()
    references: list[str] = []
    hypotheses: list[list[str]] = []
    losses = []
    for group in bucket(samples, 60.0):
        batch = collate(group)
        emission, frames = run_model(model, batch, device)
        losses.append(float(ctc_loss(emission, frames, batch)) * len(group))
        rows = zip(emission.cpu(), frames.tolist(), strict=True)
        hypotheses += [decode(row[:length]) for row, length in rows]
        references += [text for _, text in group]
    return word_error_rate(references, hypotheses), sum(losses) / len(samples)


@torch.inference_mode()
def test(weights: dict[str, Tensor], samples: Sequence[Sample], device: torch.device) -> float:
    """Word error rate of torchaudio's own model, each utterance run alone."""
    model = digits.build().to(device).eval()
    model.load_state_dict(weights)
    hypotheses = []
    for waveform, _ in samples:
        signal = torch.from_numpy(waveform).to(device)[None]
        signal = torchaudio.functional.resample(signal, SAMPLE_RATE, MODEL_RATE)
        hypotheses.append(decode(model(signal)[0][0]))
    return word_error_rate([text for _, text in samples], hypotheses)


def train(
    options: argparse.Namespace, train_set: Composer, validation: dict[str, list[Sample]]
) -> tuple[dict[str, Tensor], dict[str, float | str]]:
    """Train and return the weights best on the validation sets, with a summary."""
    device = torch.device(options.device)
    model = build_for_training(options.dropout).to(device)
    ema = copy.deepcopy(model).requires_grad_(False)
    parameters, averages = list(model.parameters()), list(ema.parameters())
    optimizer = torch.optim.AdamW(parameters, options.lr, (0.9, 0.98), weight_decay=0.05, fused=device.type == "cuda")
    loader = DataLoader(
        TrainingBatches(train_set, options.batch_seconds, options.easy_batches, options.seed),
        batch_size=None,
        num_workers=options.workers,
        pin_memory=device.type == "cuda",
        prefetch_factor=4 if options.workers else None,
    )
    warm_up = max(1, min(500, options.steps // 10))
    best_score = (math.inf, math.inf)
    best: dict[str, Tensor] = {}
    summary: dict[str, float | str] = {}
    started = reported = time.monotonic()
    losses: list[Tensor] = []
    for step, batch in enumerate(loader, 1):
        # Whichever runs out first, steps or minutes, the learning rate ends near 0.
        spent = (time.monotonic() - started) / (60 * options.minutes)
        progress = min(1.0, max(step / options.steps, spent))
        decay = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))
        for group in optimizer.param_groups:
            group["lr"] = options.lr * min(1.0, step / warm_up) * decay
        model.train()
        loss = ctc_loss(*run_model(model, batch, device), batch)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        # A short memory at first, or the average would keep the random weights.
        with torch.no_grad():
            torch._foreach_lerp_(averages, parameters, max(0.001, 1 / (1 + step / 10)))
        losses.append(loss.detach())
        if step % options.report_every == 0:
            now = time.monotonic()
            rate = len(losses) / (now - reported)
            mean_loss = float(torch.stack(losses).mean())
            print(f"step {step} loss {mean_loss:.4f} steps/s {rate:.2f}", flush=True)
            losses, reported = [], now
        if step % options.evaluate_every == 0 or progress >= 1.0:
            for name, candidate in (("model", model), ("ema", ema)):
                results = {key: validate(candidate, s, device) for key, s in validation.items()}
                wers = {key: wer for key, (wer, _) in results.items()}
                score = (sum(wers.values()), sum(loss for _, loss in results.values()))
                line = " ".join(f"{key} {wer:.2%}" for key, wer in wers.items())
                print(f"step {step} {name} WER {line} loss {score[1] / 2:.4f}", flush=True)
                if score < best_score or not best:
                    best_score = score
                    best = {k: v.detach().cpu().clone() for k, v in candidate.state_dict().items()}
                    summary = {f"validation_wer_{key}": wer for key, wer in wers.items()}
                    summary |= {"checkpoint_step": step, "checkpoint": name}
            reported = time.monotonic()
        if progress >= 1.0:
            break
    minutes = (time.monotonic() - started) / 60
    return best, summary | {"steps": step, "training_minutes": round(minutes, 2)}


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fsdd", type=Path, required=True, help="folder of the recordings")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--minutes", type=float, default=math.inf, help="longest training time")
    parser.add_argument("--batch-seconds", type=float, default=24.0, help="padded seconds in a batch")
    parser.add_argument("--easy-batches", type=int, default=600, help="first batches, of 1 and 2 digits")
    parser.add_argument("--lr", type=float, default=1.5e-3, help="peak learning rate")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--workers", type=int, default=0, help="processes that compose strings")
    parser.add_argument("--hold-out-speaker", help="train without this speaker, test on them too")
    parser.add_argument("--report-every", type=int, default=200, help="in steps")
    parser.add_argument("--evaluate-every", type=int, default=1000, help="in steps")
    options = parser.parse_args()
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    return options


def main() -> None:
    """Train, test and save."""
    options = parse_options()
    torch.manual_seed(options.seed)
    torch.set_float32_matmul_precision("high")
    everything = read_recordings(options.fsdd)
    held_out = options.hold_out_speaker
    known = [r for r in everything if r.speaker != held_out]
    unseen = (*TEST_INDICES, *VALIDATION_INDICES)
    train_set = Composer([r for r in known if r.index not in unseen])
    validation_set = Composer([r for r in known if r.index in VALIDATION_INDICES])
    weights, summary = train(options, train_set, validation_set.evaluation_sets(300, seed=1))

    device = torch.device(options.device)
    test_set = Composer([r for r in known if r.index in TEST_INDICES])
    for name, samples in test_set.evaluation_sets(600, seed=2).items():
        summary[f"test_wer_{name}"] = test(weights, samples, device)
    if held_out:
        speaker = Composer([r for r in everything if r.speaker == held_out])
        for name, samples in speaker.evaluation_sets(300, seed=3).items():
            summary[f"{held_out}_wer_{name}"] = test(weights, samples, device)
    cuda = device.type == "cuda"
    summary |= {
        "seed": options.seed,
        "parameters": sum(weight.numel() for weight in weights.values()),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
        # File names only: the folders of one machine mean nothing on another.
        "command": " ".join(Path(word).name if "/" in word else word for word in sys.argv),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    metadata = {key: str(value) for key, value in summary.items()}
    save_file(weights, options.out, metadata | {"format": "pt"})
    digits.build().load_state_dict(load_file(options.out))
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
