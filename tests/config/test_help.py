"""The command line beside settings, and a help page that says what there is."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import running
from omegaconf import DictConfig, OmegaConf

from pipeline import __version__
from pipeline.config import commandline
from pipeline.config import help as usage
from pipeline.config import run_config as config
from pipeline.config.groups import GROUPS, conf_dir, describe, group_choices, open_conf
from pipeline.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("elsewhere")


# --- options

REFUSED = [
    (
        ["--foo"],
        ["--foo: no such option; ", "--help", "--version", "--config-dir", "--config-name", "--cfg", "key=value"],
    ),
    (["-x"], ["-x: no such option; ", "--help", "dataset=digits"]),
    (["-"], ["-: no such option"]),
    (["--"], ["--: no such option"]),
    (["--dataset=digits"], ["--dataset=digits: no such option", "write dataset=digits"]),
    (["--config-dri=x"], ["--config-dri=x: no such option (did you mean config-dir?)"]),
    (["--resolve"], ["--resolve: no such option", "--cfg"]),
    (["--package=model"], ["--package=model: no such option", "--cfg"]),
    (["--run"], ["--run: no such option"]),
    (["-m=1"], ["argument -m/--multirun: ignored explicit argument '1'; usage: python -m pipeline.run [option"]),
    (["--config-path=/tmp"], ["--config-path=/tmp: no such option", "--config-dir"]),
    (["--info"], ["--info: no such option", "--cfg"]),
    (["--hydra-help"], ["--hydra-help: no such option"]),
    (["--cfg", "hydra"], ["--cfg=hydra: not allowed; there are job"]),
    (["--cfg"], ["argument -c/--cfg: expected one argument; usage: python"]),
    (["--config-dir"], ["argument -cd/--config-dir: expected one argument; usage: python"]),
    (["--config-dir="], ["--config-dir=: is no folder; give one that holds"]),
    (["--version=2"], ["argument -V/--version: ignored explicit argument '2'; usage: python"]),
]


@pytest.mark.parametrize(("arguments", "said"), REFUSED, ids=[" ".join(arguments) for arguments, _ in REFUSED])
def test_an_option_that_there_is_not_is_refused_in_one_line_that_says_what_there_is(
    arguments: list[str], said: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        commandline.parse(["dataset=digits", *arguments])
    message = str(caught.value)
    assert message.startswith(said[0])
    assert "\n" not in message
    for part in said[1:]:
        assert part in message


def test_an_unknown_option_ends_the_command_with_code_2_and_nothing_left(elsewhere: Path) -> None:
    for arguments in (["--foo"], ["--info", "all"]):
        ended = running.run(*arguments, cwd=elsewhere)
        assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
        assert ended.stderr.startswith(f"error: {arguments[0]}: ")
    assert list(elsewhere.iterdir()) == []


def test_settings_stay_as_typed_in_their_order() -> None:
    typed = ("dataset=digits", "run_dir=a -b", "outputs=[transcripts]")
    command = commandline.parse(typed)
    assert command == commandline.Command(typed)
    assert commandline.parse([typed[0], "--cfg=job", *typed[1:]]).overrides == typed


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_the_version_is_said(option: str, elsewhere: Path) -> None:
    ended = running.run(option, cwd=elsewhere)
    assert (ended.returncode, ended.stdout) == (0, f"overnight-speech {__version__}\n")


def test_the_resolved_settings_are_printed_and_nothing_is_done(elsewhere: Path) -> None:
    ended = running.run("--cfg", "job", "dataset=digits", "batch.max_seconds=9", cwd=elsewhere)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.rstrip() == config.load(["dataset=digits", "batch.max_seconds=9"]).yaml.rstrip()
    assert list(elsewhere.iterdir()) == []
    assert running.run("--cfg=job", "batch.max_secondz=9", cwd=elsewhere).returncode == 2


# --- the page


def section(title: str, page: str | None = None) -> list[str]:
    """The lines under a title."""
    found = re.search(rf"^{title}.*\n((?:  .*\n?)+)", page or usage.page(), re.MULTILINE)
    assert found is not None, title
    return found[1].splitlines()


def test_the_page_fits_80_columns() -> None:
    pages = [usage.page(), *(usage.page(None, [f"{g}={name}"]) for g in GROUPS for name in group_choices(g))]
    for page in pages:
        too_long = [line for line in page.splitlines() if len(line) > 80 and not line.endswith(".yaml)")]
        assert too_long == []
        assert not [line for line in page.splitlines() if line != line.rstrip()]


def test_the_page_has_every_choice_and_says_what_each_dataset_is() -> None:
    datasets = "\n".join(section("dataset=NAME"))
    for name in group_choices("dataset"):
        assert re.search(rf"^  {name} +\w", datasets, re.MULTILINE)
        said = describe("dataset", name).said
        assert said
        assert " ".join(said.split()) in " ".join(datasets.split())
    for group in ("model", "decoder", "executor", "vad"):
        words = re.findall(r"\w+", "\n".join(section(f"{group}=NAME")))
        assert {*group_choices(group)} <= {*words}


def test_the_page_has_every_setting_with_its_default() -> None:
    said = re.findall(r"^  ([\w.]+)=(\S+)", "\n".join(section("settings")), re.MULTILINE)
    defaults = dict(said)
    assert len(defaults) == len(said)
    composed = OmegaConf.load(conf_dir() / "config.yaml")
    del composed["defaults"]

    def flat(node: DictConfig, prefix: str = "") -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in node.items():
            found |= flat(value, f"{prefix}{key}.") if isinstance(value, DictConfig) else {f"{prefix}{key}": value}
        return found

    settings = flat(composed)
    assert {key for key in defaults if not key.startswith("model.")} == {*settings}
    for key, value in settings.items():
        assert OmegaConf.create(f"x: {defaults[key]}").x == value, key
    assert "model.sha256" in defaults


def test_the_defaults_of_the_groups_are_those_of_the_configuration() -> None:
    page = usage.page()
    chosen = config.load([])
    assert f"(default {chosen.model.name}; with dataset=digits: {config.load(['dataset=digits']).model.name})" in page
    assert "dataset=NAME (default voices)" in page
    assert type(chosen.dataset).__module__.endswith(".voices")
    assert f"decoder=NAME (default {chosen.settings.decoder.name})" in page


def test_every_example_is_a_command_that_works(elsewhere: Path) -> None:
    for folder in ("calls", "conf/dataset"):
        (elsewhere / folder).mkdir(parents=True)
    (elsewhere / "conf/dataset/mycalls.yaml").write_text("connector: folder\nroot: calls\n")
    examples = [shlex.split(line) for line in section("examples") if line.startswith("    ")]
    assert len(examples) == 5
    for example in examples:
        assert example[:3] == ["python", "-m", "pipeline.run"]
        command = commandline.parse(example[3:])
        config.load_sweep(command.overrides, command.own)


def test_the_page_of_a_choice_says_what_can_be_set_there() -> None:
    page = usage.page(None, ["dataset=folder", "model=digits"])
    assert describe("dataset", "folder").said in " ".join(page.split())
    assert re.search(r"dataset\.root=\.\.\. +required: the folder", page)
    assert "dataset.extensions=[wav," in page
    assert re.search(r"model\.sha256=null +\w", page)
    assert "connector" not in page
    assert "exit codes" not in page
    assert "exit codes" in usage.page(None, ["dataset=nope"])


def test_the_page_has_choices_of_ones_own(tmp_path: Path) -> None:
    for group in ("dataset", "model"):
        (tmp_path / "own" / group).mkdir(parents=True)
        (tmp_path / "own" / group / "mine.yaml").write_text(f"# The {group} of ours.\nroot: ???\n")
    own = open_conf(str(tmp_path / "own"))
    page = usage.page(own)
    assert re.search(r"^  mine +The dataset of ours. Needs dataset.root=...$", page, re.MULTILINE)
    assert re.search(r"^  mine +The model of ours.", page, re.MULTILINE)
    assert "dataset=mine: The dataset of ours." in usage.page(own, ["dataset=mine"])


def test_the_page_names_every_option_and_every_exit_code() -> None:
    page = usage.page()
    for option in commandline.OPTIONS:
        assert f"{option.short}, {option.full}" in page
    codes = " ".join(section("exit codes"))
    assert {"0", "1", "2", "3", "129", "130", "143"} <= {*re.findall(r"\d+", codes)}


ONE_WORD = "a setting is one word, key=value"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["device", "cuda"], f"device: {ONE_WORD}; write device=cuda"),
        (
            ["dataset.root", "=", "/my calls"],
            f"dataset.root: {ONE_WORD}; write 'dataset.root=/my calls'",
        ),
        (["dataset.root", "=/x"], f"dataset.root: {ONE_WORD}; write dataset.root=/x"),
        (["dataset.root=", "/x"], f"/x: {ONE_WORD}; write dataset.root=/x"),
        (["digits"], f"digits: {ONE_WORD}; write dataset=digits"),
        (["hubert_base"], f"hubert_base: {ONE_WORD}; write model=hubert_base"),
        (
            ["calls"],
            f"calls: {ONE_WORD}; for a folder of recordings write dataset=folder dataset.root=calls",
        ),
        (
            ["list.csv"],
            f"list.csv: {ONE_WORD}; for a list of recordings write dataset=manifest dataset.path=list.csv, ",
        ),
        (
            ["/no/such"],
            f"/no/such: {ONE_WORD}; no such file or folder; for recordings write dataset=folder dataset.root=",
        ),
        (["--model", "digits"], "--model: no such option; settings have no dashes; write model=digits"),
        (
            ["--batch.max_seconds=3"],
            "--batch.max_seconds=3: no such option; settings have no dashes; write batch.max_s",
        ),
        (["--dataset.root", "/x"], "--dataset.root: no such option; settings have no dashes; write dataset.root=/x"),
        (["--root=/x"], "--root=/x: no such option; settings have no dashes; write dataset.root=/x"),
        (["--batch-size", "8"], "--batch-size: no such option; settings have no dashes; write batch.max_seconds="),
        (["\u2014model=digits"], "\u2014model=digits: no such option; settings have no dashes; write model=digits"),
        (["dataset:digits"], f"dataset:digits: {ONE_WORD}; write dataset=digits"),
        (["dataset:", "digits"], f"dataset:: {ONE_WORD}; write dataset=digits"),
        (
            ["outputs=[transcripts,", "emissions]", "device=cpu"],
            f"emissions]: {ONE_WORD}; write 'outputs=[transcripts,emissions]'",
        ),
        (["features.layers=6", "9"], f"9: {ONE_WORD}; write 'features.layers=[6,9]'"),
        (
            ["dataset.root=/my", "calls and", "more"],
            f"calls and: {ONE_WORD}; write 'dataset.root=/my calls and more'",
        ),
        (["model", "digits", "--device", "cpu"], f"model: {ONE_WORD}; write model=digits"),
        (["dataset.root=/my", "hubert_base"], f"hubert_base: {ONE_WORD}; write model=hubert_base"),
        (
            ["--layers", "6", "9"],
            "--layers: no such option; settings have no dashes; write 'features.layers=[6,9]' or ",
        ),
        (["workers", "4"], f"workers: {ONE_WORD}; write loader.workers=4"),
        (["gpu", "0"], f"gpu: {ONE_WORD}; write device=cuda"),
        (["retry_failed"], f"retry_failed: {ONE_WORD}; write retry_failed=..."),
        (["nonsense"], f"nonsense: {ONE_WORD}, such as dataset=digits; --help lists them"),
        (["=", "x"], f"=: {ONE_WORD}"),
    ],
)
def test_what_is_no_setting_is_refused_with_what_to_write(
    typed: list[str], said: str, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (elsewhere / "calls").mkdir()
    (elsewhere / "list.csv").write_text("path\n")
    monkeypatch.chdir(elsewhere)
    with pytest.raises(UserError) as caught:
        commandline.parse(["dataset.split=x", *typed])
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["dataset=digits", "--help"], ["nonsense", "-h"]])
def test_help_is_printed_whatever_else_is_typed(arguments: list[str], elsewhere: Path) -> None:
    ended = running.run(*arguments, cwd=elsewhere)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("dataset=digits: " if "dataset=digits" in arguments else "usage: ")
    assert list(elsewhere.iterdir()) == []


def test_help_does_not_load_torch(elsewhere: Path) -> None:
    script = (
        "import sys\nfrom pipeline.run import main\ncode = main(['--help'])\n"
        "assert not {'torch', 'torchaudio'} & set(sys.modules)\nsys.exit(code)"
    )
    env = os.environ | {"PYTHONPATH": str(running.ROOT)}
    assert subprocess.run([sys.executable, "-c", script], env=env, capture_output=True).returncode == 0


def test_the_page_names_commands_that_there_are() -> None:
    modules = set(re.findall(r"python -m (pipeline\.\w+)", usage.page()))
    assert {"pipeline.run", "pipeline.status"} <= modules
    assert all(importlib.util.find_spec(module) for module in modules)
