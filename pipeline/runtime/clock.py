"""The time of day, as the files of a run have it."""

from __future__ import annotations

from datetime import UTC, datetime


def timestamp() -> str:
    """Return the time in UTC as ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
