"""Which format a list has, from its name and its beginning."""

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
    """The format of a list, one of `FORMATS`.

    A folder is Kaldi's. An ending decides, where there is a known one; lhotse's JSON lines are told from
    others by their keys. Without one the first line decides.

    Raises:
        UserError: The list cannot be read, or it cannot be told.
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
    raise UserError(f"{source.name}: cannot be told what it is; say dataset.format=..., one of {', '.join(FORMATS)}")


def _json_format(text: str) -> str:
    try:
        return "lhotse" if is_lhotse(parse_object(text)) else "jsonl"
    except ValueError:
        return "jsonl"  # which says what is wrong with it


def _starts_with(source: Source, magic: bytes) -> bool:
    try:
        with open(source.path, "rb") as file:
            return file.read(len(magic)) == magic
    except OSError:
        return False  # reading says why


def _ending(path: str) -> str:
    name = os.path.basename(path).lower().removesuffix(".gz")
    return os.path.splitext(name)[1].removeprefix(".")
