"""Takes corrected references into a run: writes them down, makes its scores anew, and the reports that it has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from pipeline.config.schema import ScoreSettings
from pipeline.datasets import usual_groups
from pipeline.results.keys import root_of
from pipeline.runtime.clock import timestamp
from pipeline.runtime.errors import UserError
from pipeline.runtime.paths import encode_path
from pipeline.runtime.terminal import counted, printable
from pipeline.scoring.grouping import Scores
from pipeline.stages.corrections.matching import Utterances
from pipeline.stages.corrections.reading import read
from pipeline.stages.references import refuse_edited, take_over_references
from pipeline.stages.replacing import finish_change
from pipeline.stages.score import score_run
from pipeline.storage import manifest as manifests
from pipeline.storage import references
from pipeline.storage.committing import finish_renewals
from pipeline.storage.names import CONFIG
from pipeline.storage.run_directory import RunDirectory


def import_corrections(directory: RunDirectory, path: Path, say: Callable[[str], None]) -> Scores | None:
    """Take the corrections of a file, or of the files in a folder, into a run.

    Args:
        directory: The run.
        path: The file or the folder.
        say: Takes a line for each kind of what could not be used, and one with what has changed.

    Returns:
        The scores of the run itself; `None` if no shard is committed. Its decodings are scored too.

    Raises:
        UserError: There is no run, another process works on it, its manifest was edited, the file cannot be read, or no
            correction belongs to an utterance.
        OSError: A file cannot be written.
    """
    directory.require_run()
    manifest, made_with = manifests.read(directory.manifest)
    root = root_of(made_with, manifest.table["path"].to_pylist())
    matched = Utterances(manifest.table, root).match(read(path))
    for line in matched.warnings.lines():
        say(f"warning: {printable(line)}")
    if not matched.texts:
        raise UserError(f"{path}: no correction belongs to an utterance of {directory.root}; nothing imported")
    with directory.lock(waiting=lambda by: say(f"waiting for {by}")):
        decodings = [directory.of_decoding(name) for name in directory.decodings()]
        directory.remove_leftovers()
        finish_renewals(directory)
        manifest, made_with = manifests.read(directory.manifest)
        refuse_edited(directory, manifest)
        finish_change(directory, manifest)
        settings = _score_settings(directory)
        time = timestamp()
        references.add(directory, matched.texts, encode_path(str(path)), time)
        manifest, changed = take_over_references(directory, manifest, made_with)
        same = len(matched.texts) - changed
        say(
            f"{counted(changed, 'reference')} corrected"
            + (f", {same:,} as before" if same > 0 else "")
            + f"; kept in {directory.references}"
        )
        if not directory.commits():
            return None
        default = usual_groups(str(made_with.get("dataset")))
        scores = [
            score_run(each, each.commits(), manifest.schema, settings, default=default)
            for each in (directory, *decodings)
        ]
        for each in (directory, *decodings):
            if each.has(each.report):
                _report(each, say)
        return scores[0]


def _score_settings(directory: RunDirectory) -> ScoreSettings:
    """Return the settings that the run was scored with last."""
    try:
        content: Any = yaml.safe_load(directory.read(CONFIG))["score"]
        return ScoreSettings(by=content["by"], normaliser=content["normaliser"])
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return ScoreSettings()  # the next run scores with its own settings


def _report(directory: RunDirectory, say: Callable[[str], None]) -> None:
    from pipeline.config.schema import ReportSettings
    from pipeline.report import write_report  # the plotting library takes a while

    say(f"report in {write_report(directory, ReportSettings())}")
