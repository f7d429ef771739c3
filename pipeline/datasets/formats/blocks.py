"""The utterances of a dataset in blocks, as objects or as columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from pipeline.datasets import Connector, utterances_of
from pipeline.datasets.formats.columnar import UtteranceColumns
from pipeline.records import Utterance

BLOCK_ROWS = 4096
"""Utterances that are read from a dataset at once."""


def blocks_of(dataset: Connector) -> Iterator[Sequence[Utterance] | UtteranceColumns]:
    """Yield every utterance; as columns where the dataset can give them so and no header need be read.

    A dataset that can has `by_columns`, which says whether its `blocks()` are to be read in place of `utterances()`.

    Raises:
        UserError: As `utterances_of`.
    """
    if getattr(dataset, "by_columns", False):
        yield from dataset.blocks()  # type: ignore[attr-defined]
        return
    utterances = utterances_of(dataset)
    while block := list(islice(utterances, BLOCK_ROWS)):
        yield block
