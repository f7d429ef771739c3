"""A corrected text as a file has it, before its utterance is known."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Correction:
    """What somebody says that an utterance, or a stretch of a recording, really is.

    Attributes:
        document: The file, or the task in a file of Label Studio. Only stretches of one document are joined.
        place: Where it stands, such as `labels.csv: row 3`.
        text: The text.
        id: Id of the utterance; `None` if the file does not name it.
        recording: Name or path of the recording; `None` if there is an id.
        start_s, end_s: The stretch in seconds of the recording; `None` for an utterance as a whole.
        channel: Channel of the recording, from 1; `None` if not named.
    """

    document: str
    place: str
    text: str
    id: str | None = None
    recording: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    channel: int | None = None
