"""Reads what annotators wrote in Label Studio, from its export as JSON.

Each text belongs to a region of the audio. The task lists which region is which utterance, if it comes from
`python -m pipeline.export` or `python -m pipeline.sample`. The text of another region, or of a task from elsewhere,
belongs to the utterance in which the region lies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from pipeline.datasets.formats.json_objects import objects
from pipeline.datasets.formats.source import Source
from pipeline.datasets.formats.values import channel, point
from pipeline.runtime.errors import UserError
from pipeline.stages.corrections.correction import Correction

_TRANSCRIPTION = "transcription"
"""The name that the text of a region has in the labelling interface of an export."""


def read(source: Source) -> Iterator[Correction]:
    """Yield a correction for each region with a text, from the last annotation of each task that is not cancelled.

    Raises:
        UserError: The file cannot be read, has a wrong value, or no task has an annotation.
    """
    annotated = False
    for place, task in objects(source):
        if isinstance(task, ValueError):
            raise source.refusal(place, task)
        done = [each for each in _objects(task.get("annotations")) if not each.get("was_cancelled")]
        annotated = annotated or bool(done)
        for annotation in done[-1:]:
            yield from _regions(source, place, task, annotation)
    if not annotated:
        raise UserError(f"{source.name}: no task has an annotation; export the project from Label Studio as JSON")


def _regions(
    source: Source, place: str, task: Mapping[str, Any], annotation: Mapping[str, Any]
) -> Iterator[Correction]:
    data = task.get("data")
    data = data if isinstance(data, dict) else {}
    ids = {str(each.get("region")): str(each["id"]) for each in _objects(data.get("utterances")) if each.get("id")}
    audio = unquote(str(data.get("audio") or "")).rpartition("?d=")[2]  # the path in a URL of local files
    named = data.get("path") or data.get("recording") or audio
    texts = [
        each
        for each in _objects(annotation.get("result"))
        if each.get("type") == "textarea" and isinstance(each.get("value"), dict)
    ]
    # A configuration of somebody's own may also ask for notes.
    for result in [each for each in texts if each.get("from_name") == _TRANSCRIPTION] or texts:
        value = result["value"]
        lines = value.get("text")
        text = " ".join(map(str, lines)) if isinstance(lines, list) else str(lines or "")
        try:
            yield Correction(
                f"{source.name}: {place}",
                f"{source.name}: {place}",
                text,
                id=ids.get(str(result.get("id"))),
                recording=str(named),
                start_s=point("start", value.get("start")),
                end_s=point("end", value.get("end")),
                channel=channel("channel", value.get("channel"), first=0),
            )
        except ValueError as error:
            raise source.refusal(place, error) from None


def _objects(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
