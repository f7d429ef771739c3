"""Manifests of NeMo: a JSON object a line, which names an audio file, an offset and a duration."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from pipeline.export.material import Exported, Recording

DESCRIPTION = "a manifest of NeMo, JSON lines"
SUFFIX = ".jsonl"
NEEDS_WORDS = False


def write(recordings: Iterable[Recording], path: Path, exported: Exported) -> None:
    """Write one file, with the utterances in the order of the run. See `Format.write`."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for recording in recordings:
            for segment in recording.segments:
                line = {
                    "audio_filepath": recording.path,
                    "duration": round(segment.duration_s, 6),
                    "text": segment.text,
                    "id": segment.id,
                }
                if not segment.whole:
                    line["offset"] = round(segment.start_s, 6)
                optional = {
                    "channel": segment.channel,
                    "speaker": segment.speaker,
                    "avg_logprob": segment.avg_logprob,
                }
                line |= {name: value for name, value in optional.items() if value is not None}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
