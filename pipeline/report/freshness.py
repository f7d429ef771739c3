"""Tells whether a page is up to date. A page contains a digest of the data that it was made from."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict

from pipeline import __version__
from pipeline.config.schema import ReportSettings
from pipeline.report.news import read_comparisons
from pipeline.runtime.digests import encode_checked
from pipeline.storage.commits import encode_record
from pipeline.storage.names import ALIGNMENTS
from pipeline.storage.run_directory import RunDirectory

_MARK = re.compile(rb'<meta name="made-of" content="([0-9a-f]{64})">')
_HEAD_BYTES = 4096


def mark_of(directory: RunDirectory, settings: ReportSettings) -> str:
    """Return a digest of what the page shows: its tables and its settings."""
    digest = hashlib.sha256(f"{__version__} {sorted(asdict(settings).items())}".encode())
    for shard in directory.commits().values():
        for record in shard.records:
            digest.update(encode_record(record))
    for made in directory.derived(ALIGNMENTS).records().values():
        digest.update(encode_checked(asdict(made)))
    others = [] if directory.decoded is not None else map(directory.of_decoding, directory.decodings())
    for table in (directory.scores, directory.coverage, *(each.scores for each in others)):
        if table.is_there:
            digest.update(directory.read(table.name))
    digest.update(repr(read_comparisons(directory)).encode())
    return digest.hexdigest()


def is_current(directory: RunDirectory, settings: ReportSettings) -> bool:
    """Whether the page in the run directory was made from the current data with these settings."""
    try:
        with directory.open(directory.report) as page:
            found = _MARK.search(page.read(_HEAD_BYTES))
    except OSError:
        return False
    return found is not None and found[1].decode() == mark_of(directory, settings)
