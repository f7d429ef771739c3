"""Fixtures that several modules share; and what tests measured, `record_property("measured", "...")`, at the end."""

from __future__ import annotations

import compileall
import ctypes
import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import warm

# Before torch is imported: processes that test have the cores between them, and more threads than cores only wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Also where PYTHONDONTWRITEBYTECODE is set: pytest rewrites the assertions of each module, and every process that tests
# would do it again each time, which takes as long as importing everything. It ends with the collection.
WRITES_NO_BYTECODE, sys.dont_write_bytecode = sys.dont_write_bytecode, False


LONGEST = (
    "promises/test_object_store", "scripts/test_bench", "models/test_bundles", "docs/test_blocks",
    "executors/test_ray", "executors/test_parts", "executors/test_slurm", "stages/test_supplements",
    "executors/test_processes", "docs/test_guide", "storage/test_run_directory", "test_package",
    "config/test_run_config", "test_plot", "models/test_huggingface_exactness", "report/test_page",
    "runtime/test_supervisor", "docs/test_notebook", "report/test_browser", "verify/test_verify",
    "executors/test_local", "inference/test_loader", "models/test_huggingface_runs", "test_run",
    "models/test_forward", "promises/test_long", "promises/test_resume", "promises/test_signals",
    "stages/test_growth", "promises/test_recordings_in_stores", "promises/test_failpoints", "models/test_checkpoint",
    "stages/test_decode", "scripts/test_gpu_check", "scoring/test_scoring", "stages/test_report",
    "stages/test_duplicates", "test_extending", "config/test_completion", "config/test_user_files",
    "promises/test_fuzzing", "promises/test_soak", "promises/test_security", "promises/test_strange_directories",
    "promises/test_memory", "config/test_help", "stages/test_segments", "models/test_fused",
    "inference/test_textfile", "models/test_catalog", "test_json", "support/test_warm", "stages/test_resume",
    "models/test_cuda_path",
)  # fmt: skip
"""Modules that take longest, the longest first. What waits most begins beside what keeps both cores busy."""


def pytest_configure(config: pytest.Config) -> None:
    """Compile the package once: where PYTHONDONTWRITEBYTECODE is set, every process of a test would do it again."""
    if not hasattr(config, "workerinput"):  # the one process that starts the others
        compileall.compile_dir(Path(__file__).parents[1] / "pipeline", quiet=2)


def pytest_collection_finish() -> None:
    sys.dont_write_bytecode = WRITES_NO_BYTECODE
    gc.freeze()  # thousands of tests and modules that stay until the end need not be looked at again and again
    gc.set_threshold(20_000, 20, 100)
    warm.use_huge_pages()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that of two processes that test none is left alone with one at the end."""
    order = {f"{name}.py": place for place, name in enumerate(LONGEST)}
    here = Path(__file__).parent
    items.sort(key=lambda item: order.get(item.path.relative_to(here).as_posix(), len(LONGEST)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    measured = [
        value
        for report in terminalreporter.getreports("passed")
        for name, value in report.user_properties
        if name == "measured"
    ]
    if measured:
        terminalreporter.section("measured")
        for line in measured:
            terminalreporter.line(line)


@pytest.fixture(autouse=True, scope="session")
def _few_header_processes() -> None:
    """As `warm.HEADER_PROCESSES` says, which is more so for a process that tests."""
    from pipeline.audio import headers

    headers.HEADER_PROCESSES = warm.HEADER_PROCESSES


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_the_disk() -> None:
    warm.leave_syncing_out()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.fixture(autouse=True, scope="module")
def _memory_is_given_back() -> Iterator[None]:
    """Give back the memory of large models, because each process that is forked copies the tables of its pages."""
    before = _resident()
    yield
    if _resident() > before + (1 << 29):  # a collection takes a second or two
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
    warm.use_huge_pages()  # what was written to while a process was forked is in small ones again


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory and no corpus in the environment."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("VOICES_ROOT", raising=False)
    return folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch hub cache, and no corpus."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("VOICES_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    cache = tmp_path / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    return cache


@pytest.fixture
def default_signals() -> Iterator[None]:
    """Signals as at a terminal: a process that tests, or one in the background, may have been told to ignore them."""
    defaults = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {signum: signal.signal(signum, handler) for signum, handler in defaults.items()}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are built without drawing the values which those of a file then replace; for 300 M that takes seconds."""
    from random_models import build_undrawn

    build_undrawn(monkeypatch)


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of the shipped corpus with features of every layer and scores; for reading only."""
    from pipeline.run import main

    out = tmp_path_factory.mktemp("digits") / "run"
    given = ["dataset=digits", f"run_dir={out}", "features.layers=all", "stages=[manifest,infer,score]"]
    assert main(given) == 0
    return out


@pytest.fixture(scope="session")
def odd_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of `odd_run.make_odd_run`; for reading only."""
    from odd_run import make_odd_run

    return make_odd_run(tmp_path_factory.mktemp("odd"))
