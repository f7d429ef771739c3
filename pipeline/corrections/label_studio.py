"""Reads what annotators wrote in Label Studio, from its export as JSON.

Each text belongs to a region of the audio. The task lists which region is which utterance, if it comes from
`python -m pipeline.export` or `python -m pipeline.sample`. The text of another region, or of a task from elsewhere,
belongs to the utterance in which the region lies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.corrections.correction import Correction
from pipeline.datasets.formats.json_objects import objects
from pipeline.datasets.formats.source import Source
from pipeline.runtime.errors import UserError


def read(source: Source) -> Iterator[Correction]:
    """Yield a correction for each region with a text, from the last annotation of each task that is not cancelled.

    Raises:
        UserError: The file cannot be read, or no task has annotations.
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
    known = {each.get("region"): each for each in _objects(data.get("utterances"))}
    named = data.get("path") or data.get("recording") or data.get("audio")
    for result in _objects(annotation.get("result")):
        value = result.get("value")
        if result.get("type") != "textarea" or not isinstance(value, dict):
            continue
        lines = value.get("text")
        text = " ".join(map(str, lines)) if isinstance(lines, list) else str(lines or "")
        utterance = known.get(result.get("id"), {})
        start, end, channel = value.get("start"), value.get("end"), value.get("channel")
        try:
            yield Correction(
                f"{source.name}: {place}",
                text,
                id=utterance.get("id"),
                recording=None if named is None else str(named),
                start_s=None if start is None else float(start),
                end_s=None if end is None else float(end),
                channel=None if channel is None else int(channel) + 1,
            )
        except (TypeError, ValueError) as error:
            raise source.refusal(place, error) from None


def _objects(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
