"""`executor=local`: run all shards in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console

from pipeline.runtime.progress import RunProgress, format_duration
from pipeline.runtime.terminal import counted
from pipeline.storage.names import METRICS

if TYPE_CHECKING:
    from pipeline.inference.job import Job


@dataclass
class Options:
    """`executor.*` of `executor=local`, which has no options."""


class Executor:
    """Runs the shards one after another in this process."""

    def __init__(self, options: Options) -> None:
        """Create the executor."""

    def run(self, job: Job, console: Console, say: Callable[[str], None]) -> str:
        """Run each pending shard; see `pipeline.executors.Executor.run`."""
        # Imported here, because the configuration reads `Options` without waiting for torch.
        import torch

        from pipeline.inference.execute import execute

        progress = RunProgress(
            console,
            job.directory.local_log(METRICS),
            total_s=job.audio_s,
            done_s=job.done_s,
            total_shards=job.manifest.num_shards,
            done_shards=job.manifest.num_shards - len(job.pending),
            failures=job.failures_before,
        )
        with progress:
            kept = execute(job, job.pending, torch.device(job.device), progress)
        if kept:
            say(
                f"{counted(len(kept), 'shard')} kept unchanged ({', '.join(map(str, kept[:10]))}), because "
                "an utterance that had a result would have failed now"
            )
        if progress.is_bound_by_writing and job.tables.faster_setting is not None:
            say(
                f"writing held this run up: it waited {format_duration(progress.waited_for_writer_s)} of "
                f"{format_duration(progress.elapsed_s)} for the writer; {job.tables.faster_setting} "
                "(with another run_dir=) takes a quarter of the time to write"
            )
        return f", {progress.real_time:.1f} x real time, in {format_duration(progress.elapsed_s)}"
