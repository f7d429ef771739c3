"""Reads lhotse's recording and cut manifests (JSON lines, also gzipped).

A recording is one row, or one row per file if each of its files holds one channel. A cut is one row: a segment of its
recording, or the whole recording. The reference of a cut is the joined text of its supervisions. The classes and their
keys are described at https://lhotse.readthedocs.io/en/latest/api.html.

Refused are commands, URLs, and everything that is not a segment of one recording on disk: mixtures, padding, and audio
that lhotse would transform while reading.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from pipeline.datasets.formats import Listing, Row
from pipeline.datasets.formats.json_objects import objects
from pipeline.datasets.formats.source import Source
from pipeline.datasets.formats.values import channel, known_duration, path, point, seconds, shown, written

_CUTS = ("MonoCut", "MultiCut")
_SPOKEN = ("speaker", "gender", "language")


def is_lhotse(entry: Mapping[str, Any]) -> bool:
    """Whether a line was written by lhotse and not by another program."""
    if "audio_filepath" in entry:
        return False
    is_supervision = {"recording_id", "start", "duration"} <= entry.keys()
    return "sources" in entry or is_supervision or str(entry.get("type")).endswith("Cut")


def listing(source: Source) -> Listing:
    """Return the list in a lhotse manifest."""

    def rows() -> Iterator[Row]:
        for place, entry in objects(source):
            if isinstance(entry, ValueError):
                yield Row.wrong(place, entry)
                continue
            try:
                found = list(_recording(entry)) if "sources" in entry else [_cut(entry)]
                yield from (replace(row, place=place) for row in found)
            except ValueError as error:
                yield Row.wrong(place, error, id_=entry.get("id"))

    return Listing(rows, from_anywhere=True)


def _recording(recording: Mapping[str, Any]) -> Iterator[Row]:
    id_ = _id(recording)
    files = _files(recording)
    duration_s = known_duration(recording.get("duration"))
    if len(files) == 1:
        yield Row(files[0][0], id_, duration_s=duration_s)
        return
    for file, channels in files:
        if len(channels) != 1:
            raise ValueError(
                f"recording {shown(id_)}: has {len(files)} files, and several channels in one file; list cuts instead"
            )
        yield Row(file, f"{id_}#c{channels[0] + 1}", duration_s=duration_s)


def _cut(cut: Mapping[str, Any]) -> Row:
    id_ = _id(cut)
    if cut.get("type") not in _CUTS:
        what = (
            f"a {cut['type']}, which is not a segment of one recording"
            if "type" in cut
            else "neither a recording nor a cut"
        )
        raise ValueError(f"{shown(id_)}: {what}; expected recordings, or cuts of type {' or '.join(_CUTS)}")
    recording = cut.get("recording")
    if not isinstance(recording, dict):
        raise ValueError(f"cut {shown(id_)}: has no recording; make cuts from recordings and supervisions")
    file, number = _file_and_channel(cut, _files(recording), id_)
    start_s, end_s = _segment(cut, recording)
    supervisions = _objects(cut, "supervisions")
    texts: Any = [text for supervision in supervisions if (text := supervision.get("text")) is not None]
    if all(isinstance(text, str | int | float) for text in texts):
        texts = " ".join(filter(None, (written(text).strip() for text in texts)))
    extras: dict[str, Any] = {"recording_id": _id(recording)}
    for key in _SPOKEN:
        values = dict.fromkeys(str(item[key]) for item in supervisions if item.get(key) is not None)
        extras[key] = ", ".join(values) or None
    # Custom values of a supervision are kept only if it is the only one, because a cell holds one value.
    for holder in (cut, *supervisions) if len(supervisions) == 1 else (cut,):
        custom = holder.get("custom")
        extras = (custom if isinstance(custom, dict) else {}) | extras
    duration_s = known_duration(cut.get("duration"))
    return Row(file, id_, texts, start_s, end_s, number, extras, duration_s=duration_s)


def _files(recording: Mapping[str, Any]) -> list[tuple[str, list[int]]]:
    """Return the path of every file of a recording, with the recording's channels in that file, counted from 0."""
    if recording.get("transforms"):
        reason = "has transforms, which this project does not apply; save the transformed audio to a file"
        raise ValueError(f"recording {shown(_id(recording))}: {reason}")
    sources = _objects(recording, "sources")
    if not sources:
        raise ValueError(f"recording {shown(_id(recording))}: names no file")
    files = []
    for source in sources:
        if source.get("type") != "file":
            kind = shown(source.get("type"))
            raise ValueError(
                f"a source of type {kind}: this project executes and downloads nothing; save the audio to a file"
            )
        channels = source.get("channels")
        if not isinstance(channels, list) or not channels:
            raise ValueError(f"channels={shown(channels)}: must be a list of channels")
        files.append((path("source", source.get("source")), _channels(channels)))
    return files


def _file_and_channel(cut: Mapping[str, Any], files: list[tuple[str, list[int]]], id_: str) -> tuple[str, int | None]:
    """Return the file of a cut and the channel in that file, from 1; `None` if the cut has all of its channels."""
    given = cut.get("channel")
    wanted = set(_channels(given if isinstance(given, list) else [given]))
    for file, channels in files:
        if wanted == set(channels):
            return file, None
        if len(wanted) == 1 and wanted <= set(channels):
            return file, channels.index(*wanted) + 1
    there = " and ".join(str(channels) for _, channels in files)
    raise ValueError(
        f"cut {shown(id_)}: has channels {sorted(wanted)} of {there}; "
        "a cut must have one channel, or all channels of a file"
    )


def _channels(values: list[Any]) -> list[int]:
    """Check channel numbers, which lhotse counts from 0."""
    found = [channel("channel", value, first=0) for value in values]
    if None in found:
        raise ValueError("channel=None: must be a channel number, counted from 0")
    return [number - 1 for number in found if number is not None]


def _segment(cut: Mapping[str, Any], recording: Mapping[str, Any]) -> tuple[float | None, float | None]:
    start = point("start", cut.get("start")) or 0.0
    duration = seconds("duration", cut.get("duration"))
    if duration is None:
        raise ValueError("duration is missing")
    whole, rate = (
        seconds("duration", recording.get("duration")),
        seconds("sampling_rate", recording.get("sampling_rate")),
    )
    if whole is None or not rate or rate < 0:
        raise ValueError(f"recording {shown(_id(recording))}: has no duration, or no sampling_rate")
    # Times in a manifest are rounded, so a difference of less than one sample is ignored.
    return (None, None) if start == 0 and abs(duration - whole) < 1 / rate else (start, start + duration)


def _id(entry: Mapping[str, Any]) -> str:
    if not isinstance(entry.get("id"), str):
        raise ValueError(f"id={shown(entry.get('id'))}: must be a string")
    id_: str = entry["id"]
    return id_


def _objects(entry: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    found = entry.get(key) or []
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise ValueError(f"{key}={shown(found)}: must be a list of objects")
    return found
