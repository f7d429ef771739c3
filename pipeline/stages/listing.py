"""Lists a corpus as it is now: its recordings, their headers, and their stretches of speech if they are asked for."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from itertools import chain

import pyarrow as pa
from rich.console import Console

from pipeline.audio.archives.members import file_of
from pipeline.audio.archives.opening import current_size
from pipeline.config.run_config import RunConfig
from pipeline.datasets import Connector, Warnings
from pipeline.datasets.formats.blocks import BLOCK_ROWS
from pipeline.records import AudioHeader, Utterance
from pipeline.runtime.cores import available_cores
from pipeline.runtime.errors import UserError
from pipeline.runtime.paths import encode_path
from pipeline.runtime.progress import PLAIN_EVERY_S, format_hours
from pipeline.runtime.remote_files import is_there
from pipeline.runtime.terminal import counted
from pipeline.stages.build_manifest import Listing, list_utterances
from pipeline.stages.growth import KnownHeaders
from pipeline.stages.segments import Segmentation
from pipeline.stages.speech import Search
from pipeline.storage.headers import ProbedHeaders
from pipeline.storage.manifest import Manifest
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.speech import SpeechStore

SHOWN_EVERY_S = 0.1
"""Seconds between two updates of a count on a terminal."""


def list_corpus(
    config: RunConfig,
    directory: RunDirectory,
    console: Console,
    say: Callable[[str], None],
    warnings: Warnings,
    manifest: Manifest | None = None,
) -> Listing:
    """Find the recordings of the dataset and read what must be known of them.

    Args:
        config: The configuration.
        directory: The run, locked by this process.
        console: Console of the live view.
        say: Prints and logs a line.
        warnings: Counts what is read otherwise than it was written.
        manifest: The manifest there is, whose recordings need not be opened again.

    Raises:
        UserError: There is no recording, or none exists, or none has speech.
    """
    headers = None if manifest is None else KnownHeaders(manifest)
    log, settings = directory.local_log(), config.settings
    with console.status("finding recordings and reading their headers") as status:
        shown = said = time.monotonic()

        def tell(what: str) -> None:
            nonlocal shown, said
            now = time.monotonic()
            if now - shown >= SHOWN_EVERY_S:  # `tell` is called for each row
                shown = now
                status.update(what)
            if not console.is_terminal and now - said >= PLAIN_EVERY_S:
                said = now
                say(what)

        def tell_rows(rows: int) -> None:
            tell(f"reading headers: {counted(rows, 'utterance')}")

        kept = ProbedHeaders(directory)
        listed_with = settings.channels, settings.loader.timeout_s, tell_rows, log, warnings
        if not config.makes_segments:
            known = headers.of if headers is not None else lambda utterance: None
            listing = list_utterances(config.dataset, *listed_with, known, kept=kept)
        else:
            search = new_search(config, directory, lambda s: tell(f"finding speech: {format_hours(s)} of audio"))
            rows = frozenset[str]() if manifest is None else frozenset(manifest.table["id"].to_pylist())
            segmentation = Segmentation(search, settings.channels, rows, warnings)

            def known_too(utterance: Utterance) -> tuple[AudioHeader | None, int | None] | None:
                found = None if headers is None else headers.of(utterance)
                return _searched(search.store, utterance) if found is None else found

            listing = list_utterances(config.dataset, *listed_with, known_too, segmentation, kept)
            if search.searched_s:
                say(segmentation.said())
    _refuse_none_found(config.dataset, listing.table)
    return listing


def new_search(config: RunConfig, directory: RunDirectory, tell: Callable[[float], None]) -> Search:
    """Return a search that goes on from what the run has searched before.

    Args:
        config: The configuration, with a detector.
        directory: The run, locked by this process.
        tell: As in `Search`.
    """
    assert config.detector is not None
    settings = config.settings
    return Search(
        SpeechStore(directory, config.detector.identity()),
        config.detector,
        processes=settings.threads or available_cores(),
        timeout_s=settings.loader.timeout_s,
        stderr=directory.local_log(),
        tell=tell,
    )


def _searched(store: SpeechStore, utterance: Utterance) -> tuple[AudioHeader, int] | None:
    """Return header and file size of a recording that was searched, as `KnownHeaders.of` does."""
    path = encode_path(utterance.path)
    try:
        header = store.header(path, current_size(path, store.size(path)))
    except (OSError, ValueError):  # a null byte in the path
        return None
    return None if header is None else (header, header.file_size)


def _refuse_none_found(dataset: Connector, table: pa.Table) -> None:
    """Refuse a corpus none of whose recordings exists, because every row would fail in the same way.

    Raises:
        UserError: No recording exists. The message names the first, and the nearest folder that exists.
    """
    if table["file_size"].null_count < len(table):
        return
    batches = table.select(["path"]).to_batches(max_chunksize=BLOCK_ROWS)
    paths = (path for batch in batches for path in batch["path"].to_pylist() if path)
    first = next(paths, "")
    if not first or any(is_there(file_of(path)) for path in chain((first,), paths)):
        return  # reading their headers took too long
    nearest = file_of(first)
    while not is_there(nearest) and nearest != (above := os.path.dirname(nearest)):
        nearest = above
    hint = f"; {dataset.not_found()}" if hasattr(dataset, "not_found") else ""
    raise UserError(
        f"dataset={dataset.run_name}: not one of its recordings exists; the first is {first!r}, "
        f"of which {nearest!r} exists{hint}"
    )
