"""Checkpoints of transformers that several modules of tests read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint; a test that changes it copies it."""
    from transformers_checkpoints import save  # imports transformers, which takes seconds

    return save(tmp_path_factory.mktemp("saved") / "tiny", "Wav2Vec2").folder


@pytest.fixture(scope="module")
def mms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with four vocabularies and the weights of two languages."""
    from transformers_checkpoints import save_languages

    return save_languages(tmp_path_factory.mktemp("mms") / "many")


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    """A checkpoint to change."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))
