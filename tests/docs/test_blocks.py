"""Every block of README.md and the guide runs and prints what the page shows, or says in its source why it cannot."""

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
from pathlib import Path

import pytest
import yaml
from running import ROOT

from pipeline.config import commandline
from pipeline.config import run_config as config
from scripts.docs import executing, outputs
from scripts.docs.pages import HIDDEN, OUTPUT, READ, Block, bare, blocks_of, lines_of, marks_of

ELSEWHERE = {
    "extending.md": "tests/test_extending.py",
    "recipes.md": "tests/docs/test_recipes.py",
    "recipes-features.md": "tests/docs/test_recipes.py",
}
"""Pages whose blocks another module runs, all of them."""
SLOW = {"compare.md", "language-models.md", "sampling.md"}
"""Pages with hidden commands that transcribe minutes of noisy audio. `.ci/run` runs these, beside the tests."""
RUNNING = {
    page: [block for block in blocks_of(page) if not block.not_run and block.language != OUTPUT]
    for page in READ
    if page.name not in ELSEWHERE
}
OVERVIEWS = ("gallery.md", "README.md")
"""Pages whose commands often stand on another page, which runs them."""
NOT_RUN = 52
"""How many blocks of all pages have a mark; a new one should run."""


# --- a handler for each language that is no command and no Python


def checked_run(command: str, world: Path) -> None:
    """Check the settings of a run that a scheduler starts; what has a shell's variables in it has a number."""
    words = shlex.split(re.sub(r"\$\(\(.*?\)\)|\$\w+", "1", command))
    start = words.index("pipeline.run") + 1
    arguments = [word for word in words[start:] if "=" in word]
    config.load(commandline.parse([executing.placed(word, world) for word in arguments]).overrides)


def check_csv(block: Block, _: Path) -> None:
    header, *rows = csv.reader(io.StringIO(block.code))
    assert rows
    assert {len(row) for row in rows} == {len(header)}


def use_yaml(block: Block, world: Path) -> None:
    content = yaml.safe_load(block.code)
    if block.page == "corpus.md":
        (world / "mine" / "dataset").mkdir(parents=True)
        (world / "mine" / "dataset" / "mycalls.yaml").write_text(executing.placed(block.code, world))
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
    code = executing.placed(block.code, world)
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


HANDLERS = {
    "csv": check_csv,
    "yaml": use_yaml,
    "ini": check_unit,
    "cron": check_cron,
    "bash": run_bash,
    "promql": check_promql,
}


def on_other_pages(overview: Path) -> frozenset[str]:
    """The commands of all other pages, as `bare` writes them. What the gallery shares with README.md runs there."""
    others = [blocks for page, blocks in RUNNING.items() if page.name not in (overview.name, "gallery.md")]
    blocks = [block for page in others for block in page if not block.language]
    return frozenset(bare(line) for block in blocks for line in lines_of(block))


@pytest.mark.parametrize("page", [page for page in RUNNING if RUNNING[page]], ids=lambda page: page.name)
def test_a_page_runs_from_top_to_bottom_and_shows_what_is_printed(page: Path) -> None:
    assert {block.language for block in RUNNING[page]} <= {"", "python", HIDDEN, *HANDLERS}
    elsewhere = on_other_pages(page) if page.name in OVERVIEWS else frozenset[str]()
    found = outputs.outputs(page, HANDLERS, hidden=page.name not in SLOW, elsewhere=elsewhere)
    stale = [outputs.difference(block) for block in found if not block.current]
    assert stale == [], f"`make outputs` writes {page.name} anew"


# --- what does not run


def test_a_block_that_does_not_run_says_why_and_there_are_no_more_of_them_than_are_known() -> None:
    marked = [block for page in READ for block in blocks_of(page) if block.not_run]
    assert len(marked) == sum(len(marks_of(page)) for page in READ), "a mark stands right before its block"
    for block in marked:
        for path in re.findall(r"tests/[\w/]+\.py", block.not_run or ""):
            assert (ROOT / path).is_file(), block
    assert len(marked) == NOT_RUN, "make the block run, or count it in NOT_RUN"


def test_pages_that_another_module_runs_are_read_there() -> None:
    for page, module in ELSEWHERE.items():
        assert f'"{page}"' in (ROOT / module).read_text(), page
    for page in SLOW:
        assert f"docs/{page}" in (ROOT / ".ci" / "run").read_text(), page
