"""Speed of everything around the model: the main job with a forward that computes nothing.

Example:
    python scripts/bench/around.py --device cpu --recordings 2000
"""

from __future__ import annotations

import statistics
from dataclasses import asdict
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
                timings.append(
                    pipeline(
                        corpus,
                        work / "run",
                        MODEL,
                        options.device,
                        options.threads,
                        OUTPUTS[name],
                        [str(ROOT / "scripts" / "bench" / "hollow.py")],
                    )
                )
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
        publish("around", __doc__, [table], options, measured)


if __name__ == "__main__":
    main()
