"""`python -m pipeline.verify RUN_DIR`: whether a run directory still holds what was committed.

Reading needs no torch; only `--exactness` loads the model. What counts as not sound stands in `pipeline.verify`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console

from pipeline.runtime.command import Parser, command
from pipeline.runtime.errors import UserError
from pipeline.runtime.stdout import standard_output
from pipeline.runtime.terminal import printable
from pipeline.storage.run_directory import RunDirectory
from pipeline.verify import messages
from pipeline.verify.audit import Audit, audit
from pipeline.verify.shard import audit_shard

_USAGE = "python -m pipeline.verify RUN_DIR [--exactness N [--device NAME]] [--retract]"
_PAGE = """\
usage: python -m pipeline.verify RUN_DIR [option ...]

Checks everything that a run has committed: hashes, sizes, row counts and
columns of every table, commit records, manifest and run.json, and that every
id of the manifest is in all requested tables or in failures, once. One line
for each thing that is not as it was committed, with what a rerun will do; then
what is sound and what the same command again would do. RUN_DIR is the folder
that the run writes to, such as runs/digits/digits. Reads only, also while the
run goes on.

options
  --exactness N   also run N utterances again, each alone, and print the
                  largest difference to what is stored; loads the model
  --device NAME   where to: auto (default), cpu, cuda, cuda:1
  --retract       take back the commit records of damaged shards, so that the
                  same command again does these shards again, and only these;
                  the one thing that is ever removed
  -h, --help      this page

exit codes
  0    sound; shards that are not done yet are no damage
  1    not sound, or with --exactness not the same alone
  2    there is no run in that folder, or what was asked cannot be done"""


def main(arguments: Sequence[str]) -> int:
    """Verify a run directory and return the exit code."""
    return command(arguments, _PAGE, lambda given: _Verification(_parsed(given)).run(), "not verified")


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(_USAGE)
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path)
    parser.add_argument("--exactness", metavar="N", type=int)
    parser.add_argument("--device", metavar="NAME")
    parser.add_argument("--retract", action="store_true")
    given = parser.parse_args(arguments)
    if given.exactness is not None and given.exactness < 1:
        raise UserError(f"--exactness={given.exactness}: must be 1 or more; so many utterances are run again")
    if given.device is not None and given.exactness is None:
        raise UserError(f"--device={given.device}: is where to run utterances again; add --exactness N")
    return given


class _Verification:
    """One invocation: what it was asked and what it says."""

    def __init__(self, given: argparse.Namespace) -> None:
        self._given = given
        self._directory = RunDirectory(given.run_dir)
        self._console = Console(file=standard_output(), highlight=False, soft_wrap=True)

    def run(self) -> int:
        """Check, say, take back and run again, as far as that was asked for."""
        if self._given.retract and self._directory.has_commits():
            with self._directory.lock():  # whoever cannot take back records learns it before hours of reading
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
            self._say(f"error: {error}")  # of what is not sound the exit code tells more
            exact = False
        return 0 if exact and not found.problems else 1

    def _say(self, text: str) -> None:
        self._console.print(printable(text), markup=False)

    def _audit(self) -> Audit:
        if not self._console.is_terminal:
            return audit(self._directory)
        with self._console.status("reading the manifest") as status:
            return audit(self._directory, lambda done, total: status.update(f"checked {done} of {total} shards"))

    def _retract(self, found: Audit) -> None:
        """Take back what a rerun would take as done; everything else that is damaged it does again by itself."""
        if found.work.manifest is None or found.work.recorded is None:
            self._say("no record is taken back before the manifest and run.json are sound: they say what it should be")
            return
        with self._directory.lock():
            for shard in found.taken_as_done:
                record = self._directory.commit_name(shard)
                # Looked at once more, now that no run can have done it again meanwhile.
                if self._directory.has(record) and audit_shard(self._directory, found.work, shard).state == "damaged":
                    self._directory.retract(shard)
                    self._say(f"took back {self._directory.locate(record)}")

    def _is_exact(self, found: Audit) -> bool:
        """Run utterances again; whether they are what is stored of them."""
        work = found.work
        if work.manifest is None or work.recorded is None:
            raise UserError(f"{self._directory.root}: without a sound manifest and run.json nothing can be run again")
        from pipeline.verify.exactness import rerun_alone  # loads torch

        records = [each.record for each in found.shards if each.state == "sound" and each.record is not None]
        count, device = self._given.exactness, self._given.device or "auto"
        with self._console.status("running utterances again") if self._console.is_terminal else nullcontext():
            exactness = rerun_alone(self._directory, work.manifest, work.recorded, records, count, device)
        for line in messages.exactness_lines(exactness):
            self._say(line)
        return exactness.same


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
