"""Every block of code in README.md and the guide runs, or says in its source why no test can run it."""

from __future__ import annotations

import configparser
import csv
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import guide_pages
import pytest
import yaml
from guide_pages import READ, Block, blocks_of, marks_of
from running import ROOT

from pipeline.config import commandline
from pipeline.config import run_config as config

OUTPUT = {"text"}
"""What commands print; scripts/docs/outputs.py and the tests of single pages look after it."""
ELSEWHERE = {
    "extending.md": "tests/test_extending.py",
    "recipes.md": "tests/docs/test_recipes.py",
    "recipes-features.md": "tests/docs/test_recipes.py",
}
"""Pages whose blocks another module runs, all of them."""
BLOCKS = {page.name: blocks_of(page) for page in READ}


VARIES = re.compile("x real time|/home/me/|download  ")
"""Lines of a tutorial's output that another machine prints with other figures or paths."""
NOT_RUN = 39
"""How many blocks of all pages have a mark; a new one should run."""


def to_run(page: str) -> list[Block]:
    found = [block for block in BLOCKS[page] if not block.not_run and block.language not in OUTPUT]
    return [] if page in ELSEWHERE else found


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory, digits_run: Path) -> Path:
    """The world as every page finds it, beside the place where pages run."""
    world = tmp_path_factory.mktemp("guide") / "world"
    with pytest.MonkeyPatch.context() as patched:
        guide_pages.make_world(world, digits_run, patched)
    return world.rename(world.with_name("pristine"))


@pytest.fixture
def world(pristine: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a page."""
    world = pristine.with_name("world")
    shutil.rmtree(world, ignore_errors=True)
    shutil.copytree(pristine, world)
    monkeypatch.chdir(world)
    monkeypatch.setenv("VOICES_ROOT", str(world / "data" / "VOiCES_devkit"))
    guide_pages.stand_in(monkeypatch)
    return world


# --- a handler for each language


def run_commands(block: Block, world: Path) -> None:
    if block.page in ("corpus.md", "lists.md"):  # its blocks are alternatives, each of them the first run of a corpus
        for folder in (world / "runs").iterdir():
            if folder.name not in ("digits", "voices"):
                shutil.rmtree(folder)
    for words in guide_pages.commands_of(block):
        match [guide_pages.placed(word, world) for word in words]:
            case ["python", "-m", name, *_] as placed if name.startswith("pipeline."):
                may = {0, 3} if name == "pipeline.run" else {0, 4} if "--fail-if" in words else {0}
                assert guide_pages.execute(placed) in ({2} if shows_an_error(block) else may), words
            case ["cd" | "xdg-open", place]:
                assert Path(place).exists(), words
            case _:
                pytest.fail(f"{block}: nothing runs {words}; if no test can, write <!-- not run: REASON --> before it")


def shows_an_error(block: Block) -> bool:
    """Whether the page shows the error of the command as what it prints."""
    after = BLOCKS[block.page][BLOCKS[block.page].index(block) + 1 :][:1]
    return any(each.language == "text" and each.code.startswith("error: ") for each in after)


def checked_run(command: str, world: Path) -> None:
    """Check the settings of a run that a scheduler starts; what has a shell's variables in it has a number."""
    words = shlex.split(re.sub(r"\$\(\(.*?\)\)|\$\w+", "1", command))
    start = words.index("pipeline.run") + 1
    arguments = [word for word in words[start:] if "=" in word]
    config.load(commandline.parse([guide_pages.placed(word, world) for word in arguments]).overrides)


def write_csv(block: Block, world: Path) -> None:
    header, *rows = csv.reader(io.StringIO(block.code))
    assert rows
    assert {len(row) for row in rows} == {len(header)}
    (world / "data" / "calls.csv").write_text(block.code)


def use_yaml(block: Block, world: Path) -> None:
    content = yaml.safe_load(block.code)
    if block.page == "corpus.md":
        (world / "mine" / "dataset").mkdir(parents=True)
        (world / "mine" / "dataset" / "mycalls.yaml").write_text(guide_pages.placed(block.code, world))
    elif content.get("kind") == "Job":
        assert content["spec"]["completionMode"] == "Indexed"
        (container,) = content["spec"]["template"]["spec"]["containers"]
        assert container["command"] == ["sh", "-c"]
        subprocess.run(["sh", "-n", "-c", *container["args"]], check=True)
        checked_run(container["args"][0].partition("||")[0], world)
    else:
        import jsonschema
        import ray.autoscaler

        for node in content["available_node_types"].values():
            node.setdefault("resources", {})  # which Ray fills in from the instance type
        schema = Path(ray.autoscaler.__file__).with_name("ray-schema.json").read_text()
        jsonschema.validate(content, json.loads(schema))


def check_unit(block: Block, world: Path) -> None:
    """systemd reads both files, with paths that there are; where there is no systemd, their syntax is read."""
    name = re.match(r"# /etc/systemd/system/([\w.]+)\n", block.code)
    assert name
    code = guide_pages.placed(block.code, world)
    code = re.sub(r"^(ExecStart=)\S+", rf"\1{sys.executable}", code, flags=re.MULTILINE).replace("User=speech\n", "")
    (world / name[1]).write_text(code)
    unit = configparser.ConfigParser(interpolation=None)
    unit.read_string(code)
    if "Service" in unit:
        checked_run(unit["Service"]["ExecStart"], world)
    if shutil.which("systemd-analyze"):
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(world / name[1])],
            env=os.environ | {"SYSTEMD_UNIT_PATH": f"{world}:"},
            capture_output=True,
            text=True,
        )
        assert name[1] not in done.stderr, done.stderr


def check_cron(block: Block, world: Path) -> None:
    for line in block.code.splitlines():
        if not line.startswith("#"):
            entry = re.fullmatch(r"((?:[\d*,/-]+ ){5}) ?(.+)", line)
            assert entry, line
            assert not re.search(r"(?<!\\)%", entry[2]), "cron ends a command at a bare %"
            assert subprocess.run(["sh", "-n", "-c", entry[2]]).returncode == 0
            checked_run(entry[2].partition(">")[0], world)


def run_bash(block: Block, world: Path) -> None:
    """A script that starts commands on other machines: ssh only writes down what it is asked for."""
    asked = world / "asked"
    (world / "bin").mkdir()
    (world / "bin" / "ssh").write_text(f'#!/bin/sh\nprintf "%s\\n" "$2" >> {asked}\n')
    (world / "bin" / "ssh").chmod(0o755)
    env = os.environ | {"PATH": f"{world / 'bin'}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-euc", block.code], env=env, check=True)
    commands = asked.read_text().splitlines()
    assert len(commands) > 1
    for command in commands:
        checked_run(command.partition(">")[0], world)


def check_promql(block: Block, world: Path) -> None:
    names = {name.removeprefix("ray_") for name in re.findall(r"\bray_\w+", block.code)}
    code = (ROOT / "pipeline" / "executors").rglob("*.py")
    said = {name + "_total" for path in code for name in re.findall(r'"(pipeline_\w+)"', path.read_text())}
    assert names
    assert names <= said | {name.removesuffix("_total") for name in said}


HANDLERS: dict[str, Callable[[Block, Path], None]] = {
    "": run_commands,
    "csv": write_csv,
    "yaml": use_yaml,
    "ini": check_unit,
    "cron": check_cron,
    "bash": run_bash,
    "promql": check_promql,
}


@pytest.mark.parametrize("page", [page for page in BLOCKS if to_run(page)])
def test_the_blocks_of_a_page_run_from_top_to_bottom(
    page: str, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if page == "voice-activity.md":  # which begins a run
        shutil.rmtree(world / "data" / "out")
    namespace: dict[str, Any] = {}
    if page == "tutorial-two-models.md":  # which goes on with the folder of another tutorial
        exec(to_run("tutorial-corpus.md")[0].code, namespace)
    for block in to_run(page):
        if block.language == "python":
            exec(compile(guide_pages.placed(block.code, world), str(block), "exec"), namespace)
        else:
            assert block.language in HANDLERS, f"{block}: nothing runs a block of {block.language}"
            if page == "tutorial-nightly.md":
                time.sleep(1)  # two nights are more than a second apart
            HANDLERS[block.language](block, world)
    if page.startswith("tutorial-"):
        printed = capsys.readouterr()
        said = {line.rstrip() for line in (printed.out + printed.err).replace(str(world), "").splitlines()}
        shown = [line for block in BLOCKS[page] if block.language == "text" for line in block.code.splitlines()]
        assert [line for line in shown if line not in said and not VARIES.search(line)] == []


# --- what does not run


def test_a_block_that_does_not_run_says_why_and_there_are_no_more_of_them_than_are_known() -> None:
    marked = [block for blocks in BLOCKS.values() for block in blocks if block.not_run]
    assert len(marked) == sum(len(marks_of(page)) for page in READ), "a mark stands right before its block"
    for block in marked:
        assert block.language != "text", f"{block}: output has no mark"
        for path in re.findall(r"tests/[\w/]+\.py", block.not_run or ""):
            assert (ROOT / path).is_file(), block
    assert len(marked) == NOT_RUN, "make the block run, or count it in NOT_RUN"


def test_pages_that_another_module_runs_are_read_there() -> None:
    for page, module in ELSEWHERE.items():
        assert f'"{page}"' in (ROOT / module).read_text(), page
