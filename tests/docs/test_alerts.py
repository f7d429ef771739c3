"""The example alerts speak of what the file for Prometheus has, and ring when they should."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from running import ROOT

from pipeline.inference import textfile
from pipeline.inference.textfile import RunTextfile

ALERTS = ROOT / "docs" / "operating" / "alerts.yml"
EXAMPLES = Path(__file__).with_name("alerts_test.yml")
RULES = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_an_alert_speaks_of_metrics_and_labels_that_there_are(rule: dict[str, str]) -> None:
    names = re.findall(r"overnight_speech_\w+", rule["expr"])
    assert names
    assert {name.removeprefix("overnight_speech_") for name in names} <= {*textfile._FAMILIES}
    assert {*re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))} <= {"instance", "run", "worker"}


def test_each_alert_has_an_example_in_which_it_rings() -> None:
    examples = [test for group in yaml.safe_load(EXAMPLES.read_text())["tests"] for test in group["alert_rule_test"]]
    for rule in RULES:
        assert any(each["alertname"] == rule["alert"] and each["exp_alerts"] for each in examples), rule["alert"]


def test_promtool_accepts_the_file_the_alerts_and_their_examples(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed; .ci/run fetches it")
    figures = RunTextfile(tmp_path / "run.prom", run='the "new" run', model="digits")
    figures.begin()
    figures.take("cuda:0", 0)
    figures.batch("cuda:0", 10.0, 1.0, 0.5)
    figures.end(0)
    for command in (["check", "metrics"], ["check", "rules", str(ALERTS)], ["test", "rules", str(EXAMPLES)]):
        with open(tmp_path / "run.prom") as file:
            done = subprocess.run([promtool, *command], stdin=file, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "rules found" in done.stdout or "SUCCESS" in done.stdout or not done.stdout + done.stderr
