"""Writes shards while the model runs. One thread stages results on disk; others write and commit complete shards."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.inference.shard_tables import ShardTables, TableSettings
from pipeline.inference.transcription import Transcribed
from pipeline.records import Emission, Failure
from pipeline.runtime.failpoints import failpoint
from pipeline.storage.commits import CommitRecord
from pipeline.storage.manifest import Manifest
from pipeline.storage.run_directory import RunDirectory

LOG = logging.getLogger("pipeline")
QUEUED_BATCHES = 4
"""Maximum number of batches that wait for the writer. If the disk is slow, the model waits, so memory is bounded."""


@dataclass(frozen=True)
class _Results:
    shard: int
    emissions: Sequence[Emission]
    transcribed: Transcribed | None
    failures: Sequence[Failure]


class ShardWriter:
    """Takes results, and commits each shard when all its rows have a result or a failure.

    Attributes:
        kept: Shards whose earlier results were kept, because an utterance with a result would have failed now.
    """

    def __init__(
        self,
        directory: RunDirectory,
        manifest: Manifest,
        settings: TableSettings,
        on_commit: Callable[[CommitRecord], None],
        retried: Mapping[int, Mapping[str, int]] | None = None,
        supplements: Mapping[int, int] | None = None,
        skipped: NDArray[np.bool_] | None = None,
        committers: int = 1,
    ) -> None:
        """Start the threads.

        Args:
            directory: The run.
            manifest: The manifest of the run.
            settings: What to write.
            on_commit: Called after each commit from the committing thread; calls do not overlap.
            retried: Shards that are computed again because of their failures: attempts by id, by shard.
            supplements: Number of the pass over each shard, by shard; `None` if all are first passes.
            skipped: `(rows,)` rows of the manifest that are not computed; `None` if all are.
            committers: Number of threads that commit shards. A core writes about 150 MB/s of features as lists,
                and four times as much as bytes.
        """
        self._directory = directory
        self._manifest = manifest
        self._settings = settings
        self._on_commit = on_commit
        self._retried = retried or {}
        self._supplements = supplements or {}
        self._skipped = np.zeros(len(manifest), bool) if skipped is None else skipped
        self.kept: list[int] = []
        self._queue: queue.Queue[_Results | None] = queue.Queue(QUEUED_BATCHES)
        self._error: BaseException | None = None
        self._stop = threading.Event()
        self._partly = False
        self._lock = threading.Lock()
        self._committers = ThreadPoolExecutor(committers, thread_name_prefix="committer")
        self._free = threading.Semaphore(committers)
        self._thread = threading.Thread(target=self._work, name="shard-writer", daemon=True)
        self._thread.start()

    def put(
        self,
        shard: int,
        emissions: Sequence[Emission],
        transcribed: Transcribed | None,
        failures: Sequence[Failure],
    ) -> None:
        """Pass results to the writer. Wait if too many batches are queued.

        Args:
            shard: The shard of the results.
            emissions: Emissions of chunks; those of an utterance come in order.
            transcribed: Transcripts, if there are any. A transcript comes with the last emission of its utterance.
            failures: Utterances that failed.

        Raises:
            Exception: The exception that stopped the writer.
        """
        results: _Results | None = _Results(shard, emissions, transcribed, failures)
        while True:
            self._raise()
            try:
                return self._queue.put(results, timeout=0.5)
            except queue.Full:
                continue

    def close(self) -> None:
        """Wait until all shards are committed.

        Raises:
            Exception: The exception that stopped the writer.
        """
        while self._thread.is_alive():
            try:
                self._queue.put(None, timeout=0.5)
                break
            except queue.Full:
                continue
        self._thread.join()
        self._committers.shutdown()
        self._raise()

    def stop(self) -> None:
        """Commit the shards that are complete, drop the others, and end.

        Raises:
            Exception: The exception that stopped the writer.
        """
        self._partly = True
        self.close()

    def abort(self) -> None:
        """Finish the commits that have started, drop all other shards, and end."""
        self._stop.set()
        self._thread.join()
        self._committers.shutdown()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        shards: dict[int, ShardTables] = {}
        try:
            while not self._stop.is_set() and self._error is None:
                try:
                    results = self._queue.get(timeout=0.2)
                except queue.Empty:
                    continue
                if results is None:
                    assert self._partly or not shards, f"shards {sorted(shards)} are not complete"
                    return
                self._take(results, shards)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread of the caller
            self._error = self._error or error
        finally:
            for tables in shards.values():
                tables.discard()

    def _take(self, results: _Results, shards: dict[int, ShardTables]) -> None:
        """Add results to the tables of their shard. If the shard is complete, start its commit."""
        failpoint("take", results.shard)
        if results.shard not in shards:
            shards[results.shard] = self._new_tables(results.shard)
        tables = shards[results.shard]
        for emission in results.emissions:
            tables.add(emission)
        if results.transcribed is not None:
            tables.transcribe(results.transcribed)
        for failure in results.failures:
            before = self._retried.get(results.shard, {}).get(failure.id, 0)
            tables.fail(replace(failure, attempts=failure.attempts + before))
        if tables.complete:
            if results.shard in self._retried and tables.failed - set(self._retried[results.shard]):
                # A retry must not replace an existing result with a failure.
                self.kept.append(results.shard)
                tables.discard()
            else:
                # The queue stops here until a committer is free, so that staged shards do not fill the disk.
                while not self._free.acquire(timeout=0.2):
                    if self._error is not None or self._stop.is_set():
                        return
                self._committers.submit(self._commit, tables, results.shard in self._retried)
            del shards[results.shard]

    def _new_tables(self, shard: int) -> ShardTables:
        rows = self._manifest.rows_of_shard(shard)
        skipped, supplement = self._skipped[rows.start : rows.stop], self._supplements.get(shard, 0)
        return ShardTables(shard, self._directory, self._manifest, self._settings, supplement, skipped)

    def _commit(self, tables: ShardTables, again: bool) -> None:
        try:
            record = tables.commit(again)
            if record is None:
                LOG.warning("shard %d: another process committed it at the same moment; neither counts", tables.shard)
                return
            with self._lock:
                self._on_commit(record)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread of the caller
            self._error = self._error or error
            tables.discard()
        finally:
            self._free.release()
