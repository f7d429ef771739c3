"""Stage `decode`: decode the stored emissions of a run again, in processes, without the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from rich.console import Console

from pipeline import decoding
from pipeline.config.run_config import RunConfig
from pipeline.runtime.digests import digest_of_json
from pipeline.runtime.errors import UserError
from pipeline.runtime.terminal import counted
from pipeline.stages.postprocessing.decoding import ShardDecoder
from pipeline.stages.postprocessing.emissions import describe_emissions
from pipeline.stages.resume import difference
from pipeline.stages.shards import work_on_shards
from pipeline.storage.commits import CommittedShard
from pipeline.storage.derived import DerivedTable
from pipeline.storage.manifest import Manifest
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.tables import SCHEMA_VERSION


def decode(
    config: RunConfig,
    directory: RunDirectory,
    manifest: Manifest,
    records: Mapping[int, CommittedShard],
    console: Console,
    say: Callable[[str], None],
) -> str:
    """Decode the stored emissions of all committed shards, as far as that is not done.

    Args:
        config: The configuration.
        directory: The run, locked by this process.
        manifest: The manifest of the run.
        records: The committed shards, by shard.
        console: Console of the live view.
        say: Prints and logs a line.

    Returns:
        The name of the decoding.

    Raises:
        UserError: No emissions are stored, a file is damaged, the decoder cannot be used, or the decoding was made
            with other settings.
        RunError: A process died.
    """
    name = config.decoding
    stored = describe_emissions(directory, records)
    options = config.decoder_options
    identity = {"schema_version": SCHEMA_VERSION, "decoder": config.settings.decoder.name, **options}
    decoder = decoding.make(
        config.settings.decoder.name, options, config.decoder_files, stored.labels, stored.seconds_per_frame
    )
    work = ShardDecoder(
        directory,
        manifest,
        {shard: committed for shard, committed in records.items() if committed.having("emissions")},
        name,
        digest_of_json(identity),
        decoder,
    )
    _begin(directory, work.table, identity)
    todo = _find_pending(work)
    if todo:
        say(f"decoder {name}: {len(todo):,} of {counted(len(work.records), 'shard')} to do")
        work_on_shards("decoding", work, work.commit, todo, manifest, config.settings.threads, console, say)
    else:
        say(f"decoder {name}: complete already")
    return name


def _begin(directory: RunDirectory, table: DerivedTable, identity: Mapping[str, Any]) -> None:
    """Write the settings of a new decoding; refuse other settings than those of one that has been begun."""
    before = table.identity()
    if before == identity:
        return
    if before is not None and table.records():
        names = dict.fromkeys((*before, *identity))
        found = [difference(n, before.get(n), identity.get(n)) for n in names if before.get(n) != identity.get(n)]
        raise UserError(
            f"{directory.locate(table.folder)}: was made with other settings ({'; '.join(found)}); set them back, or "
            "choose another name with decode.name=..."
        )
    table.begin(identity)


def _find_pending(work: ShardDecoder) -> list[int]:
    """Return the shards whose emissions are not decoded. What describes the others is written again if it changed."""
    todo = []
    done = work.table.records()
    for shard in work.records:
        sources = work.sources(shard)
        if shard not in done or done[shard].sources["emissions"] != sources["emissions"]:
            todo.append(shard)
        elif done[shard].sources != sources:
            work.describe_again(shard)
    return todo


def describe_decodings_again(directory: RunDirectory, manifest: Manifest) -> None:
    """Write references and other columns that have changed into the transcripts of all decodings."""
    names = directory.decodings()
    records = directory.commits() if names else {}
    for name in names:
        work = ShardDecoder(directory, manifest, records, name, "", None)
        for shard, record in work.table.records().items():
            sources = work.sources(shard) if shard in records else {}
            if record.sources != sources and record.sources["emissions"] == sources.get("emissions"):
                directory.of_decoding(name).remove_scores()
                replace(work, fingerprint=record.fingerprint).describe_again(shard)
