"""`--quiet` prints only errors; `--json` adds one line for each run, for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from running import DATA, SHIPPED, SHORT, main


def test_a_quiet_run_prints_nothing_and_logs_everything(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*SHORT, f"run_dir={tmp_path / 'run'}", "stages=[manifest,infer,score,report]", "--quiet"]) == 0
    assert capfd.readouterr() == ("", "")
    log = (tmp_path / "run" / "logs" / "run.log").read_text()
    assert "24 of 24 utterances" in log
    assert "report in " in log


def test_json_is_one_line_with_what_the_run_has(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = [*SHORT, f"run_dir={tmp_path / 'run'}", "outputs=[transcripts,emissions]", "shard.hours=0.003", "--json"]
    assert main(given) == 0
    said = capfd.readouterr()
    assert said.err == ""
    assert said.out.count("\n") == 1
    found = json.loads(said.out)
    assert 20 < found.pop("audio_s") < 30
    assert found.pop("shards") == found.pop("shards_committed") > 1
    assert found == {
        "run_dir": str(tmp_path / "run"),
        "model": "digits",
        "complete": True,
        "utterances": 24,
        "utterances_done": 24,
        "failures": {},
        "empty_transcripts": 0,
        "word_errors": 0,
        "reference_words": found["reference_words"],
        "wer": 0.0,
        "normaliser": "standard",
        "exit_code": 0,
        "error": None,
    }
    assert main([*given, "stages=[decode]"]) == 0
    decoded = json.loads(capfd.readouterr().out)
    assert decoded["run_dir"] == str(tmp_path / "run" / "transcripts-greedy")
    assert decoded["utterances_done"] == 24


def test_json_says_why_a_run_ended(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    missing, heard = tmp_path / "missing.wav", SHIPPED / "digits" / "george-1digits-00.flac"
    (tmp_path / "list.csv").write_text(f"path,text\n{missing},one\n{DATA / 'README.md'},two\n{heard},eight\n")
    given = ["dataset=manifest", f"dataset.path={tmp_path / 'list.csv'}", "model=digits", f"run_dir={tmp_path / 'run'}"]
    assert main([*given, "--json"]) == 3
    found = json.loads(capfd.readouterr().out)
    assert found["exit_code"] == 3
    assert found["error"] is None
    assert found["failures"] == {"not_found": 1, "unsupported_format": 1}
    assert found["utterances_done"] == 1
    assert main([*given, "--json", "precision=fp8"]) == 2
    said = capfd.readouterr()
    assert json.loads(said.out) == {"exit_code": 2, "error": said.err.removeprefix("error: ").rstrip("\n")}
    assert main([*given, "--json", "channels=first"]) == 2
    refused = json.loads(capfd.readouterr().out)
    assert "channels: mix before, first now" in refused["error"]
    assert refused["utterances"] == 3


def test_a_sweep_has_a_line_for_each_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = [*SHORT, f"run_dir={tmp_path}/${{features.dtype}}", "features.dtype=float16,float32", "-m", "-j"]
    assert main([*given, "stages=[manifest]"]) == 0
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [Path(line["run_dir"]).name for line in lines] == ["float16", "float32"]
    assert [line["complete"] for line in lines] == [False, False]
