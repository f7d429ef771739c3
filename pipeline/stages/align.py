"""Stage `align`: align the references of a run with its stored emissions, in processes, without the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from pipeline.config.run_config import RunConfig
from pipeline.decoding.alignment import numbers
from pipeline.decoding.alignment.aligner import Aligner
from pipeline.decoding.alignment.spelling import Speller
from pipeline.runtime.digests import digest_of_json
from pipeline.runtime.starting import importing_torch
from pipeline.runtime.terminal import counted
from pipeline.stages.postprocessing.alignment import ShardAligner
from pipeline.stages.postprocessing.emissions import StoredEmissions, describe_emissions
from pipeline.stages.shards import work_on_shards
from pipeline.storage.commits import CommittedShard
from pipeline.storage.manifest import Manifest
from pipeline.storage.names import ALIGNMENTS
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.tables import SCHEMA_VERSION

VERSION = 1
"""Version of the alignments: of how references are spelled, and how paths are found and compared."""


def align(
    config: RunConfig,
    directory: RunDirectory,
    manifest: Manifest,
    records: Mapping[int, CommittedShard],
    console: Console,
    say: Callable[[str], None],
) -> None:
    """Align the references of all committed shards, as far as that is not done.

    Args:
        config: The configuration.
        directory: The run, locked by this process.
        manifest: The manifest of the run.
        records: The committed shards, by shard.
        console: Console of the live view.
        say: Prints and logs a line.

    Raises:
        UserError: No emissions are stored, or a file is damaged.
        RunError: A process died.
    """
    stored = describe_emissions(directory, records, to_align=True)
    language = _language(config, manifest, say)
    table = directory.derived(ALIGNMENTS)
    identity = {
        "schema_version": SCHEMA_VERSION,
        "alignment": VERSION,
        "align.numbers": language,
        "num2words": None if language is None else numbers.version(),
    }
    if table.identity() != identity:  # the alignments that were made with other settings are made again
        table.begin(identity)
    having = {shard: committed for shard, committed in records.items() if committed.having("emissions")}
    work = ShardAligner(directory, manifest, having, table, digest_of_json(identity))
    done = table.records()
    todo = [shard for shard in having if shard not in done or done[shard].sources != work.sources(shard)]
    if not todo:
        say("alignments: complete already")
        return
    say(f"alignments: {len(todo):,} of {counted(len(having), 'shard')} to do")
    work = _with_aligner(work, stored, language)
    reasons: Counter[str | None] = Counter()

    def commit(shard: int, rows: pa.Table) -> None:
        work.commit(shard, rows)
        reasons.update(rows["reason"].to_pylist())

    work_on_shards("aligning", work, commit, todo, manifest, config.settings.threads, console, say)
    said_not = (f"; {number:,} not ({reason})" for reason, number in reasons.most_common() if reason is not None)
    say(f"aligned {counted(reasons[None], 'utterance')}{''.join(said_not)}")


def _language(config: RunConfig, manifest: Manifest, say: Callable[[str], None]) -> str | None:
    """Return the language of numbers; `None` if it is not known, or the package that writes them is not installed."""
    given, origin = config.settings.align.numbers, config.model.origin
    if given is not None:
        return given
    language = numbers.code_of(None if origin is None else origin.language)
    if numbers.is_installed() and language in numbers.languages():
        return language
    if pc.any(pc.match_substring_regex(manifest.table["reference"], r"\d")).as_py():
        installed = "their language is not known (align.numbers=)" if numbers.is_installed() else ""
        why = installed or "num2words is not installed (the extra align)"
        say(f"alignments: {why}, so numbers in digits are aligned with whatever is heard in their place")
    return None


def _with_aligner(work: ShardAligner, stored: StoredEmissions, language: str | None) -> ShardAligner:
    with importing_torch():
        from pipeline.decoding.alignment.forced import find_states

    speller = Speller(stored.labels, None if language is None else numbers.Numbers(language))
    return replace(work, aligner=Aligner(stored.labels, stored.seconds_per_frame, speller, find_states))
