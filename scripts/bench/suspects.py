"""Suspect references: wrong references are planted in a corpus, and ranked by several scores.

Example:
    python scripts/bench/suspects.py

The corpus are the shipped recordings of spoken digits: 60 as they are, and 420 with echoes and noise
(`scripts/data/make_voices_like.py`), of which the model transcribes 18 % of the words wrongly. In each of many draws,
5 % of the references are replaced by wrong ones of one kind. The precision at k is the share of wrong references among
the k that a score ranks first, where k is the number of those that were planted. Ties are broken at random.

The scores: the stage `align`, by the utterance and by its worst word; the word error rate of the transcript against the
reference; and the log-probability of the reference for each frame, which the stage `align` compares with that of the
transcript.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT, Table, parser, prepared, publish, say
from numpy.typing import NDArray

sys.path.insert(0, str(ROOT / "scripts" / "data"))

from pipeline.decoding.alignment.aligner import Aligner, Alignment
from pipeline.decoding.alignment.forced import find_states
from pipeline.decoding.alignment.spelling import Speller
from pipeline.results import open_run
from pipeline.results.arrays import log_probabilities
from pipeline.run import main as run_pipeline
from pipeline.scoring.counting import count_errors
from pipeline.stages.postprocessing.emissions import describe_emissions
from pipeline.storage.run_directory import RunDirectory

SHARE = 0.05
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SCORES = ("align, per second", "align, worst word", "WER", "log-probability of the reference")


@dataclass
class Spoken:
    """An utterance with its emission and the scores of its own reference."""

    reference: str
    speaker: str
    text: str
    logprobs: NDArray[np.float32]
    scores: NDArray[np.float64] | None = None


def swapped(all_of_them: Sequence[Spoken], at: int, generator: np.random.Generator) -> str | None:
    """The reference of another utterance, whoever speaks."""
    others = [each.reference for each in all_of_them if each.reference != all_of_them[at].reference]
    return str(generator.choice(others))


def of_another_speaker(all_of_them: Sequence[Spoken], at: int, generator: np.random.Generator) -> str | None:
    """The reference of an utterance of another speaker with as many words."""
    mine = all_of_them[at]
    others = [
        each.reference
        for each in all_of_them
        if each.speaker != mine.speaker
        and len(each.reference.split()) == len(mine.reference.split())
        and each.reference != mine.reference
    ]
    return str(generator.choice(others)) if others else None


def cut(all_of_them: Sequence[Spoken], at: int, generator: np.random.Generator) -> str | None:
    """The reference without its last words: one word, up to half of them."""
    words = all_of_them[at].reference.split()
    if len(words) < 2:
        return None
    return " ".join(words[: -int(generator.integers(1, len(words) // 2 + 1))])


def one_word(all_of_them: Sequence[Spoken], at: int, generator: np.random.Generator) -> str:
    """The reference with one word replaced by another digit."""
    words = all_of_them[at].reference.split()
    place = int(generator.integers(len(words)))
    words[place] = str(generator.choice([digit for digit in DIGITS if digit != words[place]]))
    return " ".join(words)


KINDS: dict[str, Callable[[Sequence[Spoken], int, np.random.Generator], str | None]] = {
    "swapped": swapped,
    "another speaker's": of_another_speaker,
    "cut": cut,
    "one word": one_word,
}


def main() -> None:
    """Make the runs, plant, rank, and store the table."""
    options_of = parser(__doc__)
    options_of.add_argument("--draws", type=int, default=200, help="of planted references, for each kind")
    options = options_of.parse_args()
    draws = 5 if options.quick else options.draws
    tables, measured = [], {}
    with prepared(options) as work:
        for name, given in corpora(work, options.quick).items():
            say(name)
            spoken, aligner = transcribed(work / "runs" / name.split()[0], given)
            table, found = ranked(name, spoken, aligner, draws)
            tables.append(table)
            measured[name] = found
    publish("suspects", __doc__, tables, options, measured)


def corpora(work: Path, quick: bool) -> dict[str, list[str]]:
    """The runs to make, with the arguments of each."""
    from make_voices_like import make_corpus

    make_corpus(work / "voices", 20 if quick else None, damaged=False)
    return {
        "clear speech": ["dataset=digits"],
        "echoes and noise": ["dataset=voices", f"dataset.root={work / 'voices'}", "model=digits"],
    }


def transcribed(run_dir: Path, given: Sequence[str]) -> tuple[list[Spoken], Aligner]:
    """Run the pipeline; returns its utterances and what aligns them."""
    stages = ["outputs=[transcripts,emissions]", "stages=[manifest,infer]"]
    if run_pipeline([*given, *stages, f"run_dir={run_dir}"]):
        raise SystemExit(f"{run_dir}: the run failed")
    run, directory = open_run(run_dir), RunDirectory(run_dir)
    stored = describe_emissions(directory, directory.commits())
    aligner = Aligner(stored.labels, stored.seconds_per_frame, Speller(stored.labels), find_states)
    rows = run.transcripts.set_index("id")
    spoken = [
        Spoken(row.reference, row.speaker, row.text, log_probabilities(run.emission(id_).astype(np.float32)))
        for id_, row in rows.iterrows()
    ]
    for each in spoken:
        each.scores = scored(each, each.reference, aligner)
    return spoken, aligner


def scored(spoken: Spoken, reference: str, aligner: Aligner) -> NDArray[np.float64]:
    """The scores of a reference, `(scores,)`; the lowest are the most suspicious."""
    found = aligner(spoken.logprobs, reference, 0.0)
    errors = count_errors(spoken.text, reference)
    if not isinstance(found, Alignment):  # too long for the recording: nothing is more suspicious
        return np.asarray([-np.inf, -np.inf, -(errors.wer or 0.0), -np.inf])
    return np.asarray(
        [found.llr_per_s, found.worst_llr, -(errors.wer or 0.0), found.reference_logprob / len(spoken.logprobs)]
    )


def ranked(name: str, spoken: Sequence[Spoken], aligner: Aligner, draws: int) -> tuple[Table, dict[str, Any]]:
    """Plant wrong references of each kind, rank them by each score, and return the precisions."""
    k = max(1, round(SHARE * len(spoken)))
    table = Table(f"Precision at k, {name}: {len(spoken)} utterances, k = {k}", ("planted", *SCORES))
    own = np.stack([each.scores for each in spoken if each.scores is not None])
    measured = {}
    for kind, plant in KINDS.items():
        generator = np.random.default_rng(0)
        precisions = []
        for _ in range(draws):
            scores, planted = own.copy(), []
            for at in generator.permutation(len(spoken)).tolist():
                if len(planted) < k and (reference := plant(spoken, at, generator)) is not None:
                    planted.append(at)
                    scores[at] = scored(spoken[at], reference, aligner)
            ties = generator.random(len(spoken))
            precisions.append([np.isin(np.lexsort((ties, each))[:k], planted).mean() for each in scores.T])
        mean = np.mean(precisions, axis=0)
        table.add(kind, *(f"{100 * each:.0f} %" for each in mean))
        measured[kind] = dict(zip(SCORES, np.round(mean, 4).tolist(), strict=True))
    found = localised(spoken, aligner, draws * k)
    measured["localised"] = round(found, 4)
    table.notes.append(
        f"Means of {draws} draws. Chance would be {100 * k / len(spoken):.0f} %. Where one word of several was "
        f"replaced, it is the worst word of its utterance in {100 * found:.0f} %."
    )
    return table, measured


def localised(spoken: Sequence[Spoken], aligner: Aligner, count: int) -> float:
    """The share of utterances of several words whose worst word is the one that was replaced."""
    generator = np.random.default_rng(1)
    several = [at for at, each in enumerate(spoken) if " " in each.reference]
    hits = []
    for at in generator.choice(several, count).tolist():
        wrong = one_word(spoken, at, generator)
        found = aligner(spoken[at].logprobs, wrong, 0.0)
        if isinstance(found, Alignment):
            before = spoken[at].reference.split()
            place = next(n for n, (old, new) in enumerate(zip(before, wrong.split(), strict=True)) if old != new)
            hits.append(found.words[place].llr == found.worst_llr)
    return float(np.mean(hits))


if __name__ == "__main__":
    main()
