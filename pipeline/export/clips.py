"""Reads the audio of recordings and utterances again, for formats that hold audio or its exact length."""

from __future__ import annotations

import io
import os

import soundfile

from pipeline.audio.archives.members import unpacked
from pipeline.audio.archives.opening import open_path
from pipeline.audio.reader import AudioError, read_header
from pipeline.audio.waveforms import Extent, WaveformReader
from pipeline.export.material import Exported, Recording, Segment
from pipeline.records import AudioHeader

UNREADABLE = "whose recording cannot be read now"


class Clips:
    """Reads the audio of utterances."""

    def __init__(self, exported: Exported) -> None:
        """Read nothing yet.

        Args:
            exported: Counts the utterances whose recording cannot be read.
        """
        self._exported = exported
        self._reader = WaveformReader()

    def of(self, recording: Recording, segment: Segment) -> tuple[bytes, str] | None:
        """Return the audio of an utterance as the bytes of a file, and its ending.

        The bytes of a whole file are returned as they are. A segment or a channel becomes a FLAC file of 16 bits at the
        rate of the recording.

        Returns:
            `None` if the recording cannot be read.
        """
        try:
            if segment.whole:
                with open_path(recording.path) as (file, _):
                    ending = os.path.splitext(unpacked(recording.path))[1]
                    return file.read(), ending.lower().lstrip(".") or "audio"
            extent = Extent(recording.path, segment.start_s, segment.end_s, segment.channel, recording.file_size)
            samples, rate = self._reader.read(extent)
        except (OSError, AudioError):
            self._exported.left_out[UNREADABLE] += 1
            return None
        file = io.BytesIO()
        soundfile.write(file, samples, rate, format="FLAC", subtype="PCM_16")
        return file.getvalue(), "flac"


def measured(recording: Recording, exported: Exported) -> AudioHeader | None:
    """Return sample rate, channels and length of a whole recording; its header is read if only segments are known.

    Returns:
        `None` if the recording cannot be read. Its utterances are then counted as left out.
    """
    rate = recording.sample_rate
    if recording.is_measured:
        samples = round(recording.duration_s * rate)
        return AudioHeader(rate, recording.num_channels, samples, recording.file_size or 0)
    try:
        return read_header(recording.path)
    except AudioError:
        exported.left_out[UNREADABLE] += len(recording.segments)
        return None
