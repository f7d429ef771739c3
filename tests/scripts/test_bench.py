"""The benchmarks run, in their quick form, and store the tables that the README points at."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from running import ROOT, environment, server

BENCH = ROOT / "scripts" / "bench"
ROWS = {
    "end_to_end": [
        "this project",
        "this project, all layers",
        "tutorial's loop",
        "tutorial's loop, all layers",
        "transcripts and emissions, against the tutorial's loop",
        "with features of all layers, against the tutorial's loop",
        "share of the time in which the model waits",
    ],
    "forward": ["this project", "stock torchaudio, one at a time", "stock torchaudio, batches of 8"],
    "profile_forward": ["front end, products", "feed-forward, linear", "norms", "decoding", "all"],
    "stages": ["FLAC, 16 kHz", "MP3, 44.1 kHz", "batches", "digits: emissions, float32: table", "status"],
    "around": ["transcripts", "and features of all layers", "of 0.5 to 1.5 s"],
    "layouts": ["list, 12 layers of 768", "binary, 12 layers of 768", "binary, 24 layers of 1024"],
    "precision": ["digits: stock torchaudio in bf16, alone", "digits: this project in bf16, batched"],
    "cluster": ["8, no failures", "1, failures", "0.5", "20"],
    "growth": ["6 files", "one shard", "2 shards", "0.2 minutes in one file"],
}
if sys.version_info < (3, 13):  # the extra `beam`
    ROWS["beam"] = ["greedy", "beam, language model of digit strings", "beam, 500 words"]
TRANSFORMERS = "transcripts and emissions, against transformers at its best"

Runs = dict[str, Future[subprocess.CompletedProcess[str]]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A torch hub cache with the base model's weights, for all of them."""
    cache = tmp_path_factory.mktemp("weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH))
        patch.setenv("TORCH_HOME", str(cache))
        from random_models import build_undrawn
        from weights import prepare_weights

        build_undrawn(patch)
        prepare_weights("wav2vec2_asr_base_960h")
    assert list(cache.rglob("*.pth"))
    return cache


@pytest.fixture(scope="module")
def runs(results: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """All of them, two at a time: most of it is waiting for imports."""

    def start(name: str) -> subprocess.CompletedProcess[str]:
        work = tmp_path_factory.mktemp(name)
        (work / "weights").symlink_to(weights)
        given = ["--quick", "--threads", "1", "--results", str(results), "--work", str(work)]
        warm = str(ROOT / "tests" / "support" / "warm_bench.py")
        return server().run(warm, [str(BENCH / f"{name}.py"), *given], cwd=results, env=environment(), timeout=240)

    pool = ThreadPoolExecutor(2)
    return {name: pool.submit(start, name) for name in ROWS}


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_a_benchmark_stores_its_tables(name: str, runs: Runs, results: Path) -> None:
    done = runs[name].result()
    assert done.returncode == 0, done.stderr
    stored = results / f"{name.replace('_', '-')}-cpu.json"
    report: dict[str, Any] = json.loads(stored.read_text())
    assert {"cpu", "cores", "memory_gib"} <= set(report["machine"])
    assert {"torch", "python", "overnight-speech"} <= set(report["versions"])
    assert report["date"]
    found = {row[0] for table in report["tables"] for row in table["rows"]}
    assert set(ROWS[name]) <= found
    text = stored.with_suffix(".md").read_text()
    assert all(f"| {row} |" in text for row in ROWS[name])
    assert str(Path.home()) not in text
    if name == "end_to_end":
        has_transformers = importlib.util.find_spec("transformers") is not None
        assert (TRANSFORMERS in found) == has_transformers
        assert has_transformers or "transformers is not installed" in done.stderr


def test_operations_are_those_that_torch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    import torchaudio
    from torch.utils.flop_counter import FlopCounterMode

    monkeypatch.syspath_prepend(str(BENCH))
    from flops import forward_flop

    from pipeline.models.architectures import architecture_of

    params = architecture_of("wav2vec2_asr_base_960h").params
    with torch.device("meta"):
        model = torchaudio.models.wav2vec2_model(**params).eval()
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            model(torch.empty(1, 160_000))
    counted = sum(forward_flop(params, 160_000).values())
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.01)
    assert counted / 10 == pytest.approx(14.8e9, rel=0.01)
