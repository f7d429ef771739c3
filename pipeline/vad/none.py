"""`vad=none`: recordings are not searched for speech."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Options:
    """There are no keys."""
