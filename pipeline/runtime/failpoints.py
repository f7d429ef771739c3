"""Named places where the crash tests make a run die, stand still or fail. Nothing happens in a normal run.

`PIPELINE_FAILPOINT=name[:shard][@count][=action]`, several with commas between them: at the count-th time (1 where
none is given) that the place is reached (with that shard, where one is given) the process is killed, or does what
the action says: `stop` (SIGSTOP), `hang` (that thread sleeps for ever), or the name of an errno, `ENOSPC` or `EIO`,
which is raised as the `OSError` the system would have raised there.

`decode` and `decoded` are reached in the loader's processes where it has any, and count in each of them anew.
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
"""The environment variable, read by `python -m pipeline.run` alone."""

POINTS = {
    "manifest": "before the manifest is written",
    "manifest-written": "the manifest is there, run.json is not",
    "run-json": "before run.json is written",
    "run-json-written": "run.json is there, nothing is computed",
    "decode": "before a recording is read",
    "decoded": "a recording has been read",
    "forward": "before a batch is given to the model",
    "forwarded": "the results of a batch are there",
    "take": "before the writer takes a batch's results",
    "spool": "before values are appended to a file in staging",
    "table": "a table's file in staging is written but not ended",
    "sync": "before a table's file is synced",
    "staged": "the tables are whole in staging",
    "retract": "before the record of a shard that is done again is removed",
    "retracted": "that record is gone, the tables are the old ones",
    "renaming": "a table is in place, another is not",
    "moved": "the tables are in place, their folders not synced",
    "renamed": "the tables are in place for good, the record is not there",
    "file": "before a small file (manifest, run.json, config.yaml, a record, scores) is written to staging",
    "file-staged": "a small file is written, not synced",
    "file-synced": "a small file is synced, not in place",
    "file-moved": "a small file is in place, its folder not synced",
    "committed": "the record is in place",
    "scores": "everything is committed, the scores are not written",
    "scored": "the scores are in place",
    "report": "before the report is made",
}
"""Every place there is: a name that is not here is refused, so that a test which misspells one does not pass."""

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
    """Take what the environment variable says; replaces what was armed.

    Raises:
        UserError: No such place or action.
    """
    _armed[:] = [_parse(part) for part in text.split(",")] if text else []


def failpoint(name: str, shard: int | None = None) -> None:
    """Die, stand still or fail here, if the crash tests say so."""
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
        # To this thread, which is then the one that goes no further; the others end, or stand still, a moment later.
        signal.pthread_kill(threading.get_ident(), signal.SIGKILL if action == "kill" else signal.SIGSTOP)
    elif action == "hang":
        while True:
            time.sleep(1)
    else:
        code = getattr(errno, action)
        raise OSError(code, os.strerror(code))
