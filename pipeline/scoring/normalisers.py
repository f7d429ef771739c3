"""Normalisers, which are applied to a transcript and its reference before both are compared."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
import unicodedata
from collections.abc import Callable
from functools import cache

from pipeline.runtime.errors import UserError

APOSTROPHES = "'`\u00b4\u02b9\u02bb\u02bc\u02bd\u055a\u05f3\u1fbd\u1fbf\u2018\u2019\u201b\u2032\ua78b\ua78c\uff07"
"""Characters that stand for the apostrophe in people's texts."""


class _Characters(dict[int, str | None]):
    """A table for `str.translate`. It remembers each character, because a look-up of the Unicode category is slow."""

    def __missing__(self, code: int) -> str | None:
        char = chr(code)
        category = unicodedata.category(char)
        if category in ("Cf", "Me") or code in _INVISIBLE_MARKS:
            self[code] = None
        else:
            self[code] = " " if category[0] in "PS" or category == "Cc" else char
        return self[code]


_INVISIBLE_MARKS = frozenset((0x34F, *range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)))
"""The combining grapheme joiner and the variation selectors. They show nothing, as format characters do."""
_APOSTROPHES = {ord(char): "'" for char in APOSTROPHES}
_CHARACTERS = _Characters(_APOSTROPHES)

DESCRIPTIONS = {
    "standard": "NFKC, lower case, words with inner apostrophes only",
    "whisper_english": "Whisper's for English (numbers as digits, contractions written out, American spelling)",
    "none": "nothing but single spaces",
}
"""Description of each normaliser."""

STANDARD_VERSION = "2"
"""Version of `standard`. Version 1 removed punctuation, kept symbols and format characters, and every apostrophe."""


def standard(text: str) -> str:
    r"""Normalise a text so that only its words are compared.

    NFKC; format characters, variation selectors and enclosing marks removed; lower case; every apostrophe character
    written `'` and kept only between two letters; each other punctuation, symbol or control character a space; single
    spaces.

    >>> standard("  It\u2019s  \u201cLate\u201d, twenty-one \u2018Sirs\u2019!")
    "it's late twenty one sirs"
    """
    # NFKC would split some apostrophe characters. It is applied again because lower case and removals can undo it.
    text = unicodedata.normalize("NFKC", text.translate(_APOSTROPHES))
    text = unicodedata.normalize("NFKC", text.translate(_CHARACTERS).lower())
    if not text.isascii():
        text = _stray_marks().sub("", text)
    if "'" in text:
        text = "".join(
            " " if char == "'" and not _is_between_letters(text, at) else char for at, char in enumerate(text)
        )
    return " ".join(text.split())


@cache
def _stray_marks() -> re.Pattern[str]:
    """Marks that have no letter. NFKC makes a space and such a mark of an accent that stands alone."""
    marks = "".join(char for char in map(chr, range(sys.maxunicode)) if unicodedata.category(char)[0] == "M")
    return re.compile(rf"[{marks}](?<![^\s'].)[{marks}]*")  # the mark first, because that is searched for fastest


def _is_between_letters(text: str, at: int) -> bool:
    """Whether a letter, or a mark of a letter, comes before this place and a letter comes after it."""
    before, after = text[at - 1 : at] or " ", text[at + 1 : at + 2] or " "
    return unicodedata.category(before)[0] in "LM" and unicodedata.category(after)[0] == "L"


def made_after(name: str) -> dict[str, str]:
    """Return the file metadata that name a normaliser and its version. Rates of other versions cannot be compared.

    The version of Whisper's normaliser is that of its package; it is empty if the package is not installed.
    """
    version = STANDARD_VERSION if name == "standard" else "1"
    if name == "whisper_english":
        try:
            version = importlib.metadata.version("whisper-normalizer")
        except importlib.metadata.PackageNotFoundError:
            version = ""
    return {"normaliser": name, "normaliser_version": version}


def check_normaliser(name: str) -> None:
    """Check that the package of a normaliser is installed, without importing the package.

    Raises:
        UserError: The package is not installed.
    """
    if name == "whisper_english" and importlib.util.find_spec("whisper_normalizer") is None:
        raise UserError(
            f"score.normaliser={name}: needs the package whisper-normalizer, which the extra whisper has; "
            "run pip install whisper-normalizer, or choose standard or none"
        )


def normaliser(name: str) -> Callable[[str], str]:
    """Return the normaliser of that name, one of `DESCRIPTIONS`.

    Raises:
        UserError: The package of the normaliser is not installed.
    """
    check_normaliser(name)
    if name == "standard":
        return standard
    if name == "none":
        return lambda text: " ".join(text.split())
    # The package has the code of https://github.com/openai/whisper/blob/main/whisper/normalizers/english.py without the
    # model.
    from whisper_normalizer.english import EnglishTextNormalizer

    english = EnglishTextNormalizer()
    return lambda text: " ".join(english(text).split())
