"""The package of docs/extending.md, built and installed as a person would: its dataset and its decoder are choices."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import running

from pipeline.config.run_config import load
from pipeline.datasets import columns_of, utterances_of
from pipeline.records import Utterance
from pipeline.runtime import plugins
from pipeline.runtime.errors import UserError

PAGE = running.ROOT / "docs" / "extending.md"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the package of the page is installed, without the network."""
    source = tmp_path_factory.mktemp("source")
    files = re.findall(r"^`([\w./]+)`.*\n```\w+\n((?:.*\n)+?)```", PAGE.read_text(), re.MULTILINE)
    assert [name for name, _ in files] == ["pyproject.toml", "our_speech/answers.py", "our_speech/shouting.py"]
    (source / "our_speech").mkdir()
    (source / "our_speech" / "__init__.py").touch()
    for name, content in files:
        (source / name).write_text(content)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(source / "dist")]
    subprocess.run(build, cwd=source, check=True, capture_output=True, timeout=120)
    (wheel,) = (source / "dist").iterdir()
    site = tmp_path_factory.mktemp("site")
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--no-index",
    ]
    subprocess.run([*install, "--target", str(site), str(wheel)], check=True, capture_output=True, timeout=240)
    return site


def execute(site: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return running.run_prepared(f"import sys\nsys.path.append({str(site)!r})", *arguments, cwd=cwd)


def test_the_package_of_the_page_adds_a_dataset_and_a_decoder(site: Path, tmp_path: Path) -> None:
    (tmp_path / "recordings").mkdir()
    shutil.copy(running.SHIPPED / "digits" / "lucas-1digits-02.flac", tmp_path / "recordings")
    chosen = ["dataset=answers", "dataset.root=recordings", "model=digits", "outputs=[transcripts]", "run_dir=out"]
    chosen += ["stages=[manifest,infer]"]
    command = running.command(*chosen, "decoder=shouting", "decoder.mark='?'")
    env = running.environment(PYTHONPATH=f"{running.ROOT}{os.pathsep}{site}")
    ended = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240)
    assert (ended.returncode, ended.stderr) == (0, "")
    (row,) = pd.read_parquet(tmp_path / "out" / "transcripts").to_dict("records")
    assert row["speaker"] == "lucas"
    assert re.fullmatch(r"[A-Z]+\?", row["text"])
    identity = json.loads((tmp_path / "out" / "run.json").read_text())["identity"]
    assert (identity["decoder"], identity["decoder.mark"]) == ("shouting", "?")
    refused = execute(site, *chosen, "decoder=shouting", cwd=tmp_path)
    assert refused.returncode == 2
    assert "decoder.mark: ? before, ! now" in refused.stderr


def test_its_keys_are_checked_and_a_file_may_set_them(site: Path, tmp_path: Path) -> None:
    own = tmp_path / "own" / "dataset"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("defaults: [answers, _self_]\nroot: .\n")
    shown = execute(site, "--cfg", "job", "--config-dir=own", "dataset=mine", cwd=tmp_path)
    assert shown.returncode == 0
    assert "connector: answers" in shown.stdout
    for typed, said in (
        ("dataset.rot=x", "dataset.rot=x: no such key (did you mean dataset.root?); there are"),
        ("dataset.suffix=[a]", "dataset.suffix=[a]: must be one value"),
        ("dataset.suffix=.wav", "dataset.root is required and has no default"),
    ):
        ended = execute(site, "dataset=answers", typed, cwd=tmp_path)
        assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
        assert said in ended.stderr
    page = execute(site, "--help", cwd=tmp_path).stdout
    assert re.search(r"^  answers +Added by the package our-speech\. Needs\s+dataset\.root=\.\.\.$", page, re.MULTILINE)
    assert re.search(r"^  shouting +Added by the package our-speech\.$", page, re.MULTILINE)
    assert "dataset.suffix=.flac" in execute(site, "--help", "dataset=answers", cwd=tmp_path).stdout


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("folder", "json", "its entry point folder in overnight_speech.datasets has a name that is shipped"),
        ("mine", "no_such_module_at_all", "dataset.connector=mine: no_such_module_at_all of .* cannot be imported"),
        ("mine", "json", "dataset.connector=mine: json of .* has no Options and no Dataset"),
    ],
)
def test_a_package_that_cannot_be_used_is_named(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = EntryPoint(name, value, "overnight_speech.datasets")
    monkeypatch.setattr(plugins, "entry_points_of", lambda group, _: (point,) if group == point.group else ())
    with pytest.raises(UserError, match=said):
        load([f"dataset={name}"])


GOOD = Utterance("a", "/a.wav", "one", 0.5, 1.0, {"speaker": "x", "take": np.int64(3), "gain": 1}, 2)


class Connector:
    """A connector of another package, which returns what a test says."""

    run_name, notice = "mine", None

    def __init__(self, columns: Any, utterances: Any) -> None:
        self._columns, self._utterances = columns, utterances

    def columns(self) -> Any:
        return self._columns

    def utterances(self) -> Any:
        return self._utterances


INSTALLED = cache(plugins.packages_distributions)
PACKAGE = __name__.partition(".")[0]
COLUMNS = {"speaker": "string", "take": "int16", "gain": "float64"}


def test_what_a_connector_of_another_package_may_return_is_taken() -> None:
    connector = Connector(COLUMNS, iter([GOOD]))
    assert columns_of(connector) == COLUMNS
    assert list(utterances_of(connector)) == [GOOD]


@pytest.mark.parametrize(
    ("columns", "utterances", "said"),
    [
        (
            None,
            [GOOD],
            f"columns() of {__name__} in the package {PACKAGE} returned None; it must",
        ),
        (["speaker"], [GOOD], "returned ['speaker']; it must give names with one of string, bool, int16"),
        ({"speaker": "text"}, [GOOD], "returned {'speaker': 'text'}; it must"),
        ({"speaker": str}, [GOOD], "returned {'speaker': <class 'str'>}; it must"),
        (COLUMNS, None, f"utterances() of {__name__} in the package"),
        (COLUMNS, ["a.wav"], "returned 'a.wav'; it must give objects of pipeline.records.Utterance"),
        (COLUMNS, [replace(GOOD, id=3)], "it must give id as a string"),
        (COLUMNS, [replace(GOOD, id="\udc80")], "it must give id as a string"),
        (COLUMNS, [replace(GOOD, path=Path("/a"))], "it must give path as a string"),
        (COLUMNS, [replace(GOOD, start_s="0.5")], "it must give start_s as a number or None"),
        (COLUMNS, [replace(GOOD, channel=True)], "it must give channel as a whole number or None"),
        (COLUMNS, [replace(GOOD, columns=[])], "it must give columns as a dict"),
        (COLUMNS, [replace(GOOD, columns={"room": "x"})], "it must give only columns that columns() names"),
        (COLUMNS, [replace(GOOD, columns={"take": 2**15})], "it must give take as int16 or None"),
        (COLUMNS, [replace(GOOD, columns={"gain": "1"})], "it must give gain as float64 or None"),
    ],
)
def test_what_a_connector_returns_wrongly_is_named_with_its_package(
    columns: Any, utterances: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "packages_distributions", INSTALLED)
    with pytest.raises(UserError) as caught:
        list(utterances_of(Connector(columns, utterances)))
    assert said in str(caught.value)
    assert str(caught.value).endswith("so correct that package")
