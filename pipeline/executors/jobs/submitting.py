"""Submits the jobs of a run: an array whose jobs compute parts of the shards, and a job that closes the run."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from pipeline.config.run_config import RunConfig
from pipeline.executors.jobs.task import Task
from pipeline.runtime.errors import RunError, UserError
from pipeline.runtime.signals import deferring_stop
from pipeline.runtime.terminal import counted
from pipeline.storage.run_directory import RunDirectory

_STOP_S = 300
"""Seconds before its time limit at which a job is told to stop: for a batch, and the commits that have begun."""
LOOK_S = 0.1
"""Seconds between two looks at a job that runs on this machine."""


class ClusterSubmission:
    """Fits `pipeline.executors.Submission`."""

    def __init__(self, config: RunConfig, directory: RunDirectory, say: Callable[[str], None]) -> None:
        """Submit nothing yet."""
        self._config, self._directory, self._say = config, directory, say
        self._options: Any = config.settings.executor
        if not isinstance(directory.root, Path):
            raise UserError(
                f"run_dir={directory.root}: executor=slurm keeps files of its jobs in the run directory, which must "
                "be a folder that all nodes share; give one, or start each part yourself with executor.part="
            )
        self._root: Path = directory.root
        self._folder = self._root / "logs/slurm"
        self._num_parts = 0
        seconds = 3600 * self._options.time_hours
        # submitit counts a job as out of time from 80 % of its limit on.
        self._stop_s = int(min(_STOP_S, seconds / 6))

    def check(self) -> None:
        """See `Submission.check`."""
        if "%" in os.path.abspath(self._folder):
            raise UserError(f"run_dir={self._root}: Slurm gives % a meaning in paths; give a run_dir= without %")
        if self._options.cluster == "slurm":
            for tool in ("sbatch", "srun"):
                if shutil.which(tool) is None:
                    raise UserError(
                        f"executor=slurm: there is no {tool} here; give this command on a login node of the cluster, "
                        "or add executor.cluster=local to try it out"
                    )
            self._refuse_queued()
        self._config.source.fetch()  # here, because nodes may have no network

    def _refuse_queued(self) -> None:
        """Refuse a run whose jobs are waiting or running. Where squeue does not tell, the locks of the parts hold."""
        submitted = sorted(path.name.partition("_")[0] for path in self._folder.glob("[0-9]*_submission.sh"))
        command = ["squeue", "--noheader", "--format=%A", f"--user={os.getuid()}", f"--jobs={','.join(submitted)}"]
        queued: set[str] = set()
        if submitted:
            with suppress(OSError, subprocess.SubprocessError):
                asked = subprocess.run(
                    command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=60
                )
                queued = {*asked.stdout.split()} & {*submitted}
        if queued:
            raise UserError(
                f"run_dir={self._root}: jobs of this run are waiting or running; wait for them, or end them "
                f"with scancel {' '.join(sorted(queued))}, and give the command again"
            )

    def plan(self, num_shards: int) -> None:
        """See `Submission.plan`. A job without a shard would be of no use."""
        self._num_parts = min(self._options.tasks, num_shards)

    def submit(self) -> int:
        """See `Submission.submit`."""
        self.check()
        _require_own(self._folder)
        stages = [stage for stage in self._config.settings.stages if stage in ("vad", "align", "score", "report")]
        parts = [
            self._task(f"executor.part={part}/{self._num_parts}", "stages=[infer]")
            for part in range(1, self._num_parts + 1)
        ]
        # A command for one part of one also closes a run on a file system without locks.
        closing = self._task("executor.part=1/1", f"stages=[{','.join(stages)}]") if stages else None
        return self._run(parts, closing) if self._options.cluster != "slurm" else self._queue(parts, closing, stages)

    def _task(self, *overrides: str) -> Task:
        """Return a task that repeats the command with other settings, which go before those that were typed."""
        run_dir = f"run_dir={os.path.abspath(self._root)}"
        return Task([*self._config.arguments, run_dir, *overrides], max(1.0, 0.9 * self._stop_s))

    def _queue(self, parts: list[Task], closing: Task | None, stages: Iterable[str]) -> int:
        """Submit the jobs to Slurm."""
        with deferring_stop():  # a stop leaves no array without the job that closes the run
            jobs = self._submitted(parts)
            ids = [jobs[0].job_id.partition("_")[0]]
            each = "each of which computes a part of the shards" if len(parts) > 1 else "which computes the shards"
            self._say(f"submitted job {ids[0]}: {counted(len(parts), 'task')}, {each}")
            if closing is not None:
                # Without the second option, Slurm keeps a job whose dependency has failed for ever.
                further = {"dependency": f"afterok:{ids[0]}", "kill-on-invalid-dep": "yes"}
                ids += [job.job_id for job in self._submitted([closing], further)]
                self._say(f"submitted job {ids[1]}: {' and '.join(stages)}, when all tasks have ended well")
        self._say(f"what the jobs print is in {self._folder}; squeue --jobs={','.join(ids)} shows them")
        self._say(f"python -m pipeline.status {shlex.quote(str(self._root))} says how far the run is")
        return 0

    def _run(self, parts: list[Task], closing: Task | None) -> int:
        """Run the jobs on this machine, and wait for them."""
        self._say(f"running {counted(len(parts), 'task')} on this machine; what they print is in {self._folder}")
        codes = self._ended(self._submitted(parts))
        if closing is not None:
            codes = self._ended(self._submitted([closing]))
        self._say(f"all tasks have ended well; results in {self._root}")
        return max(codes)

    def _ended(self, jobs: list[submitit.Job[int]]) -> list[int]:
        """Wait for jobs on this machine.

        Raises:
            RunError: One has failed.
        """
        codes = []
        try:
            for job in jobs:
                with suppress(SystemExit):  # a job of submitit's executor `debug` runs here
                    self._await(job)
                    if self._options.cluster == "debug" or job.paths.result_pickle.exists():
                        codes.append(job.result())
        except BaseException:
            self._stop(jobs)
            raise
        if len(codes) < len(jobs):
            raise RunError(
                f"executor.cluster={self._options.cluster}: {len(jobs) - len(codes)} of {counted(len(jobs), 'task')} "
                f"failed; {self._folder} has what they printed; the same command continues the run"
            )
        return codes

    def _stop(self, jobs: list[submitit.Job[int]]) -> None:
        """Stop jobs on this machine cleanly, and wait for their end."""
        running = [job for job in jobs if self._options.cluster == "local" and _runs(job)]
        for job in running:
            os.kill(int(job.job_id), signal.SIGTERM)
        for job in running:
            self._await(job)

    def _await(self, job: submitit.Job[int]) -> None:
        """Wait for the end of a job on this machine.

        submitit itself waits 15 s longer for the result of a job that has failed and leaves none.
        """
        while self._options.cluster == "local" and _runs(job):
            time.sleep(LOOK_S)
        if self._options.cluster == "debug":
            job.wait()

    def _submitted(self, tasks: list[Task], further: Mapping[str, str] | None = None) -> list[submitit.Job[int]]:
        """Submit tasks, as an array if there are several.

        Args:
            tasks: The tasks.
            further: Further options of sbatch.

        Raises:
            UserError: sbatch refuses them.
        """
        options = self._options
        executor = submitit.AutoExecutor(
            self._folder, cluster=options.cluster, slurm_max_num_timeout=options.requeues,
            local_max_num_timeout=options.requeues,
        )  # fmt: skip
        # Slurm requeues no job where the cluster says so, unless the job does.
        added = {**options.sbatch_options(), "requeue": True, **(further or {})}
        executor.update_parameters(
            name=f"speech-{self._root.name}",
            timeout_min=max(1, round(60 * options.time_hours)),
            gpus_per_node=options.gpus or None,
            cpus_per_task=options.cpus,
            mem_gb=options.memory_gb,
            local_setup=options.setup or None,
            slurm_setup=options.setup or None,
            slurm_partition=options.partition,
            slurm_account=options.account,
            slurm_signal_delay_s=self._stop_s,
            slurm_array_parallelism=options.tasks,
            # Since 22.05, srun no longer takes the number of cores from sbatch.
            slurm_srun_args=[f"--cpus-per-task={options.cpus}"],
            slurm_additional_parameters=added,
        )
        # Jobs on this machine get no Ctrl-C: this command stops them.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            return executor.submit_array(tasks)
        except (FailedJobError, FailedSubmissionError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"executor=slurm: sbatch refuses the jobs ({reason}); correct the setting executor.* that it names"
            ) from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _runs(job: submitit.Job[int]) -> bool:
    """Whether the process of a job on this machine has not ended."""
    return job.get_info(mode="force")["jobState"] == "RUNNING"


def _require_own(folder: Path) -> None:
    """Create the folder of the jobs, whose files are executed, or refuse one in which others can place files.

    Raises:
        UserError: It is no folder, or somebody else owns it or can write to it.
    """
    folder.parent.mkdir(exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UserError(
            f"{folder}: must be a folder that only you can write to, because jobs run what is in it; remove it"
        )
