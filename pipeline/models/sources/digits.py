"""The small model for spoken digits, whose weights come with the package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.models.catalog import DIGITS
from pipeline.models.huggingface.config import read_config
from pipeline.models.huggingface.folder import SHIPPED, WEIGHTS, Folder
from pipeline.models.sources import OneFile, WeightsOptions, check_sha256, checked_sha256
from pipeline.runtime.digests import sha256_files
from pipeline.runtime.errors import UserError, one_of

if TYPE_CHECKING:
    from torchaudio.models import Wav2Vec2Model

NAMES = (DIGITS.name,)


Options = WeightsOptions


class Source(OneFile):
    """The shipped model. Fits `ModelSource`."""

    remedy = "install the package again"

    def __init__(self, name: str, options: Options) -> None:
        """Find the weights in the package.

        Raises:
            UserError: `name` is not `digits`, or `sha256` is no SHA-256.
        """
        one_of("model.name", name, NAMES)
        self.facts = DIGITS
        self.sha256 = checked_sha256(options.sha256)
        self.weights_path = SHIPPED / WEIGHTS[0]

    @classmethod
    def from_record(cls, name: str, identity: Mapping[str, Any], weights_path: str) -> Source:
        """The source that a run used: the same weights, wherever the package lies now."""
        return cls(name, Options())

    def identity(self) -> dict[str, Any]:
        """Nothing: there is one shipped model."""
        return {}

    def check_file(self) -> None:
        """Do nothing: the package holds the file."""

    def fetch(self) -> str:
        """See `ModelSource.fetch`."""
        try:
            found = sha256_files([self.weights_path])
        except OSError as error:
            raise UserError(
                f"model=digits: {self.weights_path} cannot be read ({error.strerror or error}); {self.remedy}"
            ) from None
        check_sha256(self, found)
        return found

    def build(self) -> Wav2Vec2Model:
        """See `ModelSource.build`."""
        from pipeline.models.huggingface.weights import load

        folder = Folder("model=digits", self.weights_path.parent, None, self.facts.name)
        try:
            return load(folder, self.weights_files, None, read_config(folder), len(self.facts.labels)).eval()
        except UserError as error:
            raise UserError(f"{error}; {self.remedy}") from None
