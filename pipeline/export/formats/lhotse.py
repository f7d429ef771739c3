"""Manifests of lhotse: `recordings.jsonl.gz`, and `supervisions.jsonl.gz` with the words as an alignment.

The classes and their keys are described at https://lhotse.readthedocs.io/en/latest/api.html.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.export.clips import measured
from pipeline.export.material import Exported, Recording, Segment
from pipeline.records import AudioHeader

DESCRIPTION = "recordings and supervisions with alignments"
SUFFIX = ""
NEEDS_WORDS = False


def write(recordings: Iterable[Recording], path: Path, exported: Exported) -> None:
    """Write a folder. See `Format.write`."""
    with (
        gzip.open(path / "recordings.jsonl.gz", "wt", encoding="utf-8") as files,
        gzip.open(path / "supervisions.jsonl.gz", "wt", encoding="utf-8") as supervisions,
    ):
        for recording in recordings:
            header = measured(recording, exported)
            if header is None:
                continue
            files.write(json.dumps(_recording(recording, header), ensure_ascii=False) + "\n")
            for segment in recording.segments:
                line = _supervision(recording, segment, header)
                supervisions.write(json.dumps(line, ensure_ascii=False) + "\n")


def _recording(recording: Recording, header: AudioHeader) -> dict[str, Any]:
    channels = list(range(header.num_channels))
    return {
        "id": recording.name,
        "sources": [{"type": "file", "channels": channels, "source": recording.path}],
        "sampling_rate": header.sample_rate,
        "num_samples": header.num_samples,
        "duration": header.duration_s,
        "channel_ids": channels,
    }


def _supervision(recording: Recording, segment: Segment, header: AudioHeader) -> dict[str, Any]:
    every: Any = 0 if header.num_channels == 1 else list(range(header.num_channels))
    found = {
        "id": segment.id,
        "recording_id": recording.name,
        "start": segment.start_s,
        "duration": min(segment.end_s, header.duration_s) - segment.start_s,
        "channel": every if segment.channel is None else segment.channel - 1,
        "text": segment.text,
        "speaker": segment.speaker,
        "custom": {"avg_logprob": segment.avg_logprob, "reference": segment.reference},
    }
    if segment.words:
        found["alignment"] = {
            "word": [
                [word.word, word.start_s, round(word.end_s - word.start_s, 6), word.probability]
                for word in segment.words
            ]
        }
    return found
