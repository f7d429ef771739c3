"""A benchmark whose runs of this project begin warm: `warm_bench.py SCRIPT ARGUMENTS`, itself started warm.

Of a benchmark in its quick form most of the time is interpreters that import torch. Rivals, and Python commands that
are neither a module nor a script, stay processes of their own.
"""

from __future__ import annotations

import os
import resource
import runpy
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import warm


def main() -> None:
    script = sys.argv[1]
    sys.argv[:] = sys.argv[1:]
    threads = int(sys.argv[sys.argv.index("--threads") + 1])
    os.environ["OMP_NUM_THREADS"] = str(threads)
    sys.path.insert(0, os.path.dirname(script))
    import common  # imports nothing of the pipeline

    server = warm.Server(common.environment(threads), forked=True)
    import contestants

    cold = contestants.command

    def command(arguments: Sequence[str], threads: int) -> tuple[float, float]:
        program, *given = arguments[1:] if arguments[0] == "-m" else arguments
        if not program.endswith(".py") and arguments[0] != "-m":
            return cold(arguments, threads)
        started = time.perf_counter()
        env = common.environment(threads)
        done = server.run(program, given, cwd=Path.cwd(), env=env, timeout=240)
        if done.returncode:
            raise SystemExit(f"{arguments}: {done.stderr[-2000:]}")
        return time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    contestants.command = command
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
