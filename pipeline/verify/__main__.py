"""`python -m pipeline.verify RUN_DIR` checks whether a run directory still holds everything that was committed.

Only `--exactness` imports torch. `pipeline.verify` says when a run directory is not sound.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from pipeline.runtime.command import Parser, command
from pipeline.runtime.errors import UserError
from pipeline.runtime.places import place
from pipeline.runtime.starting import importing_torch
from pipeline.runtime.stdout import console
from pipeline.runtime.terminal import printable
from pipeline.storage.run_directory import RunDirectory
from pipeline.verify import messages
from pipeline.verify.audit import Audit, audit
from pipeline.verify.shard import audit_shard

_USAGE = "python -m pipeline.verify RUN_DIR [--exactness N [--device NAME]] [--retract]"
_PAGE = """\
usage: python -m pipeline.verify RUN_DIR [option ...]

Checks everything that a run has committed: hashes, sizes, row counts and
columns of each table, the commit records, the manifest and run.json. Also
checks that each id of the manifest is either in all requested tables or in
failures, and that each array has the right size and only finite numbers.
Prints one line for each problem, with the remedy, and a summary of
what is sound and what a rerun would do. RUN_DIR is the folder that the run
writes to, such as runs/digits/digits. Changes nothing without --retract. The
run may be going on.

options
  --exactness N   also run N utterances again, each alone, and print the
                  largest difference to the stored values; loads the model
  --device NAME   device for --exactness: auto (default), cpu, cuda, cuda:1
  --retract       remove the commit records of damaged shards, so that a rerun
                  of the same command computes these shards again, and only
                  these
  -h, --help      this page

exit codes
  0    sound; shards may be pending
  1    not sound, or --exactness found a difference, or a file could not be
       read
  2    there is no run in that folder, or the options cannot be used"""


def main(arguments: Sequence[str]) -> int:
    """Verify a run directory and return the exit code."""
    return command(arguments, _PAGE, lambda given: _Verification(_parsed(given)).run(), "not verified")


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(_USAGE)
    parser.add_argument("run_dir", metavar="RUN_DIR", type=place)
    parser.add_argument("--exactness", metavar="N", type=int)
    parser.add_argument("--device", metavar="NAME")
    parser.add_argument("--retract", action="store_true")
    given = parser.parse_args(arguments)
    if given.exactness is not None and given.exactness < 1:
        raise UserError(f"--exactness={given.exactness}: must be 1 or more, the number of utterances to run again")
    if given.device is not None and given.exactness is None:
        raise UserError(f"--device={given.device}: needs --exactness; add --exactness N")
    return given


class _Verification:
    """One call of the command."""

    def __init__(self, given: argparse.Namespace) -> None:
        self._given = given
        self._directory = RunDirectory(RunDirectory.at(given.run_dir).root)  # all of the run that has the decoding
        self._console = console()

    def run(self) -> int:
        """Check the run, print the findings, and do what the options ask for. Return the exit code."""
        if self._given.retract and self._directory.has_commits():
            with self._lock():  # checks before hours of reading that the lock can be had
                pass
        found = self._audit()
        for line in messages.findings(found, self._directory, self._given.retract):
            self._say(line)
        if self._given.retract and found.taken_as_done:
            self._retract(found)
        self._say(messages.summary(found, self._directory, self._given.retract))
        try:
            exact = self._given.exactness is None or self._is_exact(found)
        except UserError as error:
            if not found.problems:
                raise
            self._say(f"error: {error}")  # the exit code reports the problems
            exact = False
        return 0 if exact and not found.problems else 1

    def _lock(self) -> AbstractContextManager[None]:
        return self._directory.lock(waiting=lambda by: self._say(f"waiting for {by}"))

    def _say(self, text: str) -> None:
        self._console.print(printable(text), markup=False)

    def _audit(self) -> Audit:
        if not self._console.is_terminal:
            return audit(self._directory)
        with self._console.status("reading the manifest") as status:
            return audit(self._directory, lambda done, total: status.update(f"checked {done} of {total} shards"))

    def _retract(self, found: Audit) -> None:
        """Remove the commit records of damaged shards that a rerun would skip. A rerun finds other damage by itself."""
        if found.work.manifest is None or found.work.recorded is None:
            self._say("no commit record is removed: without a sound manifest and run.json, damage is uncertain")
            return
        with self._lock():
            for shard, number in found.taken_as_done.items():
                record = self._directory.commit_name(shard, number)
                # Checked again under the lock, because a run may have computed the shard again before.
                if self._directory.has(record) and audit_shard(self._directory, found.work, shard).state == "damaged":
                    self._directory.retract(shard, number)
                    self._say(f"removed {self._directory.locate(record)}")

    def _is_exact(self, found: Audit) -> bool:
        """Run utterances again, and return whether they equal the stored values."""
        work = found.work
        if work.manifest is None or work.recorded is None:
            raise UserError(
                f"{self._directory.root}: --exactness needs a sound manifest and run.json; repair them first"
            )
        with importing_torch():
            from pipeline.verify.exactness import rerun_alone

        records = [each.committed for each in found.shards if each.state != "damaged" and each.committed is not None]
        count, device = self._given.exactness, self._given.device or "auto"
        with self._console.status("running utterances again") if self._console.is_terminal else nullcontext():
            exactness = rerun_alone(self._directory, work.manifest, work.recorded, records, count, device)
        for line in messages.exactness_lines(exactness):
            self._say(line)
        return exactness.same


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
