"""Each stage alone: decoding and resampling, loading, planning, writing, committing, starting, resuming.

Example:
    python scripts/bench/stages.py --device cpu

Decoding, resampling and loading are CPU seconds of one core, the best of the rounds. The manifest is in wall clock time
and in CPU seconds of all its processes. All other times are wall clock times. The tables show medians where they do not
say otherwise. The written values are emissions and features of real speech, from the shipped model and from the base
architecture.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import corpora
import numpy as np
import soundfile
import torch
from common import Table, clocked, parser, prepared, publish, ready, say
from contestants import command, pipeline
from weights import prepare_weights
from writing import BASE, writing

from pipeline.audio.reader import read_header
from pipeline.audio.resampling import resample
from pipeline.audio.waveforms import read_waveform
from pipeline.config.run_config import load
from pipeline.inference.loader import Loader, Recordings
from pipeline.inference.planning import Chunking, assign_shards, plan_run
from pipeline.models.catalog import MODELS
from pipeline.stages.build_manifest import build as build_manifest

FORMATS = {
    "WAV": ("wav", "PCM_16"),
    "FLAC": ("flac", "PCM_16"),
    "MP3": ("mp3", "MPEG_LAYER_III"),
    "Ogg Vorbis": ("ogg", "VORBIS"),
    "Ogg Opus": ("opus", "OPUS"),
}
RATES = (8_000, 16_000, 44_100, 48_000)
NOT_OF = {("Ogg Opus", 44_100)}
"""Opus has no 44.1 kHz."""


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--minutes", type=float, help="of speech to decode; None: 5")
    made.add_argument("--utterances", type=int, help="to plan; None: 1,000,000")
    made.add_argument("--write-minutes", type=float, help="of speech whose values are written; None: 20")
    options = made.parse_args()
    options.minutes = options.minutes or (0.2 if options.quick else 5)
    options.utterances = options.utterances or (10_000 if options.quick else 1_000_000)
    options.write_minutes = options.write_minutes or (0.2 if options.quick else 20)
    tables = []
    with prepared(options) as work:
        for stage in (decoding, loading, planning, writing, starting):
            say(stage.__name__)
            tables.append(stage(options, work))
        publish("stages", __doc__, tables, options, {table.title: table.rows for table in tables})


def cpu_seconds(run: Callable[[], object], rounds: int) -> float:
    """The least of the rounds, of this process, on one thread."""
    times = []
    for _ in range(rounds):
        started = time.process_time()
        run()
        times.append(time.process_time() - started)
    return min(times)


def decoding(options: argparse.Namespace, work: Path) -> Table:
    """x real time of a core, by format and rate: reading to mono, resampling to 16 kHz, both."""
    folder = ready(work / "formats")
    table = Table(
        "Decoding and resampling, x real time of one core",
        ["format, rate", "decoding", "resampling to 16 kHz", "both", "headers per s"],
    )
    speech = corpora.cut(corpora.speech(), round(options.minutes * 60 * corpora.RATE), 0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a loader's process
    for rate in RATES:
        samples = resample(torch.from_numpy(speech), corpora.RATE, rate).numpy().clip(-1, 1)
        for name, (suffix, subtype) in FORMATS.items():
            if (name, rate) in NOT_OF:
                continue
            path = folder / f"speech-{rate}.{suffix}"
            # In pieces: libsndfile's Vorbis encoder overflows the stack where all samples come at once.
            with soundfile.SoundFile(path, "w", rate, 1, subtype, format="OGG" if suffix == "opus" else None) as file:
                for first in range(0, len(samples), rate):
                    file.write(samples[first : first + rate])
            seconds = len(samples) / rate
            decode = cpu_seconds(lambda path=path: read_waveform(str(path)), options.rounds)
            read, own = read_waveform(str(path))
            change = None
            if own != corpora.RATE:
                change = cpu_seconds(
                    lambda read=read, own=own: resample(torch.from_numpy(read), own, corpora.RATE), options.rounds
                )
            headers = cpu_seconds(lambda path=path: [read_header(str(path)) for _ in range(20)], options.rounds) / 20
            both = seconds / (decode + (change or 0.0))
            table.add(
                f"{name}, {rate / 1000:g} kHz",
                seconds / decode,
                change and seconds / change,
                both,
                1 / max(headers, 1e-9),
            )
            path.unlink()
    torch.set_num_threads(threads)
    return table


def children_seconds() -> float:
    """The CPU seconds of all processes that this process has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def loading(options: argparse.Namespace, work: Path) -> Table:
    """x real time of a core for FLAC at 16 kHz: libsndfile alone, our reader, and all that a loading process does."""
    root = corpora.librispeech(work / "flac", 20 if options.quick else corpora.DISTINCT)
    paths = [str(path) for path in corpora.files(root)]
    seconds = corpora.seconds(root)
    manifest = build_manifest(load(["dataset=folder", f"dataset.root={root}", "model=digits"]).dataset, 1.0)
    facts = MODELS[BASE]
    chunking = Chunking(60 * corpora.RATE, 200, facts.stride, facts.min_samples)
    loader = Loader(Recordings(manifest, corpora.RATE, facts.min_samples), workers=1, timeout_s=60)
    samples = manifest.num_samples_at(corpora.RATE)

    def loading_process() -> float:
        before = children_seconds()
        shards = range(manifest.num_shards)
        for _ in loader.batches(plan_run(shards, manifest.shard_of_row, samples, 12 * corpora.RATE, chunking)):
            pass
        return children_seconds() - before

    limit = "soundfile.read alone, the limit"
    ways: dict[str, Callable[[], float]] = {
        limit: lambda: cpu_seconds(lambda: [soundfile.read(path, dtype="float32") for path in paths], 1),
        "reading to mono": lambda: cpu_seconds(lambda: [read_waveform(path) for path in paths], 1),
        "a loading process, from its start to its end": loading_process,
    }
    rounds = [{way: measure() for way, measure in ways.items()} for _ in range(options.rounds)]
    best = {way: min(times[way] for times in rounds) for way in ways}
    table = Table("Loading FLAC at 16 kHz, 2 to 16 s", ["what", "x real time of one core", "share of the limit"])
    for way, took in best.items():
        table.add(way, seconds / took, f"{best[limit] / took:.0%}")
    return table


def planning(options: argparse.Namespace, work: Path) -> Table:
    count = options.utterances
    durations = np.random.default_rng(0).uniform(2, 16, count)
    shards = assign_shards(durations, 1.0)
    samples = (durations * corpora.RATE).astype(np.int64)
    facts = MODELS[BASE]
    chunking = Chunking(60 * corpora.RATE, 200, facts.stride, facts.min_samples)

    def plan() -> None:
        budget = 600 * corpora.RATE
        for _ in plan_run(range(int(shards[-1]) + 1), shards, samples, budget, chunking):
            pass

    table = Table(f"Planning {count:,} utterances of 2 to 16 s", ["what", "s", "per million, s"])
    for name, run in {"shards": lambda: assign_shards(durations, 1.0), "batches": plan}.items():
        took = statistics.median(clocked(run) for _ in range(options.rounds))
        table.add(name, took, took / count * 1e6)
    root = corpora.librispeech(work / "headers", 20 if options.quick else 100_000)
    dataset = load(["dataset=folder", f"dataset.root={root}", "model=digits"]).dataset
    walls, cpus = [], []
    for _ in range(options.rounds):
        before = time.process_time() + children_seconds()
        walls.append(clocked(lambda: build_manifest(dataset, 1.0)))
        cpus.append(time.process_time() + children_seconds() - before)
    for what, times in {"wall clock": walls, "CPU of all processes": cpus}.items():
        took = statistics.median(times)
        table.add(f"manifest of a folder of FLAC (headers read), {what}", took, took / len(corpora.files(root)) * 1e6)
    return table


def starting(options: argparse.Namespace, work: Path) -> Table:
    table = Table("Starting and resuming, wall clock", ["what", "s"])
    count = 4 if options.quick else 60
    root = corpora.single_digits(work / "start", count)
    model = "digits" if options.quick else BASE
    prepare_weights(model)
    runs = [
        pipeline(root, work / "run", model, options.device, options.threads, ["outputs=[transcripts]"])
        for _ in range(options.rounds)
    ]
    before = statistics.median(run.whole_s - run.seconds for run in runs)
    table.add(f"a run with {model}: all but batches and commits (imports, weights, manifest, scores)", before)
    again = ["-m", "pipeline.run", "dataset=folder", f"dataset.root={root}", f"run_dir={work / 'run'}"]
    again += [f"model={model}", f"device={options.device}", "outputs=[transcripts]"]
    for what, arguments in (
        ("the same command again, when all is done", again),
        ("status", ["-m", "pipeline.status", str(work / "run")]),
        ("--version", ["-m", "pipeline.run", "--version"]),
        ("python -c 'import torch, torchaudio', for comparison", ["-c", "import torch, torchaudio"]),
    ):
        times = [command(arguments, options.threads)[0] for _ in range(options.rounds)]
        table.add(what, statistics.median(times))
    return table


if __name__ == "__main__":
    _: Any = main()
