"""The shipped choices of every group, and the keys that their files give."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from pipeline.config.groups import GROUPS, HIDDEN, conf_dir

FILES = [file for group in GROUPS for file in sorted((conf_dir() / group).glob("*.yaml"))]


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}={file.stem}")
def test_the_file_of_a_choice_gives_every_key_that_may_be_set(file: Path) -> None:
    """A key that the file leaves out would have a default that neither `--help` nor the guide tells."""
    modules = GROUPS[file.parent.name]
    content = OmegaConf.load(file)
    assert isinstance(content, DictConfig)
    hidden = {key.partition(".")[2] for key in HIDDEN if key.startswith(f"{file.parent.name}.")}
    assert hidden <= set(content.get(file.parent.name, content))
    given = set(content.get(file.parent.name, content)) - {"defaults", "outputs", "score", *hidden}
    module = str(content.get(file.parent.name, content)[modules.key.partition(".")[2]])
    assert given == {field.name for field in fields(modules.load(module).Options)}
