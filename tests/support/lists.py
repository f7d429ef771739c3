"""Lists of recordings: writes one, opens it, and reads it or its refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.datasets import manifest
from pipeline.datasets.formats.mapping import Columns
from pipeline.records import Utterance
from pipeline.runtime.errors import UserError


def dataset(folder: Path, text: str | bytes, name: str = "list.csv", **options: Any) -> manifest.Dataset:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    columns = Columns(**options.pop("columns", {}))
    return manifest.Dataset(manifest.Options(path=str(path), columns=columns, **options))


def read(folder: Path, text: str | bytes, name: str = "list.csv", **options: Any) -> list[Utterance]:
    return list(dataset(folder, text, name, **options).utterances())


def refused(folder: Path, text: str | bytes, name: str = "list.csv", **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(folder, text, name, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def failed(folder: Path, text: str | bytes, name: str = "list.csv", **options: Any) -> str:
    """The error of the only row of a list that cannot be used; there are others."""
    utterances = read(folder, text, name, **options)
    (error,) = [utterance.error for utterance in utterances if utterance.error is not None]
    assert len(utterances) > 1
    assert "\n" not in error
    return error
