"""Alignment of long recordings: torchaudio's `forced_align` beside the stage `align`.

Example:
    python scripts/bench/long_alignment.py

The emissions of the shipped recordings of spoken digits are joined to recordings of minutes up to an hour, and so are
their references. Each recording is aligned with its own reference, with one in which 10 % of the words are wrong, and
with one in which all are. Each alignment runs in a process of its own, whose peak memory beyond that of the emission is
measured. torchaudio is left out where it would need more than 4 GiB.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import Table, environment, parser, prepared, publish, say

from pipeline.decoding.alignment.aligner import Aligner, Alignment
from pipeline.decoding.alignment.forced import states_of
from pipeline.decoding.alignment.spelling import Speller
from pipeline.decoding.alignment.viterbi import best_states
from pipeline.results import open_run
from pipeline.results.arrays import log_probabilities
from pipeline.run import main as run_pipeline
from pipeline.stages.postprocessing.emissions import describe_emissions
from pipeline.storage.run_directory import RunDirectory

TIMES = (1, 8, 32)
"""How often the 1.9 minutes of the corpus are repeated."""
WRONG = (0.0, 0.1, 1.0)
_MOST_BYTES = 4 << 30


def main() -> None:
    """Align joined recordings, and store the table."""
    options_of = parser(__doc__)
    options_of.add_argument("--one", nargs=4, metavar=("RUN", "WHO", "TIMES", "WRONG"), help=argparse.SUPPRESS)
    options = options_of.parse_args()
    if options.one:
        run_dir, who, times, wrong = options.one
        print(json.dumps(measure(Path(run_dir), who, int(times), float(wrong))))
        return
    columns = ("minutes", "frames", "states", "wrong words", "torchaudio s", "MB", "align s", "MB", "same frames")
    table = Table("Seconds and peak memory of one alignment", columns)
    measured = []
    with prepared(options) as work:
        run_dir = work / "run"
        stages = ["outputs=[transcripts,emissions]", "stages=[manifest,infer]"]
        if run_pipeline(["dataset=digits", *stages, f"run_dir={run_dir}"]):
            raise SystemExit("the run failed")
        for times in TIMES[: 2 if options.quick else None]:
            for wrong in WRONG:
                say(f"{times} times, {wrong:.0%} wrong")
                ours = alone(run_dir, "align", times, wrong, options.threads)
                fits = ours["frames"] * ours["states"] <= _MOST_BYTES
                theirs = alone(run_dir, "torchaudio", times, wrong, options.threads) if fits else None
                same = None if theirs is None else np.mean(np.equal(ours.pop("path"), theirs.pop("path")))
                ours.pop("path", None)
                row = [f"{ours['minutes']:.0f}", ours["frames"], ours["states"], f"{wrong:.0%}"]
                row += [round(theirs["seconds"], 1), theirs["megabytes"]] if theirs else ["", "too much"]
                row += [round(ours["seconds"], 1), ours["megabytes"], "" if same is None else f"{100 * same:.2f} %"]
                table.add(*row)
                measured.append({"align": ours, "torchaudio": theirs, "same_frames": same})
    publish("long_alignment", __doc__, [table], options, {"alignments": measured})


def alone(run_dir: Path, who: str, times: int, wrong: float, threads: int) -> dict[str, Any]:
    """Measure an alignment in a process of its own."""
    command = [sys.executable, __file__, "--one", str(run_dir), who, str(times), str(wrong)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(threads))
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def kilobytes(name: str) -> int:
    """Memory of this process, or its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def measure(run_dir: Path, who: str, times: int, wrong: float) -> dict[str, Any]:
    import torch
    from torchaudio.functional import forced_align

    run, directory = open_run(run_dir), RunDirectory(run_dir)
    stored = describe_emissions(directory, directory.commits())
    ids = run.transcripts["id"]
    logprobs = np.concatenate([log_probabilities(run.emission(id_).astype(np.float32)) for id_ in ids] * times)
    words = " ".join(run.transcripts["reference"]).split() * times
    chosen = random.Random(0)
    digits = sorted({*words})
    words = [chosen.choice([d for d in digits if d != word]) if chosen.random() < wrong else word for word in words]
    seconds, states, peaks, path = 0.0, 0, [0, 0], []

    def find(scores: Any, labels: Any, blank: int) -> Any:
        nonlocal seconds, states, path
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
        peaks[0] = kilobytes("VmRSS")
        started = time.perf_counter()
        if who == "align":
            found = best_states(scores, labels, blank)
        else:
            (of_labels,), _ = forced_align(torch.from_numpy(scores)[None], torch.from_numpy(labels)[None], blank=blank)
            found = states_of(of_labels.numpy().astype(np.int64), blank)
        seconds, states, path = time.perf_counter() - started, 2 * len(labels) + 1, found.tolist()
        peaks[1] = kilobytes("VmHWM")
        return found

    aligner = Aligner(stored.labels, stored.seconds_per_frame, Speller(stored.labels), find)
    found = aligner(logprobs, " ".join(words), 0.0)
    assert isinstance(found, Alignment), found
    minutes = len(logprobs) * stored.seconds_per_frame / 60
    return {
        "minutes": minutes, "frames": len(logprobs), "states": states, "seconds": seconds,
        "megabytes": round((peaks[1] - peaks[0]) / 1024), "llr_per_s": found.llr_per_s, "path": path,
    }  # fmt: skip


if __name__ == "__main__":
    main()
