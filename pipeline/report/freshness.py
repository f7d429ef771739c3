"""Whether a page still shows what there is: it carries a mark of what it was made of."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict

from pipeline import __version__
from pipeline.config.schema import ReportSettings
from pipeline.storage.commits import encode_record
from pipeline.storage.run_directory import REPORT, SCORES, RunDirectory

_MARK = re.compile(rb'<meta name="made-of" content="([0-9a-f]{64})">')
_HEAD_BYTES = 4096


def mark_of(directory: RunDirectory, settings: ReportSettings) -> str:
    """A digest of the committed shards, the scores and the settings of the page."""
    digest = hashlib.sha256(f"{__version__} {sorted(asdict(settings).items())}".encode())
    for _, record in sorted(directory.commits().items()):
        digest.update(encode_record(record))
    if directory.scores.is_there:
        digest.update(directory.read(SCORES))
    return digest.hexdigest()


def is_current(directory: RunDirectory, settings: ReportSettings) -> bool:
    """Whether the page that lies there was made of what there is, as these settings say."""
    try:
        with directory.open(REPORT) as page:
            found = _MARK.search(page.read(_HEAD_BYTES))
    except OSError:
        return False
    return found is not None and found[1].decode() == mark_of(directory, settings)
