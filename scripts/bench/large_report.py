"""Make the run directory of a large corpus with invented results, and measure its report: time, size, memory.

Example:
    python scripts/bench/large_report.py /tmp/large --utterances 100000 --words 15

The project's own code writes the tables. All utterances are the same shipped recording under different ids. Their words
are digits; with `--words`, made-up words, which do not compress as well. Give the same command twice: it makes the run,
then measures its report, and how long it takes to open where Chromium is installed.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import soundfile

from pipeline.config.schema import ReportSettings, ScoreSettings
from pipeline.datasets import SHIPPED
from pipeline.inference.shard_tables import ShardTables, TableSettings
from pipeline.inference.transcription import Transcribed
from pipeline.models.labels import ENGLISH_LABELS
from pipeline.records import Chunk, Emission, Failure
from pipeline.records.transcripts import Transcript, Transcripts, Word
from pipeline.report import write_report
from pipeline.stages.score import score_run
from pipeline.storage import manifest as manifests
from pipeline.storage import tables
from pipeline.storage.identity import Identity
from pipeline.storage.names import METRICS, RUN_JSON
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.run_record import RunRecord

RECORDING = SHIPPED / "digits" / "theo-6digits-34.flac"
DIGITS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")
FRAMES, DIM, STRIDE_S = 40, 32, 0.02
ROOMS = ("rm1", "rm2", "rm3", "rm4")


def _rows_of_manifest(said: Sequence[str], shard_rows: int) -> pa.Table:
    """One utterance for each text. All have the same recording."""
    utterances, numbers, info = len(said), np.arange(len(said)), soundfile.info(RECORDING)
    return pa.table(
        {
            "id": [f"speaker{number % 97:03d}/utterance-{number:07d}.flac" for number in numbers],
            "path": [str(RECORDING)] * utterances,
            "start_s": pa.nulls(utterances, pa.float64()),
            "end_s": pa.nulls(utterances, pa.float64()),
            "duration_s": np.full(utterances, info.duration),
            "sample_rate": np.full(utterances, info.samplerate),
            "num_channels": np.ones(utterances),
            "num_samples": np.full(utterances, info.frames),
            "file_size": np.full(utterances, RECORDING.stat().st_size),
            "reference": [text.lower() for text in said],
            "shard": numbers // shard_rows,
            "speaker": [f"speaker{number % 97:03d}" for number in numbers],
            "room": [ROOMS[number % len(ROOMS)] for number in numbers],
        }
    ).cast(tables.manifest_schema({"speaker": "string", "room": "string"}))


def make_run(
    folder: Path, utterances: int, shard_rows: int = 1_000, words: int = 0, arrays: bool = True
) -> RunDirectory:
    """A run of `utterances` rows with transcripts, emissions and features of three layers; one in 500 failed.

    Args:
        folder: The run directory.
        utterances: Number of rows.
        shard_rows: Rows of a shard.
        words: Number of made-up words of an utterance; 0 for four digits.
        arrays: Whether to write emissions and features.
    """
    directory, rng = RunDirectory(folder), np.random.default_rng(1)
    info = soundfile.info(RECORDING)
    vocabulary = _made_up_words(rng) if words else DIGITS
    chosen = rng.zipf(1.3, size=(utterances, words or 4)) if words else rng.integers(10, size=(utterances, 4))
    said = [" ".join(vocabulary[each % len(vocabulary)] for each in row) for row in chosen]
    table = _rows_of_manifest(said, shard_rows)
    manifest = manifests.Manifest(table, manifests.digest_of(table))
    manifests.write(directory, manifest, {"dataset": "made_up"})
    layers = (1, 2, 3)
    outputs = ("emissions", "features", "transcripts") if arrays else ("transcripts",)
    identity = Identity(
        tables.SCHEMA_VERSION, manifest.digest, "made_up", "none", "fp32", outputs, "mix", 60.0, 4.0, "none", "none",
        layers, "float16", "float32", "greedy",
    )  # fmt: skip
    record = RunRecord(identity, None, None, {}, "cpu", datetime.now(UTC).isoformat(timespec="seconds"))
    directory.write(RUN_JSON, record.encode())
    metadata = {"labels": list(ENGLISH_LABELS), "blank": 0, "seconds_per_frame": STRIDE_S, "values": "logits"}
    settings = TableSettings(
        outputs, layers, "float16", "float32", len(ENGLISH_LABELS), DIM, metadata, record.fingerprint
    )
    logits = rng.standard_normal((FRAMES, len(ENGLISH_LABELS))).astype(np.float32)
    features = {layer: rng.standard_normal((FRAMES, DIM)).astype(np.float16) for layer in layers}
    for shard in range(manifest.num_shards):
        results = ShardTables(shard, directory, manifest, settings)
        for row in manifest.rows_of_shard(shard):
            if row % 500 == 3:
                utterance = manifest.utterance(row)
                results.fail(Failure(utterance.id, utterance.path, "load", "truncated", "made up"))
                continue
            results.transcribe(
                Transcribed([row], Transcripts.of([_transcript(said[row], vocabulary, rng)]), [f"{row:032x}"])
            )
            results.add(Emission(Chunk(row, info.frames), FRAMES, logits, features, None))
        results.commit()
    _metrics(directory, utterances, info.duration)
    score_run(directory, directory.commits(), table.schema, ScoreSettings())
    return directory


def _made_up_words(rng: np.random.Generator) -> list[str]:
    letters = np.array(list("ETAOINSHRDLU"))
    return ["".join(rng.choice(letters, size=size)) for size in rng.integers(2, 10, size=5_000)]


def _transcript(said: str, vocabulary: Sequence[str], rng: np.random.Generator) -> Transcript:
    words = [vocabulary[rng.integers(len(vocabulary))] if rng.random() < 0.1 else word for word in said.split()]
    certain = float(rng.beta(8, 1))
    starts = 0.2 * np.arange(len(words)) + 0.02 * rng.integers(3, size=len(words))
    ends, probabilities = starts + 0.02 * rng.integers(1, 6, size=len(words)), certain ** rng.random(len(words))
    timed = tuple(map(Word, words, starts.tolist(), ends.tolist(), probabilities.tolist()))
    return Transcript(" ".join(words), "|".join(words), float(np.log(certain)), FRAMES, timed)


def _metrics(directory: RunDirectory, utterances: int, duration_s: float) -> None:
    """A line for every ten utterances, in three sessions."""
    begun = datetime(2026, 1, 1, tzinfo=UTC)
    batches = utterances // 10
    with open(directory.local_log(METRICS), "w", encoding="utf-8") as handle:
        for batch in range(batches):
            line = {
                "time": (begun + timedelta(seconds=0.4 * batch)).isoformat(timespec="milliseconds"),
                "batch": batch % (batches // 3 + 1), "shard": batch // 100, "size": 10, "failed": 0,
                "padded_s": 11 * duration_s, "valid_s": 10 * duration_s,
                "load_s": 0.01, "forward_s": 0.35, "write_s": 0.001, "idle_s": 0.02,
            }  # fmt: skip
            handle.write(json.dumps(line) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--utterances", type=int, default=100_000)
    parser.add_argument("--words", type=int, default=0, help="made-up words of an utterance; 0 for four digits")
    parser.add_argument("--no-arrays", action="store_true", help="write neither emissions nor features")
    options = parser.parse_args()
    directory = RunDirectory(options.folder)
    if not directory.scores.is_there:
        started = time.monotonic()
        make_run(options.folder, options.utterances, words=options.words, arrays=not options.no_arrays)
        print(f"made in {time.monotonic() - started:.1f} s; run again to measure the report in a process of its own")
        return
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    path = write_report(directory, ReportSettings())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{options.utterances} utterances: {time.monotonic() - started:.1f} s, {path.stat().st_size / 2**20:.1f} MiB, "
        f"memory {before / 1024:.0f} MiB before, {peak / 1024:.0f} MiB at most"
    )
    if (browser := shutil.which("chromium")) is not None:
        loaded, listed = zip(*(_opened(path, browser) for _ in range(5)), strict=True)
        print(f"opens in {np.median(loaded):.2f} s, with the rows of its table in {np.median(listed):.2f} s")


def _opened(path: Path, browser: str) -> tuple[float, float]:
    """Open the page in Chromium; return the seconds until it is loaded, and until its table has rows."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        page = started.new_page()
        begun = time.monotonic()
        page.goto(path.absolute().as_uri())
        loaded = time.monotonic() - begun
        page.locator("#explorer .line").first.wait_for()
        listed = time.monotonic() - begun
        started.close()
    return loaded, listed


if __name__ == "__main__":
    main()
