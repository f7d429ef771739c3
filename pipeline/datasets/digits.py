"""The shipped corpus of spoken digits: real recordings, joined to short sequences, with their transcripts."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.datasets import SHIPPED, refuse_empty
from pipeline.records import Utterance
from pipeline.runtime.errors import UserError
from pipeline.runtime.paths import encode_path

_REQUIRED = ("file_name", "transcript", "speaker", "num_digits")


@dataclass
class Options:
    """The options `dataset.*` of `dataset=digits`. There are none."""


class Dataset:
    """The recordings that `transcripts.csv` lists. The id is the file name relative to the corpus."""

    def __init__(self, options: Options, root: Path = SHIPPED / "digits") -> None:
        self.root = os.path.abspath(root)
        self.run_name = "digits"
        self.notice: str | None = None
        self._list = os.path.join(self.root, "transcripts.csv")
        if not os.path.isfile(self._list):
            raise UserError(f"dataset=digits: {self._list} is missing; install the project again")

    def columns(self) -> dict[str, str]:
        """Return the columns: the speaker and the number of digits."""
        return {"speaker": "string", "num_digits": "int16"}

    def utterances(self) -> Iterator[Utterance]:
        """Yield every recording, sorted bytewise by its name.

        Raises:
            UserError: The list is empty or damaged.
        """
        return refuse_empty(self._utterances(), f"dataset=digits: {self._list} lists no recordings")

    def _utterances(self) -> Iterator[Utterance]:
        with open(self._list, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in _REQUIRED if name not in (reader.fieldnames or ())]
            if missing:
                raise UserError(f"{self._list}: has no column {missing[0]}; install the project again")
            rows = sorted(reader, key=lambda row: os.fsencode(row["file_name"]))
        for row in rows:
            try:
                num_digits = int(row["num_digits"])
            except (TypeError, ValueError):
                raise UserError(f"{self._list}: {row['file_name']}: num_digits is not a number") from None
            yield Utterance(
                id=encode_path(row["file_name"]),
                path=os.path.join(self.root, row["file_name"]),
                reference=row["transcript"].strip() or None,
                columns={"speaker": row["speaker"], "num_digits": num_digits},
            )
