"""Determines the identity of a run: the manifest, the weights and every setting that changes results.

Only a run with the same identity resumes a run directory. Identities are compared before torch is imported as far as
possible, so that a finished run or a refused resume ends within seconds.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version

from pipeline import __version__
from pipeline.config.run_config import RunConfig
from pipeline.models.sources import ModelSource, check_sha256
from pipeline.runtime.digests import sha256_files
from pipeline.runtime.errors import UserError
from pipeline.runtime.redaction import mask_marked
from pipeline.storage.identity import Identity
from pipeline.storage.layouts import LIST
from pipeline.storage.names import MANIFEST, RUN_JSON
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.run_record import RunRecord, WeightsFile
from pipeline.storage.tables import SCHEMA_VERSION

_RECORDED = ("torch", "torchaudio", "numpy", "pyarrow", "soundfile", "hydra-core")
"""Packages whose versions are recorded. Minor releases of torch and torchaudio may change results."""


def describe(
    config: RunConfig, digest: str, precision: str, weights_sha256: str, begun: Identity | None = None
) -> Identity:
    """Return the identity of a run.

    Args:
        config: The configuration.
        digest: Digest of the manifest.
        precision: The resolved precision.
        weights_sha256: SHA-256 of the weights file.
        begun: Identity of the run that is continued, with all its outputs, which decides the columns of `transcripts/`;
            `None` for a new run.
    """
    settings = config.settings
    transcribes = "transcripts" in settings.outputs
    return Identity(
        schema_version=SCHEMA_VERSION,
        manifest=digest,
        model=config.model.name,
        weights_sha256=weights_sha256,
        precision=precision,
        outputs=tuple(sorted(settings.outputs)),
        channels=settings.channels,
        chunk_seconds=settings.chunk.seconds,
        chunk_context_seconds=settings.chunk.context_seconds,
        torch=_minor_version("torch"),
        torchaudio=_minor_version("torchaudio"),
        layers=config.layers,
        feature_dtype=settings.features.dtype if config.layers else None,
        emission_dtype=settings.emissions.dtype if "emissions" in settings.outputs else None,
        feature_layout=settings.features.layout if config.layers else LIST,
        emission_layout=settings.emissions.layout if "emissions" in settings.outputs else LIST,
        decoder=settings.decoder.name if transcribes else None,
        options=config.identity_options,
        audio_digests=transcribes and (begun is None or begun.audio_digests or begun.decoder is None),
    )


def describe_known(config: RunConfig, digest: str, recorded: RunRecord) -> Identity:
    """Return the identity of a run without importing torch. Values that are not known yet are taken from `recorded`.

    Args:
        config: The current configuration.
        digest: Digest of the manifest.
        recorded: The `run.json` of the run directory.

    Raises:
        UserError: `model.sha256` names other weights.
    """
    identity = recorded.identity
    precision = config.settings.precision
    precision = identity.precision if precision == "auto" else precision
    weights, wanted = _known_sha256(config.source, recorded), config.source.sha256
    if weights is not None:
        check_sha256(config.source, weights)
    elif wanted not in (None, identity.weights_sha256):
        raise UserError(
            f"model.sha256={wanted}: run_dir={config.run_dir} was made with weights {identity.weights_sha256}; "
            f"give their model.sha256 to continue the run, or start another run with run_dir=..."
        )
    return describe(config, digest, precision, weights or identity.weights_sha256, recorded.combined)


def weights_file(source: ModelSource, sha256: str) -> WeightsFile:
    """Return path, size and time of a weights file, with its SHA-256; of several files, their size and latest time."""
    stats = [path.stat() for path in source.weights_files]
    return WeightsFile(
        path=mask_marked(str(source.weights_path)),
        size=sum(stat.st_size for stat in stats),
        mtime_ns=max(stat.st_mtime_ns for stat in stats),
        sha256=sha256,
        pinned=source.pinned,
    )


def note_manifest(directory: RunDirectory, *contents: str) -> None:
    """Update the manifest's file in `run.json`, if `run.json` exists. The caller holds the lock.

    Args:
        directory: The run.
        contents: Digests of the rows that the manifest may have from now on; none keeps those that are recorded.
    """
    recorded = directory.read_record()
    if recorded is not None:
        directory.write(RUN_JSON, recorded.of_manifest(directory.file_record(MANIFEST), *contents).encode())


@cache
def versions() -> dict[str, str]:
    """Return the versions of the installed packages that compute and write, by name."""
    found = {"pipeline": __version__}
    for name in _RECORDED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _minor_version(package: str) -> str:
    return ".".join(version(package).split(".")[:2])


def _known_sha256(source: ModelSource, recorded: RunRecord) -> str | None:
    """Return the SHA-256 of the weights; `None` if they are not there. Files that have not changed are not read."""
    if source.pinned is not None and (recorded.weights is None or recorded.weights.pinned != source.pinned):
        return source.fetch()  # the name stands for something else now, which may have other weights
    if not source.weights_path.is_file() or not all(path.is_file() for path in source.weights_files):
        return None
    if recorded.weights is not None and recorded.weights == weights_file(source, recorded.weights.sha256):
        return recorded.weights.sha256
    return sha256_files(source.weights_files)
