"""What the benchmarks share: options, the machine, its matrix product rate, weights, and tables that are stored."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from rich.console import Console  # noqa: E402
from rich.table import Table as RichTable  # noqa: E402

from pipeline.runtime.cores import available_cores  # noqa: E402

CORES = available_cores()
_PACKAGES = (
    "overnight-speech",
    "torch",
    "torchaudio",
    "transformers",
    "numpy",
    "pyarrow",
    "soundfile",
    "flashlight-text",
    "kenlm",
    "pyctcdecode",
    "ctc-beam-decoder",
)


@dataclass
class Table:
    """Rows for people, in order; the first column names the row."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[object]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, *cells: object) -> None:
        self.rows.append(cells)

    def markdown(self) -> str:
        lines = [f"## {self.title}", "", "| " + " | ".join(self.columns) + " |"]
        lines.append("|---|" + "---:|" * (len(self.columns) - 1))
        lines += ["| " + " | ".join(map(text, row)) + " |" for row in self.rows]
        lines += [part for note in self.notes for part in ("", note)]
        return "\n".join(lines) + "\n"

    def print(self, console: Console) -> None:
        shown = RichTable(title=self.title, title_justify="left")
        for index, column in enumerate(self.columns):
            shown.add_column(column, justify="right" if index else "left")
        for row in self.rows:
            shown.add_row(*map(text, row))
        console.print(shown)
        for note in self.notes:
            console.print(note, markup=False, highlight=False)


def text(cell: object) -> str:
    """A cell for people: floats with three digits that count, nothing where nothing was measured."""
    if cell is None:
        return ""
    if not isinstance(cell, float):
        return f"{cell:,}" if isinstance(cell, int) else str(cell)
    if cell == 0 or abs(cell) >= 100:
        return f"{cell:,.0f}"
    if abs(cell) < 0.001:
        return f"{cell:.1e}"
    return f"{cell:.{max(0, 2 - len(str(int(abs(cell)))) + 1)}f}" if abs(cell) >= 1 else f"{cell:.3g}"


def parser(doc: str) -> argparse.ArgumentParser:
    """A benchmark's options: those that all of them have."""
    made = argparse.ArgumentParser(
        description=doc.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the models run")
    made.add_argument("--threads", type=int, default=CORES, help="of torch, for every contestant")
    made.add_argument("--rounds", type=int, help="how often each is measured; None: 3, or 1 with --quick")
    made.add_argument("--quick", action="store_true", help="seconds instead of minutes; the figures mean little")
    made.add_argument("--results", type=Path, default=ROOT / "scripts" / "results", help="folder of the tables")
    made.add_argument("--work", type=Path, help="folder for recordings, weights and runs; None: a temporary one")
    return made


@contextmanager
def prepared(options: argparse.Namespace) -> Iterator[Path]:
    """Apply the options; yields the work folder. Weights are looked for there and nowhere else, without a network."""
    import torch

    if options.rounds is None:
        options.rounds = 1 if options.quick else 3
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: torch sees no CUDA device")
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(prefix="bench-") as made:
        folder = ready(options.work or Path(made)).resolve()
        os.environ["TORCH_HOME"] = str(folder / "weights")
        os.environ["HF_HUB_OFFLINE"] = "1"
        yield folder


def ready(folder: Path) -> Path:
    """A folder that is there."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def environment(threads: int) -> dict[str, str]:
    """For a process of the pipeline or of a rival."""
    paths = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}".rstrip(os.pathsep)
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": str(threads)}


def synchronize(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def clocked(run: Callable[[], object], device: str = "cpu") -> float:
    """Seconds that a call takes."""
    synchronize(device)
    started = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - started


def matrix_rate(device: str, precision: str, quick: bool = False) -> float:
    """FLOP per second of a square matrix product: 2048 in float32 on a CPU, 8192 on CUDA; the best of many."""
    import torch

    size = 512 if quick and device == "cpu" else 2048 if device == "cpu" else 8192
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(left)
    product = lambda: torch.mm(left, right, out=out)  # noqa: E731
    clocked(product, device)
    # On CUDA ten at a time, so that launching does not count.
    repeats = 10 if device == "cuda" else 1
    times, until = [], time.monotonic() + (0.1 if quick else 1.5)
    while time.monotonic() < until or len(times) < 3:
        times.append(clocked(lambda: [product() for _ in range(repeats)], device) / repeats)
    return 2 * size**3 / min(times)


def device_name(device: str) -> str:
    """Short, for the names of files: `cpu`, `h100`."""
    if device == "cpu":
        return device
    import torch

    words = re.findall(r"[A-Za-z]*\d+[A-Za-z]*", torch.cuda.get_device_name())
    return words[0].lower() if words else "cuda"


def machine(device: str) -> dict[str, Any]:
    """What it ran on; no names of hosts or folders."""
    found: dict[str, Any] = {"cpu": platform.machine(), "cores": CORES}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            found["cpu"] = line.split(":", 1)[1].strip()
            break
    found["memory_gib"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    if device == "cuda":
        import torch

        found["gpu"] = torch.cuda.get_device_name()
        found["gpu_memory_gib"] = round(torch.cuda.get_device_properties(0).total_memory / 2**30)
        found["cuda"] = torch.version.cuda
    return found


def versions() -> dict[str, str]:
    from pipeline import __version__

    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found | {"overnight-speech": __version__}


def spread(values: Sequence[float]) -> dict[str, float | int | list[float]]:
    """Median, lowest and all of what was measured."""
    return {"median": statistics.median(values), "min": min(values), "n": len(values), "all": list(values)}


def publish(
    name: str,
    doc: str,
    tables: Sequence[Table],
    options: argparse.Namespace,
    measured: dict[str, Any],
    complete: bool = True,
) -> None:
    """Store the tables as `<name>-<device>.md` and `.json`, and print them once they are complete.

    A benchmark also stores what it has so far, after each of its parts, so that a benchmark that is stopped leaves
    results.
    """
    console = Console(width=None if sys.stdout.isatty() else 160)
    on, with_versions, date = machine(options.device), versions(), datetime.now(UTC).date().isoformat()
    about = ", ".join(f"{key} {value}" for key, value in with_versions.items())
    where = f"{on['cpu']}, {on['cores']} cores, {on['memory_gib']} GiB"
    if "gpu" in on:
        where += f"; {on['gpu']}, {on['gpu_memory_gib']} GiB, CUDA {on['cuda']}"
    kept = {key: getattr(options, key) for key in vars(options) if key not in ("results", "work")}
    header = [
        f"# {doc.splitlines()[0].rstrip('.')}",
        "",
        f"`scripts/bench/{name}.py`, {date}. {where}; {options.threads} threads. {about}."
        + (" **Quick: the figures mean little.**" if options.quick else "")
        + ("" if complete else " **Incomplete: the benchmark was stopped.**"),
    ]
    content = {
        "benchmark": name,
        "complete": complete,
        "date": date,
        "machine": on,
        "versions": with_versions,
        "settings": kept,
        "tables": [{"title": t.title, "columns": t.columns, "rows": t.rows, "notes": t.notes} for t in tables],
        "measured": measured,
    }
    target = ready(options.results) / f"{name.replace('_', '-')}-{device_name(options.device)}"
    _replace(target.with_suffix(".json"), json.dumps(content, indent=1, default=str) + "\n")
    _replace(target.with_suffix(".md"), "\n\n".join(["\n".join(header), *(table.markdown() for table in tables)]))
    if not complete:
        return
    for table in tables:
        table.print(console)
    console.print(f"{where}; {date}", highlight=False, markup=False)


def _replace(path: Path, content: str) -> None:
    """Write a file so that a process that is stopped leaves the old or the new one."""
    new = path.with_name(f".{path.name}")
    new.write_text(content)
    os.replace(new, path)


def say(what: str) -> None:
    """Progress, on stderr."""
    print(f"[{time.strftime('%H:%M:%S')}] {what}", file=sys.stderr, flush=True)
