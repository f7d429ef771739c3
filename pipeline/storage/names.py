"""Names of the files of a run, relative to the run directory."""

from __future__ import annotations

import re

TABLES = ("transcripts", "emissions", "features", "failures")
"""Tables of a run; each has a folder of this name."""
COMMITS = "commits"
MANIFEST = "manifest.parquet"
RUN_JSON = "run.json"
CONFIG = "config.yaml"
SCORES = "scores.parquet"
CONFUSIONS = "confusions.parquet"
REPORT = "report/index.html"
METRICS = "logs/metrics.jsonl"
LOG = "logs/run.log"
STAGING = ".staging"
_FILE_OF_PASS = re.compile(r"shard-(\d{5,})(?:-([1-9]\d*))?\.(json|parquet)")


def name_of_pass(shard: int, supplement: int = 0) -> str:
    """Return the name of the files that a pass over a shard writes, without their folder and ending."""
    return f"shard-{shard:05d}" + (f"-{supplement}" if supplement else "")


def pass_of_name(name: str, ending: str) -> tuple[int, int] | None:
    """Return the shard and the number of the pass that wrote a file; `None` if it is no such file.

    Args:
        name: Name of the file, without its folder.
        ending: `json` for commit records, `parquet` for tables.
    """
    match = _FILE_OF_PASS.fullmatch(name)
    return (int(match[1]), int(match[2] or 0)) if match and match[3] == ending else None
