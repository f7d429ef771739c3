"""Run every benchmark, one after another; on CUDA the tests that need CUDA run first (`make bench`, `make bench-gpu`).

Example:
    python scripts/bench/all.py --device cuda

If a benchmark fails, the others still run, and the exit code is 1. All other arguments are passed to every benchmark.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import ROOT

SCRIPTS = ("forward", "profile_forward", "end_to_end", "around", "stages", "layouts", "growth", "precision")


def main() -> int:
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    made.add_argument("--only", nargs="+", choices=("tests", *SCRIPTS), default=["tests", *SCRIPTS])
    options, others = made.parse_known_args()
    codes: dict[str, int] = {}
    # One folder for all of them, so that weights are made once.
    with tempfile.TemporaryDirectory(prefix="bench-") as work:
        given = ["--device", options.device, "--work", work, *others]
        commands = {name: [f"{Path(__file__).with_name(name)}.py", *given] for name in options.only}
        if "tests" in commands:
            commands["tests"] = ["-m", "pytest", "tests/models/test_cuda.py", "-q"]
            if options.device == "cpu":
                del commands["tests"]
        for name, command in commands.items():
            print(f"\n== {name}", flush=True)
            started = time.monotonic()
            codes[name] = subprocess.run([sys.executable, *command], cwd=ROOT, check=False).returncode
            print(f"== {name}: {time.monotonic() - started:.0f} s, exit {codes[name]}", flush=True)
    failed = [name for name, code in codes.items() if code]
    print(f"\nfailed: {', '.join(failed)}" if failed else "\nall done")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
