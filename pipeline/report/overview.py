"""Reads what the page shows of the whole run: title, facts, scores and configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import PurePath
from typing import Any

import yaml

from pipeline.report.texts import masked, shown
from pipeline.report.timing import Timing
from pipeline.results import scores as results
from pipeline.results.joining import Joined
from pipeline.runtime.redaction import mask_secrets
from pipeline.scoring.terminal import how_compared
from pipeline.storage import tables
from pipeline.storage.commits import CommittedShard
from pipeline.storage.names import CONFIG
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.run_record import RunRecord

MAX_GROUPS, MAX_VALUES = 16, 12
"""Maximum of groups, and of values in a group. The values with the highest rates are shown."""
MAX_CONFUSIONS = 10
"""Maximum of wrong words of each kind."""


@dataclass(frozen=True)
class Rate:
    """A row of the scores.

    Attributes:
        value: Value of the group; `None` for null and for the overall row.
        utterances, words: Number of utterances, and of words in their references.
        wer: Word error rate; `None` if there are no words.
        low, high: Ends of its 95 % interval; `None` if there is none.
        cer, cer_low, cer_high: Character error rate, and the ends of its interval, in the same way.
        substitutions, deletions, insertions: Number of wrong words of each kind.
    """

    value: str | None
    utterances: int
    wer: float | None
    low: float | None
    high: float | None
    words: int
    cer: float | None
    cer_low: float | None
    cer_high: float | None
    substitutions: int
    deletions: int
    insertions: int

    @property
    def kinds(self) -> list[tuple[str, int]]:
        """Name and number of the wrong words of each kind, in the order in which the page draws them."""
        names = ("substitutions", "deletions", "insertions")
        return list(zip(names, (self.substitutions, self.deletions, self.insertions), strict=True))


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


def read_title(directory: RunDirectory, model: str) -> str:
    """Return the names of the corpus and the model.

    `folder`, `webdataset` and `manifest` are formats of a corpus, so the name of the folder or of the list stands in
    their place.
    """
    made_with = tables.metadata_of(directory.manifest.schema()).get("made_with") or {}
    corpus, place = str(made_with.get("dataset", "")), str(made_with.get("root") or made_with.get("path") or "")
    if corpus in ("folder", "webdataset", "manifest"):
        parts = PurePath(place).parts[-2 if corpus == "manifest" else -1 :]
        corpus = "/".join(part for part in parts if part != "/") or corpus
    return " · ".join(masked(name, 100) for name in (corpus, model) if name) or "run"


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
        cer=row["cer"],
        cer_low=row.get("cer_low"),
        cer_high=row.get("cer_high"),
        **{kind: row[kind] for kind in ("substitutions", "deletions", "insertions")},
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
