"""Takes over corrected references: they replace those of the corpus in the manifest and in the transcripts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.compute as pc

from pipeline.stages import identity
from pipeline.stages import resume as refusals
from pipeline.stages.replacing import replace_manifest
from pipeline.storage import references
from pipeline.storage.manifest import Generation, Manifest, chain_of
from pipeline.storage.names import MANIFEST
from pipeline.storage.run_directory import RunDirectory


def take_over_references(
    directory: RunDirectory, manifest: Manifest, made_with: Mapping[str, Any]
) -> tuple[Manifest, int]:
    """Write the corrected references of a run into its manifest and its transcripts. The caller holds the lock.

    Args:
        directory: The run.
        manifest: The manifest.
        made_with: The settings that it was made with.

    Returns:
        The manifest from now on, and the number of rows whose reference has changed.

    Raises:
        UserError: The corrected references cannot be read.
    """
    table = references.overlay(manifest.table, references.read(directory))
    if table is manifest.table:
        return manifest, 0
    before, now = (each["reference"].combine_chunks() for each in (manifest.table, table))
    same = pc.or_(pc.fill_null(pc.equal(before, now), False), pc.and_(before.is_null(), now.is_null()))
    rows = np.flatnonzero(~same.to_numpy(zero_copy_only=False))
    if not len(rows):
        return manifest, 0
    generations = manifest.generations or (Generation(len(manifest)),)
    chain = chain_of(table, [each.rows for each in generations])
    corrected = replace(manifest, rows=table, generations=generations, chain=chain)
    replace_manifest(directory, manifest, corrected, rows, made_with)
    return corrected, len(rows)


def refuse_edited(directory: RunDirectory, manifest: Manifest) -> None:
    """Refuse a manifest that has been edited, because the committed results belong to the original rows.

    Raises:
        UserError: It has been edited.
    """
    recorded = directory.read_record()
    if recorded is not None and recorded.manifest_file == directory.file_record(MANIFEST):
        return
    # A kill before run.json was updated is no edit, so the rows decide.
    rows = manifest.recomputed()
    made = (manifest.content,) if recorded is None else recorded.manifest_contents
    identity_ = manifest.digest if recorded is None else recorded.identity.manifest
    if rows != manifest.content or rows not in made or manifest.digest != identity_:
        was = " or ".join(made)
        raise refusals.refusal(
            directory.root, [f"manifest: {was} before, {rows} now, because {MANIFEST} has been edited"]
        )
    if len(made) > 1:
        identity.note_manifest(directory, manifest.content)
