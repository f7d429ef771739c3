"""`executor=slurm`: hand the run over to jobs of Slurm, through submitit.

The command that a person gives lists the recordings and submits an array of jobs. Job k of n gives the same command
again, with `stages=[infer]` and `executor.part=k/n`, and then computes as `executor=local` does. When all have ended
well, a last job makes the scores and the report. No job knows of another: the commit records say what is done.
"""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from omegaconf import MISSING

from pipeline.executors import local
from pipeline.runtime.errors import UserError, one_of

if TYPE_CHECKING:
    from pipeline.config.run_config import RunConfig
    from pipeline.executors import Submission
    from pipeline.storage.run_directory import RunDirectory

_CLUSTERS = ("slurm", "local", "debug")
_MOST = 1000
"""Jobs in an array. Slurm's own limit, MaxArraySize, is 1001 unless the cluster sets another."""
_OTHERWISE = {
    "array": "executor.tasks=",
    "dependency": "another run, when this one is done",
    "error": "the folder logs/slurm of the run",
    "output": "the folder logs/slurm of the run",
    "signal": "executor.time_hours=",
    "time": "executor.time_hours=",
}
"""Options of sbatch that are set here, and what takes their place."""


@dataclass
class Options(local.Options):
    """`executor.*` of `executor=slurm`, besides those of `executor=local`, which each job computes with.

    Attributes:
        tasks: Number of jobs in the array.
        partition, account: Where the jobs run, and who is charged.
        time_hours: Time limit of a job.
        requeues: How often a job may continue after its time limit.
        gpus, cpus, memory_gb: What each job gets.
        setup: Lines of shell that a job runs first.
        sbatch: Further options of sbatch, as on its command line.
        cluster: submitit's executor: `slurm`, `local` or `debug`.
    """

    tasks: int = MISSING
    partition: str | None = None
    account: str | None = None
    time_hours: float = 12
    requeues: int = 20
    gpus: int = 1
    cpus: int = 8
    memory_gb: float | None = None
    setup: list[str] = field(default_factory=list)
    sbatch: str | None = None
    cluster: str = "slurm"

    def __post_init__(self) -> None:
        """Refuse values that cannot be.

        Raises:
            UserError: With the key, the value and what is allowed.
        """
        super().__post_init__()
        one_of("executor.cluster", self.cluster, _CLUSTERS)
        for key, least, most in (
            ("tasks", 1, _MOST), ("requeues", 0, 10_000), ("gpus", 0, 64), ("cpus", 1, 4096),
            ("time_hours", 0.1, 8760), ("memory_gb", 1, 1e5),
        ):  # fmt: skip
            value = getattr(self, key)
            if value is not None and not least <= value <= most:
                raise UserError(f"executor.{key}={value}: must be a number from {least} to {most:g}")
        self.sbatch_options()

    def sbatch_options(self) -> dict[str, str | bool]:
        """Return the further options of sbatch by their names; one without a value has the value true.

        Raises:
            UserError: The text has other words than `--name` and `--name=value`, or an option that is set otherwise.
        """
        found: dict[str, str | bool] = {}
        try:
            words = shlex.split(self.sbatch or "")
        except ValueError as error:
            raise UserError(f"executor.sbatch={self.sbatch}: cannot be read ({error})") from None
        for word in words:
            name, equals, value = word.removeprefix("--").partition("=")
            if not word.startswith("--") or not name:
                raise UserError(f"executor.sbatch={self.sbatch}: {word!r} is no option; write --name=value or --name")
            if name in _OTHERWISE:
                raise UserError(f"executor.sbatch={self.sbatch}: --{name} cannot be set; use {_OTHERWISE[name]}")
            found[name] = value if equals else True
        return found


class Executor(local.Executor):
    """Computes one part, in a job."""


def submission(config: RunConfig, directory: RunDirectory, say: Callable[[str], None]) -> Submission | None:
    """Return what submits the jobs; `None` in a job, which computes, and for a command that has nothing to compute.

    Raises:
        UserError: The extra `slurm` is not installed.
    """
    settings = config.settings
    if settings.executor.part is not None or "infer" not in settings.stages or settings.extend == "check":
        return None
    if importlib.util.find_spec("submitit") is None:
        raise UserError(
            "executor=slurm: needs the package submitit, which the extra slurm has; run pip install submitit"
        )
    from pipeline.executors.jobs.submitting import ClusterSubmission

    return ClusterSubmission(config, directory, say)
