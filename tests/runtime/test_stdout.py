"""What standard output is taken for: a terminal, or a file that gets plain lines."""

from __future__ import annotations

import pytest

from pipeline.runtime.stdout import PLAIN_WIDTH, console


def test_output_that_is_no_terminal_gets_plain_lines_also_where_colours_are_forced(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as in a cell of Jupyter
    plain = console()
    assert (plain.is_terminal, plain.width) == (False, PLAIN_WIDTH)
    with plain.status("working"):
        plain.print("[bold]done[/]")
    assert capsys.readouterr().out == "done\n"
