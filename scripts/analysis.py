"""Answer three questions about a run with pictures: `python scripts/analysis.py RUN_DIR [--out FOLDER]`.

1. Which recording condition has the highest word error rate?   scores per value of the dataset's own columns
2. Which words are uncertain?                                   word probabilities, and how well they are calibrated
3. Do features separate speakers?                               features pooled per utterance, layer by layer

This script is an example to copy from. It reads everything through `pipeline.results`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import pandas as pd
import pyarrow as pa
from matplotlib.figure import Figure
from rapidfuzz.distance import Levenshtein

from pipeline.results import Run, open_run
from pipeline.runtime.errors import UserError
from pipeline.scoring.membership import SPEAKER_COLUMNS, speaker_column
from pipeline.scoring.normalisers import standard

MAX_UTTERANCES = 5000  # features of more would tell little more about speakers
MAX_VALUES = 20  # a column with more tells utterances apart, not conditions
# Okabe and Ito's colours, which colour-blind people can tell apart; markers do it once more.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#000000")
MARKERS = "osD^vPX"
UNREAD = ("read", "python -m pipeline.verify says what is damaged")
UNWRITTEN = ("written", "give another --out")
STYLE = {"text.parse_math": False, "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}


class Lacking(Exception):
    """What a question needs and the run does not have."""


def percent(rate: float) -> str:
    return f"{100 * rate:.1f} %"


# --- 1. Which condition hurts most?


def which_condition_hurts(run: Run) -> tuple[str, Figure]:
    scores = run.scores
    if scores.empty:
        raise Lacking("the run has no scores: no references, or the stage score has not run")
    overall = scores[scores.group == "overall"].iloc[0]
    conditions = scores[(scores.group != "overall") & scores.wer.notna()].copy()
    conditions = conditions[conditions.groupby("group").group.transform("size").between(2, MAX_VALUES)]
    if conditions.empty:
        raise Lacking(f"no column of the dataset has two to {MAX_VALUES} values with references to compare")
    conditions["name"] = conditions.group + " = " + conditions.value.fillna("none given")
    # A handful of words may all be wrong by chance: the worst is the one that is surely bad. Without an interval, which
    # few speakers lack and those that all have one rate, the rate has to do; one utterance alone may be chance.
    surely = conditions.wer_low.fillna(conditions.wer.where(conditions.utterances > 1, 0.0))
    worst = conditions.loc[conditions.assign(surely=surely).sort_values(["surely", "wer"]).index[-1]]
    best = conditions[conditions.group == worst.group].sort_values("wer").iloc[0]
    if worst.wer == 0:
        answer = f"None: no word of {overall.reference_words} is wrong under any."
    else:
        answer = f"{worst['name']}: WER {described(worst)}; the least is {best['name']}, {described(best)}."
        if not worst.wer_low > best.wer_high and not (best.wer == 0 and worst.wer_low > 0):
            answer += " The intervals overlap or are not known: the run is too small to be sure."
    return answer, draw_conditions(conditions, overall)


def described(row: pd.Series) -> str:
    interval = f" (95 % interval {percent(row.wer_low)} to {percent(row.wer_high)})" if row.notna().wer_low else ""
    return f"{percent(row.wer)}{interval}"


def draw_conditions(conditions: pd.DataFrame, overall: pd.Series) -> Figure:
    groups = [rows.sort_values("wer") for _, rows in conditions.groupby("group", sort=False)]
    groups.sort(key=lambda rows: rows.wer.max())  # the picture is drawn from below
    figure = Figure(figsize=(8, 1.3 + 0.27 * sum(len(rows) + 1 for rows in groups)), layout="constrained")
    axes = figure.subplots()
    names, heights, height = [], [], 0.0
    for rows, colour in zip(groups, COLOURS * len(groups), strict=False):
        for row in rows.itertuples():
            if pd.notna(row.wer_low):
                axes.plot([100 * row.wer_low, 100 * row.wer_high], [height, height], color=colour, linewidth=2)
            axes.plot(100 * row.wer, height, "o", color=colour, markersize=7, clip_on=False)
            names.append(f"{row.name}  ({row.reference_words:,} words)")
            heights.append(height)
            height += 1
        height += 1
    axes.axvline(100 * overall.wer, color="#777777", linestyle="--", linewidth=1)
    axes.text(100 * overall.wer, height - 0.9, " overall", color="#555555", va="center")
    axes.set_yticks(heights, names)
    axes.set_xlim(left=0, right=None if conditions.wer.any() else 1)
    axes.set_ylim(-0.7, height - 0.4)
    axes.set_xlabel("word error rate in %, with 95 % intervals")
    axes.set_title("Which condition hurts most?", loc="left", fontweight="bold")
    axes.grid(axis="x", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    return figure


# --- 2. Which words are uncertain?


def which_words_are_uncertain(run: Run) -> tuple[str, Figure]:
    words = run.words
    if words.empty:
        raise Lacking("the run has no words: run with outputs=[transcripts]")
    counted = words.groupby("word").probability.agg(["mean", "count"])
    enough = min(5, int(counted["count"].max()))
    least = counted[counted["count"] >= enough].sort_values("mean").head(15)
    named = ", ".join(f"{word} ({row['mean']:.2f} in {int(row['count'])})" for word, row in least.head(3).iterrows())
    answer = f"{named}; mean probability over all {len(words):,} words {words.probability.mean():.2f}."
    figure = Figure(figsize=(10, max(3.6, 1.2 + 0.24 * len(least))), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.2, 1])
    heights = range(len(least))[::-1]
    left.barh(heights, least["mean"], color=COLOURS[0], height=0.7)
    left.set_yticks(heights, [f"{word}  ({row['count']:.0f})" for word, row in least.iterrows()])
    left.set(xlim=(0, 1), xlabel=f"mean probability of words read {enough} times or more")
    left.set_title("Which words are uncertain?", loc="left", fontweight="bold")
    judged = words.assign(right=are_right(run)).dropna()
    if judged.empty:
        right.text(0.5, 0.5, "no references to compare with", ha="center")
        right.axis("off")
        return f"{answer} Whether that means right is not known: there are no references.", figure
    bins = calibration(judged.probability.to_numpy(np.float64), judged.right.to_numpy(np.float64))
    error = float((bins["count"] * (bins.right - bins.probability).abs()).sum() / bins["count"].sum())
    least_sure = bins.iloc[0]
    answer += f" With references: {percent(judged.right.mean())} of the words are right; of the least certain tenth, "
    answer += f"{percent(least_sure.right)}, at a mean probability of {least_sure.probability:.2f}."
    answer += f" Mean difference of the two: {error:.3f}."
    right.plot([0, 1], [0, 1], color="#999999", linestyle="--", linewidth=1)
    right.errorbar(
        bins.probability, bins.right, [bins.right - bins.low, bins.high - bins.right],
        fmt="o-", color=COLOURS[5], ecolor="#bbbbbb", capsize=0, markersize=6,
    )  # fmt: skip
    right.set(xlim=(0, 1.01), ylim=(0, 1.03), xlabel="probability that the model gives", ylabel="share of words right")
    right.set_title("Are they right as often as they say?", loc="left", fontweight="bold")
    right.annotate(
        "as often as said", (0.1, 0.1), (4, -3), textcoords="offset points", va="top", color="#555555", fontsize=9
    )
    return answer, figure


def are_right(run: Run) -> pd.Series:
    """Whether each row of `run.words` is in the reference at its place, compared as for `wer`; null without one."""
    references = run.transcripts.set_index("id").reference
    found = []
    for id_, words in run.words.groupby("id", sort=False).word:
        reference = references[id_]
        right = np.full(len(words), np.nan)
        if isinstance(reference, str):
            right[:] = 0
            spoken = [word for word in map(standard, reference.split()) if word]
            for block in Levenshtein.opcodes(spoken, [standard(word) for word in words]):
                if block.tag == "equal":
                    right[block.dest_start : block.dest_end] = 1
        found.append(pd.Series(right, words.index))
    return pd.concat(found)


def calibration(probability: np.ndarray, right: np.ndarray, num_bins: int = 10) -> pd.DataFrame:
    """Words in bins of about as many each: mean probability, share that is right, with its 95 % interval."""
    bins = [order for order in np.array_split(np.argsort(probability, kind="stable"), num_bins) if len(order)]
    rows = []
    for order in bins:
        low, high = wilson(right[order].sum(), len(order))
        rows.append((probability[order].mean(), right[order].mean(), low, high, len(order)))
    return pd.DataFrame(rows, columns=["probability", "right", "low", "high", "count"])


def wilson(hits: float, total: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share: Wilson's score, which holds near 0 and 1 too."""
    share, spread = hits / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = z * np.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return min(share, middle - half), max(share, middle + half)


# --- 3. Do features separate speakers?


def do_features_separate_speakers(run: Run) -> tuple[str, Figure]:
    speaker = speaker_column(run.manifest.columns)
    if speaker is None:
        raise Lacking(f"the dataset says nothing of speakers: none of the columns {', '.join(SPEAKER_COLUMNS)}")
    if not run.layers:
        raise Lacking("the run has no features: run with outputs=[features] features.layers=all")
    known = run.select(run.manifest[speaker].notna())
    if len(known.manifest) > MAX_UTTERANCES:
        known = known.select(known.manifest.id.sample(MAX_UTTERANCES, random_state=0))
    rates, best, points = {}, -1.0, None
    for layer in run.layers:
        rows, matrix = known.pooled_table(layer, by="utterance")
        again = rows.groupby(speaker)[speaker].transform("size") > 1  # who speaks once has nobody to be near to
        rows, matrix = rows[again], matrix[again.to_numpy()]
        if rows[speaker].nunique() < 2:
            raise Lacking("fewer than two speakers have two utterances with features")
        speakers, who = np.unique(rows[speaker].to_numpy(str), return_inverse=True)
        standard = (matrix - matrix.mean(0)) / np.maximum(matrix.std(0), 1e-6)
        rates[layer] = nearest_centroid(standard, who)
        if rates[layer] > best:
            best, points = rates[layer], (layer, principal_components(standard), who, speakers)
    chance = np.bincount(who).max() / len(who)
    low, _ = wilson(best * len(who), len(who), z=3.3)  # wider, for it is the best of many layers
    layer = points[0]
    answer = "Yes" if low > chance else "No more than chance would"
    answer += f": the mean of layer {layer} is nearest to its own among {len(speakers)} speakers in {percent(best)} of "
    answer += f"{len(who):,} utterances, each left out of its mean (chance {percent(chance)})."
    if len(rates) > 1:
        worst = min(rates, key=rates.__getitem__)
        answer += f" Layer {worst} tells least: {percent(rates[worst])}."
    return answer, draw_speakers(rates, chance, *points)


def nearest_centroid(matrix: np.ndarray, who: np.ndarray) -> float:
    """Share of rows `(rows, dim)` nearest to the mean of their own class, which leaves the row itself out."""
    counts = np.bincount(who)
    centroids = np.stack([matrix[who == each].mean(axis=0) for each in range(len(counts))])
    distances = (centroids**2).sum(1) - 2 * matrix @ centroids.T + (matrix**2).sum(1)[:, None]
    rows, own = np.arange(len(who)), counts[who]
    distances[rows, who] *= (own / (own - 1)) ** 2  # without the row, its centroid lies so much further away
    return float((distances.argmin(axis=1) == who).mean())


class Points(NamedTuple):
    rows: np.ndarray  # (rows, 2)
    variance: np.ndarray  # (2,), shares of the whole


def principal_components(matrix: np.ndarray) -> Points:
    """The first two principal components of centred rows `(rows, dim)`."""
    left, sizes, _ = np.linalg.svd(matrix, full_matrices=False)
    return Points(left[:, :2] * sizes[:2], (sizes**2 / (sizes**2).sum())[:2])


def draw_speakers(
    rates: dict[int, float], chance: float, layer: int, points: Points, who: np.ndarray, speakers: np.ndarray
) -> Figure:
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    layers, shares = list(rates), 100 * np.array(list(rates.values()))
    ends = 100 * np.array([wilson(rate * len(who), len(who)) for rate in rates.values()]).T
    left.errorbar(layers, shares, np.abs(ends - shares), fmt="o-", color=COLOURS[0], ecolor="#bbbbbb", markersize=6)
    left.axhline(100 * chance, color="#777777", linestyle="--", linewidth=1)
    left.text(layers[-1], 100 * chance - 1, "chance", color="#555555", ha="right", va="top")
    left.set(ylim=(0, 103), xlabel="transformer layer", ylabel="nearest to the own speaker, % of utterances")
    left.set_xticks(layers)
    left.set_title("Do features separate speakers?", loc="left", fontweight="bold")
    frequent = np.argsort(-np.bincount(who), kind="stable")[: len(COLOURS)]
    rest = ~np.isin(who, frequent)
    right.scatter(
        *points.rows[rest].T,
        s=8,
        color="#cccccc",
        label=f"{len(speakers) - len(frequent)} others" if rest.any() else None,
    )
    for each, colour, marker in zip(frequent, COLOURS, MARKERS, strict=False):
        right.scatter(
            *points.rows[who == each].T, s=26, color=colour, marker=marker, linewidths=0, label=speakers[each]
        )
    right.set(
        xlabel=f"first component ({percent(points.variance[0])} of variance)",
        ylabel=f"second ({percent(points.variance[1])})",
    )
    right.set_title(f"layer {layer}, a point an utterance", loc="left")
    right.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8)
    return figure


QUESTIONS: dict[str, tuple[str, Callable[[Run], tuple[str, Figure]]]] = {
    "conditions": ("Which condition hurts most?", which_condition_hurts),
    "words": ("Which words are uncertain?", which_words_are_uncertain),
    "speakers": ("Do features separate speakers?", do_features_separate_speakers),
}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/analysis.py", description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path)
    parser.add_argument("--out", metavar="FOLDER", type=Path, help="where to; default: RUN_DIR/report/analysis")
    given = parser.parse_args(arguments)
    folder = given.out or given.run_dir / "report" / "analysis"
    try:
        run = open_run(given.run_dir)
        with in_one_line(folder, *UNWRITTEN):
            folder.mkdir(parents=True, exist_ok=True)
        for name, (question, answer) in QUESTIONS.items():
            print(question)
            with matplotlib.rc_context(STYLE):
                try:
                    with in_one_line(run.path, *UNREAD):
                        said, figure = answer(run)
                except Lacking as lack:
                    print(f"  cannot be said: {lack}")
                    continue
                with in_one_line(folder, *UNWRITTEN):
                    figure.savefig(folder / f"{name}.png", dpi=130)
            print(f"  {said}\n  {folder / name}.png")
    except (OSError, UserError) as error:
        print(f"analysis: {error}", file=sys.stderr)
        return 2
    return 0


@contextmanager
def in_one_line(path: Path, cannot_be: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: cannot be {cannot_be} ({' '.join(str(error).split())}); {remedy}") from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
