"""Where recordings come from: one connector a module, chosen by name.

A new corpus is one module here with a dataclass `Options` and a class `Dataset(options)` that fits `Connector`, and one
`conf/dataset/<name>.yaml`. Another package adds one by an entry point in the group `overnight_speech.datasets`. A
connector finds recordings and says what is known of them; it decodes no audio.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Protocol

from pipeline.records import Utterance
from pipeline.runtime.errors import UserError
from pipeline.runtime.paths import encode_path
from pipeline.runtime.places import is_url
from pipeline.runtime.plugins import Modules, package_of
from pipeline.runtime.remote_files import walk_url

SHIPPED = Path(__file__).resolve().parent.parent / "shipped"

# First the formats that libsndfile decodes, then those that FFmpeg decodes. FFmpeg comes with the extra `formats`;
# without the extra, such a recording is a failure whose message names the extra. Not in the list are formats without a
# header (raw, gsm, vox), formats that need a second file or a certain name (sd2), and MATLAB files, which rarely hold
# audio.
# fmt: off
EXTENSIONS = (
    "wav", "wave", "bwf", "wavex", "rf64", "w64", "flac", "ogg", "oga", "opus", "mp3", "mp2", "aif", "aiff",
    "aifc", "au", "snd", "caf", "sph", "nist", "wv1", "wv2", "voc", "8svx", "svx", "iff", "avr", "htk", "ircam", "sf",
    "paf", "pvf", "sds", "wve", "xi",
    "m4a", "m4b", "mp4", "m4v", "mov", "3gp", "3g2", "webm", "weba", "mkv", "mka", "wma", "wmv", "asf", "aac",
    "amr", "awb", "spx",
)
# fmt: on


def is_recording(name: str) -> bool:
    """Whether a name or path ends in an extension of `EXTENSIONS`, in upper or lower case."""
    return os.path.splitext(name)[1][1:].lower() in EXTENSIONS


def with_extension(stem: str, *extensions: str) -> str:
    """Return the first file that exists of `stem` with each extension, in lower or upper case.

    If none exists, return the stem with the first extension.
    """
    paths = [f"{stem}.{spelled}" for each in extensions for spelled in (each, each.upper(), each.capitalize())]
    return next(filter(os.path.lexists, paths), paths[0])


class Connector(Protocol):
    """What every dataset offers.

    Constructing one checks its options and raises `UserError` with key, value, reason and remedy. A connector may also
    have these methods, which are called once the manifest is made:

    - `reading(num_references)` says in one line how the source was read.
    - `warnings()` returns a line for each kind of thing that was wrong, but cost no more than a value or an utterance.
      `Warnings` counts them.
    - `not_found()` says where recordings are looked for, and what to do if none of them exists.

    Attributes:
        run_name: The `<dataset>` part of `runs/<dataset>/<model>`.
        notice: Said in the first and the last line of a run, where there is something to say.

    A connector may also have `score_by`: the names of the columns that scores are grouped by when `score.by` is null.
    Without it, every column is a candidate.
    """

    run_name: str
    notice: str | None

    def columns(self) -> dict[str, str]:
        """The dataset's own columns: name to one of string, int16, int32, int64, float64, bool."""
        ...

    def utterances(self) -> Iterator[Utterance]:
        """Every utterance, one at a time, in an order that is the same on every machine.

        Raises:
            UserError: There is none, or the source cannot be read.
        """
        ...


class Warnings:
    """Counts what is wrong with single values and rows, by kind, and keeps the first example of each kind."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, str]] = {}

    def add(self, kind: str, example: str) -> None:
        """Count one more of a kind; the example has the place and the value."""
        number, first = self._found.get(kind, (0, example))
        self._found[kind] = (number + 1, first)

    def lines(self) -> list[str]:
        """Return one line for each kind."""
        return [f"{kind}: {number:,}; the first: {first}" for kind, (number, first) in self._found.items()]


CONNECTORS = Modules("dataset.connector", "pipeline.datasets", "Dataset", "overnight_speech.datasets")
"""The connectors by the value of `dataset.connector`. `CONNECTORS.load(name)` imports one."""


def usual_groups(dataset: str) -> Sequence[str] | None:
    """Return the columns that a dataset is usually scored by, `score_by`; `None` for all, or if it is not installed."""
    try:
        connector = CONNECTORS.load(dataset).Dataset
    except UserError:
        return None
    found: Sequence[str] | None = getattr(connector, "score_by", None)
    return found


_COLUMN_TYPES: dict[str, type] = {
    "string": str, "bool": bool, "int16": Integral, "int32": Integral, "int64": Integral, "float64": Real,
}  # fmt: skip
_WORDS = {str: "string", Real: "number", Integral: "whole number"}
_FIELD_TYPES = {"reference": str, "start_s": Real, "end_s": Real, "channel": Integral}


def columns_of(dataset: Connector) -> dict[str, str]:
    """The dataset's own columns, with a check of what the connector of another package returns.

    Raises:
        UserError: It returns something else than `Connector.columns` says.
    """
    found: Any = dataset.columns()
    right = isinstance(found, Mapping) and all(
        isinstance(name, str) and isinstance(type_, str) and type_ in _COLUMN_TYPES for name, type_ in found.items()
    )
    if not right:
        raise _returned(dataset, "columns()", found, f"names with one of {', '.join(_COLUMN_TYPES)} each")
    return dict(found)


def utterances_of(dataset: Connector) -> Iterator[Utterance]:
    """Every utterance, with a check of what the connector of another package returns.

    Raises:
        UserError: It returns something else than `Connector.utterances` says.
    """
    found: Any = dataset.utterances()
    utterance: Any
    if not isinstance(found, Iterable):
        raise _returned(dataset, "utterances()", found, "utterances")
    if type(dataset).__module__.startswith("pipeline."):
        yield from found
        return
    columns = columns_of(dataset)
    for utterance in found:
        if not isinstance(utterance, Utterance):
            raise _returned(dataset, "utterances()", utterance, "objects of pipeline.records.Utterance")
        if wrong := _wrong_value(utterance, columns):
            raise _returned(dataset, "utterances()", utterance, wrong)
        yield utterance


def _wrong_value(utterance: Any, columns: Mapping[str, str]) -> str:
    """What a wrong field of an utterance must be; empty if all are right."""
    if not isinstance(utterance.id, str) or not _fits(utterance.id, str):
        return "id as a string"
    if not isinstance(utterance.path, str):  # bytes that are not UTF-8 are surrogates here
        return "path as a string"
    for name, type_ in _FIELD_TYPES.items():
        if not _fits(getattr(utterance, name), type_):
            return f"{name} as a {_WORDS[type_]} or None"
    if not isinstance(utterance.columns, Mapping):
        return "columns as a dict"
    for name, value in utterance.columns.items():
        if name not in columns:
            return f"only columns that columns() names, so not {name!r}"
        bits = int(columns[name].removeprefix("int")) if columns[name].startswith("int") else None
        if not _fits(value, _COLUMN_TYPES[columns[name]], bits):
            return f"{name} as {columns[name]} or None"
    return ""


def _fits(value: Any, type_: type, bits: int | None = None) -> bool:
    """Whether a value is `None`, or of a type and, for whole numbers, of at most so many bits."""
    if value is None:
        return True
    if not isinstance(value, type_) or (isinstance(value, bool) and type_ is not bool):
        return False
    if isinstance(value, str):
        return encode_path(value) == value  # tables take no surrogates
    return bits is None or -(2 ** (bits - 1)) <= value < 2 ** (bits - 1)


def _returned(dataset: Connector, method: str, found: object, wanted: str) -> UserError:
    module = type(dataset).__module__
    shown = repr(found)
    shown = shown if len(shown) <= 160 else f"{shown[:157]}..."
    return UserError(
        f"dataset: {method} of {module} in the package {package_of(module)} returned {shown}; it must give {wanted}, "
        f"so correct that package"
    )


def require_folder(
    root: str, remedy: str = "give the folder that holds the recordings", key: str = "dataset.root"
) -> str:
    """The absolute path of `key`, `~` expanded; `remedy` says what to give.

    Raises:
        UserError: Nothing is given, or it is not a folder.
    """
    if root in ("", "???"):
        raise UserError(f"{key} is required and has no default; {remedy}")
    if is_url(root):
        raise UserError(
            f"{key}={root}: is in an object store, which dataset=folder, webdataset and lists with URLs as paths read"
        )
    path = os.path.abspath(os.path.expanduser(root))
    if not os.path.exists(path):
        raise UserError(f"{key}={root}: no such folder; {remedy}")
    if not os.path.isdir(path):
        raise UserError(f"{key}={root}: not a folder; {remedy}")
    return path


def refuse_empty(utterances: Iterator[Utterance], message: str) -> Iterator[Utterance]:
    """The same utterances.

    Raises:
        UserError: With `message`, where there is none; or none can be used.
    """
    first, usable = None, False
    for utterance in utterances:
        first = first or utterance
        usable = usable or utterance.error is None
        yield utterance
    if first is None:
        raise UserError(message)
    if not usable:
        raise UserError(f"{first.error} (no other row can be used either)")


def walk_files(root: str, skip: frozenset[str] = frozenset(), key: str = "dataset.root") -> Iterator[str]:
    """Paths below `root`, the value of `key`, relative to it, of everything that is not a folder, sorted bytewise.

    Links to folders are followed, except into a folder that contains the link (by device and inode).
    Hidden files and folders are left out, and folders whose name is in `skip`. Only the names of the
    folders on the way are in memory.

    Raises:
        UserError: A folder cannot be read; leaving it out would lose recordings without a word.
    """
    if is_url(root):
        yield from _walk_store(root, skip, key)
        return
    top = os.fsencode(root)
    skipped = frozenset(os.fsencode(name) for name in skip)
    # One entry a level: the folder's path with a slash, its identity, its names still to come.
    levels: list[tuple[bytes, tuple[int, int], Iterator[bytes]]] = []

    def enter(prefix: bytes) -> None:
        try:
            status = os.stat(os.path.join(top, prefix))
            identity = (status.st_dev, status.st_ino)
            if all(identity != other for _, other, _ in levels):
                levels.append((prefix, identity, iter(_names(os.path.join(top, prefix)))))
        except OSError as error:
            where = os.fsdecode(prefix) or "the folder itself"
            raise UserError(
                f"{key}={root}: {where!r} cannot be read ({error.strerror}); give read permission"
            ) from None

    enter(b"")
    while levels:
        prefix, _, names = levels[-1]
        name = next(names, None)
        if name is None:
            levels.pop()
        elif not name.endswith(b"/"):
            yield os.fsdecode(prefix + name)
        elif name[:-1] not in skipped:
            enter(prefix + name)


def _walk_store(root: str, skip: frozenset[str], key: str) -> Iterator[str]:
    try:
        yield from (path for path in walk_url(root) if not skip.intersection(path.split("/")[:-1]))
    except OSError as error:
        raise UserError(
            f"{key}={root}: cannot be read ({error.strerror}); check the name and the credentials"
        ) from None


def _names(folder: bytes) -> list[bytes]:
    """Name in a folder; those of folders end in a slash, which sorts them as in a full path."""
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith(b"."):
                names.append(entry.name + b"/" if _is_folder(entry) else entry.name)
    return sorted(names)


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
