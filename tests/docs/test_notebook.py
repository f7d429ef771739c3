"""The notebook of the guide: its cells run, and give what is stored with them."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from running import ROOT

from scripts.docs.execute_notebook import METADATA, executed, masked, refreshed

PATH = ROOT / "docs" / "tutorial.ipynb"


@pytest.fixture
def stored() -> NotebookNode:
    return nbformat.read(PATH, as_version=4)


def said(notebook: NotebookNode) -> dict[str, list[str]]:
    """What the cells have said, by their ids."""
    return {cell.id: [masked(output) for output in cell.outputs] for cell in notebook.cells if "outputs" in cell}


def test_the_cells_give_what_is_stored_with_them_without_a_network(
    stored: NotebookNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody answers there
    fresh = executed(stored, tmp_path)
    assert said(fresh) == said(stored), "`make notebook` stores what the cells give now"


def test_what_is_stored_is_small_and_does_not_say_where_it_was_made(stored: NotebookNode) -> None:
    assert PATH.stat().st_size < 600_000
    assert stored.metadata == METADATA
    assert all(cell.metadata == {} for cell in stored.cells)
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
    assert {output.output_type for cell in code for output in cell.outputs} == {
        "stream", "execute_result", "display_data"
    }  # fmt: skip
    texts = "\n".join(text for outputs in said(stored).values() for text in outputs)
    assert "60 of 60 utterances" in texts
    assert not re.search(r"(?<![\w.<])/(tmp|home|root|var|usr|opt)/", texts)


def test_a_second_run_changes_what_is_said_and_not_how_long_it_took(stored: NotebookNode) -> None:
    fresh = copy.deepcopy(stored)
    cells = {cell.id: cell for cell in fresh.cells}
    run = cells["run-digits"].outputs[0]
    slow = "1.0 min of 1.9 min, 3.5 x real time, 20.1 s left, 0 of 1 shard, 0 failures, waiting for the loader 80 %"
    held_up = "writing held this run up: it waited 1.5 s of 5.6 s for the writer"
    run.text = re.sub(r"(?m)^(.* s left, .*)$", rf"{slow}\n\1\n{held_up}", run.text)
    run.text = re.sub(r"[\d.]+ x real time, in .*", "3.5 x real time, in 1.2 min", run.text)
    assert slow in run.text
    assert "in 1.2 min\n" in run.text
    assert refreshed(stored, fresh) == stored
    cells["greedy"].outputs[0].text = "by hand: NINE\n"
    cells["draw-emission"].outputs[0].data["image/png"] = "another picture"
    kept = {cell.id: cell for cell in refreshed(stored, fresh).cells}
    assert kept["greedy"] == cells["greedy"]
    assert kept["draw-emission"] == cells["draw-emission"]
    assert kept["run-digits"].outputs != cells["run-digits"].outputs
