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
import os
import resource
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import corpora
import numpy as np
import soundfile
import torch
from common import Table, clocked, parser, prepared, publish, ready, say
from contestants import command, pipeline
from numpy.typing import NDArray
from weights import prepare_weights

from pipeline.audio.reader import read_header
from pipeline.audio.waveforms import read_waveform
from pipeline.config.run_config import load
from pipeline.inference.loader import Loader, Recordings
from pipeline.inference.planning import Chunking, assign_shards, plan_run
from pipeline.inference.resampling import resample
from pipeline.inference.shard_tables import TableSettings
from pipeline.inference.staged_arrays import ROW_GROUP_BYTES
from pipeline.inference.transcription import Transcribed
from pipeline.inference.writer import ShardWriter
from pipeline.models.catalog import MODELS
from pipeline.models.forward import ExactForward
from pipeline.models.sources import load_model, named
from pipeline.records import Chunk, Emission
from pipeline.stages.build_manifest import build as build_manifest
from pipeline.storage import tables as layout
from pipeline.storage.run_directory import RunDirectory
from pipeline.transcripts import Transcript, Transcripts

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
BASE = "wav2vec2_asr_base_960h"


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


Arrays = list[NDArray[np.float32]]


def real_values(model: str, minutes: float) -> tuple[Arrays, Arrays]:
    """Emissions, and features of the last layer, of two minutes of real speech, repeated as often as it takes."""
    prepare_weights(model)
    facts = MODELS[model]
    forward = ExactForward(load_model(named(facts.name))[0])
    count = max(1, round(min(2.0, minutes) * 60 / 9))
    emissions, features = [], []
    for waveform in corpora.utterances(count):
        output = forward(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]), [facts.num_layers])
        assert output.logits is not None
        emissions.append(output.logits.reshape(-1, output.logits.shape[-1]).numpy())
        layer = output.features[facts.num_layers]
        features.append(layer.reshape(-1, layer.shape[-1]).numpy())
    turns = max(1, round(minutes / min(2.0, minutes)))
    return emissions * turns, features * turns


def writing(options: argparse.Namespace, work: Path) -> Table:
    table = Table(
        "Writing, MB of values per second of wall clock",
        ["what", "MB", "MB/s", "s", "stored size", "x real time"],
        notes=["A shard: spooled, read back, written, hashed, synced and committed, as in a run."],
    )
    model = "digits" if options.quick else BASE
    for name in dict.fromkeys(("digits", model)):
        emissions, features = real_values(name, options.write_minutes)
        seconds = sum(map(len, emissions)) * MODELS[name].seconds_per_frame
        halves = [values.astype(np.float16) for values in features]
        for what, arrays in (
            (f"{name}: emissions, float32", emissions),
            (f"{name}: features of a layer, float16", halves),
            (f"{name}: features of a layer, float32", features),
        ):
            size = sum(values.nbytes for values in arrays)
            times, stored = [], 0
            for _ in range(options.rounds):
                path = work / "values.parquet"
                times.append(clocked(lambda path=path, arrays=arrays: write_table(path, arrays)))
                stored = path.stat().st_size
                path.unlink()
            took = statistics.median(times)
            table.add(f"{what}: table", size / 1e6, size / took / 1e6, took, f"{stored / size:.0%}", seconds / took)
        for what, layers in ((f"{name}: a shard, emissions and last layer", 1), (f"{name}: a shard, all layers", 12)):
            layers = min(layers, MODELS[name].num_layers)
            size = sum(values.nbytes for values in emissions) + layers * sum(values.nbytes for values in halves)
            results = [commit_shard(work / "written", name, emissions, halves, layers) for _ in range(options.rounds)]
            took = statistics.median(took for took, _ in results)
            stored = results[0][1]
            table.add(what, size / 1e6, size / took / 1e6, took, f"{stored / size:.0%}", seconds / took)
    empty = statistics.median(
        commit_shard(work / "written", "digits", [np.zeros((1, 29), np.float32)], [np.zeros((1, 160), np.float16)], 1)[
            0
        ]
        for _ in range(3 * options.rounds)
    )
    table.add("a shard of one frame: the cost of a commit", 0.0, None, empty, None, None)
    return table


def write_table(path: Path, arrays: Sequence[NDArray[np.floating]]) -> None:
    """One table of features, in row groups as in a run, synced."""
    from pipeline.records import ArrayPart

    dtype, width = str(arrays[0].dtype), arrays[0].shape[1]
    with layout.open_writer(path, layout.features_schema(dtype), values="feature") as writer:
        group: list[ArrayPart] = []
        for row, values in enumerate(arrays):
            group.append(ArrayPart(row, 0, 0, values))
            full = sum(part.values.nbytes for part in group) >= ROW_GROUP_BYTES
            if full or row == len(arrays) - 1:
                ids = [f"{part.row:06d}" for part in group]
                writer.write_table(layout.feature_rows(ids, 1, group, dtype, width))
                group = []
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def commit_shard(
    folder: Path, model: str, emissions: Arrays, features: Sequence[NDArray[np.float16]], layers: int
) -> tuple[float, int]:
    """Hand results to a shard writer until it has committed them; seconds, and bytes of the tables."""
    shutil.rmtree(folder, ignore_errors=True)
    root = ready(folder / "recordings")
    (root / "a.wav").symlink_to(corpora.ROOT / "tests" / "data" / "fsdd" / "0_george_0.wav")
    for index in range(1, len(emissions)):
        (root / f"{index:06d}.wav").symlink_to("a.wav")
    config = load(["dataset=folder", f"dataset.root={root}", f"model={model}"])
    manifest = build_manifest(config.dataset, 1e6, lambda rows: None, "mix")
    facts = MODELS[model]
    settings = TableSettings(
        outputs=("transcripts", "emissions", "features"),
        layers=tuple(range(1, layers + 1)),
        feature_dtype="float16",
        emission_dtype="float32",
        num_labels=emissions[0].shape[1],
        dim=features[0].shape[1],
        metadata={"model": facts.name},
        fingerprint="benchmark",
    )
    directory = RunDirectory(folder / "run")
    started = time.perf_counter()
    writer = ShardWriter(directory, manifest, settings, lambda record: None)
    for row, (emission, feature) in enumerate(zip(emissions, features, strict=True)):
        chunk = Chunk(row, len(emission) * facts.stride)
        kept = dict.fromkeys(range(1, layers + 1), feature)
        transcript = Transcript("", "", 0.0, len(emission), ())
        transcribed = Transcribed([row], Transcripts.of([transcript]), [f"{row:032x}"])
        writer.put(0, [Emission(chunk, len(emission), emission, kept, None)], transcribed, [])
    writer.close()
    took = time.perf_counter() - started
    return took, sum(path.stat().st_size for path in directory.root.glob("*/shard-*.parquet"))


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
