"""Decides what of an earlier run can be continued. A refusal names each difference and the two remedies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config.run_config import RunConfig
from pipeline.runtime.errors import UserError
from pipeline.runtime.places import Place
from pipeline.runtime.redaction import mask_marked
from pipeline.stages.passes import recover_passes
from pipeline.storage.identity import Identity, combined
from pipeline.storage.names import COMMITS, RUN_JSON
from pipeline.storage.run_directory import RunDirectory
from pipeline.storage.run_record import RunRecord
from pipeline.storage.tables import VANISHED

_MAX_DIFFERENCES = 12
_MAX_CHARACTERS = 160
"""Values longer than this are shortened, except the SHA-256 and the path of weights."""
_EXAMPLES, _EXAMPLE_COLUMNS = 3, 2


def continue_passes(
    config: RunConfig, directory: RunDirectory, describe: Callable[[Identity | None], Identity]
) -> tuple[Identity, dict[str, Identity]]:
    """Find out what of an earlier run is continued. Remove other work without results.

    While other parts of the run are at work, nothing else than what they do can be asked for.

    Args:
        config: The current configuration.
        directory: The run.
        describe: Returns the current identity, given that of the run that is continued; `None` for a new run.

    Returns:
        The current identity, and by fingerprint the identities of it and of the passes that go with it.

    Raises:
        UserError: The results belong to another identity. The message names each difference.
    """
    recorded, asked = directory.read_record(), describe(None)
    if not directory.alone:
        return _join(config, directory, recorded, describe)
    has_results = directory.has_results()
    if not has_results and (recorded is None or _is_other_work(config, directory, recorded, asked)):
        directory.discard()
        return asked, {asked.fingerprint: asked}
    earlier = recover_passes(directory, asked) if recorded is None else recorded.passes
    identity = describe(combined(earlier.values())) if earlier else asked
    if has_results and recorded is not None:
        refuse_differences(config, directory, recorded, identity)
    elif has_results and directory.committed_otherwise(earlier):
        lost = f"{RUN_JSON}: lost; fingerprint: another one in {COMMITS}/, {identity.fingerprint} now"
        raise refusal(directory.root, [lost])
    # A pass that disagrees was asked for, but stopped before it wrote a table.
    agreeing = {fingerprint: each for fingerprint, each in earlier.items() if each.agrees_with(identity)}
    return identity, {**agreeing, identity.fingerprint: identity}


def _join(
    config: RunConfig,
    directory: RunDirectory,
    recorded: RunRecord | None,
    describe: Callable[[Identity | None], Identity],
) -> tuple[Identity, dict[str, Identity]]:
    """Return what `continue_passes` returns, for a part of a run that another part has planned."""
    if recorded is None:
        raise refusal(directory.root, [f"{RUN_JSON}: lost, while other parts of the run are at work"])
    identity = describe(recorded.combined)
    refuse_differences(config, directory, recorded, identity)
    asked, theirs = ({"outputs": [*each.outputs], "layers": [*each.layers]} for each in (identity, recorded.identity))
    if found := [difference(key, theirs[key], asked[key]) for key in asked if asked[key] != theirs[key]]:
        raise refusal(directory.root, found)
    return identity, {**recorded.passes, identity.fingerprint: identity}


def _is_other_work(config: RunConfig, directory: RunDirectory, recorded: RunRecord, identity: Identity) -> bool:
    """Whether a run without results is planned again. Otherwise its tables tell which outputs a shard had."""
    if identity.fingerprint in recorded.passes:
        return False
    return directory.has_commits() or bool(differences(config, directory, recorded, identity))


def refuse_differences(
    config: RunConfig, directory: RunDirectory, recorded: RunRecord, identity: Identity, besides: Sequence[str] = ()
) -> None:
    """Refuse to mix results of different identities in one run directory.

    Args:
        config: The current configuration.
        directory: The run.
        recorded: The `run.json` of the run directory.
        identity: The current identity.
        besides: Further differences, for the message.

    Raises:
        UserError: There is a difference. The message names each one.
    """
    if found := differences(config, directory, recorded, identity):
        raise refusal(config.run_dir, [*besides, *found])


def differences(config: RunConfig, directory: RunDirectory, recorded: RunRecord, identity: Identity) -> list[str]:
    """Return how an identity differs from that of the run. The arguments are those of `refuse_differences`.

    Other outputs or layers are no difference, nor are the settings of a table that was asked for but never written.
    """
    shared = [table for table in identity.outputs if table in recorded.combined.outputs and directory.names(table)]
    before, now = (each.restricted(shared, ()).described() for each in (recorded.combined, identity))
    keys = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    found = {key: difference(key, before.get(key), now.get(key)) for key in keys}
    if "weights_sha256" in found:
        path = None if recorded.weights is None else recorded.weights.path
        files = path, mask_marked(str(config.source.weights_path))
        old, new = (f"{of.get('weights_sha256')} ({file})" for of, file in zip((before, now), files, strict=True))
        found["weights_sha256"] = f"weights_sha256: {old} before, {new} now"
    return list(found.values())


def refusal(run_dir: Place, differences: Sequence[str]) -> UserError:
    """Return the error that refuses to continue a run. It names at most twelve differences and the two remedies."""
    shown, more = [*differences[:_MAX_DIFFERENCES]], len(differences) - _MAX_DIFFERENCES
    if more > 0:
        shown.append(f"and {more} more")
    return UserError(
        f"run_dir={run_dir}: was made with other settings ({'; '.join(shown)}); "
        f"set them back to continue the run, or start another run with run_dir=..."
    )


def making_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the differences between the settings of two manifests. `channels` is left out: the identity has it too."""
    keys = [key for key in sorted({*before, *now} - {"channels"}) if before.get(key) != now.get(key)]
    if "vad" in keys:  # its settings are left out
        keys = [key for key in keys if not key.startswith("vad.")]
    if "dataset" in keys:  # options that only one of the datasets has are left out
        kept = ("root", "path")
        keys = [key for key in keys if key in kept or _is_whole(key) or (key in before and key in now)]
    return [difference(key if _is_whole(key) else f"dataset.{key}", before.get(key), now.get(key)) for key in keys]


def _is_whole(key: str) -> bool:
    """Whether a setting of a manifest is none of the dataset, so that it is called as it is."""
    return key in ("dataset", "shard.hours") or key.partition(".")[0] == "vad"


def vad_of(made_with: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the detector among those that determine a manifest; none without segments of speech."""
    return {key: value for key, value in made_with.items() if key.partition(".")[0] == "vad"}


def corpus_differences(before: pa.Table, now: pa.Table) -> str:
    """Describe the differences between two manifests: the number of utterances that differ, and some of their ids."""
    said = []
    for what, table, other in (("added", now, before), ("removed", before, now)):
        ids = table["id"].filter(pc.invert(_among(table, other)))
        said += _counted(what, ids.slice(0, _EXAMPLES).to_pylist(), len(ids))
    said += _changed(before, now)
    if columns := sorted(({*before.column_names} ^ {*now.column_names}) - {VANISHED}):
        said.append(f"columns {', '.join(columns)} in one alone")
    return f"utterances: {', '.join(said) or 'the same in another order, or in other shards'}"


def _changed(before: pa.Table, now: pa.Table) -> list[str]:
    """Describe the utterances that both manifests have but that differ in a column other than the path."""
    shared = [name for name in before.column_names if name in now.column_names and name not in ("path", "shard")]
    # Both tables have the same ids and are sorted, so an utterance has the same row in both.
    old = before.select(shared).filter(_among(before, now)).sort_by("id").combine_chunks()
    new = now.select(shared).filter(_among(now, before)).sort_by("id").combine_chunks()
    differs = {}
    for name in shared:
        left, right = old[name], new[name]
        if left.type != right.type:
            left, right = left.cast(pa.string()), right.cast(pa.string())
        both_null = pc.and_(pc.is_null(left), pc.is_null(right))
        differs[name] = pc.invert(pc.or_(pc.fill_null(pc.equal(left, right), False), both_null))
    rows = pc.indices_nonzero(reduce(pc.or_, differs.values()))
    examples = [
        f"{old['id'][row].as_py()}: "
        + ", ".join(
            difference(name, old[name][row].as_py(), new[name][row].as_py(), " ")
            for name in [name for name in shared if differs[name][row].as_py()][:_EXAMPLE_COLUMNS]
        )
        for row in rows.slice(0, _EXAMPLES).to_pylist()
    ]
    return _counted("changed", examples, len(rows))


def _among(table: pa.Table, other: pa.Table) -> pa.ChunkedArray:
    return pc.is_in(table["id"], value_set=other["id"].combine_chunks())


def _counted(what: str, examples: Sequence[str], number: int) -> list[str]:
    more = ", ..." if number > len(examples) else ""
    return [f"{number} {what} ({', '.join(map(_short, examples))}{more})"] if number else []


def difference(key: str, before: Any, now: Any, colon: str = ": ") -> str:
    """Return a difference of a setting in words: `precision: fp32 before, bf16 now`."""
    return f"{key}{colon}{_said(before)} before, {_said(now)} now"


def _said(value: Any) -> str:
    if value is None:
        return "not set"
    return f"[{_short(','.join(map(str, value)))}]" if isinstance(value, list) else _short(str(value))


def _short(text: str) -> str:
    return text if len(text) <= _MAX_CHARACTERS else f"{text[: _MAX_CHARACTERS - 3]}..."
