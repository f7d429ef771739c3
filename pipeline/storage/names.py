"""Names of the files of a run, relative to the run directory."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Self

TABLES = ("transcripts", "emissions", "features", "failures")
"""Tables of a run; each has a folder of this name."""
COMMITS = "commits"
MANIFEST = "manifest.parquet"
RUN_JSON = "run.json"
CONFIG = "config.yaml"
SCORES = "scores.parquet"
CONFUSIONS = "confusions.parquet"
REFERENCES = "references.parquet"
"""The corrected references, if any were imported."""
REPORT = "report/index.html"
COMPARISON, VERSUS = "comparison.html", "-vs-"
"""The page of a comparison with another run, and what stands between the runs' names in the name of its folder."""
COVERAGE = "coverage.parquet"
SPEECH = "speech"
"""Folder with the stretches of speech that a detector has found."""
METRICS = "logs/metrics.jsonl"
LOG = "logs/run.log"
"""The metrics and the log of a run; each part of a run has files of its own (`Part.file`)."""
STAGING = ".staging"
HEADERS = f"{STAGING}/headers"
"""Folder with the headers of recordings that a listing has read; it is there until the listing is complete."""
LOCK = f"{STAGING}/lock"
"""The lock of the run; each part of a run has a lock of its own."""
ALIGNMENTS = "alignments"
"""Folder of the alignments with references, which are made of the emissions."""
COMPACTED = "compacted-"
"""What the folder of compacted files of a table begins with."""
DECODED = "transcripts-"
"""What the folder of a decoding begins with: `transcripts-beam` has the transcripts of the decoding `beam`."""
_STAGING_OF_SHARD = re.compile(r"shard-(\d{5,})-.+")
_COMPACTED_FILE = re.compile(r"shards-(\d{5,})\.(json|parquet)")
_FILE_OF_PASS = re.compile(r"shard-(\d{5,})(?:-([1-9]\d*))?\.(json|parquet)")


@dataclass(frozen=True)
class Part:
    """A part of the shards of a run, which one command computes while others compute other parts.

    Attributes:
        number: Number of the part, from 1 on.
        of: Number of parts.
    """

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `3/8`.

        Raises:
            ValueError: It is no part.
        """
        match = re.fullmatch(r"(\d{1,5})/(\d{1,5})", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ValueError(text)
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        """Return `3/8`."""
        return f"{self.number}/{self.of}"

    def shards(self, num_shards: int) -> range:
        """Return the shards of this part. Of eight parts, each has every eighth shard."""
        return range(self.number - 1, num_shards, self.of)

    def __contains__(self, shard: int) -> bool:
        """Whether a shard is of this part."""
        return shard % self.of == self.number - 1

    def file(self, name: str) -> str:
        """Return the name that a file has for this part: `logs/run-3-of-8.log` for `logs/run.log`."""
        path = PurePosixPath(name)
        return str(path.with_stem(f"{path.stem}-{self.number}-of-{self.of}"))


def of_decoding(name: str, decoding: str) -> str:
    """Return the name that a file has for a decoding: `report-beam/index.html` for `report/index.html`."""
    return re.sub(r"^\w+", lambda match: f"{match[0]}-{decoding}", name)


def name_of_pass(shard: int, supplement: int = 0) -> str:
    """Return the name of the files that a pass over a shard writes, without their folder and ending."""
    return f"shard-{shard:05d}" + (f"-{supplement}" if supplement else "")


def name_of_compacted(first: int) -> str:
    """Return the name of the compacted file that begins with a shard, without its folder and ending."""
    return f"shards-{first:05d}"


def first_of_compacted(name: str, ending: str) -> int | None:
    """Return the first shard of a compacted file or of its record; `None` if it is no such file.

    Args:
        name: Name of the file, without its folder.
        ending: `json` for records, `parquet` for tables.
    """
    match = _COMPACTED_FILE.fullmatch(name)
    return int(match[1]) if match and match[2] == ending else None


def shard_of_staging(name: str) -> int | None:
    """Return the shard of an unfinished file or folder; `None` if the name is not that of such an entry."""
    match = _STAGING_OF_SHARD.fullmatch(name)
    return int(match[1]) if match else None


def pass_of_name(name: str, ending: str) -> tuple[int, int] | None:
    """Return the shard and the number of the pass that wrote a file; `None` if it is no such file.

    Args:
        name: Name of the file, without its folder.
        ending: `json` for commit records, `parquet` for tables.
    """
    match = _FILE_OF_PASS.fullmatch(name)
    return (int(match[1]), int(match[2] or 0)) if match and match[3] == ending else None
