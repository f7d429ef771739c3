"""torchaudio's bundles: weights that are downloaded once and kept in torch hub's cache."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

from pipeline.models.catalog import BUNDLES
from pipeline.models.sources import OneFile, WeightsOptions, check_sha256, checked_sha256
from pipeline.runtime.digests import sha256_files
from pipeline.runtime.errors import UserError, one_of

if TYPE_CHECKING:
    from torchaudio.models import Wav2Vec2Model

NAMES = tuple(BUNDLES)
_DOWNLOAD_FAILED = (URLError, TimeoutError, ConnectionError, HTTPException)


Options = WeightsOptions


class Source(OneFile):
    """A bundle of torchaudio. Fits `ModelSource`."""

    remedy = "remove the file, so that it is fetched again"

    def __init__(self, name: str, options: Options) -> None:
        """Find the bundle.

        Args:
            name: The bundle's name in lower case.
            options: The options.

        Raises:
            UserError: There is no such bundle, or `sha256` is no SHA-256.
        """
        one_of("model.name", name, NAMES)
        self.facts, self.url = BUNDLES[name]
        self.sha256 = checked_sha256(options.sha256)
        self.weights_path = _hub() / self.url.rpartition("/")[2]

    @classmethod
    def from_record(cls, name: str, identity: Mapping[str, Any], weights_path: str) -> Source:
        """The source that a run used: the same weights, wherever torch hub's cache lies now."""
        return cls(name, Options())

    def identity(self) -> dict[str, Any]:
        """Nothing: the name says which architecture and labels the model has."""
        return {}

    def check_file(self) -> None:
        """Refuse a cache without a place. A missing file is downloaded by `fetch`.

        Raises:
            UserError: There is no home directory, and no variable names another folder.
        """
        if str(self.weights_path).startswith("~"):
            raise UserError(
                f"model={self.facts.name}: torch hub's cache of weights has no place, because this user has no home "
                f"directory; set TORCH_HOME to a folder that can be written"
            )

    def fetch(self) -> str:
        """See `ModelSource.fetch`."""
        self.check_file()
        path = self.weights_path
        try:
            if not path.exists():
                self._download()
            found = sha256_files([path])
        except _DOWNLOAD_FAILED as error:
            raise self._not_downloaded(error) from None
        except OSError as error:
            raise self._not_usable(error) from None
        check_sha256(self, found)  # before a byte is unpickled
        return found

    def build(self) -> Wav2Vec2Model:
        """See `ModelSource.build`."""
        from pipeline.models.checkpoint import UNREADABLE, load_published, reason_of

        try:
            return load_published(self.weights_path, self.facts.name).eval()
        except OSError as error:
            raise self._not_usable(error) from None
        except UNREADABLE as error:
            raise UserError(
                f"model={self.facts.name}: {self.weights_path} does not hold the weights of this model "
                f"({reason_of(error)}); {self.remedy}"
            ) from None

    def _not_downloaded(self, error: BaseException) -> UserError:
        return UserError(
            f"model={self.facts.name}: the weights could not be downloaded from {self.url} "
            f"({getattr(error, 'reason', error)}); fetch that file elsewhere and put it at {self.weights_path}, "
            f"or see everything work now with dataset=digits, whose model comes with the package"
        )

    def _not_usable(self, error: OSError) -> UserError:
        return UserError(
            f"model={self.facts.name}: {error.filename or self.weights_path} cannot be used for weights "
            f"({error.strerror or error}); set TORCH_HOME to a folder that can be written"
        )

    def _download(self) -> None:
        """Download the weights to a random name beside `weights_path`, then rename the file. Loads nothing."""
        from torch.hub import download_url_to_file

        print(f"downloading {self.url} to {self.weights_path}", file=sys.stderr)
        self.weights_path.parent.mkdir(parents=True, exist_ok=True)
        download_url_to_file(self.url, str(self.weights_path))


def _hub() -> Path:
    """Torch hub's cache of weights, found without torch as `torch.hub.get_dir` documents."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", os.path.join(cache, "torch"))
    return Path(os.path.expanduser(home)) / "hub" / "checkpoints"
