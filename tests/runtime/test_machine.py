"""How many cores and how much memory a process may use, also in a container."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.runtime.control_groups import folders
from pipeline.runtime.cores import available_cores
from pipeline.runtime.memory import available_memory


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))


def in_groups(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """Let this process be in these control groups."""
    read = Path.read_text
    monkeypatch.setattr(
        Path,
        "read_text",
        lambda path, *rest: "\n".join(lines) if str(path) == "/proc/self/cgroup" else read(path, *rest),
    )


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 2), ("10000 100000", 1), ("3200000 100000", 8)],
)
def test_cores_are_those_of_the_affinity_and_of_the_quota(tmp_path: Path, quota: str, cores: int) -> None:
    write(tmp_path, cpu__max=quota)
    assert available_cores(tmp_path) == cores


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(("quota", "cores"), [("-1", 8), ("300000", 3)])
def test_cores_of_a_quota_of_version_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int) -> None:
    in_groups(monkeypatch, "4:memory:/a", "3:cpu,cpuacct:/docker/abc", "0::/")
    write(tmp_path / "cpu", cpu__cfs_quota_us=quota, cpu__cfs_period_us="100000")
    assert available_cores(tmp_path) == cores


@pytest.mark.usefixtures("eight_cores")
def test_the_smallest_quota_of_the_groups_around_a_process_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_groups(monkeypatch, "0::/user.slice/job.scope")
    write(tmp_path / "user.slice", cpu__max="400000 100000")
    write(tmp_path / "user.slice" / "job.scope", cpu__max="600000 100000")
    assert available_cores(tmp_path) == 4
    write(tmp_path / "user.slice" / "job.scope", cpu__max="max 100000")
    assert available_cores(tmp_path) == 4


def test_without_control_groups_the_machine_counts(tmp_path: Path) -> None:
    assert available_cores(tmp_path / "none") == len(os.sched_getaffinity(0))
    assert list(folders("cpu", tmp_path, tmp_path / "none")) == [tmp_path]
    assert all(size > 2**20 for size in available_memory(tmp_path / "none"))


def test_cached_files_of_a_memory_group_count_as_free(tmp_path: Path) -> None:
    machine = available_memory(tmp_path / "no group")
    write(tmp_path, memory__max="8000000", memory__current="7900000")
    (tmp_path / "memory.stat").write_text("anon 300000\nactive_file 3600000\ninactive_file 4000000\n")
    assert available_memory(tmp_path) == (7_700_000, 8_000_000)
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory(tmp_path)[1] == machine[1]


def test_memory_is_that_of_the_narrowest_group_of_either_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_groups(monkeypatch, "5:memory:/job/step", "0::/job")
    statistics = "total_active_file 1000000\ntotal_inactive_file 2000000"
    for folder, limit in (("job", "7000000"), ("job/step", "9000000")):
        write(
            tmp_path / "memory" / folder,
            memory__limit_in_bytes=limit,
            memory__usage_in_bytes="6000000",
            memory__stat=statistics,
        )
    assert available_memory(tmp_path) == (4_000_000, 7_000_000)
    write(tmp_path / "job", memory__max="500", memory__current="900", memory__stat="active_file 0\ninactive_file 0")
    assert available_memory(tmp_path) == (0, 500)
