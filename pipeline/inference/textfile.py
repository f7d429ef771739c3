"""Writes the figures of a run into a file that the textfile collector of Prometheus' node_exporter reads.

The format is the text format of Prometheus (https://prometheus.io/docs/instrumenting/exposition_formats/). Times are
exposed as timestamps, not as ages: the age of a timestamp grows although a run that hangs writes nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pipeline.records import ErrorName
from pipeline.runtime.errors import UserError
from pipeline.storage.local_files import replacing

LOG = logging.getLogger("pipeline")

EVERY_S = 15.0
"""Seconds between two writes of the file, as Prometheus often reads at this interval."""
_PREFIX = "overnight_speech_"
_FAMILIES = {
    "running": ("gauge", "Whether the run is going on: 1, or 0 after its end."),
    "start_timestamp_seconds": ("gauge", "Time at which the run started."),
    "last_progress_timestamp_seconds": (
        "gauge",
        "Time at which the run last computed a batch, committed a shard or printed a line.",
    ),
    "end_timestamp_seconds": ("gauge", "Time at which the run ended; absent while it goes on."),
    "exit_code": ("gauge", "Exit code of the run; absent while it goes on. 0 and 3 mean that the tables are complete."),
    "shards": ("gauge", "Shards of the corpus."),
    "shards_committed": ("gauge", "Shards that are committed, by this run and earlier ones."),
    "audio_seconds_total": ("counter", "Seconds of audio that this run has computed, also those computed again."),
    "utterances_total": ("counter", "Utterances in the shards that this run has committed, failed ones included."),
    "failures_total": ("counter", "Failed utterances in the shards that this run has committed, by name of the error."),
    "device_seconds_total": ("counter", "Seconds in which the device of a worker was busy, and in which it was idle."),
    "oldest_shard_timestamp_seconds": (
        "gauge",
        "Time at which a worker began the oldest shard that it has not committed; absent if it has none.",
    ),
}
"""Type and description of each metric, by its name without the prefix."""

_Labels = tuple[tuple[str, str], ...]


class RunTextfile:
    """The figures of one run. Without a path nothing is written.

    The methods may be called by several threads. In another process, an object is one without a path.

    Attributes:
        begun: Whether the run has written the file.
    """

    def __init__(self, path: Path | None = None, **labels: str) -> None:
        """Write nothing yet.

        Args:
            path: The file.
            labels: Labels of every metric, such as the name of the run.
        """
        self._path = path
        self._labels: _Labels = tuple(labels.items())
        self._lock = threading.Lock()
        now = time.time()
        self._values: dict[tuple[str, _Labels], float] = {}
        self._begun: dict[int, tuple[str, float]] = {}  # worker and time of each shard that is not committed
        self._set("running", 1)
        self._set("start_timestamp_seconds", now)
        self._set("last_progress_timestamp_seconds", now)
        for name in ("audio_seconds_total", "utterances_total"):
            self._count(name, 0)
        for error in get_args(ErrorName):  # a counter that starts above 0 has no increase
            self._count("failures_total", 0, error=error)
        self._written = float("-inf")
        self._warned = False
        self.begun = False

    def __reduce__(self) -> Any:
        """Return what another process gets of this object."""
        return RunTextfile, ()

    def check(self) -> None:
        """Check that the file can be written, and leave it as it is.

        Raises:
            UserError: It cannot.
        """
        if self._path is None:
            return
        try:
            if self._path.is_dir():
                raise IsADirectoryError(None, "is a folder")
            beside = self._path.with_name(f".{self._path.name}.check")
            beside.touch()
            beside.unlink()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(
                f"metrics.textfile={self._path}: cannot be written ({reason}); give a file in a folder that exists "
                "and that this user may write to"
            ) from None

    def begin(self) -> None:
        """Write the file for the first time. The run holds its lock now, so no other run writes the same file."""
        self.begun = True
        with self._lock:
            self._write()

    def progress(self) -> None:
        """Note that the run is making progress, and write the file if it is time to."""
        with self._lock:
            now = time.time()
            self._set("last_progress_timestamp_seconds", now)
            if self.begun and time.monotonic() - self._written >= EVERY_S:
                self._write()

    def shards(self, committed: int, total: int) -> None:
        """Note how many shards are committed, and how many there are."""
        with self._lock:
            self._set("shards", total)
            self._set("shards_committed", committed)

    def take(self, worker: str, shard: int) -> None:
        """Note that a worker begins a shard, unless it has begun it."""
        with self._lock:
            self._begun.setdefault(shard, (worker, time.time()))

    def batch(self, worker: str, audio_s: float, busy_s: float, idle_s: float) -> None:
        """Count a batch: its seconds of audio, and seconds in which the device was busy, and idle before it."""
        with self._lock:
            self._count("audio_seconds_total", audio_s)
            self._count("device_seconds_total", busy_s, worker=worker, state="busy")
            self._count("device_seconds_total", idle_s, worker=worker, state="idle")
        self.progress()

    def committed(self, shard: int, utterances: int, failures: Mapping[str, int]) -> None:
        """Count a committed shard: its utterances, and those that failed, by name of the error."""
        with self._lock:
            self._begun.pop(shard, None)
            self._count("utterances_total", utterances)
            for error, number in failures.items():
                self._count("failures_total", number, error=error)
        self.progress()

    def leave(self, worker: str) -> None:
        """Note that a worker has ended. What it had not committed is computed by another one."""
        with self._lock:
            self._begun = {shard: begun for shard, begun in self._begun.items() if begun[0] != worker}

    def end(self, code: int) -> None:
        """Note that the run has ended with an exit code, and write the file."""
        with self._lock:
            self._begun.clear()
            self._set("running", 0)
            self._set("end_timestamp_seconds", time.time())
            self._set("exit_code", code)
            self._write()

    def _set(self, name: str, value: float) -> None:
        self._values[name, ()] = value

    def _count(self, name: str, amount: float, **labels: str) -> None:
        key = name, tuple(labels.items())
        self._values[key] = self._values.get(key, 0) + amount

    def _write(self) -> None:
        """Replace the file. The run goes on if that fails; the log says so once."""
        if self._path is None:
            return
        self._written = time.monotonic()
        try:
            with replacing(self._path) as staged:
                staged.write_text("".join(f"{line}\n" for line in self._lines()), encoding="utf-8")
        except OSError as error:
            if not self._warned:
                LOG.warning("metrics.textfile=%s: cannot be written (%s); the run goes on", self._path, error.strerror)
            self._warned = True

    def _lines(self) -> Iterator[str]:
        oldest: dict[tuple[str, _Labels], float] = {}
        for worker, began in self._begun.values():
            key = "oldest_shard_timestamp_seconds", (("worker", worker),)
            oldest[key] = min(began, oldest.get(key, began))
        samples = {**self._values, **oldest}
        for name, (kind, description) in _FAMILIES.items():
            own = {labels: value for (of, labels), value in samples.items() if of == name}
            if own:
                yield f"# HELP {_PREFIX}{name} {description}"
                yield f"# TYPE {_PREFIX}{name} {kind}"
            for labels, value in own.items():
                shown = ",".join(f'{key}="{_escaped(text)}"' for key, text in (*self._labels, *labels))
                yield f"{_PREFIX}{name}{{{shown}}} {value!r}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
