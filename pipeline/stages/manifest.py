"""Stage `manifest`: make the manifest, or read the one that an earlier run made.

If the corpus has moved since, the manifest is made again and must hold the same recordings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.compute as pc
from rich.console import Console

from pipeline.config.run_config import RunConfig
from pipeline.datasets import Warnings
from pipeline.runtime import redaction as masking
from pipeline.runtime.errors import UserError
from pipeline.runtime.failpoints import failpoint
from pipeline.runtime.places import absolute
from pipeline.runtime.progress import format_hours
from pipeline.runtime.terminal import counted, printable
from pipeline.stages import identity
from pipeline.stages import resume as refusals
from pipeline.stages.build_manifest import Listing, first_generation
from pipeline.stages.growth import Changes, compare, grown
from pipeline.stages.listing import list_corpus
from pipeline.stages.references import refuse_edited, take_over_references
from pipeline.stages.replacing import finish_change, replace_manifest
from pipeline.storage import manifest as manifests
from pipeline.storage import references
from pipeline.storage.manifest import Manifest
from pipeline.storage.names import HEADERS
from pipeline.storage.run_directory import RunDirectory

_PLACES = frozenset(("root", "path", "metadata", "audio_root"))
"""Options of datasets that say where a corpus lies."""


class ManifestStage:
    """Makes, reads or extends the manifest of a run.

    Attributes:
        unlisted: Number of recordings of the corpus that are not in the manifest.
    """

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
        self.unlisted = 0
        self._warnings = Warnings()

    def made_with(self) -> dict[str, Any]:
        """Return the settings that determine the manifest."""
        options = dict(self._config.dataset_options)
        for key in {"root", "path", "metadata"} & set(options):
            if options[key] is not None:
                options[key] = absolute(options[key])  # a relative path depends on the folder
        options = masking.mask_secrets(options, marked=True)
        name = type(self._config.dataset).__module__.rpartition(".")[2]
        each = {"channels": "each"} if self._config.settings.channels == "each" else {}
        return {"dataset": name, **options, **each, **self._vad(), "shard.hours": self._config.settings.shard.hours}

    def _vad(self) -> dict[str, Any]:
        """Return the settings that make segments: those of the manifest there is, if this run only reads it."""
        if self._config.makes_segments:
            assert self._config.detector is not None
            return self._config.detector.identity()
        if "manifest" in self._config.settings.stages or not self._directory.manifest.is_there:
            return {}
        return refusals.vad_of(manifests.made_with(self._directory.manifest))

    def run(self) -> Manifest:
        """Make the manifest, or open the existing one. No row of it is in memory afterwards.

        Raises:
            UserError: There is no manifest and the stage is not requested, the manifest has been edited, or the
                committed results belong to another corpus.
        """
        self._run()
        if self._directory.alone:
            self._directory.remove_staged(HEADERS)
        manifest, _ = manifests.read(self._directory.manifest)
        return manifest

    def _run(self) -> Manifest:
        """Return the manifest as it is in memory after the stage."""
        stored, made_with = self._directory.manifest, self.made_with()
        if stored.is_there:
            manifest, before = manifests.read(stored)
            if self._directory.has_commits():
                refuse_edited(self._directory, manifest)
            if not self._directory.alone:
                return self._of_other_parts(manifest, before, made_with)
            if before == made_with:
                return self._extended(manifest, made_with) if self.looks else manifest
            if self._directory.has_results():
                return self._moved(manifest, before, made_with)
        if "manifest" not in self._config.settings.stages:
            raise UserError(f"{stored}: there is no manifest; add manifest to stages=")
        manifest = first_generation(self._list(), self._config.settings.shard.hours)
        recorded = self._directory.read_record()
        if not self._directory.has_results():
            self._directory.discard()  # nothing succeeded, so the run may be planned again
        elif recorded is not None:  # the manifest was removed; the new one must be the same
            now = identity.describe_known(self._config, manifest.digest, recorded)
            refusals.refuse_differences(self._config, self._directory, recorded, now)
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
        self._say_warnings()
        return take_over_references(self._directory, manifest, made_with)[0]

    def _of_other_parts(self, manifest: Manifest, before: dict[str, Any], made_with: dict[str, Any]) -> Manifest:
        """Return the manifest that another part of the run works with, which must not change now."""
        if self._config.settings.extend == "check":
            raise UserError("extend=check: other parts of the run are at work; ask again when they have ended")
        if before != made_with:
            raise refusals.refusal(self._directory.root, refusals.making_differences(before, made_with))
        return manifest

    def _say_warnings(self) -> None:
        """Say what was read otherwise than it was written, one line for each kind."""
        dataset = self._config.dataset
        for line in [*(dataset.warnings() if hasattr(dataset, "warnings") else ()), *self._warnings.lines()]:
            self._say(f"warning: {printable(line)}")

    def _say_reading(self, manifest: Manifest) -> None:
        """Say how the dataset was read, if its connector can tell, and how many utterances have a reference."""
        references = len(manifest) - manifest.table["reference"].null_count
        reading = getattr(self._config.dataset, "reading", None)
        said = [] if reading is None else [printable(reading(references))]
        if references or not any("no references" in text for text in said):
            has = "has" if len(manifest) == 1 else "have"
            said.append(f"{references:,} of {counted(len(manifest), 'utterance')} {has} a reference")
        self._say("; ".join(said))

    @property
    def looks(self) -> bool:
        """Whether an existing manifest is compared with the corpus."""
        settings = self._config.settings
        return settings.extend != "off" and "manifest" in settings.stages

    def _extended(self, manifest: Manifest, made_with: dict[str, Any]) -> Manifest:
        """List the corpus again, and take over what has changed. If the listing fails, nothing is changed.

        A list that alone says what the corpus is, and has not changed, is not read again.
        """
        settings = self._config.settings
        if manifest.list_sha256 and manifest.list_sha256 == getattr(self._config.dataset, "sha256", str)():
            if settings.extend != "check":
                finish_change(self._directory, manifest)
            return manifest
        changes = compare(manifest, self._list(manifest))
        self.unlisted = len(changes.new)
        self._say_changes(changes)
        if settings.extend == "check":
            return manifest
        finish_change(self._directory, manifest)
        if not changes.to_take_over(settings.redo_changed) and not len(changes.elsewhere):
            return manifest
        return self._take_over(changes, made_with)

    def _say_changes(self, changes: Changes) -> None:
        if said := changes.said(self._config.settings.redo_changed):
            self._say(said)
        self._say_warnings()

    def _take_over(self, changes: Changes, made_with: dict[str, Any]) -> Manifest:
        """Write what has changed."""
        settings, manifest = self._config.settings, changes.manifest
        extended = grown(changes, settings.shard.hours, settings.redo_changed)
        redone = np.unique(manifest.shard_of_row[changes.redoable]).tolist() if settings.redo_changed else ()
        described = np.union1d(changes.other_reference, changes.other_columns)
        files = replace_manifest(self._directory, manifest, extended, described, made_with, redone)
        if files:
            self._say(f"{counted(files, 'file')} of transcripts written again, without the model")
        return extended

    def _list(self, manifest: Manifest | None = None) -> Listing:
        """List the corpus as it is now; if there is a manifest, with the references that were corrected since."""
        self._warnings = Warnings()
        listing = list_corpus(self._config, self._directory, self._console, self._say, self._warnings, manifest)
        if manifest is None:
            return listing
        return replace(listing, table=references.overlay(listing.table, references.read(self._directory)))

    def _moved(self, manifest: Manifest, before: dict[str, Any], made_with: dict[str, Any]) -> Manifest:
        """List the corpus at its new place. Refuse it if recordings of the manifest are missing or differ there."""
        differences = refusals.making_differences(before, made_with)
        same_segments = refusals.vad_of(before) == refusals.vad_of(made_with)
        if same_segments and before["shard.hours"] == made_with["shard.hours"]:
            changes = compare(manifest, self._list(manifest))
            # An option that an earlier release did not have is no difference.
            moved = {key for key in {*before} & {*made_with} if before[key] != made_with[key]} <= _PLACES
            # Another option may read other references and columns of the same recordings.
            described = before["dataset"] == made_with["dataset"] and not len(changes.new)
            same = not len(changes.newly_vanished) and not len(changes.replaced) and (moved or described)
            if not changes.none:
                differences.append(refusals.corpus_differences(manifest.table, changes.listed.table))
            if changes.none or (same and self._config.settings.extend == "auto"):
                self._refuse_other_work(manifest, differences)
                self._say_changes(changes)
                return self._take_over(changes, made_with)
        self._refuse_other_work(manifest, differences)
        raise refusals.refusal(self._directory.root, differences)

    def _refuse_other_work(self, manifest: Manifest, besides: Sequence[str]) -> None:
        """Refuse settings that differ from those of the committed results, as far as they are known without torch.

        Args:
            manifest: The manifest.
            besides: Other differences, for the message.
        """
        recorded = self._directory.read_record()
        if recorded is not None:
            now = identity.describe_known(self._config, manifest.digest, recorded)
            refusals.refuse_differences(self._config, self._directory, recorded, now, besides)
