"""Recordings listed by somebody else: JSON lines as NVIDIA NeMo and others write them, also gzipped.

    {"audio_filepath": "calls/a.wav", "duration": 3.6, "offset": 12.3, "text": "good morning", "caller": 7}

`audio_filepath` is required; a relative one is relative to the list. With `offset` the utterance is the
segment of `duration` seconds from there (to the end without `duration`); without it the whole file, and
`duration` is ignored. `text` is the reference. Every other key becomes a column.

Ids, the same wherever the list and its recordings lie: the list's own `id` as it stands. Otherwise the path:
as listed, if relative; an absolute one relative to the list's folder, if it is below; else relative to the
deepest folder that holds all absolute paths which are not. A segment of a file adds `#12340-15980`
(milliseconds; nothing after the dash where the end is the file's).
"""

from __future__ import annotations

import gzip
import json
import os
import posixpath
import zlib
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from omegaconf import MISSING

from pipeline.datasets import refuse_empty
from pipeline.errors import UserError
from pipeline.paths import encode_path, resolve_path
from pipeline.records import Scalar, Utterance

_OWN_KEYS = frozenset(("audio_filepath", "duration", "offset", "text", "id"))

# Columns of the manifest and of the transcripts; a key of that name becomes `meta_<name>`.
# fmt: off
TAKEN = frozenset((
    "id", "path", "start_s", "end_s", "duration_s", "sample_rate", "num_channels", "num_samples", "file_size",
    "reference", "shard", "num_frames", "text", "ctc_text", "avg_logprob", "words", "word_errors",
    "reference_words", "char_errors", "reference_chars", "wer",
    # Names that Arrow gives to columns of its own when it reads a dataset.
    "__filename", "__fragment_index", "__batch_index", "__last_in_fragment",
))
# fmt: on


MAX_SECONDS = 1e8
"""Three years: what is beyond is no time in a recording."""


@dataclass
class Options:
    """`dataset.*` of `dataset=manifest`.

    Attributes:
        path: The list: JSON lines, gzipped or not.
    """

    path: str = MISSING


@dataclass(frozen=True)
class _Scan:
    """What one pass over a list finds.

    Attributes:
        common: The folder that holds all absolute paths outside the list's own.
        names: Key to column.
        types: Key to Arrow type.
    """

    common: str
    names: dict[str, str]
    types: dict[str, str]


class Dataset:
    """The utterances of a list, in the list's order."""

    def __init__(self, options: Options) -> None:
        """Looks whether there is a list; its lines are read when the manifest is made.

        Raises:
            UserError: There is no file, or it is not one to be read twice.
        """
        if options.path in ("", MISSING):
            raise UserError("dataset.path is required and has no default; give a list of JSON lines")
        self._given = options.path
        self.path = os.path.abspath(os.path.expanduser(options.path))
        self._folder = os.path.dirname(self.path)
        self.run_name = "manifest"
        self.notice: str | None = None
        if os.path.exists(self.path) and not os.path.isfile(self.path):
            raise UserError(f"dataset.path={self._given}: not a file; give a list of JSON lines")
        if not os.path.exists(self.path):
            raise UserError(f"dataset.path={self._given}: no such file; give a list of JSON lines")

    def columns(self) -> dict[str, str]:
        """The keys of the list that have no meaning here.

        Raises:
            UserError: The list cannot be read, or a line is wrong; with the number of the line.
        """
        return {self._scanned.names[key]: type_ for key, type_ in self._scanned.types.items()}

    @cached_property
    def _scanned(self) -> _Scan:
        common, kinds = self._scan()
        return _Scan(common, _column_names(kinds), {key: _arrow_type(found) for key, found in kinds.items()})

    def utterances(self) -> Iterator[Utterance]:
        """Every line as an utterance.

        Raises:
            UserError: There is none, or a line is wrong.
        """
        return refuse_empty(self._utterances(), f"dataset.path={self._given}: lists no recordings")

    def _utterances(self) -> Iterator[Utterance]:
        for _, entry in self._entries():
            listed: str = entry["audio_filepath"]
            start_s, end_s = _segment(entry)
            columns = {
                self._scanned.names[key]: _value(entry[key], self._scanned.types[key])
                for key in entry
                if key not in _OWN_KEYS
            }
            yield Utterance(
                id=self._id(entry, start_s, end_s),
                path=resolve_path(os.path.join(self._folder, listed)),
                reference=encode_path(str(entry.get("text") or "").strip()) or None,
                start_s=start_s,
                end_s=end_s,
                columns=columns,
            )

    def _id(self, entry: dict[str, Any], start_s: float | None, end_s: float | None) -> str:
        if entry.get("id") is not None:
            return encode_path(str(entry["id"]))
        listed: str = entry["audio_filepath"]
        if os.path.isabs(listed):
            base = self._folder if _is_below(listed, self._folder) else self._scanned.common
            listed = os.path.relpath(listed, base)
        id_ = encode_path(posixpath.normpath(listed.replace(os.sep, "/")))
        if start_s is None:
            return id_
        return f"{id_}#{round(start_s * 1000)}-{'' if end_s is None else round(end_s * 1000)}"

    def _scan(self) -> tuple[str, dict[str, set[str]]]:
        """The folder that holds all absolute paths elsewhere, and the kinds of values of every other key."""
        common: str | None = None
        types: dict[str, set[str]] = {}
        for number, entry in self._entries():
            problem = _problem(entry)
            if problem:
                raise UserError(f"dataset.path={self._given}: line {number}: {problem}")
            listed = entry["audio_filepath"]
            if os.path.isabs(listed) and not _is_below(listed, self._folder):
                folder = os.path.dirname(os.path.normpath(listed))
                common = folder if common is None else os.path.commonpath((common, folder))
            for key in entry.keys() - _OWN_KEYS:
                types.setdefault(key, set()).add(_kind(entry[key]))
        return common or self._folder, dict(sorted(types.items()))

    def _entries(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Number and object of every line that is not blank."""
        number = 0
        try:
            with open(self.path, "rb") as raw:
                gzipped = raw.read(2) == b"\x1f\x8b"
                raw.seek(0)
                with gzip.GzipFile(fileobj=raw) if gzipped else nullcontext(raw) as lines:
                    for number, line in enumerate(lines, start=1):
                        if line.strip():
                            yield number, _parse(line)
        except (FileNotFoundError, NotADirectoryError):
            message = "no such file; give a list of JSON lines"
            raise UserError(f"dataset.path={self._given}: {message}") from None
        except ValueError as error:
            raise UserError(f"dataset.path={self._given}: line {number}: {error}") from None
        except (OSError, EOFError, zlib.error) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"dataset.path={self._given}: cannot be read ({reason})") from None


def _parse(line: bytes) -> dict[str, Any]:
    try:
        entry = json.loads(line.decode("utf-8-sig"), parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise ValueError("not UTF-8; write bytes of a file name that are not as %XX") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at column {error.colno})") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(entry, dict):
        raise ValueError('not an object; expected is {"audio_filepath": ..., ...}')
    return entry


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _problem(entry: dict[str, Any]) -> str | None:
    """What is wrong with a line, in the words for its reader."""
    path = entry.get("audio_filepath")
    if "audio_filepath" not in entry:
        return "audio_filepath is missing"
    if not isinstance(path, str) or not path or "\0" in path:
        return f"audio_filepath={path!r}: must be a path"
    for key in ("offset", "duration"):
        value = entry.get(key)
        if value is not None and not (_is_number(value) and abs(value) <= MAX_SECONDS):
            return f"{key}={value!r}: must be a number of seconds, {MAX_SECONDS:.0g} at most"
    text = entry.get("text")
    if text is not None and not isinstance(text, str) and not _is_number(text):
        return f"text={text!r}: must be a string"
    if isinstance(entry.get("id"), bool) or not isinstance(entry.get("id"), str | int | None):
        return f"id={entry['id']!r}: must be a string or a whole number"
    if entry.get("offset") is not None and entry["offset"] < 0:
        return f"offset={entry['offset']}: must not be negative"
    return None


def _is_number(value: Any) -> bool:
    # Nothing else overflows a float.
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**63)


def _segment(entry: dict[str, Any]) -> tuple[float | None, float | None]:
    offset, duration = entry.get("offset"), entry.get("duration")
    if offset is None:
        return None, None
    return float(offset), None if duration is None else float(offset) + float(duration)


def _is_below(path: str, folder: str) -> bool:
    return os.path.commonpath((os.path.normpath(path), folder)) == folder


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if _is_number(value):
        return "float64" if isinstance(value, float) else "int64"
    return "string"


def _arrow_type(kinds: set[str]) -> str:
    """The type of a column from the kinds of its values; a mixture that is not of numbers is text."""
    found = kinds - {"null"}
    if len(found) == 1:
        return next(iter(found))
    return "float64" if found == {"int64", "float64"} else "string"


def _value(value: Any, arrow_type: str) -> Scalar:
    if value is None:
        return None
    if arrow_type == "string":
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
        return encode_path(text)
    scalar: Scalar = float(value) if arrow_type == "float64" else value
    return scalar


def _column_names(keys: dict[str, Any]) -> dict[str, str]:
    """Key to column: keys keep their names, those that are taken get `meta_` in front until they are free."""
    names = {key: encode_path(key) for key in keys if key and encode_path(key) not in TAKEN}
    for key in keys:
        if key not in names:
            name = f"meta_{encode_path(key)}"
            while name in names.values():
                name = f"meta_{name}"
            names[key] = name
    return names
