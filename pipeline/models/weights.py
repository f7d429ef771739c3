"""Weights through torchaudio's bundles and torch hub's cache, out of the package, or from a file of one's own.

Never by running code: torch files are unpickled with `weights_only`.
"""

from __future__ import annotations

import pickle
import sys
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
import torchaudio
from safetensors.torch import load_file
from torchaudio.models import Wav2Vec2Model

from pipeline.models import digits
from pipeline.models.catalog import ModelFacts, weights_path
from pipeline.models.checkpoint import UNREADABLE, load_checkpoint, more_than_data
from pipeline.models.selection import check_sha256
from pipeline.runtime.digests import sha256_file
from pipeline.runtime.errors import UserError


def fetch_weights(facts: ModelFacts, sha256: str | None = None) -> str:
    """SHA-256 of the weights, downloaded where they are not cached."""
    path = weights_path(facts)
    if facts.bundle is not None and not path.exists():
        _fetch(facts.weights_url, path)
    found = sha256_file(path)
    check_sha256(facts, found, sha256)
    return found


def load_model(facts: ModelFacts, sha256: str | None = None) -> tuple[Wav2Vec2Model, str]:
    """Build a model and load its weights, downloading them where they are not cached.

    Args:
        facts: The model.
        sha256: Refuse any other weights than these, cached ones too.

    Returns:
        The model in eval mode on the CPU, and the SHA-256 of its weights file. What some bundles wrap around a
        model (a normalised waveform, log-probabilities) is taken off: `facts` says it, `ExactForward` does it.

    Raises:
        UserError: The download failed, the file is damaged, or it is not the one that `sha256` names.
    """
    path = weights_path(facts)
    if facts.architecture is not None:
        try:
            found = sha256_file(path)
        except OSError as error:
            raise UserError(
                f"model.checkpoint={path}: cannot be read ({error.strerror}); give a file of weights"
            ) from None
        check_sha256(facts, found, sha256)
        return load_checkpoint(facts).eval(), found
    try:
        if facts.bundle is not None and not path.exists():
            _fetch(facts.weights_url, path)
        found = sha256_file(path)
        check_sha256(facts, found, sha256)  # before a byte of it is unpickled
        model = _shipped(facts) if facts.bundle is None else _from_bundle(facts.bundle)
    except (URLError, TimeoutError, ConnectionError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"model={facts.name}: the weights could not be downloaded from {facts.weights_url} "
            f"({reason}); fetch that file elsewhere and put it at {path}, "
            f"or see everything work now with dataset=digits, whose model comes with the package"
        ) from None
    except OSError as error:
        remedy = (
            "install the package again" if facts.bundle is None else "set TORCH_HOME to a folder that can be written"
        )
        raise UserError(
            f"model={facts.name}: {error.filename or path} cannot be used for weights ({error.strerror or error}); "
            f"{remedy}"
        ) from None
    except UNREADABLE as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if isinstance(error, pickle.UnpicklingError):
            reason = f"it holds {more_than_data(error)}"
        remedy = "install the package again" if facts.bundle is None else "remove the file so that it is fetched again"
        raise UserError(
            f"model={facts.name}: {path} does not hold the weights of this model ({reason}); {remedy}"
        ) from None
    return model.eval(), found


def _fetch(url: str, path: Path) -> None:
    """Download to a name that nobody can foresee, beside `path`, then rename; nothing is loaded yet."""
    print(f"downloading {url} to {path}", file=sys.stderr)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.hub.download_url_to_file(url, str(path))


def _from_bundle(name: str) -> Wav2Vec2Model:
    bundle = getattr(torchaudio.pipelines, name)
    # Only the bundle for alignment has a star: a label of constant logit 0, which wins every argmax.
    options: dict[str, Any] = {"with_star": False} if name == "MMS_FA" else {}
    # torch hub loads with weights_only=False unless told otherwise.
    model = bundle.get_model(dl_kwargs={"weights_only": True, "map_location": "cpu"}, **options)
    model = model if isinstance(model, Wav2Vec2Model) else model.model
    assert isinstance(model, Wav2Vec2Model)
    return model


def _shipped(facts: ModelFacts) -> Wav2Vec2Model:
    model = digits.build()
    model.load_state_dict(load_file(weights_path(facts)))
    return model
