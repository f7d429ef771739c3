"""The pictures of the guide: each is made by a script, and used; nothing is drawn here."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.pictures import all as pictures
from scripts.pictures.all import DOCS, DRAWINGS, DRAWN, FOLDER, ROOT, sha256

LARGEST = 200_000
"""Bytes of a picture: the repository keeps every version of it."""
MADE = [picture for drawing in DRAWINGS for picture in drawing.pictures]


def test_every_picture_is_made_by_a_script_and_every_script_is_known() -> None:
    there = [path.name for path in DOCS.iterdir() if path.suffix in (".png", ".svg", ".webp", ".jpg", ".gif")]
    assert sorted(there) == sorted(MADE)
    assert sorted(drawing.script for drawing in DRAWINGS) == sorted(path.stem for path in FOLDER.glob("draw_*.py"))
    for drawing in DRAWINGS:
        assert [path for path in drawing.shows if not (ROOT / path).exists()] == [], drawing.script


def test_every_picture_is_the_one_that_its_script_drew() -> None:
    noted = json.loads(DRAWN.read_text())
    assert sorted(noted) == sorted(MADE)
    for picture in MADE:
        assert sha256(DOCS / picture) == noted[picture]["picture"], f"make pictures ARGS={picture}"
        assert (DOCS / picture).stat().st_size < LARGEST, picture


def test_every_picture_is_shown_with_words_for_those_who_do_not_see_it() -> None:
    pages = [ROOT / "README.md", *DOCS.glob("*.md")]
    shown = [
        (alternative, Path(target).name)
        for page in pages
        for alternative, target in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    ]
    assert {name for _, name in shown} == {*MADE}
    assert all(len(alternative) > 20 for alternative, _ in shown)


def test_the_gallery_shows_each_kind_of_picture_with_its_command() -> None:
    page = (DOCS / "gallery.md").read_text(encoding="utf-8")
    for drawing in DRAWINGS:
        assert any(f"({picture})" in page for picture in drawing.pictures), drawing.script


def test_a_picture_whose_code_has_changed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown" / "page.css").write_text("a")
    (tmp_path / "x.png").write_bytes(b"drawn")
    drawing = replace(DRAWINGS[0], pictures=("x.png",), shows=("shown",))
    for name in ("ROOT", "DOCS"):
        monkeypatch.setattr(pictures, name, tmp_path)
    monkeypatch.setattr(pictures, "DRAWINGS", (drawing,))
    monkeypatch.setattr(pictures, "DRAWN", tmp_path / "drawn.json")
    noted = {"x.png": {"picture": sha256(tmp_path / "x.png"), "shows": drawing.digest()}}
    (tmp_path / "drawn.json").write_text(json.dumps(noted))
    assert pictures.main(["--check"]) == 0
    (tmp_path / "shown" / "page.css").write_text("b")
    assert pictures.main(["--check"]) == 1
    assert "x.png may be out of date" in capsys.readouterr().out
