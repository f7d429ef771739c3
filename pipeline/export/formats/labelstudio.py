"""Tasks of Label Studio with the transcripts as predictions: a task for each recording, regions for its utterances.

An utterance has a region, or one for each turn of a speaker where it has several.

The folder holds `tasks.json`, which a project imports, and `config.xml`, its labelling interface. What annotators write
comes back by `python -m pipeline.import`: each task lists the ids of its utterances.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipeline.audio.archives.members import unpacked
from pipeline.export.material import Exported, Recording, Turn

DESCRIPTION = "tasks of Label Studio with the transcripts as predictions"
SUFFIX = ""
NEEDS_WORDS = False
CONFIG = """\
<View>
  <Audio name="audio" value="$audio" zoom="true" hotkey="ctrl+enter"/>
  <Labels name="label" toName="audio">
    <Label value="Speech"/>
  </Labels>
  <TextArea name="transcription" toName="audio" perRegion="true" editable="true" rows="2" maxSubmissions="1"/>
</View>
"""
"""The labelling interface: a text for each region."""


def write(recordings: Iterable[Recording], path: Path, exported: Exported) -> None:
    """Write a folder. See `Format.write`."""
    (path / "config.xml").write_text(CONFIG, encoding="utf-8")
    with (path / "tasks.json").open("w", encoding="utf-8", newline="\n") as file:
        before = "["
        for recording in recordings:
            file.write(f"{before}\n{json.dumps(_task(recording, exported), ensure_ascii=False)}")
            before = ","
        file.write("\n]\n" if before == "," else "[]\n")


def _task(recording: Recording, exported: Exported) -> dict[str, Any]:
    regions = [
        (hashlib.sha256(f"{number} {segment.id}".encode()).hexdigest()[:10], segment, turn)
        for segment in recording.segments
        for number, turn in enumerate(segment.turns())
    ]
    path = quote(os.path.relpath(unpacked(recording.path), exported.root))
    logprobs = [segment.avg_logprob for segment in recording.segments if segment.avg_logprob is not None]
    return {
        "data": {
            "audio": f"{exported.audio_prefix}{path}",
            "recording": recording.name,
            "path": recording.path,
            "utterances": [
                {"id": segment.id, "region": region, "start": turn.start_s, "end": turn.end_s}
                for region, segment, turn in regions
            ],
        },
        "predictions": [
            {
                "model_version": "transcript",
                "score": sum(logprobs) / len(logprobs) if logprobs else 0.0,
                "result": [each for region, _, turn in regions for each in _region(region, turn, recording)],
            }
        ],
    }


def _region(region: str, turn: Turn, recording: Recording) -> list[dict[str, Any]]:
    place = {"start": turn.start_s, "end": turn.end_s, "channel": (turn.channel or 1) - 1}
    common: dict[str, Any] = {"id": region, "to_name": "audio", "original_length": recording.duration_s}
    if turn.speaker is not None:
        common["meta"] = {"text": [turn.speaker]}
    return [
        common | {"from_name": "label", "type": "labels", "value": place | {"labels": ["Speech"]}},
        common | {"from_name": "transcription", "type": "textarea", "value": place | {"text": [turn.text]}},
    ]
