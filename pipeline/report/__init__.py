"""The HTML report of a run: one file with its progress, scores and examples. Does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.config.schema import ReportSettings
from pipeline.runtime.places import Place
from pipeline.storage.run_directory import RunDirectory

if TYPE_CHECKING:
    from pipeline.results.joining import Joined


def write_report(directory: RunDirectory, settings: ReportSettings, joined: Joined | None = None) -> Place:
    """Write `report/index.html` of a run. An unfinished run shows what is committed.

    After a crash, either the old or the new file is there.

    Args:
        directory: The run. The recordings of the examples are read again if they still exist.
        settings: Number of examples, and layers to show.
        joined: Columns that the page shows, and scores by, like the dataset's own; `None` for none.

    Returns:
        The path of the file.

    Raises:
        UserError: There is no run, one of its tables cannot be read, or a requested layer is not stored.
        OSError: The file cannot be written.
    """
    from pipeline.report.page import build_page  # importing plots and templates is slow

    page = build_page(directory, settings, joined)
    directory.write(directory.report, page.encode())
    return directory.locate(directory.report)


__all__ = ["write_report"]
