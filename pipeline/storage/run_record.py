"""`run.json`: what a run computes, with which weights, and on which device it ran last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property

from pipeline.runtime.digests import decode_checked, encode_checked
from pipeline.storage.commits import CommittedShard
from pipeline.storage.identity import Identity, combined


@dataclass(frozen=True)
class StoredFile:
    """Size in bytes and SHA-256 of a file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class WeightsFile:
    """Path, size and time of a weights file, which tell whether the file has changed since it was hashed.

    `pinned` is `owner/name@commit` for weights that were fetched by name. Of weights in several files, `size` is the
    sum and `mtime_ns` the latest.
    """

    path: str
    size: int
    mtime_ns: int
    sha256: str
    pinned: str | None = None


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
        decoder_files: Paths of the files whose SHA-256 the identity has, by key: `decoder.lm` and the like.
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
    decoder_files: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def passes(self) -> dict[str, Identity]:
        """Identities of the passes over the shards, by fingerprint. Each commit record has one of the fingerprints."""
        return {each.fingerprint: each for each in (self.identity, *self.others)}

    @cached_property
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
        if self.weights is not None and self.weights.pinned is None:
            del content["weights"]["pinned"]
        present = {key: value for key, value in content.items() if value not in (None, (), {})}
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
                decoder_files=dict(content.get("decoder_files", {})),
            )
            fingerprint = content["fingerprint"]
        except (TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"not the record of a run ({error})") from None
        if fingerprint != record.fingerprint:
            raise ValueError(f"has the fingerprint {fingerprint}, its identity that of {record.fingerprint}")
        return record
