"""Summary of a sweep: one row a run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from rich.markup import escape
from rich.table import Table

from pipeline.config.run_config import RunConfig
from pipeline.runtime import redaction as masking
from pipeline.runtime.errors import RunError, UserError
from pipeline.runtime.paths import encode_path
from pipeline.stages.score import read_overall
from pipeline.storage import summary
from pipeline.storage.run_directory import RunDirectory


def summary_table(configs: Sequence[RunConfig], codes: Sequence[int]) -> Table:
    """Return the table that ends a sweep.

    Args:
        configs: The runs of the sweep.
        codes: Exit codes of the runs that were started.
    """
    table = Table(box=None, pad_edge=False)
    for heading in ("run", "exit code", "done", "failed", "WER", "run_dir"):
        table.add_column(heading, justify="left" if heading == "run_dir" else "right", overflow="fold")
    for number, (config, code) in enumerate(zip_longest(configs, codes), start=1):
        table.add_row(
            str(number),
            "not started" if code is None else str(code),
            *_results(RunDirectory(config.run_dir)),
            masking.mask(escape(encode_path(str(config.run_dir)))),
        )
    return table


def _results(directory: RunDirectory) -> tuple[str, str, str]:
    """Return the utterances of a run that are done and failed, and its WER; nothing of a run that cannot be read."""
    try:
        totals = summary.total(directory.commits().values() if directory.has_commits() else ())
        scored = read_overall(directory) if directory.scores.is_there else None
    except (RunError, UserError):  # the run itself has said it
        return "", "", ""
    wer = f"{100 * scored[0] / scored[1]:.2f} %" if scored and scored[1] else ""
    return f"{totals.utterances - totals.num_failures:,}", f"{totals.num_failures:,}", wer
