"""Writing of emissions and features alone: tables, and whole shards as in a run. `stages.py` measures it."""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import corpora
import numpy as np
import torch
from common import Table, clocked, ready
from numpy.typing import NDArray
from weights import prepare_weights

from pipeline.config.run_config import load
from pipeline.inference.shard_tables import TableSettings
from pipeline.inference.staged_arrays import ROW_GROUP_BYTES
from pipeline.inference.transcription import Transcribed
from pipeline.inference.writer import ShardWriter
from pipeline.models.catalog import MODELS
from pipeline.models.forward import ExactForward
from pipeline.models.sources import load_model, named
from pipeline.records import ArrayPart, Chunk, Emission
from pipeline.records.transcripts import Transcript, Transcripts
from pipeline.stages.build_manifest import build as build_manifest
from pipeline.storage import tables as layout
from pipeline.storage.run_directory import RunDirectory

BASE = "wav2vec2_asr_base_960h"
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
