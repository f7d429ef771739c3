"""The identity of a run: everything that determines the content of its tables.

The fingerprint is the digest of the identity; each commit record contains the fingerprint. Only a run with the same
identity can resume a run directory. A pass over the shards that computes only some outputs has an identity of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import reduce
from typing import Any

from pipeline.runtime.digests import digest_of_json
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

    @property
    def nbest(self) -> bool:
        """Whether `transcripts/` has the column `nbest`: whether the decoder's option `nbest` is above 1."""
        return keeps_nbest(self.options)

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


def keeps_nbest(options: Mapping[str, Any]) -> bool:
    """Whether the options of a decoder say that it keeps several texts of each utterance."""
    number = options.get("decoder.nbest")
    return isinstance(number, int) and number > 1


def combined(passes: Iterable[Identity]) -> Identity:
    """Return the identity of a pass with the outputs and layers of all these passes. There must be at least one."""
    return reduce(lambda found, each: found.with_outputs_of(each, each.outputs), passes)
