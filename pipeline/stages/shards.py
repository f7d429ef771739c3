"""Works on the shards of a run in several processes, and shows how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from rich.console import Console

from pipeline.runtime.cores import available_cores
from pipeline.runtime.progress import PLAIN_EVERY_S, format_hours
from pipeline.runtime.signals import Stopped, deferring_stop
from pipeline.runtime.terminal import counted
from pipeline.stages.postprocessing.processes import in_processes
from pipeline.storage.manifest import Manifest

Result = TypeVar("Result")


def work_on_shards(
    doing: str,
    work: Callable[[int], Result],
    commit: Callable[[int, Result], None],
    todo: Sequence[int],
    manifest: Manifest,
    threads: int | None,
    console: Console,
    say: Callable[[str], None],
) -> None:
    """Work on shards, and commit each when it is done; at the end, say the audio and the speed.

    Args:
        doing: What is done, such as `decoding`.
        work: What to do with a shard, in one of the processes.
        commit: Commits the result of a shard, in this process.
        todo: The shards.
        manifest: The manifest of the run.
        threads: Number of processes; `None` for as many as there are cores.
        console: Console of the live view.
        say: Prints and logs a line.

    Raises:
        RunError: A process died.
        Stopped: A signal has arrived. It says how many of these shards are committed.
    """
    started = said = time.monotonic()
    audio_s, line, done = 0.0, "", 0
    try:
        with console.status(doing) as status:
            for shard, result in in_processes(work, todo, threads or available_cores()):
                with deferring_stop():
                    commit(shard, result)
                    done += 1
                audio_s += manifest.audio_s_of_shard(shard)
                now = time.monotonic()
                line = (
                    f"{doing}: {done:,} of {counted(len(todo), 'shard')}, {format_hours(audio_s)} of audio, "
                    f"{audio_s / max(now - started, 1e-9):.0f} x real time"
                )
                status.update(line)
                if not console.is_terminal and now - said >= PLAIN_EVERY_S and done < len(todo):
                    said = now
                    say(line)
    except Stopped as stop:
        stop.kept = (
            f"what was committed stays ({doing}: {done:,} of {counted(len(todo), 'shard')}), the same command continues"
        )
        raise
    say(line)
