"""The kernels of one batch, every place where the host waits for the device, and the device's idle time.

Example:
    python scripts/bench/kernels.py --device cuda

The batch goes through the engine as in a run: copy to the device, forward, best path, copies to the host. On a CPU the
table lists operators, and there is nothing to wait for.
"""

from __future__ import annotations

import argparse
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import corpora
import flops
import torch
from common import ROOT, Table, clocked, matrix_rate, parser, prepared, publish, say
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from weights import prepare_weights

from pipeline.models.architectures import architecture_of
from pipeline.models.catalog import MODELS
from pipeline.models.engine import Engine, EngineSettings
from pipeline.models.sources import load_model, named
from pipeline.records import Chunk

AHEAD = 4
"""Batches that are started before the results of the first are read."""
ROWS = 25


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--model", default="wav2vec2_asr_base_960h", help="a bundle, or digits")
    made.add_argument("--seconds", type=float, help="of audio in the batch; None: 20, on CUDA 475")
    options = made.parse_args()
    options.seconds = options.seconds or (2.0 if options.quick else 475.0 if options.device == "cuda" else 20.0)
    tables: list[Table] = []
    measured: dict[str, Any] = {}
    with prepared(options):
        prepare_weights(options.model)
        engine, batch = ready_engine(options)
        for measure in (waits, speed, kernels):
            say(measure.__name__)
            tables.append(measure(engine, batch, options, measured))
            publish("kernels", __doc__, tables, options, measured, complete=measure is kernels)


Batch = tuple[list[Chunk], torch.Tensor, torch.Tensor]


def ready_engine(options: argparse.Namespace, fused: bool = False) -> tuple[Engine, Batch]:
    """An engine that has computed two batches, and a batch of recordings of about 9 s; `fused` as in `ExactForward`."""
    cuda = options.device == "cuda"
    facts = MODELS[options.model]
    settings = EngineSettings((facts.num_layers,), "float16", logits=True, fused=fused)
    precision = "bf16" if cuda else "fp32"
    engine = Engine(facts, load_model(named(facts.name))[0], torch.device(options.device), precision, settings, 1)
    longest = min(16.0, options.seconds)
    count = max(1, round(options.seconds / ((2 + longest) / 2)))
    waveforms = sorted(map(torch.from_numpy, corpora.utterances(count, longest)), key=len, reverse=True)
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    padded = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True)
    padded = (padded * 2**15).round().to(torch.int16)  # as of 16-bit recordings
    batch = [Chunk(row, int(length)) for row, length in enumerate(lengths)], padded, lengths
    if cuda:
        batch = batch[0], padded.pin_memory(), lengths
    for _ in range(1 if options.quick else 2):
        compute(engine, batch)
    return engine, batch


def compute(engine: Engine, batch: Batch, times: int = 1) -> list[Any]:
    """Start a batch several times, then wait for the results."""
    started = [engine.start(*batch).result() for _ in range(times)]
    for each in started:
        each.results()
    return started


def waits(engine: Engine, batch: Batch, options: argparse.Namespace, measured: dict[str, Any]) -> Table:
    """Find where the host waits for the device while it starts two batches."""
    table = Table("Places where the host waits for the device, in two batches", ["place", "times"])
    with noted_waits(options.device) as found:
        compute(engine, batch, 2)
    measured["waits"] = dict(found)
    for place, times in found.most_common():
        table.add(place, times)
    if options.device == "cuda" and not found:
        table.notes.append("The host waits nowhere.")
    return table


@contextmanager
def noted_waits(device: str) -> Iterator[Counter[str]]:
    """Count the lines of our code at which torch says that an operation synchronises."""
    found: Counter[str] = Counter()

    def note(message: Warning | str, *_: object, **__: object) -> None:
        if "called a synchronizing" not in str(message):
            return
        stack = traceback.extract_stack()[:-1]
        own = [frame for frame in stack if Path(frame.filename).is_relative_to(ROOT / "pipeline")]
        frame = (own or stack)[-1]
        place = Path(frame.filename)
        shown = place.relative_to(ROOT) if own else place.name
        found[f"{shown}:{frame.lineno} {frame.line}"] += 1

    if device != "cuda":
        yield found
        return
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")


def speed(engine: Engine, batch: Batch, options: argparse.Namespace, measured: dict[str, Any]) -> Table:
    """Time several batches in a row."""
    started: list[Any] = []
    seconds = sum(batch[2].tolist()) / corpora.RATE
    took = clocked(lambda: started.extend(compute(engine, batch, AHEAD)), options.device) / AHEAD
    idle = sum(each.idle_s for each in started[1:]) / sum(each.idle_s + each.busy_s for each in started[1:])
    rate = matrix_rate(options.device, "bf16" if options.device == "cuda" else "fp32", options.quick)
    flop = flops.total(architecture_of(options.model).params, batch[2].tolist())
    measured |= {"audio_s": seconds, "batch_s": took, "idle": idle, "flop": flop, "matrix_flop_per_s": rate}
    table = Table(
        f"{AHEAD} batches of {len(batch[0])} recordings, {seconds:.0f} s: {options.model}",
        ["ms a batch", "x real time", "idle", "share of limit"],
    )
    table.add(1000 * took, seconds / took, f"{idle:.1%}", f"{flop / took / rate:.0%}")
    return table


def kernels(engine: Engine, batch: Batch, options: argparse.Namespace, measured: dict[str, Any]) -> Table:
    """Profile one batch."""
    cuda = options.device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    # On a CPU the engine computes on a thread of its own.
    every_thread = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)
    with profile(activities=activities, experimental_config=None if cuda else every_thread) as profiler:
        compute(engine, batch)
        if cuda:
            torch.cuda.synchronize()
    wanted = DeviceType.CUDA if cuda else DeviceType.CPU
    rows = []
    for row in profiler.key_averages():
        if row.device_type == wanted:
            micros = row.self_device_time_total if cuda else row.self_cpu_time_total
            rows.append({"name": row.key, "calls": row.count, "ms": micros / 1000})
    rows.sort(key=lambda row: -row["ms"])
    total, calls = sum(row["ms"] for row in rows), sum(row["calls"] for row in rows)
    measured |= {"kernels": rows, "launches": calls, "kernels_ms": total}
    kind = "kernels" if cuda else "operators"
    table = Table(f"The {ROWS} largest {kind} of one batch", ["name", "calls", "ms", "of the time"])
    for row in rows[:ROWS]:
        table.add(row["name"][:110], row["calls"], row["ms"], f"{row['ms'] / total:.1%}" if total else "")
    table.add("all", calls, total, "")
    if cuda:
        with suppress(OSError, RuntimeError):  # the table matters more
            profiler.export_chrome_trace(str(options.results / "kernels-trace.json.gz"))
    return table


if __name__ == "__main__":
    main()
