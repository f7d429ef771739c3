"""The main job with a forward that computes nothing, for `around.py`: `python scripts/bench/hollow.py OVERRIDES...`.

Frames, logits and features have the right shapes and random values, which are made once. Everything else is the
project's own code. From the first batch to the last commit, the CPU seconds of the main process are counted: those that
read batches from the loading processes, those that compute batches on a CPU, and the rest. They are written to the file
`driver.json` in the run directory.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline import run
from pipeline.inference.batches import StoredBatch
from pipeline.models.engine import Engine
from pipeline.models.forward import ExactForward, ModelOutput
from pipeline.runtime.progress import RunProgress

FRAMES = 100_000
"""More than a batch has."""


def speechlike(labels: int, generator: np.random.Generator) -> Tensor:
    """Logits whose best path has the rhythm of read speech: 2.7 words in a second of 50 frames.

    A word has one to eight letters, 4.5 on average, and the delimiter, which is the second label. A letter lasts for
    one or two frames and is followed by up to four blanks, which are the first label. So a label takes 3.4 frames.
    """
    letters = generator.integers(1, 9, size=FRAMES)
    ends = np.cumsum(letters + 1) - 1
    spoken = generator.integers(2, labels, size=FRAMES)
    spoken[ends[ends < FRAMES]] = 1
    runs = np.stack([spoken, np.zeros_like(spoken)], axis=1).ravel()
    lengths = np.stack([1 + (generator.random(FRAMES) < 0.4), generator.integers(0, 5, size=FRAMES)], axis=1).ravel()
    path = np.repeat(runs, lengths)[:FRAMES]
    logits = generator.standard_normal((FRAMES, labels), dtype=np.float32)
    logits[np.arange(FRAMES), path] += 12
    return torch.from_numpy(logits)


def hollow_forward() -> Any:
    """A forward that returns the beginning of the same values for every batch."""
    made: dict[str, Tensor] = {}
    generator = np.random.default_rng(0)

    def forward(self: ExactForward, waveforms: Tensor, lengths: Tensor, layers: Collection[int]) -> ModelOutput:
        num_frames = lengths
        for convolution in self.front_end.convolutions:
            num_frames = convolution.num_frames(num_frames)
        total = int(num_frames.sum())
        if not made:
            assert self.aux is not None
            features = generator.standard_normal((FRAMES, self.encoder.norm.normalized_shape[0]), dtype=np.float32)
            made["logits"] = speechlike(self.aux.out_features, generator).to(waveforms.device)
            made["feature"] = torch.from_numpy(features).to(waveforms.device)
        return ModelOutput(num_frames, made["logits"][:total], dict.fromkeys(layers, made["feature"][:total]))

    return forward


def clock_driver() -> dict[str, float]:
    """Count CPU seconds of this process: those that read batches, those that compute on a CPU, and the driver's own."""
    spent = {"driver": 0.0, "reading": 0.0, "computing": 0.0}
    begin, leave = RunProgress.begin, RunProgress.__exit__

    def counted(call: Any, name: str, counts: Callable[[Any], bool] = lambda given: True) -> Any:
        def clocked(self: Any, *given: Any, **named: Any) -> Any:
            began = time.thread_time()
            result = call(self, *given, **named)
            if counts(self):
                spent[name] += time.thread_time() - began
            return result

        return clocked

    def begun(self: RunProgress, place: int = 0) -> None:
        begin(self, place)
        spent["driver"] -= time.process_time()

    def left(self: RunProgress, *error: Any) -> None:
        spent["driver"] += time.process_time() - spent["reading"] - spent["computing"]
        leave(self, *error)

    RunProgress.begin, RunProgress.__exit__ = begun, left  # type: ignore[method-assign]
    StoredBatch.read = counted(StoredBatch.read, "reading")  # type: ignore[method-assign]
    Engine._start = counted(  # type: ignore[method-assign]
        Engine._start, "computing", lambda engine: engine.device.type == "cpu"
    )
    return spent


def main() -> int:
    ExactForward.forward = hollow_forward()  # type: ignore[method-assign]
    spent = clock_driver()
    code = run.main(sys.argv[1:])
    (run_dir,) = (given.removeprefix("run_dir=") for given in sys.argv if given.startswith("run_dir="))
    Path(run_dir, "driver.json").write_text(json.dumps(spent))
    return code


if __name__ == "__main__":
    sys.exit(main())
