"""The report: one HTML file that says how a run went, shows its numbers, and plays what it read. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from pipeline.config.schema import ReportSettings
from pipeline.storage.run_directory import REPORT, RunDirectory


def write_report(directory: RunDirectory, settings: ReportSettings) -> Path:
    """Write `report/index.html` of a run, finished or not; what is read is what is committed.

    Args:
        directory: The run. Its recordings are read again, where they still are, for the utterances that are shown.
        settings: How many utterances, and which layers.

    Returns:
        The file. It is put into place whole: a crash leaves the old one or the new one.

    Raises:
        UserError: There is no run, a table of it cannot be read, or a layer is asked for that is not stored.
        OSError: The file cannot be written.
    """
    from pipeline.report.page import build_page  # plots and templates take a while to import

    page = build_page(directory, settings)
    directory.write(REPORT, page.encode())
    return directory.locate(REPORT)


__all__ = ["write_report"]
