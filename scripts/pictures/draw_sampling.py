"""Draw what samples say of a corpus whose error rate is known.

Example:
    python -m scripts.pictures.draw_sampling docs/sampling.png

The script makes the corpus of `scripts/data/make_voices_like.py` and transcribes it with the shipped model. The picture
shows a hundred samples of three minutes with their intervals, and the spread of the estimates for other sizes.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from pipeline.results import open_run
from pipeline.run import main as run
from pipeline.sample.design import draw
from pipeline.sample.estimate import interval, rate, weighted
from pipeline.sample.frame import Frame, read_frame
from pipeline.scoring.groups import Group
from scripts.data.make_voices_like import make_corpus

MINUTES = (1.5, 2, 3, 4, 6)
SHOWN_MINUTES, SHOWN, SAMPLES = 3.0, 100, 400
HOLDS, MISSES, PLAIN = "#31507a", "#b0562f", "#8a8f98"


def samples(frame: Frame, minutes: float, number: int) -> list[tuple[float, float, float, float]]:
    """Rate, both ends of its interval, and the rate of as many utterances drawn without strata, for each sample."""
    everything, codes = np.arange(len(frame)), frame.codes("distractor")
    found = []
    for seed in range(number):
        design = draw(frame, everything, codes, 60 * minutes, seed)
        labelled, _ = weighted(design.stratum, design.drawn, frame.errors, frame.reference_words, design.drawn)
        everybody = np.ones(len(labelled.errors), dtype=bool)
        low, high = interval(labelled, everybody) or (np.nan, np.nan)
        plain = np.random.default_rng(seed).choice(len(frame), len(labelled.errors), replace=False)
        alike = frame.errors[plain].sum() / frame.reference_words[plain].sum()
        found.append((100 * (rate(labelled, everybody) or 0), 100 * low, 100 * high, 100 * alike))
    return found


def main() -> None:
    """Write one PNG."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_corpus(folder / "corpus", damaged=False)
        given = ["dataset=voices", f"dataset.root={folder / 'corpus'}", "model=digits", f"run_dir={folder / 'run'}"]
        assert run([*given, "outputs=[transcripts]", "stages=[manifest,infer]"]) == 0
        frame = read_frame(open_run(folder / "run"), [Group("distractor", ("distractor",))])
    truth = 100 * frame.errors.sum() / frame.reference_words.sum()
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.4), width_ratios=[1.7, 1], layout="constrained")
    for number, (found, low, high, _) in enumerate(samples(frame, SHOWN_MINUTES, SHOWN)):
        colour = HOLDS if low <= truth <= high else MISSES
        left.plot([number, number], [low, high], color=colour, linewidth=1.2, alpha=0.7)
        left.plot(number, found, "o", color=colour, markersize=2.2)
    left.axhline(truth, color="black", linewidth=0.8)
    left.text(SHOWN + 1, truth + 0.2, f"true:\n{truth:.2f} %", va="bottom", fontsize=8)
    left.set(
        xlabel=f"sample of {SHOWN_MINUTES:g} minutes",
        ylabel="word error rate in %",
        xlim=(-1, SHOWN + 14),
        ylim=(0, None),
    )
    spread = np.array([np.std(samples(frame, minutes, SAMPLES), axis=0)[[0, 3]] for minutes in MINUTES])
    total = frame.duration_s.sum() / 60
    right.plot(MINUTES, spread[:, 1], "o--", color=PLAIN, markersize=4, label="as many, without strata")
    right.plot(MINUTES, spread[:, 0], "o-", color=HOLDS, markersize=4, label="stratified")
    right.set(xlabel=f"minutes labelled, of {total:.1f}", ylabel="standard deviation in points", ylim=(0, None))
    right.legend(frameon=False)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=110)


if __name__ == "__main__":
    main()
