"""Checks a whole run directory: `run.json`, the manifest, each shard, the scores, and files of unknown names."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from pipeline.runtime.cores import available_cores
from pipeline.runtime.digests import CHECKSUM
from pipeline.runtime.errors import UserError
from pipeline.runtime.terminal import counted
from pipeline.storage import manifest as manifests
from pipeline.storage.commits import decode_record
from pipeline.storage.files import UNREADABLE
from pipeline.storage.manifest import Manifest
from pipeline.storage.names import (
    COMMITS,
    CONFIG,
    CONFUSIONS,
    COVERAGE,
    MANIFEST,
    REFERENCES,
    RUN_JSON,
    SCORES,
    SPEECH,
    STAGING,
    TABLES,
    of_decoding,
    pass_of_name,
)
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.run_record import RunRecord
from pipeline.verify.compacted import audit_compacted
from pipeline.verify.derived import audit_derived
from pipeline.verify.duplicates import audit_duplicates
from pipeline.verify.findings import Problem, ShardAudit, State, Work, reason
from pipeline.verify.references import audit_references
from pipeline.verify.scores import audit_scores
from pipeline.verify.shard import audit_shard

THREADS = 4
"""Threads that hash files: a fast disk delivers more than one core can hash."""
_KNOWN = {
    *TABLES, COMMITS, MANIFEST, RUN_JSON, CONFIG, SCORES, CONFUSIONS, COVERAGE, REFERENCES, SPEECH, STAGING,
    "report", "logs",
}  # fmt: skip
_UNCHECKED = {"fingerprint", "identity", "weights", "versions", "written"}
"""Keys of `run.json` in releases that wrote no checksum."""


@dataclass(frozen=True)
class Audit:
    """The state of a run directory.

    Attributes:
        work: What the run computes.
        shards: Each shard of the manifest, ascending. Without a readable manifest, each shard that has files.
        taken_as_done: The damaged pass of each shard that a rerun would skip, because a rerun compares only file sizes.
        problems: Everything that differs from what was committed.
        notes: Observations that are no problems.
        locked: Whether a process held the lock of the run directory.
    """

    work: Work
    shards: list[ShardAudit]
    taken_as_done: dict[int, int]
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    locked: bool = False

    def of(self, *states: State) -> list[int]:
        """Return the shards in any of these states."""
        return [each.shard for each in self.shards if each.state in states]

    def utterances(self, shards: Sequence[int]) -> int:
        """Return the number of manifest rows in these shards."""
        if self.work.manifest is None:
            records = {each.shard: each.committed for each in self.shards}
            return sum(record.utterances for shard in shards if (record := records[shard]) is not None)
        return int(np.isin(self.work.manifest.shard_of_row, shards).sum())

    def audio_s(self, shards: Sequence[int]) -> float:
        """Return the seconds of audio in these shards."""
        if self.work.manifest is None:
            return sum(each.committed.audio_s for each in self.shards if each.committed and each.shard in shards)
        manifest = self.work.manifest
        return float(np.nansum(manifest.duration_s[np.isin(manifest.shard_of_row, shards)]))


def audit(directory: RunDirectory, on_shard: Callable[[int, int], None] = lambda done, total: None) -> Audit:
    """Check everything in a run directory.

    Args:
        directory: The run. Another process may be writing to it.
        on_shard: Called after each shard with the number of shards checked and their total.

    Raises:
        UserError: There is no run in that folder.
    """
    if not (directory.has(RUN_JSON) or directory.names(COMMITS)):
        directory.require_run()
    locked = directory.is_locked()
    problems: list[Problem] = []
    listed = {folder: directory.names(folder) for folder in (*TABLES, COMMITS)}
    recorded = _record(directory, bool(listed[COMMITS]), problems)
    manifest = _manifest(directory, recorded, problems)
    work = Work(_fingerprints(directory, recorded, listed[COMMITS]), manifest, recorded)
    written = (pass_of_name(name, _ending(folder)) for folder, names in listed.items() for name in names)
    numbers = {found[0] for found in written if found is not None}
    shards = sorted(numbers) if manifest is None else list(range(manifest.num_shards))
    done = directory.committed(work.fingerprints)
    audits = []
    with ThreadPoolExecutor(min(THREADS, available_cores())) as pool:
        try:
            for each in pool.map(lambda shard: audit_shard(directory, work, shard), shards):
                audits.append(each)
                on_shard(len(audits), len(shards))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    problems += [problem for each in audits for problem in each.problems]
    notes = [note for each in audits for note in each.notes]
    sound = {each.shard: each.committed for each in audits if each.state == "sound" and each.committed is not None}
    problems += audit_derived(directory, sound, notes)
    problems += audit_compacted(directory, sound, notes)
    problems += audit_references(directory, manifest, notes)
    for path, is_read in _unknown(directory, work, listed, {*shards}):
        if is_read:
            problems.append(
                Problem(path, "not a file of this run, but readers of the folder read it too", "move it away")
            )
        else:
            notes.append(f"{path}: not a file of this run; left as it is")
    if len(sound) == len(audits):
        problems += [*audit_scores(directory, [*sound.values()]), *audit_duplicates(directory, work, [*sound.values()])]
    if recorded is not None:
        partly = recorded.partly([each.committed for each in audits if each.committed is not None])
        notes += [f"{part}: in {counted(number, 'shard')} of {len(shards)}" for part, number in partly.items()]
    taken_as_done = {
        each.shard: problem.supplement
        for each in audits
        for problem in each.problems
        if each.shard in done and problem.supplement < len(done[each.shard].records)
    }
    return Audit(work, audits, taken_as_done, problems, notes, locked or directory.is_locked())


def _record(directory: RunDirectory, committed: bool, problems: list[Problem]) -> RunRecord | None:
    """Read `run.json`; return `None` if it is missing or damaged."""
    remedy = f"remove {directory.locate(RUN_JSON)}; a rerun writes it anew"
    try:
        data = directory.read(RUN_JSON)
        record = RunRecord.decode(data)
        content = json.loads(data)
        if CHECKSUM not in content and {*content} - _UNCHECKED:
            what = "has lost its checksum"
        elif json.dumps(content, indent=1).encode() != data:
            what = "has been edited"
        else:
            return record
    except FileNotFoundError:
        if not committed:
            return None  # the run was stopped before it had loaded its model
        what, remedy = "missing, though shards are committed", "a rerun writes it anew"
    except UNREADABLE as error:
        what = f"cannot be read ({reason(error)})"
    problems.append(Problem(RUN_JSON, what, remedy))
    return None


def _manifest(directory: RunDirectory, recorded: RunRecord | None, problems: list[Problem]) -> Manifest | None:
    """Read the manifest; return `None` if it is missing or its rows are damaged."""
    remedy = "a rerun makes it anew, and continues this run if the recordings are the same"
    if not directory.manifest.is_there:
        problems.append(Problem(MANIFEST, "missing", remedy))
        return None
    remedy = f"remove {directory.manifest}; {remedy}"
    try:
        manifest, _ = manifests.read(directory.manifest)
        digest = manifest.recomputed()
        expected = (manifest.content,) if recorded is None else recorded.manifest_contents
        file = None if recorded is None else recorded.manifest_file
        if digest not in expected:
            source = "its metadata say" if recorded is None else "run.json says"
            what = f"its rows have the digest {digest}, {source} {' or '.join(expected)}"
        elif digest != manifest.content:
            what = f"its rows have the digest {digest}, its metadata say {manifest.content}"
        elif recorded is not None and manifest.digest != recorded.identity.manifest:
            what = f"its metadata say {manifest.digest}, run.json says {recorded.identity.manifest}"
        else:
            found = directory.file_record(MANIFEST)
            if file is not None and file != found and len(expected) == 1:  # else it was being replaced
                what = (
                    f"has {found.size} bytes of sha256 {found.sha256}, "
                    f"run.json says {file.size} bytes of sha256 {file.sha256}"
                )
                problems.append(Problem(MANIFEST, what, remedy))
            return manifest  # the digest is right, so only paths can differ
    except (UserError, *UNREADABLE) as error:
        what = f"cannot be read ({reason(error.__context__ or error)})"
    problems.append(Problem(MANIFEST, what, remedy))
    return None


def _fingerprints(directory: RunDirectory, recorded: RunRecord | None, commits: Sequence[str]) -> Collection[str]:
    """Return the fingerprints of the run. If `run.json` is damaged, return the most frequent one of each pass."""
    if recorded is not None:
        return recorded.passes
    found: dict[int, Counter[str]] = {}
    for name in commits:
        try:
            record = decode_record(directory.read(f"{COMMITS}/{name}"))
        except (OSError, ValueError):
            continue
        found.setdefault(record.supplement, Counter())[record.fingerprint] += 1
    return {counts.most_common(1)[0][0] for counts in found.values()}


def _unknown(
    directory: RunDirectory, work: Work, listed: dict[str, list[str]], shards: set[int]
) -> Iterator[tuple[str, bool]]:
    """Yield each file that no run wrote, and whether readers of a table's folder would read it."""
    known = {*_KNOWN, *(name for table in map(directory.compacted, TABLES) for name in (table.folder, table.commits))}
    known |= {*(name for table in directory.derived_tables() for name in (table.folder, table.commits))}
    known |= {
        of_decoding(name, each) for name in (SCORES, CONFUSIONS, COVERAGE, "report") for each in directory.decodings()
    }
    for name in directory.names():
        if name not in known:
            yield name, False
    for folder, names in listed.items():
        asked_for = folder == COMMITS or work.tables is None or folder in work.tables
        for name in names:
            shard, number = pass_of_name(name, _ending(folder)) or (-1, 0)
            if not asked_for or shard not in shards or (number and number not in directory.passes(shard)):
                yield f"{folder}/{name}", name.endswith(f".{_ending(folder)}")


def _ending(folder: str) -> str:
    return "json" if folder == COMMITS else "parquet"
