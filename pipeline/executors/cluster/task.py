"""What the actors of a run get, and what they check before they compute."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.executors.processes.messages import Task
from pipeline.inference.job import Job
from pipeline.runtime.errors import UserError
from pipeline.storage.names import LOCK, STAGING
from pipeline.storage.run_files import full

if TYPE_CHECKING:
    from pipeline.executors.processes.link import Link

_COMPARED = ("torch", "torchaudio", "numpy", "pyarrow")
"""Packages that compute and write. Another version may give other bits."""


@dataclass(frozen=True)
class ClusterTask(Task):
    """A task for workers that may be on other machines. They do not inherit the lock of the run.

    Attributes:
        sample: A recording of the run that can be read on the machine of the run; `None` if there is none.
    """

    sample: str | None

    def enter(self, link: Link) -> None:
        """Check that this machine sees the files of the run. Let the run decide on each write.

        Raises:
            UserError: It does not.
        """
        require_marker(self.job, self.locks[-1].said)
        if self.sample is not None and not os.access(self.sample, os.R_OK):
            raise UserError(
                f"{self.sample}: cannot be read on {socket.gethostname()}; the recordings must be on storage that all "
                "nodes share, at the same path"
            )
        self.job.directory.write_under(link)


def require_marker(job: Job, said: str) -> None:
    """Check that this machine sees the lock file of the run, which names the process that runs it, and may write.

    Args:
        job: The job.
        said: The text in the lock file.

    Raises:
        UserError: This machine has another file there or none, or may not write.
    """
    where = f"run_dir={full(job.directory.root)}: {socket.gethostname()}"
    try:
        found = job.directory.read(LOCK).decode("utf-8", "replace")
    except OSError as error:
        found = error.strerror or type(error).__name__
    if said not in found:  # the text of a lock file, or of a lease, which has more
        raise UserError(
            f"{where} does not see the run ({found!r} in place of the lock file of {said!r}); choose a run_dir= on "
            "storage that all nodes share, at the same path"
        )
    staging = job.directory.locate(STAGING)
    if isinstance(staging, Path) and not os.access(staging, os.W_OK):
        raise UserError(f"{where} may not write there; let every node write to the shared storage")


def sample_of(job: Job) -> str | None:
    """Return the first recording of the pending shards if this machine can read it."""
    path = job.manifest.utterance(job.manifest.rows_of_shard(job.pending[0]).start).path
    return path if os.access(path, os.R_OK) else None


def versions() -> dict[str, str]:
    """Return the versions of what decides the bits of a result, by name; of the pipeline, a digest of its code."""
    package = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes())
    found = {"pipeline": digest.hexdigest()[:12]}
    for name in _COMPARED:
        try:
            found[name] = version(name).partition("+")[0]  # a build for CPUs and one for GPUs are one version
        except PackageNotFoundError:
            found[name] = "none"
    return found


def require_versions(expected: Mapping[str, str]) -> None:
    """Check that this machine has the versions of the machine of the run.

    Raises:
        UserError: A version differs.
    """
    found = versions()
    differing = [
        f"{name} {found.get(name)} in place of {wanted}"
        for name, wanted in expected.items()
        if found.get(name) != wanted
    ]
    if differing:
        raise UserError(
            f"executor=ray: {socket.gethostname()} has {', '.join(differing)}; install the same versions on every node"
        )
