"""`run.json`: what a run computes, with which weights, and on which device it ran last.

The identity holds everything that determines the content of the tables. The fingerprint is the digest of the identity;
each commit record contains the fingerprint. Only a run with the same identity can resume a run directory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from functools import cached_property, reduce
from typing import Any

from pipeline.runtime.digests import decode_checked, digest_of_json, encode_checked
from pipeline.storage.commits import CommittedShard
from pipeline.storage.layouts import ARRAY_TABLES, LIST

_KEYS = {
    "chunk_seconds": "chunk.seconds",
    "chunk_context_seconds": "chunk.context_seconds",
    "layers": "features.layers",
    "feature_dtype": "features.dtype",
    "emission_dtype": "emissions.dtype",
    "feature_layout": "features.layout",
    "emission_layout": "emissions.layout",
}
"""Keys in the file that differ from the names of the fields."""
_SETTINGS = {
    "transcripts": ("decoder", "audio_digests"),
    "emissions": ("emission_dtype", "emission_layout"),
    "features": ("feature_dtype", "feature_layout"),
}
"""Fields that determine only one table. The layers of features are not among them, because layers can be added."""
_OPTIONS = ("model.", "decoder.")
"""Prefixes of the keys of options."""


@dataclass(frozen=True)
class Identity:
    """Everything that determines the content of a run's tables.

    Attributes:
        schema_version: Version of the table schemas.
        manifest: Digest of the manifest.
        model: The choice of the group `model`.
        weights_sha256: SHA-256 of the weights file.
        precision: fp32, bf16 or fp16.
        outputs: The requested tables, sorted.
        channels: mix, first or each.
        chunk_seconds, chunk_context_seconds: Length of a chunk, and of the context on each side of it.
        torch, torchaudio: Versions without the patch release.
        layers: Layers in `features/`; empty if features are not requested.
        feature_dtype, emission_dtype: float16 or float32; `None` if the table is not requested.
        decoder: The choice of the group `decoder`; `None` if transcripts are not requested.
        options: Further options of the model and the decoder, such as `model.labels` and `decoder.beam_size`.
        feature_layout, emission_layout: list or binary; list if the table is not requested.
        audio_digests: Whether `transcripts/` has the columns `audio_digest` and `same_as`. A run that an earlier
            release began does not have them.
    """

    schema_version: int
    manifest: str
    model: str
    weights_sha256: str
    precision: str
    outputs: tuple[str, ...]
    channels: str
    chunk_seconds: float
    chunk_context_seconds: float
    torch: str
    torchaudio: str
    layers: tuple[int, ...] = ()
    feature_dtype: str | None = None
    emission_dtype: str | None = None
    decoder: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    feature_layout: str = LIST
    emission_layout: str = LIST
    audio_digests: bool = False

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the identity."""
        return digest_of_json(self.as_json())

    def dtype(self, table: str) -> str | None:
        """Return the type of the values in `emissions` or `features`; `None` for other tables."""
        return {"emissions": self.emission_dtype, "features": self.feature_dtype}.get(table)

    def layout(self, table: str) -> str:
        """Return the layout of the arrays in `emissions` or `features`."""
        return {"emissions": self.emission_layout, "features": self.feature_layout}[table]

    @property
    def parts(self) -> list[str]:
        """The outputs in words: `transcripts`, `emissions`, and `features of layer 6` for each layer."""
        plain = [table for table in self.outputs if table != "features"]
        return [*plain, *(f"features of layer {layer}" for layer in self.layers)]

    def restricted(self, outputs: Collection[str], layers: tuple[int, ...]) -> Identity:
        """Return the identity of a pass that computes only some outputs, and these layers of features."""
        kept: dict[str, Any] = {"outputs": tuple(sorted(outputs)), "layers": layers if "features" in outputs else ()}
        defaults = {each.name: each.default for each in fields(self)}
        for table, names in _SETTINGS.items():
            if table not in outputs:
                kept |= {name: defaults[name] for name in names}
        options = self.options
        if "transcripts" not in outputs:
            options = {key: value for key, value in options.items() if not key.startswith("decoder.")}
        return replace(self, **kept, options=options)

    def agrees_with(self, other: Identity) -> bool:
        """Whether the tables that both identities have are the same, apart from the layers of features."""
        shared = {*self.outputs} & {*other.outputs}
        return self.restricted(shared, ()) == other.restricted(shared, ())

    def lacking(self, passes: Iterable[Identity]) -> Identity | None:
        """Return the identity of a pass that computes what these passes lack; `None` if they lack nothing."""
        passes = list(passes)
        layers = tuple(layer for layer in self.layers if all(layer not in each.layers for each in passes))
        there = {table for each in passes for table in each.outputs} - ({"features"} if layers else set())
        missing = [table for table in self.outputs if table not in there]
        return self.restricted(missing, layers) if missing else None

    def with_outputs_of(self, other: Identity, tables: Collection[str]) -> Identity:
        """Return the identity of a pass that also computes these tables as `other` does."""
        added = [table for table in tables if table in other.outputs]
        layers = sorted({*self.layers, *(other.layers if "features" in added else ())})
        settings = {name: getattr(other, name) for table in added for name in _SETTINGS[table]}
        options = {**self.options, **(other.options if "transcripts" in added else {})}
        outputs = tuple(sorted({*self.outputs, *added}))
        return replace(self, **settings, outputs=outputs, layers=tuple(layers), options=options)

    def as_json(self) -> dict[str, Any]:
        """Return the identity as in `run.json`.

        Values that equal their default are left out, so a setting that is new in a release does not change the
        fingerprints of earlier runs.
        """
        kept = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "options"}
        defaults = {each.name: each.default for each in fields(self)}
        plain = {
            _KEYS.get(name, name): list(value) if isinstance(value, tuple) else value
            for name, value in kept.items()
            if value != defaults[name]
        }
        return plain | {**self.options}

    def described(self) -> dict[str, Any]:
        """Return the identity as in `run.json`, with the layouts of the requested tables, default or not."""
        layouts = {f"{table}.layout": self.layout(table) for table in ARRAY_TABLES if self.dtype(table) is not None}
        return {**layouts, **self.as_json()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Identity:
        """Read an identity that `as_json` returned.

        Raises:
            ValueError: A key is missing or unknown.
        """
        rest = dict(content)
        options = {key: rest.pop(key) for key in list(rest) if key.startswith(_OPTIONS)}
        values: dict[str, Any] = {"options": options}
        for each in fields(cls):
            key = _KEYS.get(each.name, each.name)
            if key in rest:
                value = rest.pop(key)
                values[each.name] = tuple(value) if isinstance(value, list) else value
            elif each.default is MISSING and each.default_factory is MISSING:
                raise ValueError(f"its identity lacks {key}")
        if rest:
            raise ValueError(f"its identity has {', '.join(rest)}, which this release does not know")
        return cls(**values)


@dataclass(frozen=True)
class StoredFile:
    """Size in bytes and SHA-256 of a file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class WeightsFile:
    """Path, size and time of a weights file, which tell whether the file has changed since it was hashed."""

    path: str
    size: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True)
class RunRecord:
    """The content of `run.json`.

    Attributes:
        identity: What the last command that computed anything asked for.
        weights: The weights file.
        manifest_file: Size and SHA-256 of `manifest.parquet`, including the paths that the manifest's digest omits.
        versions: Versions of the packages that ran last, by package name.
        device: Device that the model ran on last; `None` in files that do not say it.
        written: Time of writing in UTC, as ISO 8601.
        manifests: Digests of the rows that the manifest may have: the present one, and another one while it is being
            replaced; empty if the manifest has never changed, then `identity.manifest`.
        others: Identities of the other passes over shards of the run. They differ from `identity` in their outputs
            and layers only.
        duplicates: Number of utterances whose audio an earlier utterance has too. `None` as long as `same_as` may be
            incomplete, because shards are committed or `same_as` is being written.
    """

    identity: Identity
    weights: WeightsFile | None
    manifest_file: StoredFile | None
    versions: Mapping[str, str]
    device: str | None
    written: str
    manifests: tuple[str, ...] = ()
    others: tuple[Identity, ...] = ()
    duplicates: int | None = None

    @cached_property
    def passes(self) -> dict[str, Identity]:
        """Identities of the passes over the shards, by fingerprint. Each commit record has one of the fingerprints."""
        return {each.fingerprint: each for each in (self.identity, *self.others)}

    @property
    def combined(self) -> Identity:
        """The identity with the outputs and layers of all passes."""
        return combined(self.passes.values())

    def layers_of(self, shards: Iterable[CommittedShard]) -> tuple[int, ...]:
        """Return the layers of features that any of these shards has."""
        fingerprints = {record.fingerprint for shard in shards for record in shard.records}
        return tuple(sorted({layer for each in fingerprints for layer in self.passes[each].layers}))

    def partly(self, shards: Collection[CommittedShard]) -> dict[str, int]:
        """Return the outputs that some of these shards have and others lack, with the number of those that have it."""
        found: Counter[str] = Counter()
        for shard in shards:
            found.update({part for record in shard.records for part in self.passes[record.fingerprint].parts})
        return {part: number for part, number in found.items() if number < len(shards)}

    def complete(self, shards: Mapping[int, CommittedShard], asked: Identity | None = None) -> set[int]:
        """Return the numbers of the shards that have all outputs asked for; `None` asks for those of `identity`."""
        wanted = self.identity if asked is None else asked
        return {
            number
            for number, shard in shards.items()
            if wanted.lacking(self.passes[record.fingerprint] for record in shard.records) is None
        }

    @property
    def manifest_contents(self) -> tuple[str, ...]:
        """Digests of the rows that the manifest may have."""
        return self.manifests or (self.identity.manifest,)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the identity."""
        return self.identity.fingerprint

    def of_manifest(self, file: StoredFile | None, *contents: str) -> RunRecord:
        """Return the same record with another `manifest_file`, and with other `manifests` if some are given."""
        return replace(self, manifest_file=file, manifests=contents or self.manifests)

    def encode(self) -> bytes:
        """Return the bytes of `run.json`."""
        content = asdict(self) | {"identity": self.identity.as_json()}
        content["others"] = tuple(each.as_json() for each in self.others)
        present = {key: value for key, value in content.items() if value not in (None, ())}
        return encode_checked({"fingerprint": self.fingerprint, **present})

    @classmethod
    def decode(cls, data: bytes) -> RunRecord:
        """Parse the bytes of `run.json`, also those of the first release.

        Raises:
            ValueError: The bytes are not a run record, or they have been edited.
        """
        try:
            content = decode_checked(data)
            weights, manifest_file = content.get("weights"), content.get("manifest_file")
            record = cls(
                identity=Identity.from_json(content["identity"]),
                weights=None if weights is None else WeightsFile(**weights),
                manifest_file=None if manifest_file is None else StoredFile(**manifest_file),
                versions=dict(content.get("versions", {})),
                device=content.get("device"),
                written=content.get("written", ""),
                manifests=tuple(content.get("manifests", ())),
                others=tuple(map(Identity.from_json, content.get("others", ()))),
                duplicates=content.get("duplicates"),
            )
            fingerprint = content["fingerprint"]
        except (TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"not the record of a run ({error})") from None
        if fingerprint != record.fingerprint:
            raise ValueError(f"has the fingerprint {fingerprint}, its identity that of {record.fingerprint}")
        return record


def combined(passes: Iterable[Identity]) -> Identity:
    """Return the identity of a pass with the outputs and layers of all these passes. There must be at least one."""
    return reduce(lambda found, each: found.with_outputs_of(each, each.outputs), passes)
