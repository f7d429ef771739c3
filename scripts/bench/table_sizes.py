"""The stored bytes of an hour of audio: every output, layout and dtype, with the base and the large architecture.

Example:
    python scripts/bench/table_sizes.py

The recordings are real speech of 2 to 16 s. The weights are random values in the published shapes. They decode into
nonsense, whose words do not repeat, so the transcripts are measured with the shipped model on the spoken digits too.
"""

from __future__ import annotations

import argparse
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import corpora
from common import ROOT, Table, parser, prepared, publish, say
from contestants import pipeline
from weights import prepare_weights

from pipeline.storage.run_directory import RunDirectory

BASE, LARGE = "wav2vec2_asr_base_960h", "wav2vec2_asr_large_lv60k_960h"
HOURS = 100_000
COLUMNS = ("output", "MB an hour", "of its values", "TB for 100,000 hours")
FRAMES_S, LABELS = 50, 29
SHAPES = {BASE: (768, 12), LARGE: (1024, 24)}
BYTES = {"float16": 2, "float32": 4}


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--recordings", type=int, help="of nine seconds on average; None: 20")
    options = made.parse_args()
    options.recordings = options.recordings or (2 if options.quick else 20)
    table, everything = Table("Stored bytes", COLUMNS), {}
    with prepared(options) as work:
        digits = work / "digits"
        shutil.rmtree(digits, ignore_errors=True)
        shutil.copytree(ROOT / "pipeline" / "shipped" / "digits", digits)
        found = stored(options, work, digits, "digits", {"outputs": "[transcripts]"})
        add(table, "transcripts of spoken digits", found["transcripts"])
        everything["digits"] = found
        corpus = corpora.librispeech(work / "corpus", options.recordings)
        for model in (BASE,) if options.quick else (BASE, LARGE):
            prepare_weights(model)
            add_model(options, work, corpus, model, table, everything)
            publish("table_sizes", __doc__, [table], options, everything, complete=False)
        publish("table_sizes", __doc__, [table], options, everything)


def add_model(
    options: argparse.Namespace, work: Path, corpus: Path, model: str, table: Table, everything: dict[str, Any]
) -> None:
    """Measure the tables of a model: every layer once, the last layer in each layout and dtype."""
    (dim, layers), name = SHAPES[model], "base" if model == BASE else "large"
    for layout in ("list", "binary"):
        for dtype, other in (("float16", "float32"), ("float32", "float16")):
            found = stored(
                options,
                work,
                corpus,
                model,
                {
                    "features.dtype": dtype,
                    "emissions.dtype": other,
                    "features.layout": layout,
                    "emissions.layout": layout,
                },
            )
            everything[f"{name}, {layout}, features {dtype}, emissions {other}"] = found
            if (layout, dtype) == ("list", "float16"):
                add(table, f"{name}: transcripts of nonsense", found["transcripts"])
            add(table, f"{name}: emissions, {layout}, {other}", found["emissions"], LABELS * BYTES[other])
            add(table, f"{name}: features of the last layer, {layout}, {dtype}", found["features"], dim * BYTES[dtype])
    found = stored(options, work, corpus, model, {"features.layers": "all"})
    everything[f"{name}, all layers"] = found
    add(
        table, f"{name}: features of {layers} layers, list, float16", found["features"], dim * layers * BYTES["float16"]
    )


def stored(
    options: argparse.Namespace, work: Path, corpus: Path, model: str, given: Mapping[str, str]
) -> dict[str, float]:
    """Return the bytes that each table of a run takes for an hour of audio."""
    run = work / "run"
    overrides = [f"{key}={value}" for key, value in given.items()]
    pipeline(corpus, run, model, options.device, options.threads, overrides)
    sizes: Counter[str] = Counter()
    audio_s = 0.0
    for shard in RunDirectory(run).commits().values():
        audio_s += shard.audio_s
        for record in shard.records:
            sizes.update({table: file.size for table, file in record.files.items()})
    found = {table: size * 3600 / audio_s for table, size in sizes.items()}
    say(f"{model} {' '.join(overrides)}: { ({table: round(size) for table, size in found.items()}) }")
    return found


def add(table: Table, what: str, size: float, frame: int | None = None) -> None:
    """Add a row. `frame` are the bytes of the values of a frame."""
    share = None if frame is None else f"{size / (3600 * FRAMES_S * frame):.0%}"
    table.add(what, size / 1e6, share, size * HOURS / 1e12)


if __name__ == "__main__":
    main()
