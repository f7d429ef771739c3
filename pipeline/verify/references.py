"""Checks the corrected references of a run."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow.compute as pc

from pipeline.runtime.errors import UserError
from pipeline.runtime.terminal import counted
from pipeline.storage import references
from pipeline.storage.manifest import Manifest
from pipeline.storage.run_directory import RunDirectory
from pipeline.verify.findings import Problem


def audit_references(directory: RunDirectory, manifest: Manifest | None, notes: list[str]) -> Iterator[Problem]:
    """Check `references.parquet`, if there is one.

    Args:
        directory: The run.
        manifest: The manifest; `None` if it is missing or damaged.
        notes: Gets a line if corrections are not in the manifest, as after a kill.
    """
    remedy = f"remove {directory.references}, and import the corrections again"
    try:
        table = references.read(directory)
    except UserError as error:
        yield Problem(directory.references.name, str(error).partition(": ")[2].partition(";")[0], remedy)
        return
    if pc.count_distinct(table["id"]).as_py() != table.num_rows:
        yield Problem(directory.references.name, "has an id twice", remedy)
    if manifest is not None:
        now = references.overlay(manifest.table, table)["reference"]
        same = pc.equal(now.combine_chunks(), manifest.table["reference"].combine_chunks())
        if missing := now.length() - now.null_count - (pc.sum(same).as_py() or 0):
            what = f"{counted(missing, 'corrected reference')} not in the manifest yet"
            notes.append(f"{directory.references.name}: {what}; the next run takes them over")
