"""Where models come from: one module for each kind of source, found by its name.

A new source is one module in this folder and one file `conf/model/<choice>.yaml`, whose key `source` names the
module. The module has a dataclass `Options` with the keys that may be set as `model.<key>`, a class
`Source(name, options)` that fits `ModelSource`, and `NAMES`, the models that it serves. It imports torch inside
`fetch` and `build` only, because the configuration, `status` and finished runs work without torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pipeline.models.facts import ModelFacts
from pipeline.runtime.errors import UserError, one_of
from pipeline.runtime.plugins import Modules

if TYPE_CHECKING:
    from torchaudio.models import Wav2Vec2Model


@dataclass
class WeightsOptions:
    """The options of a source that has no others.

    Attributes:
        sha256: The only SHA-256 that the weights may have; `None` for any.
    """

    sha256: str | None = None


class ModelSource(Protocol):
    """A model and the file that holds its weights.

    The constructor `Source(name, options)` takes the model's name and the module's `Options`. It raises `UserError`
    with key, value, reason and remedy where an option cannot be. It reads no weights.

    A source whose weights are one file inherits what most of them share from `OneFile`.

    Attributes:
        facts: What is known of the model without its weights.
        sha256: The only SHA-256 that the weights may have; `None` for any.
        remedy: What a person does to get the right file, for messages that refuse the present one.
    """

    facts: ModelFacts
    sha256: str | None
    remedy: str

    @property
    def run_name(self) -> str:
        """The last part of the default run directory. Two runs of a sweep differ in it where their models do."""
        ...

    @property
    def weights_path(self) -> Path:
        """The file that holds the weights, or is going to hold them; of several files, the one that names them."""
        ...

    @property
    def weights_files(self) -> Sequence[Path]:
        """The files that hold the weights. The SHA-256 of the weights is that of `sha256_files`.

        Raises:
            UserError: There are none, and nobody knows which there are going to be.
        """
        ...

    @property
    def pinned(self) -> str | None:
        """What was fetched, `owner/name@commit`, where the same name may stand for other weights another time."""
        ...

    @classmethod
    def from_record(cls, name: str, identity: Mapping[str, Any], weights_path: str) -> ModelSource:
        """The source that a run used; for `verify --exactness`, which runs utterances again.

        Args:
            name: The model's name.
            identity: The identity in `run.json`, which has what `identity()` gave.
            weights_path: Where the weights file was.

        Raises:
            UserError: The file is not there.
        """
        ...

    def identity(self) -> dict[str, Any]:
        """What identifies a run besides the model's name and the SHA-256 of its weights, by key."""
        ...

    def check_file(self) -> None:
        """Refuse a file that cannot hold weights, before any recording is read. Does not import torch.

        Raises:
            UserError: The file is missing and cannot be fetched, or is of another kind.
        """
        ...

    def fetch(self) -> str:
        """Download the weights file where it is missing and can be downloaded. Builds no model.

        Returns:
            The SHA-256 of the weights file.

        Raises:
            UserError: The file cannot be fetched or read, or does not have `sha256`.
        """
        ...

    def build(self) -> Wav2Vec2Model:
        """Build the model and load the weights of the file, whose SHA-256 `fetch` has checked; see `load_model`.

        Wrappers that a source puts around a model are taken off: `facts` says what they do, and the exact forward
        does it.

        Returns:
            The model in eval mode on the CPU.

        Raises:
            UserError: The file cannot be read, or it is damaged.
        """
        ...


class OneFile:
    """What sources share whose weights are one file, which has no versions."""

    facts: ModelFacts
    weights_path: Path
    pinned: str | None = None

    @property
    def run_name(self) -> str:
        """The model's name."""
        return self.facts.name

    @property
    def weights_files(self) -> Sequence[Path]:
        """The file."""
        return (self.weights_path,)


SOURCES = Modules("model.source", "pipeline.models.sources", "Source")
"""The sources by the value of `model.source`. `SOURCES.load(name)` imports one."""


class Loaded(NamedTuple):
    """A model in eval mode on the CPU, and the SHA-256 of its weights."""

    model: Wav2Vec2Model
    sha256: str


def load_model(source: ModelSource, expected: str | None = None) -> Loaded:
    """Fetch the weights of a model, check them, then build the model.

    Args:
        source: The model.
        expected: The SHA-256 of the weights that a run was made with; `None` for any that `model.sha256` allows.

    Raises:
        UserError: The file cannot be fetched or read, is damaged, or has another SHA-256.
    """
    found = source.fetch()
    if expected not in (None, found):
        raise UserError(
            f"{source.weights_path}: has the sha256 {found}, the run was made with {expected}; put those weights there"
        )
    return Loaded(source.build(), found)


def named(model_name: str, **options: Any) -> ModelSource:
    """The source of a model, by the name that runs record.

    Args:
        model_name: The model, such as `digits` or `checkpoint`.
        options: Fields of the `Options` of its source.

    Raises:
        UserError: No source has this model, or an option cannot be.
    """
    module = SOURCES.load(source_of(model_name))
    source: ModelSource = module.Source(model_name, module.Options(**options))
    return source


def from_record(model_name: str, identity: Mapping[str, Any], weights_path: str) -> ModelSource:
    """The source of the model of a run, as its `run.json` says.

    Args:
        model_name: The value of `model` in the identity.
        identity: The identity. `model.source` names the source; runs without this key tell it by the model's name.
        weights_path: The value of `weights.path`.

    Raises:
        UserError: There is no such model or source, or the file is not there.
    """
    module = SOURCES.load(identity.get("model.source") or source_of(model_name))
    source: ModelSource = module.Source.from_record(model_name, identity, weights_path)
    return source


def check_sha256(source: ModelSource, found: str) -> None:
    """Refuse weights that do not have the SHA-256 which `model.sha256` asks for.

    Args:
        source: The source of the weights.
        found: The SHA-256 of its weights file.

    Raises:
        UserError: With both values, the file and what to do.
    """
    if source.sha256 not in (None, found):
        raise UserError(
            f"model.sha256={source.sha256}: {source.weights_path} has {found}; these are other weights, and are not "
            f"used; {source.remedy}, or give model.sha256={found} if these are meant"
        )


def checked_sha256(value: str | None) -> str | None:
    """The value of `model.sha256`.

    Raises:
        UserError: It is no SHA-256.
    """
    if value is not None and not re.fullmatch(r"[0-9a-f]{64}", value):
        raise UserError(f"model.sha256={value}: not a SHA-256; give 64 lower-case hexadecimal digits")
    return value


def source_of(model_name: str) -> str:
    """The source that has a model of this name.

    Raises:
        UserError: No source has.
    """
    served = {model: name for name in SOURCES.shipped() for model in SOURCES.load(name).NAMES}
    one_of("model.name", model_name, list(served))
    return served[model_name]
