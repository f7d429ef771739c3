"""Stages, commands and executors with a run in an object store, and its progress while it goes on."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import s3
from changing import Corpus
from running import SHORT, main, wait_until
from s3 import Fault, Store

from pipeline import plot, status
from pipeline.lm import __main__ as lm
from pipeline.results import open_run
from pipeline.runtime.places import place
from pipeline.sample import __main__ as sample
from pipeline.storage import locked_run, records
from pipeline.storage.names import METRICS
from pipeline.storage.run_directory import RunDirectory
from pipeline.tune import __main__ as tune
from pipeline.verify import __main__ as verify
from tests.sample.test_command import annotated
from tests.stages.test_segments import call

imported = importlib.import_module("pipeline.import").main

BUCKET = "commands-of-tests"
GIVEN = (*SHORT, "shard.hours=0.002", "loader.workers=0", "threads=1", "outputs=[transcripts,emissions]")
SHARDS = 3
pytestmark = pytest.mark.usefixtures("default_signals")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """The server, which the environment names."""
    with s3.bucket(BUCKET, tmp_path_factory.mktemp("scratch")) as found:
        yield found


@pytest.fixture(scope="module")
def whole(store: Store) -> str:
    """A run in the store, to which tests add tables."""
    assert main([*GIVEN, f"run_dir=s3://{BUCKET}/whole"]) == 0
    return f"s3://{BUCKET}/whole"


def test_status_says_how_far_a_run_in_a_store_is_while_it_goes_on(
    store: Store, whole: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(locked_run, "LOGS_S", 0.02)
    for key in s3.keys(store, BUCKET, "whole/"):
        if "/logs/" not in key:
            source = {"Bucket": BUCKET, "Key": key}
            s3.client(store).copy_object(Bucket=BUCKET, Key=key.replace("whole", "going", 1), CopySource=source)
    s3.client(store).delete_object(Bucket=BUCKET, Key=f"going/commits/shard-{SHARDS - 1:05d}.json")
    going = f"s3://{BUCKET}/going"
    directory = RunDirectory(place(going))
    row = {"batch": 0, "shard": SHARDS - 1, "valid_s": 1.5, "forward_s": 0.3, "idle_s": 0.0, "workers": 1}
    with directory.lock():
        with open(directory.local_log(METRICS), "a") as metrics:
            metrics.write(json.dumps({"time": datetime.now(UTC).isoformat(), **row}) + "\n")
        assert wait_until(lambda: directory.has(METRICS), 30)
        assert status.main([going]) == 0
        said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("done     ")
    assert said[0].endswith(f"{SHARDS - 1} of {SHARDS} shards")
    assert "speed    5.0 x real time over the last batches" in said
    assert f"begun    shard {SHARDS - 1} (1.5 s of " in said[-2]
    assert said[-1].startswith("running, ")
    assert " left, ends about " in said[-1]


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="the extra `beam` has no KenLM for this Python")
def test_a_language_model_is_made_of_a_run_tuned_and_decoded_with(
    whole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert lm.main([whole, "-o", "lm.arpa"]) == 0
    assert "lm.arpa: 10 words" in capsys.readouterr().out
    assert tune.main([whole, "decoder.lm=lm.arpa", "--random", "2", "--seed", "9"]) == 0
    assert (tmp_path / "whole-tuning" / "tuning.csv").is_file()
    given = [*GIVEN, f"run_dir={whole}", "decoder=beam", "decoder.lm=lm.arpa"]
    assert main([*given, "stages=[decode,align,score]"]) == 0
    run = open_run(f"{whole}/transcripts-beam")
    assert len(run.transcripts) == len(open_run(whole).transcripts)
    assert plot.main([f"{whole}/transcripts-beam", run.transcripts.id[0]]) == 0
    assert verify.main([whole]) == 0
    capsys.readouterr()
    assert status.main([whole]) == 0
    said = capsys.readouterr().out
    for made in ("alignments", "transcripts-beam"):
        assert f"made     {made} of {SHARDS} of {SHARDS} shards" in said


def test_a_sample_of_a_run_is_drawn_labelled_and_estimated_from(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    corpus, run_dir = Corpus(tmp_path), f"s3://{BUCKET}/sampled"
    corpus.add(range(12), "monday")
    assert main([*corpus.given()[:-1], f"run_dir={run_dir}", "outputs=[transcripts]", "loader.workers=0"]) == 0
    assert sample.main([run_dir, "--hours", "0.002"]) == 0
    ids = annotated(tmp_path / "sampled-sample" / "tasks.json", tmp_path / "export.json")
    assert imported([run_dir, str(tmp_path / "export.json")]) == 0
    assert sample.main([run_dir, "--hours", "0.001", "--estimate"]) == 0
    assert "estimates in sampled-sample/" in capsys.readouterr().out
    assert set(open_run(run_dir).transcripts.dropna(subset="reference").id) == set(ids)


def test_speech_that_was_found_is_kept_in_the_store(store: Store, tmp_path: Path) -> None:
    (tmp_path / "calls").mkdir()
    call(tmp_path / "calls" / "a.wav", 3, 7)
    given = ["dataset=folder", f"dataset.root={tmp_path / 'calls'}", "model=digits", "outputs=[transcripts]"]
    given += ["vad=silero", f"run_dir=s3://{BUCKET}/speech", "loader.workers=0"]
    assert main([*given, "stages=[manifest,vad]"]) == 0
    assert s3.keys(store, BUCKET, "speech/speech/") == ["speech/speech/batch-00000.parquet"]
    assert main([*given, "stages=[manifest,vad,infer]"]) == 0
    assert s3.keys(store, BUCKET, "speech/speech/") == ["speech/speech/batch-00000.parquet"]
    assert open_run(f"s3://{BUCKET}/speech").transcripts.text.tolist() == ["THREE", "SEVEN"]


def test_the_runs_of_a_sweep_lie_in_the_store_and_one_that_fails_does_not_cost_the_summary(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["-m", *GIVEN, "emissions.dtype=float16,float32", f"run_dir=s3://{BUCKET}/sweep-${{emissions.dtype}}"]
    given.append("stages=[manifest,infer]")
    with store.failing(Fault(".*", "sweep-float16", "403", times=None)):
        assert main(given) == 2
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[-2:]]
    assert rows[0] == ["1", "2", f"s3://{BUCKET}/sweep-float16"]
    assert rows[1] == ["2", "0", "24", "0", f"s3://{BUCKET}/sweep-float32"]


def test_parts_share_a_run_in_the_store_and_the_index_of_its_records(
    store: Store, whole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "_MANY", 1)
    given = [*GIVEN, f"run_dir=s3://{BUCKET}/parts", "stages=[manifest,infer]"]
    assert main([*given, "executor.part=1/2"]) == 0
    assert main([*given, "executor.part=2/2"]) == 0
    assert f"parts/commits/{records.INDEX}" in s3.keys(store, BUCKET, "parts/commits/")
    assert verify.main([f"s3://{BUCKET}/parts"]) == 0
    folders = [s3.download(store, BUCKET, name, tmp_path / name) for name in ("parts", "whole")]
    for table in ("transcripts", "emissions"):
        left, right = (pq.read_table(folder / table) for folder in folders)
        assert left.equals(right), table
    assert {path.name for path in (folders[0] / "logs").iterdir()} >= {"run-1-of-2.log", "run-2-of-2.log"}


@pytest.mark.parametrize(
    ("command", "given"),
    [
        (lm.main, ["texts.txt", "-o", "s3://bucket/lm.arpa"]),
        (sample.main, ["run", "--out", "s3://bucket/sample"]),
        (imported, ["run", "s3://bucket/corrected.json"]),
    ],
)
def test_what_must_be_on_this_machine_is_not_taken_for_a_folder_named_s3(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], command: Any, given: list[str]
) -> None:
    assert command(given) == 2
    assert "is in an object store, and this must be on this machine" in capsys.readouterr().err
    assert [*elsewhere.iterdir()] == []
