"""Named points in the code at which crash tests kill, stop or fail a run. In a normal run they do nothing.

The environment variable `PIPELINE_FAILPOINT` holds one or more rules, separated by commas. A rule has the form
`name[:shard][@count][=action]`. It takes effect the count-th time (default 1) that the run reaches the point, counting
only the given shard if there is one. Actions are `kill` (SIGKILL, the default), `stop` (SIGSTOP), `hang` (the thread
sleeps for ever), and the name of an errno such as `ENOSPC` or `EIO`, which is raised as an `OSError`.

The points `decode` and `decoded` are in the loader's processes, if it has any. Those of computing and committing are in
the workers, if the run has several. Each process counts for itself.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import threading
import time
from dataclasses import dataclass

from pipeline.runtime.errors import UserError

VARIABLE = "PIPELINE_FAILPOINT"
"""The environment variable. Only `python -m pipeline.run`, its workers and `python -m pipeline.import` read it."""

POINTS = {
    "manifest": "before the manifest is written",
    "manifest-written": "the manifest is written, run.json is not",
    "run-json": "before run.json is written",
    "run-json-written": "run.json is written, nothing is computed",
    "decode": "before a recording is read",
    "decoded": "a recording has been read",
    "forward": "before the model gets a batch",
    "forwarded": "the model has returned the results of a batch",
    "take": "before the writer takes a batch's results",
    "spool": "before values are appended to a file in staging",
    "table": "a table's file in staging is written but not closed",
    "sync": "before a table's file is synced",
    "staged": "the tables are complete in staging",
    "retract": "before the commit record of a shard that is computed again is removed",
    "retracted": "the commit record is removed, the tables are still the old ones",
    "removing": "a table of a pass that is computed again, or of a later pass, is removed or was not there",
    "renaming": "one table is in place, another is not",
    "moved": "the tables are in place, their folders are not synced",
    "renamed": "the tables are in place and synced, the commit record is not written",
    "file": "before a small file (manifest, run.json, config.yaml, a commit record, scores) is written to staging",
    "file-staged": "a small file is written but not synced",
    "file-synced": "a small file is synced but not in place",
    "file-moved": "a small file is in place, its folder is not synced",
    "committed": "the commit record is in place",
    "described": "the transcripts of a shard have the corrected references and columns",
    "extend": "before the manifest of a grown corpus is written",
    "extended": "the manifest of a grown corpus is written, run.json is not updated",
    "references": "before the corrected references are written",
    "references-written": "the corrected references are written, manifest and transcripts do not have them",
    "renewal": "a table that replaces a committed one is in staging, its commit record is not",
    "renewal-decided": "the commit record of a table that replaces a committed one is in staging too",
    "settle": "everything is committed, same_as is not complete",
    "settled": "same_as is complete in all transcripts, run.json does not say so",
    "scores": "everything is committed, the scores are not written",
    "scored": "the scores are in place",
    "compact": "a compacted file is complete in staging",
    "compacted": "a compacted file is in place, its record is not",
    "report": "before the report is made",
}
"""All points by name. Other names are refused, so that a test with a misspelt name does not pass."""

_RULE = re.compile(r"(?P<name>[a-z-]+)(:(?P<shard>\d+))?(@(?P<count>[1-9]\d*))?(=(?P<action>\w+))?")
_ACTIONS = ("kill", "stop", "hang")


@dataclass
class _Rule:
    name: str
    shard: int | None
    count: int
    action: str


_armed: list[_Rule] = []
_lock = threading.Lock()


def arm(text: str) -> None:
    """Set the rules from the text of the environment variable, in place of earlier rules.

    Raises:
        UserError: A rule names an unknown point or action.
    """
    _armed[:] = [_parse(part) for part in text.split(",")] if text else []


def failpoint(name: str, shard: int | None = None) -> None:
    """Mark a point at which a rule may kill, stop or fail the process."""
    if _armed:
        _reach(name, shard)


def _parse(text: str) -> _Rule:
    match = _RULE.fullmatch(text)
    if match is None or match["name"] not in POINTS:
        raise UserError(
            f"{VARIABLE}={text}: not name[:shard][@count][=action] with one of the names {', '.join(POINTS)}"
        )
    action = match["action"] or "kill"
    if action not in _ACTIONS and not isinstance(getattr(errno, action, None), int):
        raise UserError(f"{VARIABLE}={text}: {action} is not {', '.join(_ACTIONS)} or an errno such as ENOSPC")
    shard = None if match["shard"] is None else int(match["shard"])
    return _Rule(match["name"], shard, int(match["count"] or 1), action)


def _reach(name: str, shard: int | None) -> None:
    if name not in POINTS:
        raise AssertionError(f"{name} is not in POINTS")
    for rule in _armed:
        if rule.name == name and rule.shard in (None, shard):
            with _lock:
                rule.count -= 1
                due = rule.count == 0
            if due:
                _act(rule.action)


def _act(action: str) -> None:
    if action in ("kill", "stop"):
        # The signal goes to this thread, so that this thread does not continue. The others end or stop shortly after.
        signal.pthread_kill(threading.get_ident(), signal.SIGKILL if action == "kill" else signal.SIGSTOP)
    elif action == "hang":
        while True:
            time.sleep(1)
    else:
        code = getattr(errno, action)
        raise OSError(code, os.strerror(code))
