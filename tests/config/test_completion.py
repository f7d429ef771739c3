"""Tab completion: what may follow, and the script in a real bash."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import running

from pipeline.config.completion import answer, candidates
from pipeline.config.groups import group_choices
from pipeline.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("elsewhere")
RUN = "python -m pipeline.run "
WITHOUT_EQUALS = "COMP_WORDBREAKS=${COMP_WORDBREAKS//=}"
"""Of a terminal where a word of the command line is all that stands between blanks."""


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("dat", ["dataset.root=", "dataset="]),
        ("dataset=", [f"dataset={name}" for name in group_choices("dataset")]),
        ("dataset=fo", ["dataset=folder"]),
        (
            "dataset=folder dataset.",
            [f"dataset.{key}=" for key in ("archives", "encoding", "extensions", "metadata", "root")],
        ),
        ("dataset=manifest dataset.columns.d", ["dataset.columns.duration="]),
        ("dataset=digits dataset.", []),
        ("model=checkpoint model.a", ["model.architecture="]),
        ("prec", ["precision="]),
        ("precision=f", ["precision=fp16", "precision=fp32"]),
        ("stages=", []),
        ("batch.", ["batch.max_seconds="]),
        ("--config", ["--config-dir", "--config-name"]),
        ("-m model=di", ["model=digits"]),
        ("nonsense=1 ba", ["batch.max_seconds="]),
        ("--nonsense ba", []),
        ("dataset=nope ba", []),
    ],
)
def test_what_may_follow(typed: str, found: list[str]) -> None:
    assert candidates(RUN + typed) == found


def test_choices_of_ones_own_are_candidates(tmp_path: Path) -> None:
    (tmp_path / "own" / "dataset").mkdir(parents=True)
    (tmp_path / "own" / "dataset" / "mycalls.yaml").write_text("connector: folder\n")
    assert candidates(f"{RUN}--config-dir={tmp_path / 'own'} dataset=my") == ["dataset=mycalls"]


@pytest.mark.parametrize("asked", ["install", "install=csh", "remove=bash", "query"])
def test_another_wish_is_refused_with_what_there_is(asked: str) -> None:
    with pytest.raises(UserError, match=r"not allowed.*bash"):
        answer(asked)


@pytest.mark.parametrize(
    ("line", "found", "breaks"),
    [
        ("{} -m pipeline.run dataset=fo", "folder", WITHOUT_EQUALS),
        ("{} -m pipeline.run dataset=digits precision=b", "bf16", ""),
    ],
)
def test_the_function_answers_as_bash_calls_it(line: str, found: str, breaks: str, elsewhere: Path) -> None:
    line = line.format(sys.executable)
    script = (
        f"{breaks}\n"
        'eval "$("$1" -m pipeline.run --shell-completion install=bash)"\n'
        'COMP_LINE="$2" COMP_POINT=${#2}\n'
        '_overnight_speech\nprintf "%s\\n" "${COMPREPLY[@]}"\ncomplete -p python\n'
    )
    bash = shutil.which("bash")
    assert bash is not None
    command = [bash, "--norc", "-c", script, "bash", sys.executable, line]
    ended = subprocess.run(
        command, cwd=elsewhere, env=running.environment(), capture_output=True, text=True, timeout=120
    )
    assert ended.stderr == ""
    *replies, registered = ended.stdout.splitlines()
    key = line.rpartition(" ")[2].partition("=")
    assert replies == [f"{key[0]}={found}" if breaks and key[1] else found]
    assert "-F _overnight_speech python" in registered


def test_tab_in_a_terminal_completes(elsewhere: Path) -> None:
    process, terminal = pty.fork()
    if process == 0:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        os.execvpe("bash", ["bash", "--norc", "-i"], running.environment(PATH=path, TERM="dumb"))
    shown = ""

    def wait_for(text: str) -> None:
        nonlocal shown
        deadline = time.monotonic() + 60
        while text not in shown:
            assert time.monotonic() < deadline, f"{text!r} is not in {shown!r}"
            if select.select([terminal], [], [], 1)[0]:
                shown += os.read(terminal, 4096).decode()
        shown = ""

    try:
        os.write(terminal, b'eval "$(python -m pipeline.run -sc install=bash)"; echo rea""dy\n')
        wait_for("ready")
        for typed, completed in (
            (b"python -m pipeline.run dataset=fo\t", "dataset=folder"),
            (b" prec\t", "precision="),
        ):
            os.write(terminal, typed)
            wait_for(completed)
        os.write(terminal, b" dataset.\t\t")
        wait_for("dataset.encoding=    dataset.metadata=")
    finally:
        os.close(terminal)
        os.waitpid(process, 0)


def test_other_commands_of_python_keep_the_completion_they_had(elsewhere: Path) -> None:
    script = (
        "mine() { COMPREPLY=(mine); }\ncomplete -F mine python\n"
        'eval "$("$1" -m pipeline.run -sc install=bash)"\n'
        'COMP_LINE="python setup.py x" COMP_POINT=17\n_overnight_speech\necho "${COMPREPLY[@]}"\n'
    )
    command = ["bash", "--norc", "-c", script, "bash", sys.executable]
    ended = subprocess.run(
        command, cwd=elsewhere, env=running.environment(), capture_output=True, text=True, timeout=120
    )
    assert (ended.stdout, ended.stderr) == ("mine\n", "")
