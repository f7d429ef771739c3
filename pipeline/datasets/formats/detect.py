"""Recognises the format of a list from its name and its first lines."""

from __future__ import annotations

import os
import re
from itertools import islice

from pipeline.datasets.formats.lhotse import is_lhotse
from pipeline.datasets.formats.source import Source, parse_object
from pipeline.runtime.errors import UserError

FORMATS = ("jsonl", "csv", "tsv", "parquet", "kaldi", "lhotse", "rttm")

_ENDINGS = {"csv": "csv", "tsv": "tsv", "parquet": "parquet", "pq": "parquet", "rttm": "rttm"}
_JSON_ENDINGS = frozenset(("json", "jsonl", "ndjson"))
_LOOKED_AT = 100


def detect(source: Source) -> str:
    """Return the format of a list, one of `FORMATS`.

    A folder is a Kaldi data folder. For a file, a known ending decides; without one, the first line decides. The keys
    of JSON lines tell lhotse's from others.

    Raises:
        UserError: The list cannot be read, or its format cannot be recognised.
    """
    if os.path.isdir(source.path):
        return "kaldi"
    if _starts_with(source, b"PAR1"):
        return "parquet"
    ending = _ending(source.path)
    if ending in _ENDINGS:
        return _ENDINGS[ending]
    line = next((raw for _, raw in islice(source.raw_lines(), _LOOKED_AT) if raw.strip()), b"")
    text = line.decode("utf-8-sig", errors="replace").strip()
    if text.startswith("{") or ending in _JSON_ENDINGS or not text:
        return _json_format(text)
    if re.match(r"SPEAKER[ \t]|;;|SPKR[-_]INFO[ \t]", text):
        return "rttm"
    for delimiter, format_ in (("\t", "tsv"), (",", "csv"), (";", "csv"), ("|", "csv")):
        if delimiter in text:
            return format_
    raise UserError(
        f"{source.name}: the format cannot be recognised; set dataset.format= to one of {', '.join(FORMATS)}"
    )


def _json_format(text: str) -> str:
    try:
        return "lhotse" if is_lhotse(parse_object(text)) else "jsonl"
    except ValueError:
        return "jsonl"  # its reader reports what is wrong with the line


def _starts_with(source: Source, magic: bytes) -> bool:
    try:
        with open(source.path, "rb") as file:
            return file.read(len(magic)) == magic
    except OSError:
        return False  # the reader reports the error later


def _ending(path: str) -> str:
    name = os.path.basename(path).lower().removesuffix(".gz")
    return os.path.splitext(name)[1].removeprefix(".")
