"""Stage `manifest`: make the manifest, or read the one that an earlier run made.

If the corpus has moved since, the manifest is made again and must hold the same recordings.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow.compute as pc
from rich.console import Console

from pipeline.config.run_config import RunConfig
from pipeline.datasets import Connector, Warnings
from pipeline.runtime import redaction as masking
from pipeline.runtime.errors import UserError
from pipeline.runtime.failpoints import failpoint
from pipeline.runtime.paths import resolve_path
from pipeline.runtime.progress import PLAIN_EVERY_S, format_hours
from pipeline.runtime.terminal import counted, printable
from pipeline.stages import identity
from pipeline.stages import resume as refusals
from pipeline.stages.build_manifest import build
from pipeline.storage import manifest as manifests
from pipeline.storage.manifest import Manifest
from pipeline.storage.run_directory import MANIFEST, RunDirectory

SHOWN_EVERY_S = 0.1
"""Seconds between two updates of a count on a terminal."""


class ManifestStage:
    """Makes or reads the manifest of a run."""

    def __init__(
        self, config: RunConfig, directory: RunDirectory, console: Console, say: Callable[[str], None]
    ) -> None:
        """Read and write nothing yet.

        Args:
            config: The configuration.
            directory: The run.
            console: Console of the live view.
            say: Prints and logs a line.
        """
        self._config = config
        self._directory = directory
        self._console = console
        self._say = say
        self._warnings = Warnings()

    def made_with(self) -> dict[str, Any]:
        """Return the settings that determine the manifest."""
        options = dict(self._config.dataset_options)
        for key in {"root", "path", "metadata"} & set(options):
            if options[key] is not None:
                options[key] = os.path.abspath(
                    os.path.expanduser(options[key])
                )  # a relative path depends on the folder
        options = masking.mask_secrets(options, marked=True)
        name = type(self._config.dataset).__module__.rpartition(".")[2]
        each = {"channels": "each"} if self._config.settings.channels == "each" else {}
        return {"dataset": name, **options, **each, "shard.hours": self._config.settings.shard.hours}

    def run(self) -> Manifest:
        """Make the manifest, or read the existing one.

        Raises:
            UserError: There is no manifest and the stage is not requested, the manifest has been edited, or the
                committed results belong to another corpus.
        """
        stored, made_with = self._directory.manifest, self.made_with()
        if stored.is_there:
            manifest, before = manifests.read(stored)
            if self._directory.has_commits():
                self._refuse_edited(manifest)
            if before == made_with:
                return manifest
            if self._directory.has_results():
                return self._moved(manifest, before, made_with)
        if "manifest" not in self._config.settings.stages:
            raise UserError(f"{stored}: there is no manifest; add manifest to stages=")
        manifest = self._build_manifest()
        recorded = self._directory.read_record()
        if not self._directory.has_results():
            self._directory.discard()  # nothing succeeded, so the run may be planned again
        elif recorded is not None:  # the manifest was removed; the new one must be the same
            now = identity.describe_known(self._config, manifest.digest, recorded)
            refusals.refuse_differences(self._config, recorded, now)
        failpoint("manifest")
        manifests.write(self._directory, manifest, made_with)
        failpoint("manifest-written")
        identity.note_manifest(self._directory)
        ids = manifest.table["id"].filter(pc.is_null(manifest.table["duration_s"])).to_pylist()
        unreadable = sum(id_ not in manifest.rejected for id_ in ids)
        self._say(
            f"{counted(len(manifest), 'utterance')}, {format_hours(float(np.nansum(manifest.duration_s)))} of audio, "
            f"{counted(manifest.num_shards, 'shard')}"
            + (f", {unreadable} with a header that cannot be read" * bool(unreadable))
        )
        self._say_reading(manifest)
        dataset = self._config.dataset
        for line in [*(dataset.warnings() if hasattr(dataset, "warnings") else ()), *self._warnings.lines()]:
            self._say(f"warning: {printable(line)}")
        return manifest

    def _say_reading(self, manifest: Manifest) -> None:
        """Say how the dataset was read, if its connector can tell, and how many utterances have a reference."""
        references = len(manifest) - manifest.table["reference"].null_count
        reading = getattr(self._config.dataset, "reading", None)
        said = "" if reading is None else f"{printable(reading(references))}; "
        has = "has" if len(manifest) == 1 else "have"
        self._say(f"{said}{references:,} of {counted(len(manifest), 'utterance')} {has} a reference")

    def _build_manifest(self) -> Manifest:
        with self._console.status("finding recordings and reading their headers") as status:
            shown = said = time.monotonic()

            def tell(rows: int) -> None:
                nonlocal shown, said
                now = time.monotonic()
                if now - shown >= SHOWN_EVERY_S:  # `tell` is called for each row
                    shown = now
                    status.update(f"reading headers: {counted(rows, 'utterance')}")
                if not self._console.is_terminal and now - said >= PLAIN_EVERY_S:
                    said = now
                    self._say(f"reading headers: {counted(rows, 'utterance')}")

            settings, dataset, self._warnings = self._config.settings, self._config.dataset, Warnings()
            timeout_s, log = settings.loader.timeout_s, self._directory.local_log()
            manifest = build(dataset, settings.shard.hours, tell, settings.channels, timeout_s, log, self._warnings)
            _refuse_none_found(dataset, manifest)
            return manifest

    def _moved(self, manifest: Manifest, before: dict[str, Any], made_with: dict[str, Any]) -> Manifest:
        """Make the manifest again, because the corpus may have moved. Refuse a corpus that has changed."""
        differences = refusals.making_differences(before, made_with)
        if before["shard.hours"] == made_with["shard.hours"]:
            again = self._build_manifest()
            if again.digest == manifest.digest:
                manifests.write(self._directory, again, made_with)
                identity.note_manifest(self._directory)
                return again
            differences.append(refusals.corpus_differences(manifest.table, again.table))
        recorded = self._directory.read_record()
        if recorded is not None:
            now = identity.describe_known(self._config, manifest.digest, recorded)
            refusals.refuse_differences(self._config, recorded, now, differences)
        raise refusals.refusal(self._directory.root, differences)

    def _refuse_edited(self, manifest: Manifest) -> None:
        """Refuse a manifest that has been edited, because the committed results belong to the original rows."""
        recorded = self._directory.read_record()
        if recorded is not None and recorded.manifest_file == self._directory.file_record(MANIFEST):
            return
        # A kill before run.json was updated is no edit, so the rows decide.
        rows = manifests.digest_of(manifest.table)
        made = manifest.digest if recorded is None else recorded.identity.manifest
        if not rows == made == manifest.digest:
            raise refusals.refusal(
                self._directory.root, [f"manifest: {made} before, {rows} now, because {MANIFEST} has been edited"]
            )


def _refuse_none_found(dataset: Connector, manifest: Manifest) -> None:
    """Refuse a corpus none of whose recordings exists, because every row would fail in the same way.

    Raises:
        UserError: No recording exists. The message names the first, and the nearest folder that exists.
    """
    if manifest.table["file_size"].null_count < len(manifest):
        return
    paths = (path for path in manifest.table["path"].to_pylist() if path)
    first = next(paths, "")
    if not first or any(os.path.exists(resolve_path(path)) for path in (first, *paths)):
        return  # reading their headers took too long
    nearest = first
    while not os.path.exists(resolve_path(nearest)):
        nearest = os.path.dirname(nearest)
    hint = f"; {dataset.not_found()}" if hasattr(dataset, "not_found") else ""
    raise UserError(
        f"dataset={dataset.run_name}: not one of its recordings exists; the first is {first!r}, "
        f"of which {nearest!r} exists{hint}"
    )
