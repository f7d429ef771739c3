"""The simulation of a cluster: nothing is lost or done twice, and its figures are those of what happens in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import ROOT

SHARDS = 60
Simulate = Callable[..., Any]


@pytest.fixture
def simulate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Simulate:
    """Runs shards of an hour in a new folder."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "bench"))
    from virtual_cluster import Cluster
    from virtual_setting import Setting
    from virtual_store import Store

    def run(workers: int, **given: Any) -> Any:
        store = Store(tmp_path / f"{len(list(tmp_path.iterdir()))}", np.full(4 * SHARDS, 900.0), 1.0)
        outcome = Cluster(Setting(workers, **{"speed": 360.0, "start_s": 1.0, **given}), store).run()
        assert outcome.shards == dict.fromkeys(range(SHARDS), 1)
        assert store.directory.commits().keys() == outcome.shards.keys()
        return outcome

    return run


def test_without_failures_a_run_takes_the_time_of_its_devices(simulate: Simulate) -> None:
    outcome = simulate(4, spread=0.0, commit_s=2.0)
    assert outcome.ideal_s == pytest.approx(SHARDS * 10 / 4)
    assert outcome.elapsed_s == pytest.approx(1.0 + outcome.ideal_s + 2.0)  # the model, the audio, the last commit
    assert outcome.idle(4) == pytest.approx(3.0 / outcome.elapsed_s)
    assert (outcome.lost_s, outcome.deaths, outcome.drivers) == (0.0, 0, 0)


def test_whatever_fails_each_shard_is_committed_once_and_what_is_lost_is_counted(simulate: Simulate) -> None:
    failures = {"worker_h": 0.02, "node_h": 0.05, "driver_h": 0.05, "node_gone_s": 20.0, "driver_gone_s": 10.0}
    seen = []
    for seed in range(4):
        outcome = simulate(10, seed=seed, **failures)
        assert outcome.busy_s * 360 == pytest.approx(outcome.audio_s + outcome.lost_s, rel=0.2)  # speeds differ
        assert outcome.elapsed_s > outcome.ideal_s
        seen.append((outcome.deaths, outcome.nodes, outcome.drivers, outcome.lost_s > 0))
    assert all(map(any, zip(*seen, strict=True)))


def test_a_slow_driver_keeps_the_devices_waiting(simulate: Simulate) -> None:
    fast, slow = (simulate(8, spread=0.0, answer_s=cost) for cost in (0.0, 10.0))
    assert slow.driver_s == pytest.approx(10.0 * (SHARDS + 8), abs=1)  # each worker asks once more than it gets
    assert slow.elapsed_s > slow.driver_s > 4 * fast.elapsed_s
