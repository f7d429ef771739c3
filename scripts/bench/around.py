"""Speed of everything around the model: the main job with a forward that computes nothing.

Example:
    python scripts/bench/around.py --device cpu --recordings 2000
"""

from __future__ import annotations

import json
import statistics
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

import corpora
from common import ROOT, Table, parser, prepared, publish, say
from contestants import Timing, pipeline
from weights import prepare_weights

MODEL = "wav2vec2_asr_base_960h"
OUTPUTS = {
    "transcripts": ["outputs=[transcripts]"],
    "and emissions": ["outputs=[transcripts,emissions]"],
    "and features of the last layer": [],
    "and features of all layers": ["features.layers=all"],
}
GPU_BATCH_S = 474
"""Padded seconds in a batch on an H100. Fewer, larger batches cost the main process less than those of a CPU."""


def hollow(corpus: Path, work: Path, options: Namespace, overrides: list[str]) -> Timing:
    """One run of the main job with the forward that computes nothing."""
    program = [str(ROOT / "scripts" / "bench" / "hollow.py")]
    return pipeline(corpus, work / "run", MODEL, options.device, options.threads, overrides, program)


def driver_table(work: Path, options: Namespace, measured: dict[str, Any]) -> Table:
    """The CPU seconds that the main process takes for an hour of audio in utterances of about 9 s and of about 1 s."""
    table = Table(
        "CPU seconds of the main process for an hour of audio, for transcripts alone",
        ["utterances", "number", "audio h", "decoding to commits", "per utterance, ms", "reading batches"],
    )
    for name, make, count in (
        ("of 2 to 16 s", corpora.librispeech, options.recordings),
        ("of 0.5 to 1.5 s", corpora.seconds_long, 9 * options.recordings),
    ):
        corpus = make(work / "driver", count)
        spent = []
        for _ in range(options.rounds):
            timing = hollow(corpus, work, options, ["outputs=[transcripts]", f"batch.max_seconds={GPU_BATCH_S}"])
            spent.append(json.loads((work / "run" / "driver.json").read_text()))
            say(f"{name}: {spent[-1]['driver'] * 3600 / timing.audio_s:.3f} CPU s per audio hour")
        measured[f"driver, {name}"] = spent
        hours = timing.audio_s / 3600
        driver_s, reading_s = (statistics.median(each[key] for each in spent) for key in ("driver", "reading"))
        table.add(name, count, hours, driver_s / hours, 1000 * driver_s / count, reading_s / hours)
    table.notes.append(
        f"Seconds for an hour of audio. Batches of {GPU_BATCH_S} s, as on an H100; 2.7 words a second. The loading "
        "processes do not count. Neither does the start, nor computing the batches on a CPU. Reading batches: the "
        "transfer from the loading processes."
    )
    return table


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--recordings", type=int, help="of 2 to 16 s; None: 1000, on CUDA 8000")
    options = made.parse_args()
    options.recordings = options.recordings or (4 if options.quick else 1000 if options.device == "cpu" else 8000)
    table = Table(
        f"{options.recordings:,} recordings of 2 to 16 s through a forward that does nothing",
        ["outputs", "audio h", "s", "x real time", "waits", "closing s", "MB written", "MB/s", "peak MiB"],
    )
    measured: dict[str, Any] = {}
    with prepared(options) as work:
        prepare_weights(MODEL)
        corpus = corpora.librispeech(work / "around", options.recordings)
        names = list(OUTPUTS)
        for name in (names[0], names[-1]) if options.quick else names:
            # The last is much, and says what the one before said.
            rounds = 1 if name.endswith("all layers") else options.rounds
            timings: list[Timing] = []
            for _ in range(rounds):
                timings.append(hollow(corpus, work, options, OUTPUTS[name]))
                say(f"{name}: {timings[-1].audio_s / timings[-1].seconds:,.0f} x")
            measured[name] = [asdict(timing) for timing in timings]
            middle = sorted(timings, key=lambda timing: timing.seconds)[len(timings) // 2]
            written = (middle.bytes or 0) / 1e6
            peak = statistics.median(timing.peak_mib or 0.0 for timing in timings)
            table.add(
                name,
                middle.audio_s / 3600,
                middle.seconds,
                middle.audio_s / middle.seconds,
                f"{middle.waiting or 0:.0%}",
                middle.closing_s,
                written,
                written / middle.seconds,
                peak,
            )
            publish("around", __doc__, [table], options, measured, complete=False)
        table.notes.append(
            "waits: share of s in which the model that does nothing waited for the loader or the writer. closing s: "
            "from the last batch to the last commit."
        )
        publish("around", __doc__, [table, driver_table(work, options, measured)], options, measured)


if __name__ == "__main__":
    main()
