"""Finds fonts for the characters of a picture. matplotlib draws a character that no font has as a box."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

FIRST = "DejaVu Sans"
"""The font that matplotlib brings along. It has Latin, Greek, Cyrillic, and some other scripts."""
_NO_FONT = "Last Resort"  # has a box for every character


@dataclass(frozen=True)
class Fonts:
    """Fonts for the characters of a picture.

    Attributes:
        families: Names of the fonts. A character is drawn with the first one that has it.
        missing: The characters that none of them has.
    """

    families: tuple[str, ...] = (FIRST,)
    missing: frozenset[str] = frozenset()


def fonts_for(texts: Iterable[str]) -> Fonts:
    """Choose fonts of this machine that have the characters of the texts: as few as possible, always the same ones."""
    wanted = {each for text in texts for each in text if not _is_unseen(each)}
    missing = wanted - _had(font_manager.findfont(FIRST), wanted)
    if not missing:
        return Fonts()
    families, found = [FIRST], _families(missing)
    while missing and found:
        best = max(sorted(found), key=lambda name: len(found[name] & missing))
        if not found[best] & missing:
            break
        families.append(best)
        missing -= found[best]
    return Fonts(tuple(families), frozenset(missing))


def _families(wanted: set[str]) -> dict[str, set[str]]:
    """Return the upright regular fonts of this machine with the wanted characters that each has, by name."""
    manager = font_manager.fontManager
    known = {entry.fname for entry in manager.ttflist}
    for path in sorted({*font_manager.findSystemFonts()} - known):  # matplotlib keeps a list, and does not renew it
        try:
            manager.addfont(path)
        except (OSError, RuntimeError):  # not a font after all
            continue
    regular = {
        entry.name: entry.fname
        for entry in sorted(manager.ttflist, key=lambda entry: entry.fname, reverse=True)
        if entry.style == "normal" and entry.weight in (400, "normal", "regular") and _NO_FONT not in entry.name
    }
    return {name: _had(path, wanted) for name, path in regular.items()}


def _had(path: str, wanted: set[str]) -> set[str]:
    """Return the wanted characters that a font has as outlines; matplotlib cannot draw the bitmaps of others."""
    try:
        font = FT2Font(path)
    except (OSError, RuntimeError):
        return set()
    return {each for each in wanted if font.get_char_index(ord(each))} if font.scalable else set()


def _is_unseen(character: str) -> bool:
    """Whether a character needs no glyph: white space, and marks that only join or part letters."""
    return character.isspace() or unicodedata.category(character) == "Cf"
