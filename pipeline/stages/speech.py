"""Searches recordings for speech, in processes, and keeps what was found as it goes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from pipeline.audio.waveforms import Extent
from pipeline.runtime.errors import AudioError
from pipeline.runtime.supervisor import Lost, Supervisor
from pipeline.storage.speech import Recording, SpeechStore
from pipeline.vad import Detector, Stretches

COMMIT_AUDIO_S = 8 * 3600.0
"""Seconds of audio for each process after which what was found is stored: about half a minute of work."""


class Search:
    """Searches recordings that a run has not searched before.

    Attributes:
        store: What was found.
        failed: Why a recording could not be searched, by path and channel.
        searched_s: Seconds of audio that were searched.
    """

    def __init__(
        self,
        store: SpeechStore,
        detector: Detector,
        *,
        processes: int,
        timeout_s: float,
        stderr: Path,
        tell: Callable[[float], None],
    ) -> None:
        """Start no process yet.

        Args:
            store: The recordings that were searched before, which takes the others.
            detector: The detector.
            processes: Processes that search, each on one core.
            timeout_s: Seconds without progress after which a recording counts as one that cannot be searched.
            stderr: File that takes the messages of audio libraries.
            tell: Called with the seconds of audio that were searched so far.
        """
        self.store = store
        self.failed: dict[tuple[str, int | None], str] = {}
        self.searched_s = 0.0
        self._detector = detector
        self._processes = processes
        self._timeout_s = timeout_s
        self._stderr = stderr
        self._tell = tell

    def over(self, recordings: Iterable[Recording]) -> None:
        """Search those of some recordings that are not in the store. One that cannot be decoded costs only itself."""
        speech = self.store.speech
        new = [each for each in recordings if speech(each.path, each.channel, each.header.file_size) is None]
        todo = list(dict.fromkeys(each for each in new if each[:2] not in self.failed))
        if not todo:
            return
        self._detector.prepare()
        with Supervisor(
            partial(_search, self._detector),
            processes=self._processes,
            timeout_s=self._timeout_s,
            stderr=self._stderr,
        ) as supervisor:
            for some in _slices(todo, COMMIT_AUDIO_S * self._processes):
                found: list[tuple[Recording, Stretches]] = []
                for recording, result in zip(some, supervisor.map(some), strict=True):
                    if isinstance(result, list):
                        found.append((recording, result))
                    else:
                        self.failed[recording[:2]] = result.reason if isinstance(result, Lost) else result
                    self.searched_s += recording.header.duration_s
                    self._tell(self.searched_s)
                self.store.add(found)


def _slices(recordings: Iterable[Recording], seconds: float) -> Iterator[list[Recording]]:
    """Yield recordings in lists; each list ends with the recording that makes it as long as this, or with the last."""
    found, length = list[Recording](), 0.0
    for each in recordings:
        found.append(each)
        length += each.header.duration_s
        if length >= seconds:
            yield found
            found, length = [], 0.0
    if found:
        yield found


def _search(detector: Detector, recording: Recording, alive: Callable[[], None]) -> Stretches | str:
    """Search one recording. This runs in a child process.

    Returns:
        The stretches, or why the recording cannot be decoded.

    Raises:
        MemoryError: There is too little memory.
    """
    header = recording.header
    extent = Extent(recording.path, channel=recording.channel, file_size=header.file_size)
    try:
        return detector.stretches(extent, header, alive)
    except AudioError as error:
        if error.error == "out_of_memory":
            raise MemoryError from None
        return str(error)
