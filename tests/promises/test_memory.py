"""Memory is bounded by a batch and a row group, not by the corpus."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from running import DATA, assert_accounting, command, environment


def peak_mib(folder: Path, count: int) -> float:
    """Peak resident memory of the main process over `count` short recordings, in MiB."""
    root = folder / f"{count}"
    recordings = sorted((DATA / "fsdd").glob("*_1.wav"))
    if not root.exists():
        root.mkdir()
        for number in range(count):
            (root / f"{number:04d}.wav").symlink_to(recordings[number % len(recordings)])
    run_dir = folder / f"out-{count}-{len(list(folder.iterdir()))}"
    given = ("dataset=folder", f"dataset.root={root}", "model=digits", f"run_dir={run_dir}", "shard.hours=0.02")
    process = subprocess.Popen(
        [*command(*given), "features.layers=all"], cwd=folder, env=environment(), stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert_accounting(run_dir, layers=4)
    return usage.ru_maxrss / 1024


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units elsewhere")
def test_peak_memory_on_2000_short_files_is_that_on_200(tmp_path: Path) -> None:
    few, many = (peak_mib(tmp_path, count) for count in (200, 2000))
    if many > 1.1 * few:  # how threads overlap moves a peak by some MiB either way: the lower of two runs each
        few, many = (min(peak, peak_mib(tmp_path, count)) for peak, count in ((few, 200), (many, 2000)))
    assert many <= 1.1 * few, f"{few:.0f} MiB on 200 files, {many:.0f} MiB on 2,000"
