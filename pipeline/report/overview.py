"""Reads what the page shows of the whole run: facts, scores, failures and configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby, islice
from typing import Any

import pyarrow as pa
import yaml

from pipeline.report.texts import masked, shown
from pipeline.report.timing import Timing
from pipeline.results import scores as results
from pipeline.results.joining import Joined
from pipeline.runtime.redaction import mask_secrets
from pipeline.scoring.terminal import how_compared
from pipeline.storage import tables
from pipeline.storage.commits import CommittedShard
from pipeline.storage.files import StoredTable
from pipeline.storage.names import CONFIG
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.run_record import RunRecord
from pipeline.storage.summary import total

MAX_GROUPS, MAX_VALUES = 16, 12
"""Maximum of groups, and of values in a group. The values with the highest rates are shown."""
MAX_CONFUSIONS = 10
"""Maximum of wrong words of each kind."""
MAX_FAILURES = 5
"""Maximum of rows for each kind of failure."""


@dataclass(frozen=True)
class Rate:
    """A row of the scores.

    Attributes:
        value: Value of the group; `None` for null and for the overall row.
        utterances, words: Number of utterances, and of words in their references.
        wer: Word error rate; `None` if there are no words.
        low, high: Ends of its 95 % interval; `None` if there is none.
    """

    value: str | None
    utterances: int
    wer: float | None
    low: float | None
    high: float | None
    words: int


@dataclass(frozen=True)
class Scores:
    """The scores that the page shows.

    Attributes:
        overall: The overall row; `None` if nothing is scored.
        groups: Name, shown rows and number of all rows of each group.
        left_out: Number of groups that are not shown.
        scale: The highest rate shown, which sets the scale of the bars.
        made: Normaliser and intervals, in words.
    """

    overall: Rate | None
    groups: Sequence[tuple[str, Sequence[Rate], int]]
    left_out: int
    scale: float
    made: str


@dataclass(frozen=True)
class FailureGroup:
    """One kind of failure.

    Attributes:
        error: Name of the error.
        count: Number of failures.
        rows: The first failures: id, path and message.
    """

    error: str
    count: int
    rows: Sequence[Mapping[str, str]]


def read_facts(
    directory: RunDirectory, records: Mapping[int, CommittedShard], recorded: RunRecord | None, timing: Timing | None
) -> dict[str, str]:
    """Read the facts at the top of the page, by name."""
    identity = None if recorded is None else recorded.combined
    metadata = tables.metadata_of(directory.manifest.schema())
    made_with = metadata.get("made_with") or {}
    place = made_with.get("root") or made_with.get("path")
    first, last = _when(records, timing)
    facts = {
        "dataset": str(made_with.get("dataset", "")) + (f", {place}" if place else ""),
        "model": identity.model if identity else "",
        "device": ", ".join(filter(None, (recorded.device, recorded.identity.precision))) if recorded else "",
        "outputs": ", ".join(identity.outputs) if identity else "",
        "decoding": _decoding(directory),
        "channels": identity.channels if identity else "",
        "started": first,
        "last batch": last,
        "sessions": str(len(timing.sessions)) if timing and len(timing.sessions) > 1 else "",
        "folder": str(directory.root.absolute()),
    }
    return {name: masked(value, 500) for name, value in facts.items() if value}


def _decoding(directory: RunDirectory) -> str:
    """Return the name and the settings of the decoding that the page is of."""
    if directory.decoded is None:
        return ", ".join(map(_rate_of, [directory.of_decoding(name) for name in directory.decodings()]))
    settings = {**(directory.decoded.identity() or {})}
    settings.pop("schema_version", None)
    shown = ", ".join(f"{name}={value}" for name, value in settings.items())
    return f"{directory.decoded.decoding}, {shown}"


def _rate_of(decoding: RunDirectory) -> str:
    """Return the folder of a decoding, with its word error rate if it has been scored."""
    rates = results.read_scores(decoding)[0]["wer"].to_pylist()[:1]
    return decoding.place.name + "".join(f" (WER {100 * rate:.2f} %)" for rate in rates if rate is not None)


def _when(records: Mapping[int, CommittedShard], timing: Timing | None) -> tuple[str, str]:
    if timing is not None:
        return _moment(timing.first), _moment(timing.last)
    times = sorted(record.committed_at for record in records.values())
    return (
        (_moment(datetime.fromisoformat(times[0])), _moment(datetime.fromisoformat(times[-1]))) if times else ("", "")
    )


def _moment(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def read_scores(
    directory: RunDirectory, records: Mapping[int, CommittedShard], joined: Joined | None = None
) -> Scores | None:
    """Read the scores, or count them again by joined columns too; return `None` if the run has none."""
    table, _ = results.read_scores(directory)
    if joined is not None:
        files = [(stored, None) for shard in records.values() for stored in directory.tables(shard, "transcripts")]
        own = tables.own_columns(directory.manifest.schema())
        table, _ = results.score_again(files, own, joined, table)
    if not table.num_rows:
        return None
    rows = table.to_pylist()
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    overall = next((_rate(row) for row in rows if row["group"] == "overall"), None)
    groups = []
    for name, found in groupby((row for row in rows if row["group"] != "overall"), lambda row: str(row["group"])):
        rates = [_rate(row) for row in found]
        if len(rates) > 1:  # a single value equals the overall row
            many = len(rates) > MAX_VALUES
            kept = sorted(rates, key=lambda rate: -(rate.wer or 0.0))[:MAX_VALUES] if many else rates
            groups.append((masked(name, 80), kept, len(rates)))
    shown_groups = groups[:MAX_GROUPS]
    highest = [max(rate.high or 0.0, rate.wer or 0.0) for _, rates, _ in shown_groups for rate in rates]
    return Scores(
        overall,
        shown_groups,
        len(groups) - len(shown_groups),
        max([0.01, *highest]),
        shown(how_compared(metadata), 300),
    )


def _rate(row: Mapping[str, Any]) -> Rate:
    return Rate(
        value=None if row["value"] is None else masked(row["value"], 80),
        utterances=row["utterances"],
        wer=row["wer"],
        low=row.get("wer_low"),
        high=row.get("wer_high"),
        words=row["reference_words"],
    )


def read_confusions(directory: RunDirectory) -> dict[str, list[tuple[str, str, int]]]:
    """Read the most frequent errors by kind: reference word, transcript word and count."""
    if not directory.confusions.is_there:
        return {}
    kinds: dict[str, list[tuple[str, str, int]]] = {"substitution": [], "deletion": [], "insertion": []}
    for row in directory.confusions.read().to_pylist():
        of_kind = kinds.get(row["kind"], [])
        if len(of_kind) < MAX_CONFUSIONS:
            of_kind.append((shown(row["reference"] or "", 60), shown(row["hypothesis"] or "", 60), row["count"]))
    return {kind: rows for kind, rows in kinds.items() if rows}


def read_failures(directory: RunDirectory, records: Mapping[int, CommittedShard]) -> list[FailureGroup]:
    """Read the failures by kind, the most frequent first, each with its first rows."""
    counts = total(records.values()).failures
    found: dict[str, list[dict[str, str]]] = {name: [] for name in counts}
    for shard in records.values():
        wanted = [name for name in shard.failures if len(found[name]) < MAX_FAILURES]
        for stored in directory.tables(shard, "failures") if wanted else ():
            for row in _failures(stored, wanted):
                found[row["error"]].append({key: masked(row[key], 300) for key in ("id", "path", "message")})
    return [FailureGroup(shown(name), count, found[name][:MAX_FAILURES]) for name, count in counts.most_common()]


def _failures(stored: StoredTable, names: Sequence[str]) -> Iterator[dict[str, str]]:
    table = stored.read(["id", "path", "error", "message"])
    for name in names:
        rows = table.filter(pa.compute.equal(table["error"], name)).slice(0, MAX_FAILURES)
        yield from islice(rows.to_pylist(), MAX_FAILURES)


def read_configuration(directory: RunDirectory) -> str:
    """Read `config.yaml`. Secrets are masked again, because the file may have been edited or be from an old release."""
    try:
        text = directory.read(CONFIG).decode("utf-8", "replace")
    except OSError:
        return ""
    try:
        settings = yaml.safe_load(text)
        if isinstance(settings, dict):
            text = yaml.safe_dump(mask_secrets(settings), sort_keys=False, allow_unicode=True)
    except (yaml.YAMLError, RecursionError):
        pass  # not YAML: masked as text
    return masked(text, 20_000)


def fingerprint_lines(recorded: RunRecord | None) -> dict[str, str]:
    """Return the identity of the run from `run.json`, by name."""
    if recorded is None:
        return {}
    values = {"fingerprint": recorded.fingerprint, **recorded.combined.as_json()}
    values |= {f"version of {name}": version for name, version in recorded.versions.items()}
    values["written"] = recorded.written
    masked_values = mask_secrets({name: value for name, value in values.items() if value is not None})
    return {masked(name, 80): masked(_plain(value), 300) for name, value in masked_values.items()}


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
