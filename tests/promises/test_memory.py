"""Memory is bounded by a batch and a row group, not by the corpus."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from running import DATA, peak_mib


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units elsewhere")
def test_peak_memory_on_1000_short_files_is_that_on_200(tmp_path: Path) -> None:
    """The shortest recordings that there are: how many they are is what is tested."""
    recordings = sorted((DATA / "fsdd").glob("*_1.wav"), key=lambda path: path.stat().st_size)[:5]
    corpora = [tmp_path / f"{count}" for count in (200, 1000)]
    for root in corpora:
        root.mkdir()
        for number in range(int(root.name)):
            (root / f"{number:04d}.wav").symlink_to(recordings[number % len(recordings)])
    given = ["features.dtype=float32", "shard.hours=0.01"]
    few, many = (peak_mib(root, tmp_path / f"out-{root.name}", *given) for root in corpora)
    if many > 1.06 * few:  # how threads overlap moves a peak by some MiB either way: the lower of two runs each
        again = (peak_mib(root, tmp_path / f"again-{root.name}", *given) for root in corpora)
        few, many = map(min, zip((few, many), again, strict=True))
    assert many <= 1.06 * few, f"{few:.0f} MiB on 200 files, {many:.0f} MiB on 1,000"
