"""Writes numbers as words, with the package num2words, which the extra `align` has."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re

from pipeline.runtime.errors import UserError

_WHOLE = re.compile(r"0|[1-9]\d{0,14}", re.ASCII)
_YEARS = range(1100, 2000)
_NAMES = {"english": "en", "english digits": "en", "german": "de", "spanish": "es", "french": "fr", "italian": "it"}
"""Codes of the languages that the facts of a model name."""


class Numbers:
    """Writes whole numbers as words of a language."""

    def __init__(self, language: str) -> None:
        """Choose a language by its code, such as `en`.

        Raises:
            UserError: num2words is not installed, or does not know the language.
        """
        if not is_installed():
            raise UserError(
                f"align.numbers={language}: needs the package num2words, which the extra align has; "
                "run pip install num2words, or leave align.numbers out"
            )
        if language not in languages():
            raise UserError(f"align.numbers={language}: num2words has {', '.join(languages())}")
        from num2words import CONVERTER_CLASSES

        self._converter = CONVERTER_CLASSES[language]

    def __call__(self, digits: str) -> str | None:
        """Return a whole number in words; `None` if it has more than 15 digits, or begins with a needless zero.

        1100 to 1999 are read as years, because that is what they mostly are: nineteen eighty-four.
        """
        if not _WHOLE.fullmatch(digits):
            return None
        number = int(digits)
        return str(self._converter.to_year(number) if number in _YEARS else self._converter.to_cardinal(number))


def is_installed() -> bool:
    """Whether num2words is installed."""
    return importlib.util.find_spec("num2words") is not None


def languages() -> list[str]:
    """Return the codes of the languages that num2words has."""
    from num2words import CONVERTER_CLASSES

    return sorted(CONVERTER_CLASSES)


def version() -> str:
    """Return the version of num2words."""
    return importlib.metadata.version("num2words")


def code_of(language: str | None) -> str | None:
    """Return the code of a language that is named as the facts of a model name it; `None` if it is not one language."""
    if language is None:
        return None
    return _NAMES.get(language.lower(), language.lower() if re.fullmatch("[A-Za-z]{2}", language) else None)
