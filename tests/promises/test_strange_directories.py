"""A run directory that changes under a run, or that holds what no run wrote: an error of one line, never a hang."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import warm
from make_run import Spoken, make_run
from running import DATA, group_members, refused, start, wait_until

from pipeline import plot, status
from pipeline.report.__main__ import main as report
from pipeline.results import open_run
from pipeline.runtime.errors import UserError
from pipeline.storage.run_directory import RunDirectory
from pipeline.verify.__main__ import main as verify

GIVEN = ("dataset=folder", "dataset.root=corpus", "model=digits", "shard.hours=0.0001", "outputs=[transcripts]")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    (tmp_path / "corpus").mkdir()
    for source in sorted((DATA / "fsdd").glob("*.wav"))[:8]:
        (tmp_path / "corpus" / source.name).symlink_to(source)
    return tmp_path


@pytest.fixture
def started() -> Iterator[list[warm.Process]]:
    """Whatever a test starts is gone after it."""
    processes: list[warm.Process] = []
    yield processes
    for process in processes:
        if group_members(process.pid):
            os.killpg(process.pid, signal.SIGKILL)


def displaced(
    corpus: Path, displace: Callable[[Path], object], started: list[warm.Process]
) -> tuple[int, list[str], Path]:
    """Exit code, stderr and run directory of a run whose directory is displaced after some commits."""
    out = corpus / "out"
    process = start(*GIVEN, f"run_dir={out}", cwd=corpus, PIPELINE_FAILPOINT="committed@3=stop")
    started.append(process)
    stat = Path(f"/proc/{process.pid}/stat")
    assert wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")
    displace(out)
    os.killpg(process.pid, signal.SIGCONT)
    _, said = process.communicate(timeout=60)
    return process.returncode, said.strip().splitlines(), out


@pytest.mark.parametrize(
    ("displace", "what"),
    [
        (lambda out: out.rename(out.with_name("renamed")), "the folder was renamed"),
        (shutil.rmtree, "the folder was renamed, removed"),
        (lambda out: (out / ".staging" / "lock").unlink(), "its lock file .staging/lock was"),
    ],
    ids=["renamed", "removed", "lock file removed"],
)
def test_a_displaced_run_directory_ends_the_run_and_is_not_made_again(
    displace: Callable[[Path], object], what: str, corpus: Path, started: list[warm.Process]
) -> None:
    code, said, out = displaced(corpus, displace, started)
    assert (code, len(said)) == (1, 1)
    assert said[0].startswith(f"error: run_dir={out}: {what}")
    assert out.exists() == ("lock" in what)


def test_exit_0_means_that_every_shard_is_there(corpus: Path, started: list[warm.Process]) -> None:
    code, said, out = displaced(corpus, lambda out: next((out / "transcripts").iterdir()).unlink(), started)
    assert (code, len(said)) == (1, 1)
    assert "files of 1 shards were removed or changed during the run" in said[0]
    process = start(*GIVEN, f"run_dir={out}", cwd=corpus)
    started.append(process)
    process.communicate(timeout=60)
    assert process.returncode == 0


NAMES = (
    "manifest.parquet", "run.json", "config.yaml", "scores.parquet", "confusions.parquet", "commits/shard-00000.json",
    "transcripts/shard-00000.parquet", "failures/shard-00000.parquet", "emissions/shard-00000.parquet",
    "logs/run.log", "logs/metrics.jsonl", "report/index.html", ".staging/lock",
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spoken = [[Spoken(f"{shard}.wav", words=[("one", 3, 9, 0.9)], reference="one")] for shard in range(2)]
    return make_run(tmp_path_factory.mktemp("made") / "run", spoken, outputs=("transcripts", "emissions"))


def read_all(run: Path) -> None:
    """Read everything that `open_run` offers."""
    results = open_run(run)
    assert len(results.transcripts) + len(results.failures) <= 2
    list(results.emissions())


COMMANDS: list[tuple[Callable[[Sequence[str]], int], list[str]]] = [
    (status.main, []), (verify, []), (report, []), (plot.main, ["0.wav", "--out", "pictures"]),
]  # fmt: skip


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("kind", "name"),
    [("FIFO", name) for name in NAMES]
    + [(kind, name) for kind in ("device", "link") for name in ("commits/shard-00000.json", "logs/run.log")],
)
def test_readers_open_regular_files_only(
    kind: str, name: str, made: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(made, elsewhere / "run")
    path = run / name
    path.parent.mkdir(exist_ok=True)
    outside = elsewhere / "outside"
    if path.exists():
        path.rename(outside)
    else:
        outside.touch()
    if kind == "FIFO":
        os.mkfifo(path)
    else:
        path.symlink_to(outside if kind == "link" else "/dev/zero")
    before = outside.read_bytes()
    for main, more in COMMANDS:
        code = main([str(run), *more])
        said = capsys.readouterr().err
        assert code in (0, 1, 2)
        assert "Traceback" not in said
        assert said.count("\n") <= 1
    with suppress(OSError, LookupError, UserError):
        read_all(run)
    if path.name in ("lock", "run.log"):
        assert path.name in refused(["dataset=digits", f"run_dir={run}"], capsys)
    assert outside.read_bytes() == before


@pytest.mark.parametrize("folder", ["transcripts", "commits", "logs", ".staging"])
def test_a_link_in_the_place_of_a_folder_is_not_followed(folder: str, made: Path, elsewhere: Path) -> None:
    run = shutil.copytree(made, elsewhere / "run")
    (run / folder).mkdir(exist_ok=True)
    (run / folder).rename(elsewhere / "outside")
    (run / folder).symlink_to(elsewhere / "outside")
    before = sorted(path.name for path in (elsewhere / "outside").iterdir())
    for main in (verify, status.main):
        assert main([str(run)]) in (0, 1)
    if folder == ".staging":
        with pytest.raises(UserError, match=r"\.staging is a link"), RunDirectory(run).lock():
            pass
    else:
        with pytest.raises(OSError, match="Not a directory"):
            RunDirectory(run).write(f"{folder}/x", b"")
    assert sorted(path.name for path in (elsewhere / "outside").iterdir()) == before
