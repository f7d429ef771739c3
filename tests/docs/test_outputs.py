"""Blocks that show what commands print are found out of date, and written anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.docs import outputs, world

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
    (tmp_path / "demo" / "data").mkdir(parents=True)
    monkeypatch.setattr(world, "demo", lambda: (tmp_path / "demo", ""))
    monkeypatch.setattr(world, "_pristine", lambda: tmp_path / "demo")
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


COMMAND = "```\ntrue\n```\n"


@pytest.mark.parametrize("before", ["", "```yaml\nkey: value\n```\n", f"{COMMAND}```csv\na\n```\n"])
def test_a_block_that_no_command_prints_is_refused(page: Path, before: str) -> None:
    page.write_text(f"# A page\n\n{before}```text\nsaid\n```\n")
    with pytest.raises(outputs.UnknownOutput, match=r"page\.md, line \d+: no command stands before"):
        list(outputs.outputs(page))
