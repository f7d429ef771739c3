"""Shards of WebDataset: tar files with the audio of each utterance, its text and a JSON object.

    shard-000000.tar: talk_1.flac talk_1.txt talk_1.json talk_2.flac ...

The audio of a whole file is copied. A segment or a channel is cut from its recording into a FLAC file.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

from pipeline.export.clips import Clips
from pipeline.export.material import Exported, Recording, Segment
from pipeline.results.recording_names import UniqueNames

DESCRIPTION = "tar files with audio, text and JSON"
SUFFIX = ""
NEEDS_WORDS = False
MAX_BYTES = 10**9
"""A shard that has reached this size is closed."""


def write(recordings: Iterable[Recording], path: Path, exported: Exported) -> None:
    """Write a folder. See `Format.write`."""
    clips, keys = Clips(exported), UniqueNames()
    shard, tar = 0, None
    try:
        for recording in recordings:
            for segment in recording.segments:
                clip = clips.of(recording, segment)
                if clip is None:
                    continue
                if tar is not None and tar.offset >= MAX_BYTES:
                    tar.close()
                    shard, tar = shard + 1, None
                if tar is None:
                    tar = tarfile.open(path / f"shard-{shard:06d}.tar", "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
                audio, ending = clip
                # A key ends at its first dot.
                key = keys.of(segment.id.replace(".", "_"))
                content = {ending: audio, "txt": segment.text.encode(), "json": _description(recording, segment)}
                for name, data in content.items():
                    member = tarfile.TarInfo(f"{key}.{name}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    finally:
        if tar is not None:
            tar.close()


def _description(recording: Recording, segment: Segment) -> bytes:
    words = [[word.word, word.start_s, word.end_s, round(word.probability, 6)] for word in segment.words]
    content = {
        "id": segment.id, "path": recording.path, "start_s": segment.start_s, "end_s": segment.end_s,
        "channel": segment.channel, "speaker": segment.speaker, "text": segment.text, "reference": segment.reference,
        "avg_logprob": segment.avg_logprob, "words": words,
    }  # fmt: skip
    return json.dumps(content, ensure_ascii=False).encode()
