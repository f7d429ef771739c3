"""Finds the utterances that corrections belong to: by id, or by the recording and the time."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.audio.archives.members import unpacked
from pipeline.datasets import Warnings
from pipeline.datasets.formats.naming import spelled
from pipeline.datasets.formats.values import shown
from pipeline.results.recording_names import recording_names, safe_name, stem_of
from pipeline.stages.corrections.correction import Correction
from pipeline.storage.tables import CHANNEL

_SAME_S = 0.01
"""Seconds by which the times of a tier, which ELAN rounds, may differ from those of its utterance."""


@dataclass
class Matched:
    """Corrected references by id, and what could not be used, by kind."""

    texts: dict[str, str] = field(default_factory=dict)
    warnings: Warnings = field(default_factory=Warnings)


class Utterances:
    """The utterances of a run."""

    def __init__(self, manifest: pa.Table, root: str) -> None:
        """Index the rows of a manifest.

        Args:
            manifest: The rows.
            root: The folder of the recordings.
        """
        self._manifest = manifest
        self._root = root
        self._by_id = {spelled(id_): id_ for id_ in manifest["id"].to_pylist()}

    def match(self, corrections: Iterable[Correction]) -> Matched:
        """Return the reference of each utterance that is corrected.

        Several stretches of an utterance in one document are joined in the order of time. Of several documents, and of
        several corrections of a whole utterance, the last counts.
        """
        found = Matched()
        corrected: dict[str, list[list[Correction]]] = {}
        for each in corrections:
            id_ = self._id_of(each)
            if id_ is None:
                found.warnings.add("corrections that belong to no utterance of the run, or to several", _where(each))
            elif not each.text.strip():
                found.warnings.add("empty corrections, which change nothing", _where(each))
            else:
                versions = corrected.setdefault(id_, [])
                if not versions or not _continues(versions[-1][-1], each):
                    versions.append([])
                versions[-1].append(each)
        for id_, versions in corrected.items():
            texts = [_joined(each) for each in versions]
            if len(set(texts)) > 1:
                kind = "utterances with several corrections, of which the last counts"
                found.warnings.add(kind, _where(versions[-1][0]))
            found.texts[id_] = texts[-1]
        return found

    def _id_of(self, correction: Correction) -> str | None:
        if correction.id is not None:
            return self._by_id.get(spelled(correction.id))
        rows = self._rows_of.get(self._path_of(correction.recording or "") or "", ())
        if correction.channel is not None and len({row["channel"] for row in rows}) > 1:
            rows = [row for row in rows if row["channel"] == correction.channel]
        if correction.start_s is not None:
            end_s = correction.start_s if correction.end_s is None else correction.end_s
            middle_s = (correction.start_s + end_s) / 2
            rows = [row for row in rows if row["start_s"] <= middle_s < row["end_s"]]
            own = (correction.start_s, end_s)
            rows = [row for row in rows if np.allclose((row["start_s"], row["end_s"]), own, 0, _SAME_S)] or rows
        ids = {row["id"] for row in rows}
        return ids.pop() if len(ids) == 1 else None

    def _path_of(self, recording: str) -> str | None:
        """Return the path of a recording, as in the manifest, from its name or its path."""
        paths = self._paths
        beside = spelled(os.path.normpath(os.path.join(self._root, recording)))
        return paths.get(recording) or paths.get(beside) or paths.get(safe_name(stem_of(recording)))

    @cached_property
    def _paths(self) -> Mapping[str, str]:
        """The paths in the manifest by the names of exports, and by themselves in one spelling."""
        names = recording_names(dict.fromkeys(self._manifest["path"].to_pylist()), self._root)
        return {
            **{name: path for path, name in names.items()},
            **{spelled(unpacked(path)): path for path in names},
            **{path: path for path in names},
        }

    @cached_property
    def _rows_of(self) -> Mapping[str, list[dict[str, Any]]]:
        """The utterances of each recording, by path: id, channel, start and end in seconds."""
        found: dict[str, list[dict[str, Any]]] = {}
        for row in self._rows():
            found.setdefault(row["path"], []).append(row)
        return found

    def _rows(self) -> Iterator[dict[str, Any]]:
        columns = ["id", "path", "start_s", "duration_s"]
        has_channel = CHANNEL in self._manifest.column_names
        for row in self._manifest.select([*columns, *([CHANNEL] if has_channel else [])]).to_pylist():
            start_s = row["start_s"] or 0.0
            end_s = math.inf if row["duration_s"] is None else start_s + row["duration_s"]
            yield {**row, "start_s": start_s, "end_s": end_s, "channel": row.get(CHANNEL)}


def _continues(before: Correction, after: Correction) -> bool:
    """Whether two corrections of an utterance are stretches of it that stand in the same document."""
    return None not in (before.start_s, after.start_s) and before.document == after.document


def _joined(stretches: Iterable[Correction]) -> str:
    """Return the texts in the order of time, with single spaces."""
    ordered = sorted(stretches, key=lambda each: each.start_s or 0.0)
    return " ".join(" ".join(each.text for each in ordered).split())


def _where(correction: Correction) -> str:
    return f"{shown(correction.id or correction.recording or '')} ({correction.place})"
