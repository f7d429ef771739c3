"""Check and measure the project on a CUDA device within a time limit, 8 minutes by default.

Example:
    python scripts/gpu_check.py --out runs/gpu-check

This needs torch, torchaudio, the packages of the pipeline, and pytest, but neither a virtual environment nor a network.
Wheels in the folder `.whl/` replace packages that are missing. Each step is a process with its own time limit, and a
step that fails or hangs does not stop the others. After every step the output folder has the results so far:
`summary.txt` with the main figures, `summary.json` with the same for programs, and `results.tar.gz` with all tables and
all that the steps printed. The exit code is 1 if a step failed, ran out of time or was left out.

With `--device cpu --quick` the same steps run with tiny sizes, and their figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BENCH = ROOT / "scripts" / "bench"
sys.path.insert(0, str(BENCH))

from flops import peak  # noqa: E402
from steps import Outcome, Runner, Step  # noqa: E402

BASE = "wav2vec2_asr_base_960h"
SLOWER = 3
"""Factor for the time limits of the steps on a CPU, which may be busy with other things."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = parsed(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGHUP, _stop)
    with tempfile.TemporaryDirectory(prefix="gpu-check-", ignore_cleanup_errors=True) as folder:
        work = Path(folder)
        kept = work / "kept"
        kept.mkdir()
        packages = work / "packages"
        paths = [str(packages), str(ROOT), os.environ.get("PYTHONPATH", "")]
        # Without a buffer, what a step prints is there even if the step is killed.
        settings = {"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
        env = os.environ | settings | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        runner = Runner(options.out, kept, env, ROOT, options.seconds, summary)
        chosen = [step for step in steps(options, work, kept) if step.name in options.only]
        runner.run(chosen)
        print("\n" + (options.out / "summary.txt").read_text(), flush=True)
    return 0 if all(outcome.result == "done" for outcome in runner.outcomes) else 1


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    made = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    made.add_argument("--out", type=Path, default=ROOT / "runs" / "gpu-check", help="folder for the results")
    made.add_argument("--seconds", type=float, default=480.0, help="time limit of all steps together")
    made.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    made.add_argument("--quick", action="store_true", help="tiny sizes; the figures mean nothing")
    made.add_argument("--only", nargs="+", choices=STEPS, default=STEPS, help="names of steps")
    made.add_argument("--wheels", type=Path, default=ROOT / ".whl", help="folder of wheels for missing packages")
    options = made.parse_args(arguments)
    options.out, options.wheels = options.out.resolve(), options.wheels.resolve()
    return options


STEPS = ("install", "tests", "precision", "forward", "kernels", "fused", "end_to_end", "around", "launches")


def steps(options: argparse.Namespace, work: Path, kept: Path) -> list[Step]:
    """All steps in order, with the options that keep each of them within its time limit."""
    shared = ["--device", options.device, "--results", str(kept), "--work", str(work / "bench")]
    shared += ["--quick"] if options.quick else []
    # Of the options of pytest in pyproject.toml, some need plugins that may be missing.
    pytest = ["-o", "addopts=", "--import-mode=importlib", "-p", "no:cacheprovider", "--durations=5"]

    def bench(name: str, *arguments: str) -> list[str]:
        return [str(BENCH / f"{name}.py"), *shared, *arguments]

    sized: dict[str, list[str]] = {"end_to_end": ["--hours", "8", "--rival-hours", "0.1", "--batches", "32"]}
    sized |= {"around": ["--recordings", "1500"], "kernels": ["--seconds", "475"], "forward": ["--models", BASE]}
    if options.quick:
        sized = {"kernels": ["--model", "digits"], "forward": ["--models", "digits"]}
    once = ["--rounds", "1"]
    wheels = [str(BENCH / "wheels.py"), str(options.wheels), str(work / "packages"), str(kept / "machine.json")]
    planned = [
        Step("install", 20, wheels),
        Step("tests", 65, ["-m", "pytest", *pytest, f"--junitxml={kept / 'tests.xml'}", "tests/models/test_cuda.py"]),
        Step("precision", 55, bench("precision")),
        Step("forward", 70, bench("forward", *sized.get("forward", []))),
        Step("kernels", 40, bench("kernels", *sized.get("kernels", []))),
        Step("fused", 40, bench("fused")),
        Step("end_to_end", 110, bench(
            "end_to_end", "--models", BASE, "--mixes", "librispeech", *once, *sized.get("end_to_end", [])
        )),
        Step("around", 60, bench("around", *once, *sized.get("around", []))),
        Step("launches", 15, bench("launches", "--device", "cpu", "--quick")),
    ]  # fmt: skip
    factor = SLOWER if options.device == "cpu" else 1
    return [Step(step.name, factor * step.seconds, step.command) for step in planned]


def summary(outcomes: Sequence[Outcome], kept: Path) -> tuple[dict[str, Any], str]:
    """The main figures that the steps have left so far, for programs and for people."""
    figures: dict[str, Any] = {}
    for add in (_machine, _tests, _precision, _forward, _kernels, _fused, _end_to_end, _around, _launches):
        try:
            figures |= add(kept)
        except FileNotFoundError:
            continue
        except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
            figures[f"{add.__name__.strip('_')}: not read"] = f"{type(error).__name__}: {error}"
    lines = [f"{'step':<12}{'result':<14}{'s':>7}{'at most':>9}"]
    for each in outcomes:
        less = f", shortened from {each.shortened_from_s:.0f}" if each.shortened_from_s else ""
        lines.append(f"{each.name:<12}{each.result:<14}{each.seconds:>7.1f}{each.limit_s:>9.0f}{less}")
    lines += ["", *(f"{name}: {shown(value)}" for name, value in figures.items())]
    for each in outcomes:
        if each.result not in ("done", "left out"):
            lines += ["", f"{each.name}: {each.result}; it said at the end:", *(f"    {line}" for line in each.tail)]
    return {"figures": figures}, "\n".join(lines) + "\n"


def shown(value: object) -> str:
    if isinstance(value, list):
        return "".join(f"\n    {line}" for line in value) or "none"
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4g}"


def _report(kept: Path, name: str) -> dict[str, Any]:
    """What a benchmark has stored.

    Raises:
        FileNotFoundError: It has stored nothing.
    """
    found = sorted(kept.glob(f"{name}-*.json"))
    if not found:
        raise FileNotFoundError(name)
    report: dict[str, Any] = json.loads(found[0].read_text())
    return report


def _machine(kept: Path) -> dict[str, Any]:
    facts = json.loads((kept / "machine.json").read_text())
    wanted = ("gpu", "gpu_memory_gib", "nvidia_smi", "cuda", "python", "cores", "memory_gib", "free_gib")
    found: dict[str, Any] = {
        "device": facts.get("gpu", "no CUDA device"),
        "machine": ", ".join(f"{key} {facts[key]}" for key in wanted if facts.get(key)),
        "packages": ", ".join(f"{name} {version}" for name, version in facts["packages"].items()),
    }
    broken = [f"{name}: {version}" for name, version in facts["packages"].items() if version.startswith("error")]
    return found | ({"packages that cannot be imported": broken} if broken else {})


def _tests(kept: Path) -> dict[str, Any]:
    from xml.etree import ElementTree

    suite = next(ElementTree.parse(kept / "tests.xml").getroot().iter("testsuite"))
    count = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
    bad = [case for case in suite.iter("testcase") if {"failure", "error"} & {child.tag for child in case}]
    found: dict[str, Any] = {"tests that need CUDA": ", ".join(f"{number} {key}" for key, number in count.items())}
    return found | ({"tests that failed": [str(case.get("name")) for case in bad]} if bad else {})


def _precision(kept: Path) -> dict[str, Any]:
    measured = _report(kept, "precision")["measured"]
    return {f"labels changed, {name}": f"{result['changed']:.3%}" for name, result in measured.items()}


def _forward(kept: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    report = _report(kept, "forward")
    for model, measured in report["measured"].items():
        rate, flop_per_s = median(measured["matrix_flop_per_s"]), measured["flop_per_s"]
        speeds = {name: measured["audio_s"] / each["median"] for name, each in measured["seconds"].items()}
        found[f"x real time, forward only, {model}"] = [f"{name}: {shown(speed)}" for name, speed in speeds.items()]
        ours = max(speed for name, speed in speeds.items() if name.startswith("this project"))
        found["matrix products, TFLOP/s"] = rate / 1e12
        found["share of the matrix product rate, forward only"] = f"{ours * flop_per_s / rate:.1%}"
        highest = peak(report["machine"].get("gpu", ""))
        if highest:
            found["share of the device's peak, forward only"] = (
                f"{ours * flop_per_s / highest:.1%} of {highest / 1e12:.0f} TFLOP/s in bf16"
            )
    return found


def _kernels(kept: Path) -> dict[str, Any]:
    measured = _report(kept, "kernels")["measured"]
    waits = [f"{times} x {place}" for place, times in measured.get("waits", {}).items()]
    found: dict[str, Any] = {"places where the host waits, in two batches": waits}
    if "batch_s" in measured:
        found["x real time, batches through the engine"] = measured["audio_s"] / measured["batch_s"]
        found["idle between these batches"] = f"{measured['idle']:.1%}"
    if measured.get("kernels"):
        total = measured["kernels_ms"]
        found["launches in a batch"] = measured["launches"]
        found["ms of kernels in a batch"] = total
        found["kernels' share of the time of a batch"] = f"{total / 1000 / measured['batch_s']:.1%}"
        found["largest kernels"] = [
            f"{row['ms'] / total:.1%} {row['calls']} x {row['name'][:80]}" for row in measured["kernels"][:6]
        ]
    return found


def _fused(kept: Path) -> dict[str, Any]:
    measured = _report(kept, "fused")["measured"]
    found: dict[str, Any] = {
        "largest difference of a logit, kernels that are off": measured["largest"],
        "labels changed by the kernels that are off": f"{measured['changed']:.3%}",
    }
    speeds = {way: measured["audio_s"] / seconds for way, seconds in measured.get("batch_s", {}).items()}
    return found | {"x real time, kernels that are off": [f"{way}: {shown(speed)}" for way, speed in speeds.items()]}


def _end_to_end(kept: Path) -> dict[str, Any]:
    turns = next(iter(_report(kept, "end-to-end")["measured"].values()))["turns"]
    timings = {name: [each for each in done if isinstance(each, dict)] for name, done in turns.items()}
    speeds = {
        name: median(each["audio_s"] / each["seconds"] for each in done) for name, done in timings.items() if done
    }
    ours = timings["this project"]
    return {
        "x real time, end to end": [f"{name}: {shown(speed)}" for name, speed in speeds.items()],
        "hours of audio, end to end": ours[0]["audio_s"] / 3600,
        "idle share, end to end": f"{median(each['waiting'] for each in ours):.1%}",
        "seconds with the start of Python": ours[0]["whole_s"],
    }


def _around(kept: Path) -> dict[str, Any]:
    rows = {name: timings for name, timings in _report(kept, "around")["measured"].items() if "audio_s" in timings[0]}
    speeds = {name: median(each["audio_s"] / each["seconds"] for each in timings) for name, timings in rows.items()}
    return {"x real time without the model": [f"{name}: {shown(speed)}" for name, speed in speeds.items()]}


def _launches(kept: Path) -> dict[str, Any]:
    lines = []
    for name, each in _report(kept, "launches")["measured"].items():
        alone, batch = each["alone"], each["batch"]
        lines.append(f"{name}: {alone['launches']} alone, {batch['launches']} in a batch, {batch['waits']} waits")
    return {"operators in a batch, counted without the device": lines}


def _stop(number: int, frame: FrameType | None) -> None:
    """Unwind, so that the step in progress is ended and the results are written."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
