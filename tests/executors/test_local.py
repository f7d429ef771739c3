"""A shard is the unit of work: however the shards of a job are executed, the tables are the same."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from running import assert_accounting, assert_same_tables, main

from pipeline.inference import execute as execution
from pipeline.inference.job import Job
from pipeline.runtime.progress import RunProgress

CORPUS = ("dataset=digits", "shard.hours=0.004", "loader.workers=0", "stages=[manifest,infer]")


def test_shards_executed_one_by_one_in_any_order_give_the_tables_of_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, single = tmp_path / "whole", tmp_path / "single"
    assert main([*CORPUS, f"run_dir={whole}"]) == 0
    done: list[int] = []
    whole_execute = execution.execute

    def one_by_one(job: Job, shards: Sequence[int], device: torch.device, progress: RunProgress) -> list[int]:
        sent = pickle.dumps(job)  # as an executor sends a job to another process
        for shard in reversed(shards):
            received: Job = pickle.loads(sent)
            assert whole_execute(received, [shard], device, progress) == []
            done.append(shard)
        return []

    monkeypatch.setattr(execution, "execute", one_by_one)
    assert main([*CORPUS, f"run_dir={single}"]) == 0
    assert len(done) > 5
    assert done == sorted(done, reverse=True)
    assert_accounting(single)
    assert_same_tables(whole, single)
