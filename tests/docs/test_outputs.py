"""What the pages show of the output of commands is what the commands print, and the Python of the pages runs."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
from running import ROOT

SLOW = {"compare.md", "language-models.md", "sampling.md"}
"""Pages whose commands transcribe minutes of noisy audio. `.ci/run` checks them with all others."""


def _loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("outputs", ROOT / "scripts" / "docs" / "outputs.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["outputs"] = module  # where its dataclass looks its annotations up
    spec.loader.exec_module(module)
    return module


outputs = _loaded()
SHOWING = outputs.pages()
WITH_PYTHON = [
    page for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))] if "```python" in page.read_text()
]


def python_of(page: Path) -> str:
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("page", [page for page in SHOWING if page.name not in SLOW], ids=lambda page: page.stem)
def test_a_page_shows_what_its_commands_print(page: Path) -> None:
    stale = [outputs.difference(block) for block in outputs.blocks(page) if not block.current]
    assert stale == [], f"`make outputs` writes {page.name} anew"


def test_most_pages_show_outputs_and_the_slow_ones_are_among_them() -> None:
    names = {page.name for page in SHOWING}
    assert {"README.md", "first-run.md", *SLOW} <= names
    assert len(names) > 12


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.stem)
def test_the_python_of_a_page_runs_on_the_run_of_the_demo(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = python_of(page)
    if "runs/digits/digits" not in code or page.name == "probe.md":  # of a corpus that is not here, or run above
        compile(code, str(page), "exec")
        return
    shutil.copytree(outputs.demo()[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(page), "exec"), {})


PAGE = """# A page

<!-- run:
mkdir data
echo four > data/said.txt
python -c "print(open('/data/said.txt').read() * 3, 'in /data')"
-->
```text
{shown}```

<!-- not run: it needs a cluster -->
```text
whatever
```
"""


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page, in a folder of the project, whose demo is empty."""
    (tmp_path / "demo").mkdir()
    monkeypatch.setattr(outputs, "demo", lambda: (tmp_path / "demo", ""))
    monkeypatch.setattr(outputs, "ROOT", tmp_path)
    return tmp_path / "page.md"


@pytest.mark.parametrize(
    ("shown", "written"),
    [
        ("four\nfour\nfour\n in /data\n", None),
        ("four\n...\n in /data\n", None),
        ("...\n in /data\n", None),
        ("five\n", "four\nfour\nfour\n in /data\n"),
        ("five\n...\n in /calls\n", "four\n...\n in /data\n"),
        ("five\n...\n", "four\n...\n"),
    ],
)
def test_a_block_that_is_out_of_date_is_found_and_written_anew(
    page: Path, shown: str, written: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    page.write_text(PAGE.format(shown=shown))
    assert outputs.main(["--check", str(page)]) == (written is not None)
    assert page.read_text() == PAGE.format(shown=shown)
    assert outputs.main([str(page)]) == 0
    assert page.read_text() == PAGE.format(shown=written or shown)
    assert ("+four" in capsys.readouterr().out) == (written is not None)


def test_speeds_and_times_may_differ_and_results_may_not() -> None:
    def masked(line: str) -> str:
        return str(outputs.masked(line))

    line = "1.9 min of 1.9 min, 194.6 x real time, 0.0 s left, 1 of 1 shard, 0 failures, waiting for the loader 14 %"
    assert masked(line) == masked(line.replace("194.6", "1,087.2").replace("14 %", "6 %").replace("0.0 s", "1.2 min"))
    assert masked(line) != masked(line.replace("0 failures", "1 failure"))
    assert masked("digits on cpu in fp32, 1 of 1") == masked("digits on cuda:0 in bf16, 1 of 1")
    assert masked("WER 0.00 % (0 errors)") != masked("WER 0.54 % (1 errors)")


COMMAND = "```\npython -m pipeline.run\n```\n"


@pytest.mark.parametrize("before", ["", "```yaml\nkey: value\n```\n", f"{COMMAND}```csv\na\n```\n"])
def test_a_block_that_no_command_prints_is_refused(page: Path, before: str) -> None:
    page.write_text(f"# A page\n\n{before}```text\nsaid\n```\n")
    with pytest.raises(outputs.UnknownOutput, match=r"page\.md, line \d+: no command stands before"):
        list(outputs.blocks(page))
