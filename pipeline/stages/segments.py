"""Makes the rows of a manifest from the stretches of speech in recordings, instead of from whole recordings."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from pipeline.audio.waveforms import channel_to_read
from pipeline.datasets import Warnings
from pipeline.datasets.formats.values import segment_mark
from pipeline.records import Utterance
from pipeline.runtime.paths import encode_path
from pipeline.runtime.progress import format_hours
from pipeline.runtime.terminal import counted
from pipeline.stages.build_manifest import Listed
from pipeline.stages.speech import Search
from pipeline.storage.speech import Recording


class Segmentation:
    """Replaces recordings by their stretches of speech.

    A recording stays whole if it has a reference, which cannot be split, if it cannot be decoded, or if it is a row of
    the manifest already. A segment that the dataset gives stays as it is. A recording that was split once stays split.
    """

    def __init__(self, search: Search, channels: str, rows: Collection[str], warnings: Warnings) -> None:
        """Search nothing yet.

        Args:
            search: Searches recordings.
            channels: mix, first or each.
            rows: Ids of the rows that the manifest has already.
            warnings: Counts what is left whole and why, and recordings without speech.
        """
        self._search = search
        self._channels = channels
        self._rows = rows
        self._warnings = warnings
        self._recordings = self._segments = 0
        self._audio_s = self._speech_s = 0.0

    def __call__(self, listed: Sequence[Listed]) -> list[Listed]:
        """Return the rows that take the place of some others, in their order."""
        recordings = [self._recording(each) for each in listed]
        self._search.over(each for each in recordings if each is not None)
        return [
            row
            for each, recording in zip(listed, recordings, strict=True)
            for row in ([each] if recording is None else self._split(each, recording))
        ]

    def said(self) -> str:
        """Return what became of the recordings, in one line."""
        found = f"{format_hours(self._speech_s)} of {format_hours(self._audio_s)} is speech"
        return f"{counted(self._recordings, 'recording')} searched, {counted(self._segments, 'segment')}, {found}"

    def _recording(self, listed: Listed) -> Recording | None:
        """Return the recording that is to be split; `None` if the row stays as it is."""
        utterance, header = listed.utterance, listed.header
        if header is None or listed.rejection is not None or not header.num_samples or utterance.id in self._rows:
            return None
        if utterance.start_s is not None or utterance.end_s is not None:
            self._warnings.add("segments of the dataset, which stay as they are with vad=silero", utterance.id)
            return None
        path, channel = encode_path(utterance.path), channel_to_read(utterance.channel, self._channels)
        if utterance.reference is not None and self._search.store.speech(path, channel, header.file_size) is None:
            kind = "recordings with a reference, which stay whole with vad=silero, because it cannot be split"
            self._warnings.add(kind, utterance.id)
            return None
        return Recording(path, channel, header)

    def _split(self, listed: Listed, recording: Recording) -> list[Listed]:
        """Return a row for each stretch of speech of a recording, or its own row if it cannot be searched."""
        utterance, header = listed.utterance, recording.header
        speech = self._search.store.speech(recording.path, recording.channel, header.file_size)
        if speech is None:
            why = f"{utterance.id}: {self._search.failed[recording[:2]]}"
            self._warnings.add("recordings that cannot be searched for speech, and stay whole", why)
            return [listed]
        if utterance.reference is not None:
            kind = "references that came after their recordings were split, which are not used"
            self._warnings.add(kind, utterance.id)
        if not speech:
            self._warnings.add("recordings without speech, which make no utterance", utterance.id)
        self._recordings += 1
        self._segments += len(speech)
        self._audio_s += header.duration_s
        self._speech_s += sum(end_s - start_s for start_s, end_s in speech)
        return [listed._replace(utterance=_segment(utterance, *stretch)) for stretch in speech]


def _segment(utterance: Utterance, start_s: float, end_s: float) -> Utterance:
    """Return a segment of a recording, with the id that a segment of a list has: the channel comes last."""
    channel = f"#c{utterance.channel}"
    marked = utterance.channel is not None and utterance.id.endswith(channel)
    id_ = utterance.id.removesuffix(channel) if marked else utterance.id
    id_ = f"{id_}{segment_mark(start_s, end_s)}{channel if marked else ''}"
    return replace(utterance, id=id_, start_s=start_s, end_s=end_s, reference=None)
