"""Forward only: waveforms in memory to logits, beside stock torchaudio and the machine's matrix product rate.

Example:
    python scripts/bench/forward.py --device cpu --models wav2vec2_asr_base_960h

All contestants have the same recordings of 2 to 16 s. The recordings are on the device before the clock starts, and
the logits stay there. This project uses the batches that its planner makes. Contestants take turns in every round, and
the tables show medians. The limit is the time that these recordings, without padding, would take at the rate of a
square matrix product. That rate is measured in every round.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import corpora
import flops
import torch
from common import Table, clocked, matrix_rate, parser, prepared, publish, say, spread
from torch import Tensor
from weights import prepare_weights

from pipeline.inference.planning import Chunking, plan_shard
from pipeline.models.architectures import architecture_of
from pipeline.models.catalog import MODELS
from pipeline.models.device import default_batch_seconds
from pipeline.models.facts import ModelFacts
from pipeline.models.forward import ExactForward
from pipeline.models.sources import load_model, named

BASE, LARGE = "wav2vec2_asr_base_960h", "wav2vec2_asr_large_960h"
WANTED = {BASE: 0.92}
OURS = "this project"
Batch = tuple[Tensor, Tensor]
"""Padded waveforms on the device, and lengths on the host."""


def main() -> None:
    options = arguments()
    tables: list[Table] = []
    measured: dict[str, Any] = {}
    with prepared(options):
        for model in options.models:
            prepare_weights(model)
            # On a CPU a large model takes long enough over fewer.
            count = (
                max(1, options.recordings // 2) if model == LARGE and options.device == "cpu" else options.recordings
            )
            waveforms = [torch.from_numpy(w) for w in corpora.utterances(count, 1.0 if options.quick else 16.0)]
            tables.append(Table("", []))
            for table, found in compete(options, model, waveforms):
                tables[-1], measured[model] = table, found
                publish("forward", __doc__, tables, options, measured, complete=False)
        publish("forward", __doc__, tables, options, measured)


def arguments() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--models", nargs="+", help="bundles; None: base and large, base alone with --quick")
    made.add_argument("--recordings", type=int, help="None: 24 (12 for the large model), on CUDA 128 (19 minutes)")
    options = made.parse_args()
    options.models = options.models or ([BASE] if options.quick else [BASE, LARGE])
    options.recordings = options.recordings or (2 if options.quick else 128 if options.device == "cuda" else 24)
    return options


def planned(waveforms: list[Tensor], facts: ModelFacts, device: str) -> list[Batch]:
    """The batches that a run over these recordings would have."""
    import numpy as np

    lengths = np.array([len(waveform) for waveform in waveforms])
    budget = int(default_batch_seconds(torch.device(device)) * facts.sample_rate)
    chunking = Chunking(60 * facts.sample_rate, 200, facts.stride, facts.min_samples)
    plan = plan_shard(np.arange(len(lengths)), lengths, budget, chunking)
    return [padded([waveforms[chunk.row] for chunk in chunks], device) for chunks in plan]


def padded(waveforms: list[Tensor], device: str) -> Batch:
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    return torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True).to(device), lengths


def stock(model: torch.nn.Module, batches: list[Batch], dtype: torch.dtype) -> Callable[[], None]:
    given = [(waveforms.to(dtype), lengths.to(waveforms.device)) for waveforms, lengths in batches]

    @torch.inference_mode()
    def run() -> None:
        for waveforms, lengths in given:
            model(waveforms, lengths if len(lengths) > 1 else None)

    return run


def compete(options: argparse.Namespace, name: str, waveforms: list[Tensor]) -> Iterator[tuple[Table, dict[str, Any]]]:
    """One model: everybody's seconds for all recordings, after each round."""
    facts, device = MODELS[name], options.device
    say(f"{name}: loading")
    lengths = [len(waveform) for waveform in waveforms]
    seconds = sum(lengths) / facts.sample_rate
    size = 32 if device == "cuda" else 8
    groups = [waveforms[first : first + size] for first in range(0, len(waveforms), size)]
    ordered = sorted(waveforms, key=len)
    even = [ordered[first : first + size] for first in range(0, len(ordered), size)]
    contestants: dict[str, Callable[[], None]] = {}
    for precision in ("fp32", "bf16") if device == "cuda" else ("fp32",):
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        model = load_model(named(facts.name))[0].to(device, dtype)
        label = "stock torchaudio" + (f" in {precision}" if device == "cuda" else "")
        contestants[f"{label}, one at a time"] = stock(model, [padded([w], device) for w in waveforms], dtype)
        contestants[f"{label}, batches of {size}"] = stock(model, [padded(g, device) for g in groups], dtype)
        contestants[f"{label}, batches of {size} of similar length"] = stock(
            model, [padded(g, device) for g in even], dtype
        )
    precision = "bf16" if device == "cuda" else "fp32"
    forward = ExactForward(load_model(named(facts.name))[0], precision).to(device)
    batches = planned(waveforms, facts, device)

    def ours() -> None:
        if device == "cuda":
            for batch, valid in batches:
                forward(batch, valid, [])
            return
        # As the engine does: one batch on each core, each with one thread of torch.
        torch.set_num_threads(1)
        with ThreadPoolExecutor(options.threads) as pool:
            list(pool.map(lambda batch: forward(*batch, []), batches))
        torch.set_num_threads(options.threads)

    contestants[OURS + (f" in {precision}" if device == "cuda" else "")] = ours
    times: dict[str, list[float]] = {contestant: [] for contestant in contestants}
    limits = []
    for turn in range(-1 if not options.quick else 0, options.rounds):  # round -1 warms up
        limits.append(matrix_rate(device, precision, options.quick))
        for contestant, run in contestants.items():
            if turn < 0 and device == "cpu" and contestant != OURS:
                continue
            took = clocked(run, device)
            if turn >= 0:
                times[contestant].append(took)
                say(f"{name}, round {turn + 1}: {contestant}: {seconds / took:.1f} x")
        if turn >= 0:
            yield report(options, name, lengths, times, limits)


def report(
    options: argparse.Namespace, name: str, lengths: list[int], times: dict[str, list[float]], limits: list[float]
) -> tuple[Table, dict[str, Any]]:
    """The table of a model after some rounds, and what was measured."""
    facts, device = MODELS[name], options.device
    precision = "bf16" if device == "cuda" else "fp32"
    seconds = sum(lengths) / facts.sample_rate
    params = architecture_of(facts.name).params
    flop_per_s = flops.total(params, lengths) / seconds
    rate = statistics.median(limits)
    limit = rate / flop_per_s
    table = Table(
        f"{facts.name.upper()}: {len(lengths)} recordings, {seconds:.0f} s",
        ["contestant", "s, median", "s, least", "x real time", "share of limit", "wanted"],
    )
    for contestant, taken in times.items():
        middle = statistics.median(taken)
        is_ours = contestant.startswith(OURS) and device == "cpu" and name in WANTED
        wanted = f"{WANTED[name]:.0%}" if is_ours else ""
        speed = seconds / middle
        table.add(contestant, middle, min(taken), speed, f"{speed / limit:.0%}", wanted)
    table.notes.append(
        f"Limit: {rate / 1e9:,.0f} GFLOP/s ({precision}, {min(limits) / 1e9:,.0f} to {max(limits) / 1e9:,.0f} in this "
        f"run), {flop_per_s / 1e9:.2f} GFLOP per second of this audio: {limit:,.1f} x real time."
    )
    facts_of = {"matrix_flop_per_s": limits, "flop_per_s": flop_per_s, "audio_s": seconds}
    return table, facts_of | {"seconds": {contestant: spread(taken) for contestant, taken in times.items()}}


if __name__ == "__main__":
    main()
