"""Reads the stored emissions of a run as a decoder takes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.models.catalog import MODELS
from pipeline.records import BestPath, Labels, UtteranceEmission
from pipeline.results.arrays import log_probabilities, read_arrays
from pipeline.runtime.errors import UserError
from pipeline.storage.commits import CommittedShard
from pipeline.storage.files import UNREADABLE, StoredTable
from pipeline.storage.layouts import EMISSIONS
from pipeline.storage.stored_run import StoredRun
from pipeline.storage.tables import metadata_of


class StoredEmissions(NamedTuple):
    """What the emissions of a run have in common.

    Attributes:
        labels: The labels of the model.
        seconds_per_frame: Seconds from one frame to the next.
    """

    labels: Labels
    seconds_per_frame: float


def describe_emissions(
    directory: StoredRun, shards: Mapping[int, CommittedShard], to_align: bool = False
) -> StoredEmissions:
    """Read what the emissions of a run have in common from the metadata of a file.

    Args:
        directory: The run.
        shards: The committed shards, by shard.
        to_align: Whether labels that cannot be written as words will do, such as those of `mms_fa`.

    Raises:
        UserError: No emissions are stored, they cannot be read, or the labels cannot be written as words.
    """
    stored = next((each for shard in shards.values() for each in directory.tables(shard, EMISSIONS.name)), None)
    if stored is None:
        raise UserError(
            f"{directory.root}: no emissions are stored, so there is nothing to read again; run the command that made "
            "it once more with outputs=[transcripts,emissions]"
        )
    try:
        metadata = metadata_of(stored.schema())
        names = tuple(metadata["labels"])
        delimiter = _delimiter(directory, metadata, names, to_align)
        labels = Labels(
            names,
            int(metadata["blank"]),
            delimiter,
            frozenset(metadata.get("silent", ())),
            bool(metadata.get("lower_case", False)),
        )
        return StoredEmissions(labels, float(metadata["seconds_per_frame"]))
    except UNREADABLE as error:
        raise unreadable(stored, error) from None


def _delimiter(directory: StoredRun, metadata: Mapping[str, Any], names: tuple[str, ...], to_align: bool) -> str:
    """Return the label between two words. The emissions of an earlier release do not say it, so the model does."""
    if "delimiter" in metadata:
        delimiter: str | None = metadata["delimiter"]
    else:
        facts = MODELS.get(str(metadata.get("model")))
        delimiter = facts.delimiter if facts is not None else next((name for name in ("|", " ") if name in names), "")
    if delimiter is None and to_align:
        return ""
    if delimiter is None:
        raise UserError(f"{directory.root}: the labels of its model cannot be written as words")
    return delimiter


def read_emissions(
    directory: StoredRun, committed: CommittedShard, starts_s: Mapping[str, float]
) -> Iterator[tuple[str, UtteranceEmission]]:
    """Yield id and emission of some utterances of a shard, sorted by id. Memory holds one row group at a time.

    Args:
        directory: The run.
        committed: The shard.
        starts_s: Where each of the utterances begins in its file, in seconds, by id.

    Raises:
        UserError: A file is damaged.
    """
    for stored in directory.tables(committed, EMISSIONS.name):
        try:
            for id_, values in read_arrays(stored, EMISSIONS, sorted(starts_s)):
                logits = values.astype(np.float32, copy=False)
                yield id_, UtteranceEmission(best_path(logits), logits, starts_s[id_])
        except UNREADABLE as error:
            raise unreadable(stored, error) from None


def best_path(logits: NDArray[np.float32]) -> BestPath:
    """Return the best label of every frame of logits `(frames, labels)`, with its log-probability."""
    labels = logits.argmax(axis=1)
    return BestPath(labels, np.take_along_axis(log_probabilities(logits), labels[:, None], axis=1)[:, 0])


def unreadable(stored: StoredTable, error: BaseException) -> UserError:
    """Return the error that says why a committed table cannot be read."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    kind = "" if isinstance(error, (OSError, pa.ArrowException)) else f"{type(error).__name__}: "
    return UserError(
        f"{stored}: cannot be read ({kind}{reason}); python -m pipeline.verify says what is damaged; with --retract, "
        "the command of the run computes it again"
    )
