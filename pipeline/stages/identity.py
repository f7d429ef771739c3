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
from pipeline.config.run_config import RunConfig
from pipeline.models.sources import check_sha256
from pipeline.runtime.errors import UserError
from pipeline.runtime.redaction import mask_marked
from pipeline.storage import manifest as manifests
from pipeline.storage.commits import encode_checked, sha256_file
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.tables import SCHEMA_VERSION

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
    weights, wanted = _known_weights(config.source.weights_path, recorded), config.source.sha256
    if weights is not None:
        check_sha256(config.source, weights)
    elif wanted not in (None, identity["weights_sha256"]):
        raise UserError(
            f"model.sha256={wanted}: run_dir={config.run_dir} was made with weights {identity['weights_sha256']}; "
            f"give model.sha256 of those to go on with it, or start another run with run_dir=..."
        )
    return describe(config, digest, precision, weights or identity["weights_sha256"])


def weights_record(path: Path, sha256: str) -> dict[str, Any]:
    """How to recognise a weights file again without reading it."""
    stat = path.stat()
    return {"path": mask_marked(str(path)), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": sha256}


def note_manifest(directory: RunDirectory) -> None:
    """Let `run.json`, where there is one, know a manifest that has been written again; for the lock's holder."""
    recorded = directory.read_run_json()
    if recorded is not None:
        now = {**recorded, manifests.FILE_KEY: manifests.file_record(directory.manifest_path)}
        directory.write_bytes(directory.run_json_path, encode_checked(now))


def versions() -> dict[str, str]:
    """Versions of what computed and wrote, for the record."""
    found = {"pipeline": __version__}
    for name in _RECORDED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _known_weights(path: Path, recorded: Mapping[str, Any]) -> str | None:
    """SHA-256 of a weights file, from the record where the file has not changed since; `None` if it is gone."""
    if not path.is_file():
        return None
    weights = recorded.get("weights", {})
    if weights == weights_record(path, weights.get("sha256", "")):
        return str(weights["sha256"])
    return sha256_file(path)
