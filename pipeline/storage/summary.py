"""Progress of a run: sums over its commit records, for the end of a run, `status` and the report."""

from __future__ import annotations

import io
import json
import shlex
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.runtime.errors import RunError, UserError
from pipeline.runtime.places import Place
from pipeline.runtime.progress import format_hours
from pipeline.runtime.terminal import counted
from pipeline.storage.commits import CommittedShard
from pipeline.storage.files import UNREADABLE
from pipeline.storage.manifest import Generation, generations_in, unreadable
from pipeline.storage.names import HEADERS, METRICS, SPEECH
from pipeline.storage.run_directory import RunDirectory

KEPT = "what was committed stays, the same command continues"
NOTHING_KEPT = "nothing is committed yet, the same command starts from the beginning"
HEADERS_KEPT = "most of the headers that were read so far stay, the same command continues"
SPEECH_KEPT = "the speech that was found in recordings so far stays, the same command continues"
_RECENT_BATCHES = 20_000
"""Batches that are searched for those of unfinished shards: more than those of some shards of `shard.hours`."""


@dataclass(frozen=True)
class Totals:
    """Sums over committed shards.

    Attributes:
        shards: Number of committed shards.
        utterances: Number of manifest rows in these shards.
        audio_s: Seconds of audio with a result.
        failures: Number of failures, by error name.
        empty: Number of transcripts without a word.
        word_errors, reference_words: Sums over the utterances that have a reference.
    """

    shards: int
    utterances: int
    audio_s: float
    failures: Counter[str] = field(default_factory=Counter)
    empty: int = 0
    word_errors: int = 0
    reference_words: int = 0

    @property
    def num_failures(self) -> int:
        """Number of utterances without a result."""
        return sum(self.failures.values())


@dataclass(frozen=True)
class Standing:
    """Progress of a run.

    Attributes:
        totals: Sums over the committed shards.
        num_utterances, num_shards: Utterances and shards of the manifest.
        pending: Number of utterances in shards that lack an output, or are not committed at all.
        pending_s: Seconds of audio in these shards.
        locked: Whether a process holds the run directory.
        generations: Generations of a manifest that has grown; empty for a single one.
        shards_with: Number of committed shards that have each output, by what `Identity.parts` calls it, for the
            outputs that not every committed shard has.
        in_flight: Shards that are being computed, or were when the run stopped: seconds of audio that were computed,
            and seconds of audio of the whole shard, by shard.
    """

    totals: Totals
    num_utterances: int
    num_shards: int
    pending: int
    pending_s: float
    locked: bool
    in_flight: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    generations: tuple[Generation, ...] = ()
    shards_with: Mapping[str, int] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """Number of utterances with a result."""
        return self.totals.utterances - self.totals.num_failures

    @property
    def complete(self) -> bool:
        """Whether every shard is committed and has all outputs that were asked for last."""
        return not self.pending


def read_standing(directory: RunDirectory, records: Mapping[int, CommittedShard]) -> Standing:
    """Read the progress of a run.

    Args:
        directory: The run.
        records: The committed shards, by shard.

    Raises:
        UserError: The manifest cannot be read.
    """
    try:
        table = directory.manifest.read(["shard", "duration_s"])
        generations = generations_in(table.schema)
    except UNREADABLE as error:
        raise unreadable(directory.manifest, error) from None
    shards = table["shard"].to_numpy()
    durations_s = np.nan_to_num(table["duration_s"].to_numpy().astype(np.float64))
    recorded = directory.read_record()
    complete = set() if recorded is None else recorded.complete(records)
    pending = ~np.isin(shards, list(complete))
    locked = directory.is_locked()
    computed_s = {
        shard: seconds
        for shard, seconds in sorted(_read_computed(directory, complete).items())
        # Else an earlier run had begun the shard. The unfinished files of a run in a store lie on its own machine.
        if not locked or not directory.on_disk or directory.has_staging(shard)
    }
    whole_s = {shard: float(durations_s[shards == shard].sum()) for shard in computed_s}
    return Standing(
        totals=total(records.values()),
        num_utterances=len(shards),
        num_shards=len(np.unique(shards)),
        pending=int(pending.sum()),
        pending_s=float(durations_s[pending].sum()),
        locked=locked,
        generations=generations,
        shards_with={} if recorded is None else recorded.partly(records.values()),
        in_flight={shard: (min(seconds, whole_s[shard]), whole_s[shard]) for shard, seconds in computed_s.items()},
    )


def _read_computed(directory: RunDirectory, complete: Collection[int]) -> Counter[int]:
    """Read how many seconds of audio the last run has computed in each shard that is not complete."""
    names = directory.files_of_parts(METRICS)
    return sum((_read_computed_by(directory, name, complete) for name in names), Counter())


def _read_computed_by(directory: RunDirectory, name: str, complete: Collection[int]) -> Counter[int]:
    """Read the same of the last process with a metrics file."""
    try:
        with directory.open(name) as source, io.TextIOWrapper(source, "utf-8", "replace") as handle:
            recent = deque(handle, maxlen=_RECENT_BATCHES)
    except OSError:
        return Counter()
    found: Counter[int] = Counter()
    for line in reversed(recent):
        try:
            row = json.loads(line)
            batch, shard, valid_s = int(row["batch"]), int(row["shard"]), float(row["valid_s"])
        except (ValueError, KeyError, TypeError):  # a crash has cut the line
            continue
        if shard not in complete:
            found[shard] += valid_s  # type: ignore[assignment]
        if batch == 0:
            break
    return found


def as_plain(directory: RunDirectory, scored: tuple[int, int, str] | None) -> dict[str, Any]:
    """Return the progress and the errors of a run in plain values, for programs.

    Args:
        directory: The run.
        scored: As for `lines`.
    """
    standing = read_standing(directory, directory.commits())
    totals = standing.totals
    errors, words, normaliser = scored or (totals.word_errors, totals.reference_words, "standard")
    return {
        "complete": standing.complete,
        "shards": standing.num_shards,
        "shards_committed": totals.shards,
        "utterances": standing.num_utterances,
        "utterances_done": standing.done,
        "audio_s": round(totals.audio_s, 3),
        "failures": dict(totals.failures),
        "empty_transcripts": totals.empty,
        "word_errors": errors if words else None,
        "reference_words": words if words else None,
        "wer": errors / words if words else None,
        "normaliser": normaliser if words else None,
    }


def after_stop(directory: RunDirectory) -> str:
    """Say what a stopped run keeps, and what the same command does next."""
    if not directory.manifest.is_there:
        if directory.names(SPEECH):
            return SPEECH_KEPT
        return HEADERS_KEPT if directory.names(HEADERS) else NOTHING_KEPT
    try:
        standing = read_standing(directory, directory.commits())
    except (UserError, RunError):
        return KEPT
    mine = directory.shards_of(standing.num_shards)  # what other parts have begun is not lost
    again_s = sum(done_s for shard, (done_s, _) in standing.in_flight.items() if shard in mine)
    again = f" and computes {format_hours(again_s)} of audio again" if again_s else ""
    if not standing.totals.shards:
        return NOTHING_KEPT + again
    partly = "".join(f", {part} in {number}" for part, number in standing.shards_with.items())
    committed = f"{standing.totals.shards} of {standing.num_shards} shards{partly}"
    return f"what was committed stays ({committed}), the same command continues{again}"


def total(records: Iterable[CommittedShard]) -> Totals:
    """Add up committed shards. No table is opened."""
    records = list(records)
    counts: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    for record in records:
        counts.update(record.counts)
        failures.update(record.failures)
    return Totals(
        shards=len(records),
        utterances=sum(record.utterances for record in records),
        audio_s=sum(record.audio_s for record in records),
        failures=failures,
        empty=counts["empty_transcripts"],
        word_errors=counts["word_errors"],
        reference_words=counts["reference_words"],
    )


def lines(
    totals: Totals,
    run_dir: Place,
    speed: str = "",
    scored: tuple[int, int, str] | None = None,
    duplicates: int = 0,
) -> list[str]:
    """Return the lines that a run prints at its end: utterances, failures, duplicates and WER.

    Args:
        totals: Sums over the shards. Their errors are counted after the normaliser `standard`.
        run_dir: The run directory.
        speed: The speed in words.
        scored: Word errors, reference words and normaliser of the scores, if the run has been scored.
        duplicates: Number of utterances whose audio an earlier utterance has too.
    """
    done = totals.utterances - totals.num_failures
    said = [f"{done:,} of {counted(totals.utterances, 'utterance')}, {format_hours(totals.audio_s)} of audio{speed}"]
    if totals.empty:
        said.append(f"{counted(totals.empty, 'empty transcript')}: nothing was heard")
    if totals.num_failures:
        names = ", ".join(f"{count} {name}" for name, count in totals.failures.most_common())
        said.append(
            f"{counted(totals.num_failures, 'failure')} ({names}), each with its reason in {run_dir / 'failures'}"
        )
    if duplicates:
        have = "has" if duplicates == 1 else "have"
        said.append(
            f"{counted(duplicates, 'utterance')} {have} the same audio as an earlier one; "
            f"python -m pipeline.duplicates {shlex.quote(str(run_dir))} lists them"
        )
    return said + error_lines(scored or (totals.word_errors, totals.reference_words, "standard"))


def error_lines(scored: tuple[int, int, str] | None) -> list[str]:
    """Return the line with the word error rate; no line if there are no reference words.

    Args:
        scored: As for `lines`.
    """
    errors, words, normaliser = scored or (0, 0, "")
    if not words:
        return []
    how = "" if normaliser == "standard" else f", normaliser {normaliser}"
    return [f"WER {100 * errors / words:.2f} % ({counted(errors, 'error')} in {counted(words, 'reference word')}{how})"]


def reading_lines(run_dir: Place, outputs: Iterable[str]) -> list[str]:
    """Return the lines that say where the results of a run are, and how to read them.

    Args:
        run_dir: The run directory.
        outputs: Tables of the run.
    """
    said = [f"results in {run_dir}"]
    tables = sorted(outputs, key=lambda name: (not name.startswith("transcripts"), name != "features"))
    first = tables[0] if tables else None
    if first is not None and first.startswith("transcripts"):
        said.append(f"pandas.read_parquet({quoted(run_dir / first)})")
    elif first is not None:
        said.append(f"pipeline.results.open_run({quoted(run_dir)}).{first}(...)  # numpy, one utterance at a time")
    return said


def quoted(path: Place) -> str:
    """Return a path as a Python string literal, in double quotes if nothing needs an escape."""
    plain = str(path).isprintable() and not set(str(path)) & set('"\\')
    return f'"{path}"' if plain else ascii(str(path))
