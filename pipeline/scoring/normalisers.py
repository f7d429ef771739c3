"""Normalisers, which are applied to a transcript and its reference before both are compared."""

from __future__ import annotations

import importlib.util
import unicodedata
from collections.abc import Callable

from pipeline.runtime.errors import UserError


class _Kept(dict[int, str | None]):
    """A table for `str.translate` that unifies apostrophes and drops other punctuation.

    It remembers each character, because a look-up of the Unicode category is slow.
    """

    def __missing__(self, code: int) -> str | None:
        char = chr(code)
        self[code] = None if unicodedata.category(char).startswith("P") else char
        return self[code]


_KEPT = _Kept({ord(char): "'" for char in "'\N{RIGHT SINGLE QUOTATION MARK}\N{MODIFIER LETTER APOSTROPHE}"})

DESCRIPTIONS = {
    "standard": "NFKC, lower case, no punctuation but the apostrophe",
    "whisper_english": "Whisper's for English (numbers as digits, contractions written out, American spelling)",
    "none": "nothing but single spaces",
}
"""Description of each normaliser."""


def standard(text: str) -> str:
    r"""Normalise a text: NFKC, lower case, no punctuation but the apostrophe, single spaces.

    >>> standard("  It\u2019s  \u201cLate\u201d, Sir!")
    "it's late sir"
    """
    return " ".join(unicodedata.normalize("NFKC", text).lower().translate(_KEPT).split())


def check_normaliser(name: str) -> None:
    """Check that the package of a normaliser is installed, without importing the package.

    Raises:
        UserError: The package is not installed.
    """
    if name == "whisper_english" and importlib.util.find_spec("whisper_normalizer") is None:
        raise UserError(
            f"score.normaliser={name}: needs the package whisper-normalizer, which is not installed; "
            "pip install 'overnight-speech[whisper]', or choose standard or none"
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
