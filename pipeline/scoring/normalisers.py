"""What is done to a transcript and to its reference before they are compared."""

from __future__ import annotations

import importlib.util
import unicodedata
from collections.abc import Callable

from pipeline.runtime.errors import UserError


class _Kept(dict[int, str | None]):
    """For `str.translate`: apostrophes as one, other punctuation dropped. Asking Unicode for each character is slow."""

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
"""What each normaliser does, in words; the keys are `settings.NORMALISERS`."""


def standard(text: str) -> str:
    r"""NFKC, lower case, no punctuation but the apostrophe, single spaces.

    >>> standard("  It\u2019s  \u201cLate\u201d, Sir!")
    "it's late sir"
    """
    return " ".join(unicodedata.normalize("NFKC", text).lower().translate(_KEPT).split())


def check_normaliser(name: str) -> None:
    """See early, and without loading anything, whether a normaliser can be had.

    Raises:
        UserError: Its package is not installed.
    """
    if name == "whisper_english" and importlib.util.find_spec("whisper_normalizer") is None:
        raise UserError(
            f"score.normaliser={name}: needs the package whisper-normalizer, which is not installed; "
            "pip install 'overnight-speech[whisper]', or choose standard or none"
        )


def normaliser(name: str) -> Callable[[str], str]:
    """The normaliser of that name, one of `DESCRIPTIONS`.

    Raises:
        UserError: Its package is not installed.
    """
    check_normaliser(name)
    if name == "standard":
        return standard
    if name == "none":
        return lambda text: " ".join(text.split())
    # https://github.com/openai/whisper/blob/main/whisper/normalizers/english.py, as a package without Whisper's model.
    from whisper_normalizer.english import EnglishTextNormalizer

    english = EnglishTextNormalizer()
    return lambda text: " ".join(english(text).split())
