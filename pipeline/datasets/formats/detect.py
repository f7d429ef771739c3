"""Recognises the format of a list from its name and its first lines."""

from __future__ import annotations

import glob
import os
import re
from itertools import islice

from pipeline.datasets import is_recording
from pipeline.datasets.formats.fairseq import is_fairseq
from pipeline.datasets.formats.json_objects import objects
from pipeline.datasets.formats.kaldi import is_data_folder
from pipeline.datasets.formats.lhotse import is_lhotse
from pipeline.datasets.formats.ljspeech import is_ljspeech
from pipeline.datasets.formats.mls import is_mls
from pipeline.datasets.formats.source import Source
from pipeline.runtime.errors import UserError
from pipeline.runtime.places import is_url
from pipeline.runtime.remote_files import is_folder, open_buffered, walk_url

FORMATS = ("jsonl", "csv", "tsv", "parquet", "kaldi", "lhotse", "rttm", "stm", "fairseq", "ljspeech", "mls")

_ENDINGS = {"csv": "csv", "tsv": "tsv", "parquet": "parquet", "pq": "parquet", "rttm": "rttm", "stm": "stm"}
_JSON_ENDINGS = frozenset(("json", "jsonl", "ndjson"))
_LOOKED_AT = 100


def detect(source: Source, folder: str | None = None) -> str:
    """Return the format of a list, one of `FORMATS`.

    A folder is a Kaldi data folder, or holds Parquet files. For a file, the first lines of the formats of single
    corpora decide, then a known ending, then the first line. The keys of JSON objects tell lhotse's from others.

    Args:
        source: The list.
        folder: The folder that relative paths are relative to; `None` for the folder of the list.

    Raises:
        UserError: The list cannot be read, or its format cannot be recognised.
    """
    folder = os.path.dirname(source.path) if folder is None else folder
    if os.path.basename(source.path) == "wav.scp":
        raise UserError(f"{source.name}: one file of a Kaldi data folder; give the folder")
    if is_folder(source.path):
        return "kaldi" if is_data_folder(source.path) else "parquet"
    if _starts_with(source, b"PAR1"):
        return "parquet"
    ending = _ending(source.path)
    lines = (raw.decode("utf-8-sig", errors="replace").strip() for _, raw in islice(source.raw_lines(), _LOOKED_AT))
    text, second = next(filter(None, lines), ""), next(filter(None, lines), "")
    if is_fairseq(text, second):
        return "fairseq"
    if is_ljspeech(folder, text):
        return "ljspeech"
    if is_mls(text):
        return "mls"
    if ending in _ENDINGS:
        return _ENDINGS[ending]
    if text.startswith(("{", "[")) or ending in _JSON_ENDINGS or not text:
        return _json_format(source)
    if re.match(r"SPEAKER[ \t]|;;|SPKR[-_]INFO[ \t]", text):
        return "rttm"
    for delimiter, format_ in (("\t", "tsv"), ("|", "csv"), (",", "csv"), (";", "csv")):
        if delimiter in text:
            return format_
    if is_recording(text) and (" " not in text or os.path.lexists(os.path.join(folder, text))):
        return "csv"  # a list of paths, and of nothing else
    raise UserError(
        f"{source.name}: the format cannot be recognised; set dataset.format= to one of {', '.join(FORMATS)}"
    )


def parquet_files(path: str) -> list[str]:
    """Return the Parquet files of a folder and of two levels of folders below it, sorted bytewise; of a file, itself.

    A dataset of Hugging Face has them in `data/`, or in a folder for each configuration and split.
    """
    if not is_folder(path):
        return [path]
    endings = tuple(f".{ending}" for ending, format_ in _ENDINGS.items() if format_ == "parquet")
    if is_url(path):
        return [f"{path}/{name}" for name in walk_url(path) if name.lower().endswith(endings) and name.count("/") < 3]
    levels = ("*", os.path.join("*", "*"), os.path.join("*", "*", "*"))
    names = (name for level in levels for name in glob.iglob(os.path.join(glob.escape(path), level)))
    return sorted((name for name in names if name.lower().endswith(endings)), key=os.fsencode)


def _json_format(source: Source) -> str:
    try:
        entry = next((entry for _, entry in objects(source) if isinstance(entry, dict)), {})
    except UserError:
        return "jsonl"  # its reader reports what is wrong with the line
    return "lhotse" if is_lhotse(entry) else "jsonl"


def _starts_with(source: Source, magic: bytes) -> bool:
    try:
        with open_buffered(source.path) as file:
            return file.read(len(magic)) == magic
    except OSError:
        return False  # the reader reports the error later


def _ending(path: str) -> str:
    name = os.path.basename(path).lower().removesuffix(".gz")
    return os.path.splitext(name)[1].removeprefix(".")
