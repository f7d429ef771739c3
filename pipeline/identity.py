"""What makes two runs the same work: the manifest, the weights and every setting that changes results.

A run directory is resumed by identity, never by position. What can be compared without torch is compared
before torch is imported: a finished run is recognised within seconds, and a refused resume is refused at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipeline import __version__
from pipeline.commits import sha256_file
from pipeline.config import RunConfig
from pipeline.errors import UserError
from pipeline.model.catalog import weights_path
from pipeline.tables import SCHEMA_VERSION

_VERSIONED = ("torch", "torchaudio")
"""Packages whose minor releases may change results."""
_RECORDED = (*_VERSIONED, "numpy", "pyarrow", "soundfile", "hydra-core")


def describe(config: RunConfig, digest: str, precision: str, weights_sha256: str) -> dict[str, Any]:
    """Everything that identifies the work of a run, as plain values."""
    return {
        "schema_version": SCHEMA_VERSION,
        "manifest": digest,
        "model": config.model.name,
        "weights_sha256": weights_sha256,
        "precision": precision,
        **config.result_settings,
        **{name: ".".join(version(name).split(".")[:2]) for name in _VERSIONED},
    }


def describe_known(config: RunConfig, digest: str, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """`describe`, as far as it can be known without torch: unknown values are taken as recorded.

    Args:
        config: The configuration now.
        digest: Digest of the manifest.
        recorded: `run.json` as it stands.
    """
    identity = dict(recorded["identity"])
    precision = config.settings.precision
    precision = identity["precision"] if precision == "auto" else precision
    weights = _known_weights(weights_path(config.model), recorded) or identity["weights_sha256"]
    wanted = config.settings.model.sha256
    if wanted not in (None, weights):
        raise UserError(f"model.sha256={wanted}: run_dir={config.run_dir} was made with weights {weights}")
    return describe(config, digest, precision, weights)


def weights_record(path: Path, sha256: str) -> dict[str, Any]:
    """How to recognise a weights file again without reading it."""
    stat = path.stat()
    return {"path": str(path), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": sha256}


def versions() -> dict[str, str]:
    """Versions of what computed and wrote, for the record."""
    found = {"pipeline": __version__}
    for name in _RECORDED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def refuse_differences(run_dir: Path, recorded: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to mix results of different settings in one run directory.

    Raises:
        UserError: With the list of what differs and what to do.
    """
    keys = sorted(key for key in {*recorded, *now} if recorded.get(key) != now.get(key))
    if keys:
        differences = "; ".join(f"{key}: {_say(recorded.get(key))} there, {_say(now.get(key))} now" for key in keys)
        raise UserError(
            f"run_dir={run_dir}: was made with other settings ({differences}); "
            f"set them back to go on with it, or start another run with run_dir=..."
        )


def _say(value: Any) -> str:
    if value is None:
        return "not set"
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)


def _known_weights(path: Path, recorded: Mapping[str, Any]) -> str | None:
    """SHA-256 of a weights file, from the record where the file has not changed since; `None` if it is gone."""
    if not path.is_file():
        return None
    weights = recorded.get("weights", {})
    if weights == weights_record(path, weights.get("sha256", "")):
        return str(weights["sha256"])
    return sha256_file(path)
