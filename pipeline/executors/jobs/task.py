"""What a job of a cluster runs: a command of the pipeline, in a process of its own that it can stop cleanly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from submitit.core.utils import DelayedSubmission, UncompletedJobError

COMPLETE = (0, 3)
"""Exit codes of a command that has done everything; with 3 some utterances have failed."""
_KILLED_WITHIN_S = 600.0
"""Seconds in which Slurm kills a job, or asks for its checkpoint, after it has sent SIGTERM to the job."""


class Task:
    """Runs a command of the pipeline. submitit calls it in a job, and `checkpoint` when the job's time is up."""

    def __init__(self, arguments: Sequence[str], stop_s: float) -> None:
        """Run nothing yet.

        Args:
            arguments: Arguments of `python -m pipeline.run`.
            stop_s: Seconds that the command has for a clean stop; then it is killed.
        """
        self.arguments = tuple(arguments)
        self.stop_s = stop_s
        self._command: subprocess.Popen[bytes] | None = None
        self._asked = False

    def __call__(self) -> int:
        """Run the command to its end.

        Returns:
            Its exit code, 0 or 3.

        Raises:
            SystemExit: It ended with another code, or the job cannot be requeued. Slurm then counts the job as failed.
        """
        cluster = os.environ.get("SUBMITIT_EXECUTOR")
        if cluster is not None:  # else submitit's executor `debug` runs this in the process of the command
            signal.signal(signal.SIGTERM, lambda *_: self._ask_to_stop())
        try:
            code = self._wait()
            if code not in COMPLETE and self._asked and cluster == "slurm":
                # A preempted job that ends by itself is not requeued by Slurm.
                time.sleep(_KILLED_WITHIN_S)
        except (OSError, subprocess.SubprocessError, UncompletedJobError) as error:  # submitit has tried to requeue it
            sys.exit(
                f"error: this job does not continue in a further one ({' '.join(str(error).split())}); what was "
                "committed stays, and the same command continues the run"
            )
        finally:
            self._stop()
        if code not in COMPLETE:
            sys.exit(code)
        return code

    def checkpoint(self) -> DelayedSubmission:
        """Stop the command cleanly, and return what continues it. submitit then requeues the job."""
        self._stop()
        return DelayedSubmission(Task(self.arguments, self.stop_s))

    def _wait(self) -> int:
        """Start the command, and wait for its end. It does not get the signal that Slurm may send to all processes."""
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
        try:
            self._command = subprocess.Popen([sys.executable, "-m", "pipeline.run", *self.arguments])
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        # The handler of a signal that interrupts `Popen.wait` could not wait for the command too.
        os.waitid(os.P_PID, self._command.pid, os.WEXITED | os.WNOWAIT)
        return self._command.wait()

    def _runs(self) -> bool:
        """Whether the command has been started and has not ended."""
        command = self._command
        if command is None or command.returncode is not None:
            return False
        return os.waitid(os.P_PID, command.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None

    def _ask_to_stop(self) -> None:
        """Send SIGTERM to the command once: a second signal would end it at once."""
        if self._command is not None and not self._asked and self._runs():
            self._asked = True
            self._command.send_signal(signal.SIGTERM)

    def _stop(self) -> None:
        """Let the command end after its current batch and commits; kill it if that takes too long."""
        self._ask_to_stop()
        end = time.monotonic() + self.stop_s
        while self._command is not None and self._runs():
            if time.monotonic() > end:
                self._command.kill()
            time.sleep(0.1)
