"""Secrets kept out of what is said and recorded: one place that every log, message and dump goes through.

Masked are the user and password of a URL, values of what is named like a secret (`?token=...`, `password=...`,
`"api_key": "..."`, `Authorization: ...`), and, wherever they turn up, the values of environment variables that are
named like one. Tables are data and are not masked: a path there is the path of the file.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import sys
import threading
import traceback
from types import TracebackType
from typing import Any

MASK = "***"
MIN_ENVIRONMENT_CHARACTERS = 8
"""Shorter values of environment variables stand in ordinary words too; masking those would hide what is said."""

_SECRET = (
    r"token|secret|passw(?:or)?d|passphrase|credential|signature"
    r"|(?:api|access|account|auth|encryption|master|private|shared|ssh|storage)[_-]?key"
)
"""What the name of a secret has in it, also of one in the middle of a sentence."""
# Both begin where a word does, and end: a search from every letter of a long word would take the square of its length.
_NAME = rf"(?<![\w.-])[\w.-]*(?:{_SECRET})[\w.-]{{0,200}}"
_SCHEME = r"(?<![a-z0-9+.-])[a-z0-9][a-z0-9+.-]+"
# After `?` and `&` stands the name of a parameter, where shorter words say enough.
_PARAMETER = rf"[\w.%-]*(?:{_SECRET}|key|sig|auth|sess|pwd)[\w.%-]{{0,200}}"
# What ends a sentence is not the end of a secret.
_VALUE = r"""[^\s&'"]*[^\s&'".,:;)\]}]"""

_KEY = re.compile(rf"{_SECRET}|(?:^|[_.-])(?:keys?|pwd)$", re.IGNORECASE)
_MASKED = tuple(
    (re.compile(pattern, re.IGNORECASE), rf"\g<1>{MASK}\g<2>")
    for pattern in (
        # User and password of a URL; `Path` makes one slash of its two. A password may have slashes that should have
        # been escaped.
        rf"({_SCHEME}:/{{1,3}})(?:[^\s/?#]{{0,2000}}|[^\s/?#:@]{{1,2000}}:(?!\d+(?:[/?#]|$))[^\s@]{{0,2000}})(@)",
        # The same, cut short: a port is a number.
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
    """The text with `***` for whatever looks like a secret in it."""
    for value in _environment():
        text = text.replace(value, MASK)
    for pattern, replacement in _MASKED:
        text = pattern.sub(replacement, text)
    return text


def mask_marked(text: str) -> str:
    """`mask`, for a record that is compared: two texts whose secrets differ stay different.

    What is masked leaves a mark of 32 bits, by scrypt, so that it tells no more of a password than that and is slow to
    guess at.
    """
    masked = mask(text)
    if masked == text:
        return text
    data, salt = text.encode("utf-8", "surrogateescape"), masked.encode("utf-8", "surrogateescape")
    return f"{masked} #{hashlib.scrypt(data, salt=salt, n=2**14, r=8, p=1, dklen=4).hex()}"


def is_secret(name: str) -> bool:
    """Whether what has this name is a secret."""
    return _KEY.search(name) is not None


def mask_assignment(text: str) -> str:
    """`key=value` as typed: the whole value goes, spaces and all, where the key is named like a secret."""
    key, equals, _ = text.partition("=")
    return f"{key}={MASK}" if equals and is_secret(key) else mask(text)


def mask_secrets(value: Any, key: str = "", *, marked: bool = False) -> Any:
    """Settings, nested in dictionaries and lists, with `***` for whatever looks like a secret.

    Args:
        value: The settings.
        key: The name under which they stand.
        marked: Whether different secrets have to stay different, as `mask_marked` does it.
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
    """A formatter whose lines hold no secret, those of a traceback included."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        return mask(super().format(record))


def mask_tracebacks() -> None:
    """From here on a traceback that ends the process, or a thread of it, is printed without secrets."""

    def show(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
        print(mask("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)

    def show_of_thread(ended: threading.ExceptHookArgs) -> None:
        if ended.exc_type is not SystemExit:
            show(ended.exc_type, ended.exc_value, ended.exc_traceback)

    sys.excepthook = show
    threading.excepthook = show_of_thread


def _environment() -> list[str]:
    """Values of environment variables that are named like a secret, the longest first; paths are none."""
    found = {
        value
        for name, value in os.environ.items()
        if len(value) >= MIN_ENVIRONMENT_CHARACTERS and is_secret(name) and not _is_path(value)
    }
    return sorted(found, key=len, reverse=True)


def _is_path(value: str) -> bool:
    return value.startswith("/") and os.path.exists(value)
