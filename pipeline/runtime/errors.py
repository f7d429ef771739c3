"""Errors that users see. Each message is one line: the file or key, its value, the reason, the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING

from pipeline.runtime.redaction import mask
from pipeline.runtime.terminal import printable

if TYPE_CHECKING:
    from pipeline.records import ErrorName


class OneLineError(Exception):
    """An error whose message is one line without secrets, whatever values it quotes."""

    def __init__(self, message: str) -> None:
        """Mask secrets in the message, and escape characters that cannot be seen."""
        super().__init__(printable(message))


class UserError(OneLineError):
    """The configuration or the input is wrong, or a resume is refused. The exit code is 2, without a traceback."""


class RunError(OneLineError):
    """Something outside the code stopped a run that had begun. The exit code is 1, without a traceback."""


class StoreError(RunError):
    """An object store did not do what it was asked.

    This is no `OSError`, because code that takes an `OSError` for a missing or damaged file must not take this for one.
    """


class AudioError(Exception):
    """Says why a recording has no waveform.

    Attributes:
        error: One of the twelve names that users group failures by.
        message: The reason in one line, without the path.
    """

    def __init__(self, error: ErrorName, message: str) -> None:
        super().__init__(error, message)
        self.error: ErrorName = error
        self.message = mask(" ".join(message.split()))

    def __str__(self) -> str:
        return f"{self.error}: {self.message}"


def torchaudio_misfit(error: OSError) -> str | None:
    """Return what to do if the library of torchaudio cannot be loaded with the installed torch; `None` if it could.

    PyPI has torchaudio 2.11 for CUDA 13 only. Its library needs that of CUDA, also on a machine without a GPU. It is
    built on the stable part of torch's interface, so later releases of torch can load it.
    """
    if error.errno is not None or "torchaudio" not in str(error):
        return None
    installed = " and ".join(f"{name} {version(name)}" for name in ("torchaudio", "torch"))
    return (
        f"{installed}: do not fit each other, so torchaudio cannot be loaded; install a torch that is built for CUDA, "
        "also for a machine without a GPU: pip install -c constraints.txt torch torchaudio"
    )


@contextmanager
def naming(path: object) -> Iterator[None]:
    """Add `path` to an `OSError` raised in the block, if the error does not name a file."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def explain(error: BaseException) -> str:
    """Turn an error of Hydra or OmegaConf into one line that says what is allowed. Use the innermost cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    reason = (str(error) or type(error).__name__).splitlines()[0]
    for sign, allowed in (
        ("to Float", "must be a number"),
        ("to Integer", "must be a whole number"),
        ("valid bool", "must be true or false"),
        ("to string", "must be one value, not a list or a mapping"),
        ("ListConfig", "must be a list, such as [a,b]"),
        ("NoneType", "the list must not contain null"),
        ("not Optional", "cannot be null; give a value"),
        ("Incompatible value 'None'", "cannot be null; give a value"),
    ):
        if sign in reason:
            return allowed
    return reason


def did_you_mean(word: str, candidates: Sequence[str]) -> str:
    """Return ` (did you mean x?)` for the closest candidate; an empty string if none is close."""
    close = difflib.get_close_matches(word, candidates, n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""


def unreadable(run_dir: object, error: BaseException) -> UserError:
    """Return the error for a run that has a damaged table."""
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return UserError(f"{run_dir}: a table cannot be read ({reason}); python -m pipeline.verify RUN_DIR names the table")


def one_of(key: str, value: str, allowed: Sequence[str], otherwise: str = "") -> None:
    """Refuse a value that is not among those allowed.

    Args:
        key: The key that has the value.
        value: The value.
        allowed: What is allowed.
        otherwise: Added to the message.

    Raises:
        UserError: With what may have been meant, and everything that is allowed.
    """
    if value not in allowed:
        there = ", ".join(allowed)
        raise UserError(f"{key}={value}: not allowed{did_you_mean(value, allowed)}; there are {there}{otherwise}")
