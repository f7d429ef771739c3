"""Runs a command that takes no settings, such as `python -m pipeline.status`: help page, error messages, exit codes."""

from __future__ import annotations

import argparse
import atexit
import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import takewhile
from typing import NoReturn

from pipeline.runtime import starting
from pipeline.runtime.errors import RunError, UserError, torchaudio_misfit
from pipeline.runtime.memory import is_out_of_memory, shortage
from pipeline.runtime.stdout import LOG, standard_output
from pipeline.runtime.terminal import escape_what_cannot_be_encoded, printable

_QUIET = logging.NullHandler()


class Parser(argparse.ArgumentParser):
    """Parses the arguments of such a command, and reports a mistake in one line."""

    def __init__(self, usage: str) -> None:
        """Create a parser without a help page of its own.

        Args:
            usage: The command line, such as `python -m pipeline.status RUN_DIR`. Each error message ends with it.
        """
        super().__init__(usage=usage, add_help=False, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Refuse the arguments.

        Raises:
            UserError: Always.
        """
        raise UserError(f"{message}; usage: {self.usage}")


def leave(code: int) -> NoReturn:
    """End this process with an exit code, and leave out what takes the interpreter apart.

    After torch was imported, that takes more than a second. Threads are waited for, what is registered for the end is
    done, and what was printed is written, as by an interpreter. mypy ends in the same way (`hard_exit`, mypy/util.py).
    """
    with suppress(KeyboardInterrupt):  # the work is done
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads any more, or the stream is closed
            stream.flush()
    os._exit(code)


def command(
    arguments: Sequence[str], page: str | Callable[[], str], perform: Callable[[Sequence[str]], int], undone: str
) -> int:
    """Run a command and return its exit code.

    Output that the terminal's encoding lacks is escaped. A reader that closes the pipe (`| head`) causes no message.

    Args:
        arguments: Arguments after the name of the command.
        page: Help page, or a function that makes it. `-h` or `--help` prints it, unless `--` stands before.
        perform: Does the work of the command and returns an exit code. Gets `arguments`.
        undone: What the command has not done if it fails or is stopped, such as "no report written".

    Returns:
        The exit code of `perform`. The help page gives 0, a `UserError` 2, an `OSError` or a `RunError` 1, Ctrl-C 130.
    """
    starting.started()
    escape_what_cannot_be_encoded()
    LOG.addHandler(_QUIET)  # without any handler, Python prints warnings to stderr
    try:
        if {"-h", "--help"} & set(takewhile(lambda argument: argument != "--", arguments)):
            print(page if isinstance(page, str) else page(), file=standard_output())
            return 0
        return perform(arguments)
    except UserError as error:
        return _end(f"error: {error}", 2)
    except RunError as error:
        return _end(f"error: {error}; {undone}", 1)
    except OSError as error:
        if reason := torchaudio_misfit(error):
            return _end(f"error: {reason}", 2)
        where = f"{error.filename}: " if error.filename is not None else ""
        return _end(f"error: {where}{error.strerror or error}; {undone}", 1)
    except Exception as error:
        if is_out_of_memory(error):
            return _end(f"error: {shortage(error)}; {undone}", 1)
        raise
    except KeyboardInterrupt:
        return _end(f"stopped by SIGINT; {undone}", 130)


def _end(reason: str, code: int) -> int:
    print(printable(reason), file=sys.stderr)
    return code
