"""What a run says of itself: sums over commit records, for the end of a run, a finished run and `status`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.runtime.progress import format_hours
from pipeline.storage.commits import CommitRecord


@dataclass(frozen=True)
class Totals:
    """Sums over committed shards.

    Attributes:
        shards: Committed shards.
        utterances: Rows of the manifest in them.
        audio_s: Seconds of audio with a result.
        failures: Error name to count.
        empty: Transcripts without a word.
        word_errors, reference_words: Where there are references.
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
        """Utterances without a result."""
        return sum(self.failures.values())


def total(records: Iterable[CommitRecord]) -> Totals:
    """Add up commit records; no table is opened."""
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
    run_dir: Path,
    outputs: Iterable[str],
    speed: str = "",
    scored: tuple[int, int, str] | None = None,
) -> list[str]:
    """The closing lines of a run: rows, failures by name, hours, speed, WER, where and how to read it.

    Args:
        totals: Sums over its shards, whose errors are counted after the normaliser `standard`.
        run_dir: Where it is.
        outputs: Its tables.
        speed: In words.
        scored: Wrong words, words of the references and the normaliser, where scores are of another one.
    """
    done = totals.utterances - totals.num_failures
    said = [f"{done} of {totals.utterances} utterances, {format_hours(totals.audio_s)} of audio{speed}"]
    if totals.empty:
        said.append(f"{totals.empty} transcripts are empty: nothing was heard in them")
    if totals.num_failures:
        names = ", ".join(f"{count} {name}" for name, count in totals.failures.most_common())
        said.append(f"{totals.num_failures} failures ({names}), each with its reason in {run_dir / 'failures'}")
    errors, words, normaliser = scored or (totals.word_errors, totals.reference_words, "standard")
    if words:
        how = "" if normaliser == "standard" else f", normaliser {normaliser}"
        said.append(f"WER {100 * errors / words:.2f} % ({errors} errors in {words} reference words{how})")
    said.append(f"results in {run_dir}")
    first = next((name for name in ("transcripts", "features", "emissions") if name in outputs), None)
    if first == "transcripts":
        said.append(f"pandas.read_parquet({_quoted(run_dir / first)})")
    elif first is not None:
        said.append(f"pipeline.results.open_run({_quoted(run_dir)}).{first}(...)  # numpy, one utterance at a time")
    return said


def _quoted(path: Path) -> str:
    """A path as Python reads it back, in double quotes where that needs no escape."""
    plain = str(path).isprintable() and not set(str(path)) & set('"\\')
    return f'"{path}"' if plain else ascii(str(path))
