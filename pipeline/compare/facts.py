"""What is said of two runs in words: the settings in which they differ, and what is in one of them only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pipeline.compare.matching import Match, OnlyThere
from pipeline.runtime.redaction import mask_secrets
from pipeline.runtime.terminal import counted
from pipeline.storage.run_directory import RunDirectory

_LEFT_OUT = ("manifest", "audio_digests")
_SHORT = 12
"""Characters shown of a digest."""


def differing_settings(match: Match) -> dict[str, tuple[str, str]]:
    """Return the settings in which the runs differ, with both values, from their `run.json`.

    The manifests are left out: they differ also if only the order or the shards of the utterances do. Digests of the
    audio are left out too: they are columns, and no setting.
    """
    a, b = _identity(match.a.directory), _identity(match.b.directory)
    names = [name for name in dict.fromkeys((*a, *b)) if name not in _LEFT_OUT and a.get(name) != b.get(name)]
    return {name: (_plain(a.get(name)), _plain(b.get(name))) for name in names}


def _identity(directory: RunDirectory) -> Mapping[str, Any]:
    recorded = directory.read_record()
    identity: dict[str, Any] = {} if recorded is None else recorded.combined.as_json()
    if directory.decoded is not None:
        identity = {key: value for key, value in identity.items() if not key.startswith("decoder")}
        identity |= directory.decoded.identity() or {}
    masked: dict[str, Any] = mask_secrets(identity)
    return masked


def _plain(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value):
        return value[:_SHORT]
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "none" if value is None else str(value)


def one_sided(match: Match) -> list[str]:
    """Say what has a transcript in one run only; nothing if both have the same utterances."""
    sides = (("A", match.only_a, "B"), ("B", match.only_b, "A"))
    return [_only(name, there, other) for name, there, other in sides if there.count]


def _only(name: str, there: OnlyThere, other: str) -> str:
    more = ", ..." if there.count > len(there.ids) else ""
    failed = f", {there.failed:,} of them failed in {other}" if there.failed else ""
    return f"only in {name}: {counted(there.count, 'utterance')}{failed} ({', '.join(there.ids)}{more})"
