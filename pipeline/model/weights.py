"""Weights through torchaudio's bundles and torch hub's cache, out of the package, or from a file of one's own.

Never by running code: torch files are unpickled with `weights_only`.
"""

from __future__ import annotations

from typing import Any
from urllib.error import URLError

import torchaudio
from safetensors.torch import load_file
from torchaudio.models import Wav2Vec2Model

from pipeline.commits import sha256_file
from pipeline.errors import UserError
from pipeline.model import digits
from pipeline.model.catalog import ModelFacts, weights_path
from pipeline.model.checkpoint import UNREADABLE, load_checkpoint


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
    known = None
    if sha256 is not None and path.is_file():
        known = _check_sha256(facts, sha256)  # before a byte of it is unpickled
    if facts.architecture is not None:
        model = load_checkpoint(facts)
        return model.eval(), known or _check_sha256(facts, sha256)
    try:
        model = _shipped(facts) if facts.bundle is None else _from_bundle(facts.bundle)
    except (URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"model={facts.name}: the weights could not be downloaded from {facts.weights_url} "
            f"({reason}); fetch that file elsewhere and put it at {path}, "
            f"or see everything work now with dataset=digits, whose model comes with the package"
        ) from None
    except (FileNotFoundError, PermissionError, NotADirectoryError, FileExistsError) as error:
        raise UserError(
            f"model={facts.name}: {error.filename or path} cannot be used for weights ({error.strerror}); "
            f"set TORCH_HOME to a folder that can be written"
        ) from None
    except (OSError, *UNREADABLE) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"model={facts.name}: {path} does not hold the weights of this model ({type(error).__name__}: {reason}); "
            f"remove the file so that it is fetched again"
        ) from None
    return model.eval(), known or _check_sha256(facts, sha256)


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


def _check_sha256(facts: ModelFacts, expected: str | None) -> str:
    path = weights_path(facts)
    found = sha256_file(path)
    if expected is not None and found != expected:
        raise UserError(f"model.sha256={expected}: {path} has {found}; these are other weights, and are not used")
    return found
