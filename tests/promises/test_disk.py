"""A disk or an address space that is full: one line that names it, no record, and the next run completes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from running import DATA, OWN_MOUNTS, assert_accounting, command, environment, overridden, run, run_prepared, server

# Twelve recordings, hardly more than one in a shard.
GIVEN = ("dataset=folder", "dataset.root=corpus", "model=digits", "shard.hours=0.0001", "features.layers=[2,4]")

ON_A_SMALL_DISK = f"""{OWN_MOUNTS}
import runpy, shutil, signal, sys
small, kept, *given = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", small], check=True)

def begin(failpoint):
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.environ["PIPELINE_FAILPOINT"] = failpoint
        sys.argv[1:] = [*given, f"run_dir={{small}}/out"]
        runpy.run_module("pipeline.run", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

first = begin("committed:1=stop")
os.waitpid(first, os.WUNTRACED)
with open(f"{{small}}/filler", "wb", buffering=0) as filler:
    try:
        while True:
            filler.write(bytes(4096))
    except OSError:
        pass
os.kill(first, signal.SIGCONT)
code = ended(first)
shutil.copytree(f"{{small}}/out", f"{{kept}}/then")
os.remove(f"{{small}}/filler")
again = ended(begin(""))
shutil.copytree(f"{{small}}/out", f"{{kept}}/at last")
print(code, again)
"""


@pytest.fixture(autouse=True)
def _corpus(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    for source in sorted((DATA / "fsdd").glob("*.wav"))[:12]:
        (tmp_path / "corpus" / source.name).symlink_to(source)


def records(run_dir: Path) -> list[str]:
    return sorted(path.stem for path in (run_dir / "commits").glob("*.json"))


def assert_one_line(said: str, path: Path, reason: str) -> None:
    (line,) = said.strip().splitlines()
    assert line.startswith("error: ")
    assert f"{path}" in line
    assert f": {reason}; what was committed stays" in line


@pytest.mark.slow
def test_a_disk_that_fills_up_ends_the_run_and_with_room_the_next_completes(tmp_path: Path) -> None:
    small, kept = tmp_path / "small", tmp_path / "kept"
    small.mkdir()
    kept.mkdir()
    script = tmp_path / "on_a_small_disk.py"
    script.write_text(ON_A_SMALL_DISK)
    given = [str(small), str(kept), *overridden(GIVEN)]
    done = server().run(str(script), given, cwd=tmp_path, env=environment(), timeout=280)
    if done.returncode == 77:
        pytest.skip("a small disk needs user namespaces, not permitted here")
    assert done.stdout.splitlines()[-1:] == ["1 0"], done.stdout + done.stderr
    assert_one_line(done.stderr, small / "out", "No space left on device")
    assert "shard-00001" in records(kept / "then")
    assert len(records(kept / "then")) < len(records(kept / "at last"))
    assert [path.name for path in (kept / "then" / ".staging").iterdir()] == ["lock"]
    assert_accounting(kept / "at last", layers=2)


@pytest.mark.slow
def test_a_file_that_may_not_grow_ends_the_run_and_without_the_limit_the_next_completes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = (*GIVEN[:3], "features.layers=[2,4]", "loader.workers=0", f"run_dir={out}")  # one shard
    for limit, file in ((2000, out / "manifest.parquet"), (30_000, out / ".staging" / "shard-00000-")):
        limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
        ended = run_prepared(limited, *given, cwd=tmp_path)
        assert ended.returncode == 1, ended.stderr
        assert_one_line(ended.stderr, file, "File too large")
        assert records(out) == []
    assert run(*given, cwd=tmp_path).returncode == 0
    assert_accounting(out, layers=2)


def test_a_log_that_cannot_be_written_does_not_fill_the_terminal_with_tracebacks(tmp_path: Path) -> None:
    full = """
from pathlib import Path
from pipeline.storage.run_directory import RunDirectory
RunDirectory.local_log = lambda *_: Path("/dev/full")
"""
    done = run_prepared(full, *GIVEN[:3], "stages=[manifest]", f"run_dir={tmp_path / 'out'}", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_too_little_address_space_for_torch_is_one_line(tmp_path: Path) -> None:
    limited = ["bash", "-c", 'ulimit -v 1500000; exec "$@"', "bash", *command(*GIVEN, f"run_dir={tmp_path / 'out'}")]
    ended = subprocess.run(limited, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120)
    (line,) = ended.stderr.strip().splitlines()
    assert ended.returncode == 1
    assert line.startswith("error: memory has run out (")
    assert line.endswith("raise the limit of 1.4 GiB on address space (ulimit -v)")
    assert not (tmp_path / "out").exists()
