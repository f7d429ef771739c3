"""Stage `vad` over finished tables: compares the speech in the recordings of a run with the text that it has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.audio.archives.opening import current_size
from pipeline.audio.headers import Headers
from pipeline.config.run_config import RunConfig
from pipeline.records import AudioHeader
from pipeline.runtime.errors import UserError, unreadable
from pipeline.runtime.progress import format_hours
from pipeline.runtime.terminal import counted
from pipeline.scoring.coverage.accounting import SECONDS, Account
from pipeline.scoring.coverage.recordings import Gathered, Key, gather, headers_of, keys_of
from pipeline.scoring.coverage.stored import lost, total, write_coverage
from pipeline.stages import resume as refusals
from pipeline.stages.listing import new_search
from pipeline.storage import manifest as manifests
from pipeline.storage.commits import CommittedShard
from pipeline.storage.manifest import Manifest
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.speech import Recording, SpeechStore


def cover(
    config: RunConfig,
    directory: RunDirectory,
    manifest: Manifest,
    records: Mapping[int, CommittedShard],
    tell: Callable[[str], None],
) -> str:
    """Write `coverage.parquet`. Recordings that were searched before with the same settings are not decoded again.

    Args:
        config: The configuration, with a detector.
        directory: The run, locked by this process.
        manifest: The manifest.
        records: The committed shards, by shard.
        tell: Called with what is being done.

    Returns:
        The totals in one line.

    Raises:
        UserError: No transcripts are committed, a table is damaged, or the segments were made with other settings.
    """
    if not any(shard.having("transcripts") for shard in records.values()):
        raise UserError(
            f"run_dir={directory.root}: the stage vad compares speech with transcripts, and none is committed"
        )
    assert config.detector is not None
    settings, made_with = config.detector.identity(), manifests.made_with(directory.manifest)
    if (before := refusals.vad_of(made_with)) and before != settings:
        raise refusals.refusal(directory.root, refusals.making_differences(before, settings))
    recorded = directory.read_record()
    keys = keys_of(manifest, recorded.identity.channels if recorded else config.settings.channels)
    search = new_search(config, directory, lambda s: tell(f"finding speech: {format_hours(s)} of audio"))
    headers, errors = _headers(config, directory, manifest, keys, search.store)
    search.over(Recording(*key, header) for key, header in headers.items() if key not in errors)
    errors |= search.failed
    tell("comparing speech with text")
    rows = [_row(each, None) for each in _without_speech(search.store, {*keys})]
    durations = {key: header.duration_s for key, header in headers.items()}
    try:
        for each in gather(directory, manifest, records, keys, durations.get):
            if each.key not in errors:
                found = search.store.speech(*each.key, headers[each.key].file_size)
                each.account.speech = np.array(found, dtype=np.float64).reshape(-1, 2)
            rows.append(_row(each, errors.get(each.key)))
    except (OSError, pa.ArrowException) as error:
        raise unreadable(directory.root, error) from error
    return _said(write_coverage(directory, rows, settings))


def _headers(
    config: RunConfig, directory: RunDirectory, manifest: Manifest, keys: Sequence[Key], store: SpeechStore
) -> tuple[dict[Key, AudioHeader], dict[Key, str]]:
    """Return the header of each recording, as far as it is known, and why a recording cannot be searched.

    A header that neither the manifest nor an earlier search has is read.
    """
    sizes = dict(zip(keys, manifest.table["file_size"].to_pylist(), strict=True))
    errors = {key: error for key, size in sizes.items() if (error := _changed(key[0], size))}
    known = {key: header or store.header(key[0], sizes[key]) for key, header in headers_of(manifest, keys).items()}
    unknown = [key for key, header in known.items() if header is None and key not in errors]
    with Headers(config.settings.loader.timeout_s, directory.local_log()) as reader:
        read = reader.of([path for path, _ in unknown])
        for key, (header, _) in zip(unknown, read, strict=True):
            known[key] = header
            if header is None:
                errors[key] = "unreadable: the header cannot be read"
    return {key: header for key, header in known.items() if header is not None}, errors


def _changed(path: str, size: int | None) -> str:
    """Return why a file is not the one that the run has read; an empty string if it is."""
    try:
        now = current_size(path, size)
    except OSError as error:
        return f"not_found: {error.strerror}"
    except ValueError as error:  # a null byte in the path
        return f"not_found: {error}"
    return "" if size in (None, now) else f"changed: the file has {now} bytes, {size} when the manifest was made"


def _without_speech(store: SpeechStore, keys: Set[Key]) -> Iterator[Gathered]:
    """Yield the recordings that have no utterance because they have no speech."""
    for recording, speech in store:
        size = recording.header.file_size
        if not speech and recording[:2] not in keys and not _changed(recording.path, size):
            yield Gathered(recording[:2], Account(recording.header.duration_s, speech=np.zeros((0, 2))))


def _row(gathered: Gathered, error: str | None) -> dict[str, Any]:
    path, channel = gathered.key
    row = {"path": path, "channel": channel, "utterances": gathered.utterances, "failures": gathered.failures}
    return {**row, **gathered.account.seconds(), "error": error}


def _said(table: pa.Table) -> str:
    """Return the totals in words, and the recording with most speech that did not become text."""
    hours = {name: format_hours(total(table, name)) for name in SECONDS}
    unsearched = len(table) - table["error"].null_count
    missing = lost(table).fill_null(0.0)
    worst = int(pc.index(missing, pc.max(missing)).as_py())
    return "".join(
        [
            f"speech: {hours['speech_s']}, of it {hours['speech_with_text_s']} with text, ",
            f"{hours['speech_without_text_s']} without text, {hours['speech_failed_s']} in failures, ",
            f"{hours['speech_left_out_s']} in no utterance; text without speech: {hours['text_without_speech_s']}",
            f"; most speech that did not become text: {table['path'][worst].as_py()}" if missing[worst].as_py() else "",
            f"; {counted(unsearched, 'recording')} could not be searched" if unsearched else "",
        ]
    )
