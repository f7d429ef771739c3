"""`python -m pipeline.run`: what the command line asks for, its exit code, and what is said of an error."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.config import commandline, completion
from pipeline.config import help as usage
from pipeline.config import run_config as configuration
from pipeline.config.commandline import Command
from pipeline.config.run_config import RunConfig
from pipeline.runtime import failpoints
from pipeline.runtime import redaction as masking
from pipeline.runtime import signals as stopping
from pipeline.runtime.command import leave
from pipeline.runtime.errors import RunError, UserError, torchaudio_misfit
from pipeline.runtime.memory import is_out_of_memory, shortage
from pipeline.runtime.signals import Stopped
from pipeline.runtime.stdout import console, standard_output
from pipeline.runtime.terminal import escape_what_cannot_be_encoded

if TYPE_CHECKING:
    from pipeline.stages.session import Session

_SEVERITY = (0, 3, 2, 1)
"""Exit codes from the best to the worst."""
LOG = logging.getLogger("pipeline")
LOG.addHandler(logging.NullHandler())  # before the run directory is known there is no log


def main(arguments: Sequence[str]) -> int:
    """Run the pipeline; return the exit code of the contract."""
    # oneDNN keeps a compiled kernel for every shape that it has met, 1,024 of them. Here hardly two batches have one
    # length, so memory would grow with the corpus for nothing. A batch has few shapes, and each core has a batch.
    os.environ.setdefault("LRU_CACHE_CAPACITY", "4")  # both are read when torch is imported
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    escape_what_cannot_be_encoded()
    with stopping.handling_signals():
        return _run(arguments)


class _Ended(NamedTuple):
    """The exit code of a run, and why it ended if it was not done."""

    code: int
    error: str | None = None


def _run(arguments: Sequence[str]) -> int:
    ended = _guarded(lambda: _command(arguments))
    if ended.error is not None and {"-j", "--json"} & {*arguments}:  # the settings could not be used
        _say_json(ended, {})
    return ended.code


def _command(arguments: Sequence[str]) -> int:
    """Do what the command line asks for."""
    failpoints.arm(os.environ.get(failpoints.VARIABLE, ""))
    command = commandline.parse(arguments)
    if command.help:
        return _show(usage.page(command.own, command.overrides))
    if command.version:
        return _show(usage.VERSION)
    if command.completion is not None:
        return _show(completion.answer(command.completion))
    if command.multirun:
        configs = configuration.load_sweep(command.overrides, command.own)
        if command.check_only:
            return _show("\n---\n".join(config.yaml.rstrip() for config in configs))
        return _sweep(configs, command)
    config = configuration.load(command.overrides, command.own)
    if command.check_only:
        return _show(config.yaml.rstrip())
    return _work_as_asked(config, command).code if command.json else _work(config, command.quiet)


def _work_as_asked(config: RunConfig, command: Command) -> _Ended:
    """Do one run to its end, whatever happens, and print its outcome as JSON if that was asked for."""
    ended = _guarded(partial(_work, config, command.quiet))
    if command.json:
        from pipeline.stages.session import outcome

        found: Mapping[str, Any] = {}
        # A damaged file has been named already, or a command that reads it names it.
        with suppress(UserError, RunError, OSError):
            found = outcome(config)
        _say_json(ended, found)
    return ended


def _say_json(ended: _Ended, found: Mapping[str, Any]) -> None:
    line = json.dumps({**found, "exit_code": ended.code, "error": ended.error}, ensure_ascii=False)
    print(masking.mask(line), file=standard_output())


def _work(config: RunConfig, quiet: bool) -> int:
    """Do one run, and note its exit code for Prometheus."""
    # Imports pandas and more, which the help page, tab completion and wrong settings need not wait for.
    from pipeline.stages.session import Session

    session = Session(config, quiet)
    try:
        code = _ran(session)
    except BaseException as error:
        session.end(_code_of(error))
        raise
    session.end(code)
    return code


def _ran(session: Session) -> int:
    try:
        return session.run()
    except OSError as error:
        if is_out_of_memory(error):
            raise
        if misfit := torchaudio_misfit(error):
            raise UserError(misfit) from None
        # A full disk or a lost mount is not a bug, so the message is one line; the log has the traceback.
        LOG.exception("stopped")
        where = error.filename2 or error.filename or f"run_dir={session.config.run_dir}"
        reason = os.strerror(error.errno) if error.errno else error
        raise RunError(
            f"{where}: {reason}; what was committed stays, and once this is mended the same command continues"
        ) from None


def _sweep(configs: Sequence[RunConfig], command: Command) -> int:
    """Do the runs of a sweep in their order, and print a summary; returns the worst of their exit codes."""
    from pipeline.stages.sweep import summary_table

    codes: list[int] = []
    for number, config in enumerate(configs, start=1):
        if not command.quiet:
            _show(f"run {number} of {len(configs)}: {config.model.name}, run_dir={config.run_dir}")
        codes.append(_work_as_asked(config, command).code)
        if codes[-1] > 128:  # a signal ends the sweep, not only the run
            break
    console(command.quiet).print(summary_table(configs, codes), soft_wrap=False)
    return codes[-1] if codes[-1] > 128 else max(codes, key=_SEVERITY.index)


def _guarded(do: Callable[[], int]) -> _Ended:
    """Call `do`, turn what it raises into one line and an exit code, and close the log of the run."""
    try:
        return _Ended(do())
    except (UserError, RunError) as error:
        return _end(error, _code_of(error))
    except Stopped as stop:
        from pipeline.storage import summary

        name = signal.Signals(stop.signum).name
        return _end(f"stopped by {name}; {stop.kept or summary.KEPT}", _code_of(stop))
    except Exception as error:
        if is_out_of_memory(error):
            LOG.exception("stopped")
            return _end(shortage(error), _code_of(error))
        LOG.exception("this is a bug")
        raise
    finally:
        for log in [log for log in LOG.handlers if isinstance(log, logging.FileHandler)]:
            LOG.removeHandler(log)
            with suppress(OSError):
                log.close()


def _code_of(error: BaseException) -> int:
    """Return the exit code of an error."""
    if isinstance(error, Stopped):
        return 128 + error.signum
    return 2 if isinstance(error, UserError) else 1


def _show(text: str) -> int:
    console().print(masking.mask(text), markup=False)
    return 0


def _end(reason: object, code: int) -> _Ended:
    LOG.error("%s", reason)
    print(f"{'error: ' if code < 128 else ''}{reason}", file=sys.stderr)
    return _Ended(code, str(reason))


if __name__ == "__main__":
    masking.mask_tracebacks()
    leave(main(sys.argv[1:]))
