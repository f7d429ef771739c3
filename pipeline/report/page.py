"""Builds the page: reads a run and renders the template to one self-contained HTML text."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import __version__
from pipeline.config.schema import ReportSettings
from pipeline.report import charts
from pipeline.report.coverage import read_section
from pipeline.report.duplicates import read_duplicates
from pipeline.report.failures import read_failures
from pipeline.report.freshness import mark_of
from pipeline.report.news import read_comparisons, read_news
from pipeline.report.overview import (
    Scores,
    fingerprint_lines,
    read_configuration,
    read_confusions,
    read_facts,
    read_scores,
    read_title,
)
from pipeline.report.pictures import LOWEST_PROBABILITY, scale_colours
from pipeline.report.population import Population, read_population
from pipeline.report.rendering import render
from pipeline.report.selection import Choice, choose
from pipeline.report.stretches import CLIP_S
from pipeline.report.suspects import SUSPECT_LLR, read_suspects
from pipeline.report.table import SAMPLED, read_table
from pipeline.report.timing import Timing, read_timing
from pipeline.report.utterances import read_utterances
from pipeline.results.joining import Joined
from pipeline.runtime.errors import UserError, unreadable
from pipeline.storage.identity import Identity
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.summary import Standing, read_standing

_KINDS = {
    "wer": {"worst": "Worst", "typical": "Typical", "best": "Best", "sample": ""},
    "avg_logprob": {"worst": "Least certain", "typical": "Typical", "best": "Most certain", "sample": ""},
    "position": {"sample": ""},
}
"""Titles of the kinds of utterances, by what ranks them."""


def build_page(directory: RunDirectory, settings: ReportSettings, joined: Joined | None = None) -> str:
    """Read a run and render its page. The arguments are those of `write_report`.

    Raises:
        UserError: There is no run, one of its tables cannot be read, or a requested layer is not stored.
    """
    directory.require_run()
    try:
        return render("report.html", _context(directory, settings, joined), scripts=("report.js", "row.js", "table.js"))
    except (pa.ArrowException, OSError) as error:
        raise unreadable(directory.root, error) from error


def _context(directory: RunDirectory, settings: ReportSettings, joined: Joined | None) -> dict[str, Any]:
    # Taken first: if data change meanwhile, the page is out of date. A page with joined columns is never the run's own.
    made_of = mark_of(directory, settings) if joined is None else ""
    recorded = directory.read_record()
    identity = None if recorded is None else recorded.combined
    layers = _layers(settings.layers, identity)
    records = directory.commits()
    standing = read_standing(directory, records)
    timing = read_timing(directory)
    population = read_population(directory, records)
    choice = choose(population.wer, population.avg_logprob, settings.utterances)
    utterances = read_utterances(
        directory, records, population, choice, identity.channels if identity else "mix", layers, joined
    )
    facts = read_facts(directory, records, recorded, timing)
    scores = read_scores(directory, records, joined)
    return {
        "title": read_title(directory, facts.get("model", "")),
        "made_of": made_of,
        "facts": facts,
        "standing": standing,
        "wer": _wer(scores, standing),
        "certainty": _certainty(population),
        "news": read_news(records, standing),
        "comparisons": read_comparisons(directory),
        "scores": scores,
        "has_transcripts": any(shard.having("transcripts") for shard in records.values()),
        "has_references": bool(standing.totals.reference_words),
        "timing": timing,
        "shares": _shares(timing),
        "charts": _charts(population, timing),
        "confusions": read_confusions(directory),
        "coverage": read_section(directory),
        "suspects": read_suspects(
            directory, records, population, settings.utterances, identity.channels if identity else "mix"
        ),
        "suspect_llr": SUSPECT_LLR,
        "duplicates": read_duplicates(directory, records, recorded),
        "kinds": [
            (kind, _KINDS[choice.by][kind], [each for each in utterances if each.kind == kind])
            for kind in choice.positions
        ],
        "table": read_table(directory, population, choice, joined),
        "ranking": _ranking(choice, population),
        "population": len(population),
        "missing": [name for name in ("emissions", "features") if not identity or name not in identity.outputs],
        "failures": read_failures(directory, records),
        "configuration": read_configuration(directory),
        "fingerprint": fingerprint_lines(recorded),
        "legend": scale_colours(),
        "lowest": LOWEST_PROBABILITY,
        "clip_s": CLIP_S,
        "sampled": SAMPLED,
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": __version__,
    }


def _layers(wanted: Sequence[int] | None, identity: Identity | None) -> list[int]:
    """Return the layers to show: the requested ones, or the first, the middle and the last of those stored."""
    stored = list(identity.layers) if identity else []
    if wanted is None:
        return sorted({stored[0], stored[len(stored) // 2], stored[-1]}) if stored else []
    missing = [layer for layer in wanted if layer not in stored]
    if missing and identity:
        there = f"this run has layers {stored}" if stored else "this run has no features (outputs=...)"
        raise UserError(f"report.layers={list(wanted)}: {missing} is not stored; {there}")
    return list(dict.fromkeys(wanted)) if identity else []


def _wer(scores: Scores | None, standing: Standing) -> dict[str, Any] | None:
    """Return the overall rate with its interval from the scores; without scores, the rate from the commit records."""
    if scores is not None and scores.overall is not None and scores.overall.wer is not None:
        overall = scores.overall
        return {"rate": overall.wer, "low": overall.low, "high": overall.high, "words": overall.words}
    totals = standing.totals
    if not totals.reference_words:
        return None
    rate = totals.word_errors / totals.reference_words
    return {"rate": rate, "low": None, "high": None, "words": totals.reference_words}


def _certainty(population: Population) -> tuple[float, float] | None:
    """Return the median of `avg_logprob`, and the value that a tenth of the utterances is below; `None` without any."""
    logprobs = _finite(population.avg_logprob)
    return (float(np.median(logprobs)), float(np.quantile(logprobs, 0.1))) if len(logprobs) else None


def _shares(timing: Timing | None) -> list[tuple[str, str, float]]:
    """Return name, label and share of the working time of each activity."""
    if timing is None or timing.wall_s <= 0:
        return []
    parts = {
        "model": ("model", timing.model_s),
        "load": ("waiting for recordings", timing.load_s),
        "write": ("waiting for the writer", timing.write_s),
        "other": ("otherwise idle", timing.other_s),
    }
    return [(name, said, float(spent.sum()) / timing.wall_s) for name, (said, spent) in parts.items()]


def _charts(population: Population, timing: Timing | None) -> dict[str, str]:
    """Draw the charts, by name. A chart without data is left out."""
    drawn = {}
    if timing is not None and timing.wall_s > 0:
        drawn["speed"] = charts.speed_chart(timing)
        drawn["time"] = charts.time_chart(timing)
    durations, logprobs, wer = (
        _finite(each) for each in (population.duration_s, population.avg_logprob, population.wer)
    )
    if len(durations) > 1:
        drawn["durations"] = charts.histogram("durations", "distribution of durations", durations, "seconds")
    if len(logprobs) > 1:
        drawn["logprobs"] = charts.histogram("logprobs", "distribution of avg_logprob", logprobs, "avg_logprob")
    if len(wer) > 1:
        drawn["wer"] = charts.histogram(
            "wer", "distribution of the word error rate", 100 * wer, "WER of an utterance, %", cap=200
        )
    return drawn


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values[np.isfinite(values)]


def _ranking(choice: Choice, population: Population) -> str:
    if choice.by == "position":
        return "Spread evenly over the run, because without transcripts there is no ranking."
    if "sample" in choice.positions:
        return "All utterances with a result."
    by = "word error rate, then by avg_logprob" if choice.by == "wer" else "avg_logprob, the model's own certainty"
    ranked = int(np.isfinite(population.wer).sum()) if choice.by == "wer" else len(population)
    none = " No utterance has a wrong word." if choice.by == "wer" and "worst" not in choice.positions else ""
    return f"Chosen among {ranked:,} utterances, ranked by {by}.{none}"
