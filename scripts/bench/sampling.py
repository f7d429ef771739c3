"""Draw samples from a run whose references are all known, and count how often the interval holds the true rate.

Example:
    python scripts/data/make_voices_like.py /tmp/VOiCES_devkit
    python -m pipeline.run dataset=voices dataset.root=/tmp/VOiCES_devkit model=digits run_dir=/tmp/voices
    python -m scripts.bench.sampling /tmp/voices --by distractor --times 10 --minutes 3 8

`--times` repeats the utterances, because the finer part of a small corpus would be labelled whole.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.results import open_run
from pipeline.sample.design import draw
from pipeline.sample.estimate import interval, rate, weighted
from pipeline.sample.frame import Frame, GroupValue, read_frame
from pipeline.scoring.groups import Group


def repeated(frame: Frame, times: int) -> Frame:
    """The same utterances several times."""
    names = ("certainty", "duration_s", "words", "doubt", "labelled", "errors", "reference_words")
    rows = np.arange(len(frame) * times).reshape(times, len(frame))
    groups = [GroupValue(each.group, each.value, rows[:, each.members].reshape(-1)) for each in frame.groups]
    ids = pa.concat_arrays([frame.ids] * times)
    return replace(frame, ids=ids, groups=groups, **{name: np.tile(getattr(frame, name), times) for name in names})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--by", required=True)
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--minutes", type=float, nargs="+", required=True)
    parser.add_argument("--seeds", type=int, default=1000)
    options = parser.parse_args()
    frame = repeated(read_frame(open_run(options.run_dir), [Group(options.by, (options.by,))]), options.times)
    population, codes = np.arange(len(frame)), frame.codes(options.by)
    truth = frame.errors.sum() / frame.reference_words.sum()
    for minutes in options.minutes:
        rates, plain, held, drawn, group_held = [], [], 0, 0, []
        for seed in range(options.seeds):
            design = draw(frame, population, codes, 60 * minutes, seed)
            labelled, _ = weighted(design.stratum, design.drawn, frame.errors, frame.reference_words, design.drawn)
            everybody = np.ones(len(labelled.errors), dtype=bool)
            rates.append(rate(labelled, everybody))
            low, high = interval(labelled, everybody) or (0.0, 0.0)
            held += low <= truth <= high
            drawn += len(labelled.errors)
            alike = np.random.default_rng(seed).choice(len(frame), len(labelled.errors), replace=False)
            plain.append(frame.errors[alike].sum() / frame.reference_words[alike].sum())
            for each in frame.groups if seed % 5 == 0 else ():
                members = np.isin(np.flatnonzero(design.drawn), each.members)
                true_rate = frame.errors[each.members].sum() / frame.reference_words[each.members].sum()
                if true_rate and (found := interval(labelled, members)):
                    group_held.append(found[0] <= true_rate <= found[1])
        print(
            f"{len(frame):,} utterances, {minutes:g} min drawn ({drawn / options.seeds:.0f} utterances, "
            f"{design.strata} strata): true {100 * truth:.2f} %, mean {100 * np.mean(rates):.2f} %, "
            f"standard deviation {100 * np.std(rates):.2f} (drawn alike: {100 * np.std(plain):.2f}); "
            f"the interval holds the truth in {100 * held / options.seeds:.1f} % of {options.seeds} samples, "
            f"by {options.by} in {100 * np.mean(group_held):.1f} %"
        )


if __name__ == "__main__":
    main()
