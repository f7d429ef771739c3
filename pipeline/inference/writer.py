"""The shard writer beside the model: one thread spools results, others build the tables of whole shards and commit."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from pipeline.inference.shard_tables import ShardAssembler, TableSettings
from pipeline.records import Emission, Failure, Transcript
from pipeline.runtime.failpoints import failpoint
from pipeline.storage.commits import CommitRecord
from pipeline.storage.manifest import Manifest
from pipeline.storage.run_directory import RunDirectory

QUEUED_BATCHES = 4
"""Batches that may wait for the writer: bounds memory, and holds the model back when the disk is slow."""


@dataclass(frozen=True)
class _Results:
    shard: int
    emissions: Sequence[Emission]
    transcripts: Mapping[int, Transcript]
    failures: Sequence[Failure]


class ShardWriter:
    """Takes results in any order and commits each shard when its last row has come."""

    def __init__(
        self,
        directory: RunDirectory,
        manifest: Manifest,
        settings: TableSettings,
        on_commit: Callable[[CommitRecord], None],
        retried: Mapping[int, Mapping[str, int]] | None = None,
        committers: int = 1,
    ) -> None:
        """Start the threads.

        Args:
            directory: The run.
            manifest: Its manifest.
            settings: What to write.
            on_commit: Called after each commit, on the committer's thread, one at a time.
            retried: Committed shards that are done again for the sake of their failures: id to attempts of each.
            committers: Shards that may be committed at the same time, each by a thread of its own: encoding
                features, float16 above all, keeps a core busy at some 150 MB/s.
        """
        self._directory = directory
        self._manifest = manifest
        self._settings = settings
        self._on_commit = on_commit
        self._retried = retried or {}
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
        transcripts: Mapping[int, Transcript],
        failures: Sequence[Failure],
    ) -> None:
        """Hand over results; waits while the writer is behind.

        Args:
            shard: Theirs.
            emissions: Those of an utterance in the order of its chunks.
            transcripts: By manifest row, not later than the utterance's last emission.
            failures: Utterances of which nothing else will come.

        Raises:
            Exception: Whatever stopped the writer, in the caller's thread.
        """
        results: _Results | None = _Results(shard, emissions, transcripts, failures)
        while True:
            self._raise()
            try:
                return self._queue.put(results, timeout=0.5)
            except queue.Full:
                continue

    def close(self) -> None:
        """Wait until everything handed over is committed; raises what stopped the writer."""
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
        """Commit the shards that are complete with what has been handed over, drop the others, and end.

        Raises:
            Exception: Whatever stopped the writer.
        """
        self._partly = True
        self.close()

    def abort(self) -> None:
        """Finish the commits under way, drop every shard that is not complete, and end."""
        self._stop.set()
        self._thread.join()
        self._committers.shutdown()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        shards: dict[int, ShardAssembler] = {}
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
            for assembler in shards.values():
                assembler.discard()

    def _take(self, results: _Results, shards: dict[int, ShardAssembler]) -> None:
        failpoint("take", results.shard)
        if results.shard not in shards:
            shards[results.shard] = ShardAssembler(results.shard, self._directory, self._manifest, self._settings)
        assembler = shards[results.shard]
        for emission in results.emissions:
            assembler.add(emission)
        for row, transcript in results.transcripts.items():
            assembler.transcribe(row, transcript)
        for failure in results.failures:
            before = self._retried.get(results.shard, {}).get(failure.id, 0)
            assembler.fail(replace(failure, attempts=failure.attempts + before))
        if assembler.complete:
            if results.shard in self._retried and assembler.failed - set(self._retried[results.shard]):
                # A result that is there is worth more than the attempt to gain another.
                self.kept.append(results.shard)
                assembler.discard()
            else:
                # Shards that wait for a committer would pile up on the disk: the model waits instead.
                while not self._free.acquire(timeout=0.2):
                    if self._error is not None or self._stop.is_set():
                        return
                self._committers.submit(self._commit, assembler)
            del shards[results.shard]

    def _commit(self, assembler: ShardAssembler) -> None:
        try:
            record = assembler.commit()
            with self._lock:
                self._on_commit(record)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread of the caller
            self._error = self._error or error
            assembler.discard()
        finally:
            self._free.release()
