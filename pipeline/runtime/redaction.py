"""Keeps secrets out of messages, logs and records.

These are masked: the user and the password of a URL; values whose name is that of a secret (`?token=...`,
`password=...`, `"api_key": "..."`, `Authorization: ...`); and the values of environment variables with such a name,
wherever they turn up. Tables are data and are not masked: a path there is the path of the file.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Iterable, Sequence
from functools import lru_cache
from types import TracebackType
from typing import Any

MASK = "***"
MIN_ENVIRONMENT_CHARACTERS = 8
"""Shorter values of environment variables are not masked, because they occur in ordinary words."""

_SECRET = (
    r"token|secret|passw(?:or)?d|passphrase|credential|signature"
    r"|(?:api|access|account|auth|encryption|master|private|shared|ssh|storage)[_-]?key|connection[_-]?string"
)
"""A part of the name of a secret."""
# Both patterns start where a word starts: a search from every letter of a long word takes quadratic time.
_NAME = rf"(?<![\w.-])[\w.-]*(?:{_SECRET})[\w.-]{{0,200}}"
_SCHEME = r"(?<![a-z0-9+.-])[a-z0-9][a-z0-9+.-]+"
# The name of a parameter of a URL, which may be shorter.
_PARAMETER = rf"[\w.%-]*(?:{_SECRET}|key|sig|auth|sess|pwd)[\w.%-]{{0,200}}"
# A secret does not end in punctuation: that is the end of a sentence.
_VALUE = r"""[^\s&'"]*[^\s&'".,:;)\]}]"""

_KEY = re.compile(rf"{_SECRET}|(?:^|[_.-])(?:keys?|pwd)$", re.IGNORECASE)
_MASKED = tuple(
    (re.compile(pattern, re.IGNORECASE), rf"\g<1>{MASK}\g<2>")
    for pattern in (
        # User and password of a URL. `Path` turns `//` into `/`, and a password may hold slashes that nobody escaped.
        rf"({_SCHEME}:/{{1,3}})(?:[^\s/?#]{{0,2000}}|[^\s/?#:@]{{1,2000}}:(?!\d+(?:[/?#]|$))[^\s@]{{0,2000}})(@)",
        # A URL that is cut off after the password; a number there is a port.
        rf"""({_SCHEME}:/{{1,3}}[^\s/?#:@'"*]{{1,2000}}:)(?!\d)[^\s/?#@'"]+()""",
        rf"([?&#]{_PARAMETER}=){_VALUE}()",
        rf"""({_NAME}\s?=\s?["'])[^"'\n]+(["'])""",
        rf"({_NAME}\s?=\s?){_VALUE}()",
        rf"""(["']{_NAME}["']\s*:\s*["'])[^"'\n]+(["'])""",
        rf"""([{{,]\s*{_NAME}\s*:\s*)[^\s,}}'"]+()""",
        r"""(\bauthorization\b["']?\s*[:=]\s*["']?(?:\w+\s+)?)[^\s'"]+()""",
        r"(\bbearer\s+)[\w.~+/-]{8,}=*()",
    )
)


def mask(text: str) -> str:
    """Replace everything in a text that looks like a secret by `***`."""
    return mask_all([text])[0]


def mask_all(texts: Iterable[str]) -> list[str]:
    """Mask many texts. This looks at the environment once."""
    secrets = [os.environ.get(name, "") for name in os.environ if is_secret(name)]
    values = [
        value
        for value in secrets
        if len(value) >= MIN_ENVIRONMENT_CHARACTERS and not (value.startswith("/") and os.path.exists(value))
    ]
    values.sort(key=len, reverse=True)
    return [_masked(text, values) for text in texts]


def _masked(text: str, values: Sequence[str]) -> str:
    for value in values:
        text = text.replace(value, MASK)
    # Every pattern needs one of these.
    if ":" in text or "=" in text or "bearer" in text.casefold():
        for pattern, replacement in _MASKED:
            text = pattern.sub(replacement, text)
    return text


def mask_marked(text: str) -> str:
    """Mask a text so that two texts with different secrets stay different, for records that are compared.

    A masked text ends in a mark of 32 bits, by scrypt: too short to tell a password, and slow to guess at.
    """
    masked = mask(text)
    if masked == text:
        return text
    data, salt = text.encode("utf-8", "surrogateescape"), masked.encode("utf-8", "surrogateescape")
    return f"{masked} #{hashlib.scrypt(data, salt=salt, n=2**14, r=8, p=1, dklen=4).hex()}"


@lru_cache(maxsize=1024)
def is_secret(name: str) -> bool:
    """Whether the value of this name is a secret."""
    return _KEY.search(name) is not None


def mask_assignment(text: str) -> str:
    """Mask `key=value` as typed: the whole value where the key is the name of a secret."""
    key, equals, _ = text.partition("=")
    return f"{key}={MASK}" if equals and is_secret(key) else mask(text)


def mask_secrets(value: Any, key: str = "", *, marked: bool = False) -> Any:
    """Mask settings, nested in dictionaries and lists.

    Args:
        value: The settings.
        key: The name of the settings.
        marked: Whether different secrets have to stay different, as in `mask_marked`.
    """
    if isinstance(value, dict):
        return {name: mask_secrets(item, str(name), marked=marked) for name, item in value.items()}
    if isinstance(value, list):
        return [mask_secrets(item, key, marked=marked) for item in value]
    if not isinstance(value, str):
        return value
    if is_secret(key):
        return MASK
    return mask_marked(value) if marked else mask(value)


class MaskingFormatter(logging.Formatter):
    """A formatter that masks every line, those of a traceback included."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        return mask(super().format(record))


def mask_tracebacks() -> None:
    """Mask every traceback that ends this process or one of its threads."""

    def show(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not SystemExit:
            print(mask("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)

    sys.excepthook = show
    threading.excepthook = lambda ended: show(ended.exc_type, ended.exc_value, ended.exc_traceback)
