"""Every key of the configuration with its type and the values that it takes.

conf/config.yaml has the defaults, and says what each key is for. The types are evaluated here, not as annotations of
`__future__`, because the checks in them need the names of this module.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Any, NamedTuple, get_type_hints

from pipeline.runtime.errors import UserError, one_of
from pipeline.scoring.normalisers import DESCRIPTIONS

MAX_SHOWN = 20
"""The most utterances of each kind in the report, because the page holds their audio."""


class Rule(NamedTuple):
    """What a key takes besides its type: in words, as a check of what is not null, and as names, if it takes names."""

    words: str
    allows: Callable[[Any], object] = lambda _: True
    names: tuple[str, ...] = ()


def _one_of(*names: str) -> Rule:
    return Rule(", ".join(names), names=names)


def _some_of(*names: str) -> Rule:
    return Rule(f"a list of {', '.join(names)}, each once", lambda given: bool(given) and _once(given), names)


def _once(values: list[Any]) -> bool:
    return len(set(values)) == len(values)


_DEVICE = Rule("auto, cpu, cuda, cuda:<number>", re.compile(r"auto|cpu|cuda(:\d{1,2})?").fullmatch)
_COLUMNS = "null, or a list of the dataset's own columns, each once, such as [room,distractor,room+distractor]"
_LAYERS = "null, or a list of numbers of layers from 1 on, each once"


@dataclass(kw_only=True)
class _EmissionSettings:
    dtype: Annotated[str, _one_of("float16", "float32")]
    layout: Annotated[str, _one_of("list", "binary")]


@dataclass(kw_only=True)
class _FeatureSettings(_EmissionSettings):
    # OmegaConf has no `str | list[int]`, so `layers` is checked with the model.
    layers: Annotated[Any, Rule("last, all, or numbers of layers from 1 on")]


@dataclass(kw_only=True)
class _BatchSettings:
    max_seconds: Annotated[float | None, Rule("a number above 0, 1e6 at most, or null", lambda s: 0 < s <= 1e6)]


@dataclass(kw_only=True)
class _ChunkSettings:
    seconds: Annotated[float, Rule("a number from 1 to 1e6", lambda s: 1 <= s <= 1e6)]
    context_seconds: Annotated[float, Rule("a number from 0 to a quarter of chunk.seconds", lambda s: s >= 0)]


@dataclass(kw_only=True)
class _ShardSettings:
    hours: Annotated[float, Rule("a number above 0, 1e6 at most", lambda hours: 0 < hours <= 1e6)]


@dataclass(kw_only=True)
class _LoaderSettings:
    workers: Annotated[int | None, Rule("a whole number, 0 or more, or null", lambda n: 0 <= n <= 1e6)]
    timeout_s: Annotated[float, Rule("a number above 0, 1e6 at most", lambda s: 0 < s <= 1e6)]


@dataclass(kw_only=True)
class _DecodeSettings:
    name: Annotated[
        str | None,
        Rule(
            "null, or up to 40 of a-z, 0-9, - and _, of which the first is a letter or a digit",
            re.compile(r"[a-z0-9][a-z0-9_-]{0,39}").fullmatch,
        ),
    ]


@dataclass(kw_only=True)
class _AlignSettings:
    numbers: Annotated[
        str | None, Rule("null, or a code of a language, such as en", re.compile(r"[a-z]{2,3}(_[A-Z]{2})?").fullmatch)
    ]


@dataclass(kw_only=True)
class _CompactSettings:
    tables: Annotated[list[str], _some_of("transcripts", "emissions", "features", "failures")]
    by: str | None


@dataclass(kw_only=True)
class _MetricsSettings:
    textfile: Annotated[str | None, Rule("null, or a file that ends in .prom", lambda path: path.endswith(".prom"))]


@dataclass(kw_only=True)
class ScoreSettings:
    """`score.*`: how transcripts are compared with references, which can be done again at any time."""

    by: Annotated[list[str] | None, Rule(_COLUMNS, lambda names: all(names) and _once(names))] = None
    normaliser: Annotated[str, _one_of(*DESCRIPTIONS)] = "standard"


@dataclass(kw_only=True)
class ReportSettings:
    """`report.*`: what the page shows."""

    utterances: Annotated[int, Rule(f"a whole number from 1 to {MAX_SHOWN}", lambda n: 1 <= n <= MAX_SHOWN)] = 4
    layers: Annotated[list[int] | None, Rule(_LAYERS, lambda n: _once(n) and min(n, default=0) >= 1)] = None


@dataclass(kw_only=True)
class Settings:
    """Every key of the configuration. The module that a choice names has the keys of a group in its `Options`."""

    dataset: Any
    model: Any
    decoder: Any
    executor: Any
    vad: Any
    run_dir: str | None
    stages: Annotated[list[str], _some_of("manifest", "vad", "infer", "decode", "align", "score", "report", "compact")]
    outputs: Annotated[list[str], _some_of("transcripts", "emissions", "features")]
    device: Annotated[str, _DEVICE]
    threads: Annotated[int | None, Rule("a whole number from 1 to 1024, or null", lambda n: 1 <= n <= 1024)]
    precision: Annotated[str, _one_of("auto", "fp32", "bf16", "fp16")]
    features: _FeatureSettings
    emissions: _EmissionSettings
    batch: _BatchSettings
    chunk: _ChunkSettings
    channels: Annotated[str, _one_of("mix", "first", "each")]
    shard: _ShardSettings
    loader: _LoaderSettings
    decode: _DecodeSettings
    align: _AlignSettings
    score: ScoreSettings
    report: ReportSettings
    compact: _CompactSettings
    metrics: _MetricsSettings
    max_failures: Annotated[int | None, Rule("a whole number, 0 or more, or null", lambda n: 0 <= n <= 1e12)]
    retry_failed: bool
    extend: Annotated[str, _one_of("auto", "check", "off")]
    redo_changed: bool


def _rules(schema: Any, prefix: str = "") -> Iterator[tuple[str, Rule]]:
    for name, hint in get_type_hints(schema, include_extras=True).items():
        if is_dataclass(hint):
            yield from _rules(hint, f"{prefix}{name}.")
        for rule in getattr(hint, "__metadata__", ()):
            yield f"{prefix}{name}", rule


RULES = {**dict(_rules(Settings)), "model.sha256": Rule("null, or 64 lower-case hexadecimal digits")}
"""What each key takes, by its full name."""


def check_values(values: Mapping[str, Any]) -> None:
    """Check every value that needs no more than the values themselves.

    Args:
        values: The values by their full keys.

    Raises:
        UserError: With the key, the value and what is allowed.
    """
    for key, rule in RULES.items():
        value: Any = values.get(key)
        for name in ([value] if isinstance(value, str) else value) if rule.names else ():
            one_of(key, name, rule.names)
        if value is not None and not rule.allows(value):
            said = f"[{','.join(map(str, value))}]" if isinstance(value, list) else value
            raise UserError(f"{key}={said}: must be {rule.words}")
    stages = values["stages"]
    if {"infer", "decode"} <= {*stages}:
        raise UserError(
            f"stages=[{','.join(stages)}]: infer decodes already; to decode again, run infer first, then the "
            "same command with stages=[decode,score,report]"
        )
    if {"decode", "compact"} <= {*stages}:
        raise UserError(
            f"stages=[{','.join(stages)}]: compact takes the tables of the run, not those of a decoding; run "
            "stages=[compact] by itself"
        )
    for key, usual in {"executor.name": "local", "executor.part": None}.items():
        if "decode" in stages and (value := values.get(key)) != usual:
            said = f"{key.removesuffix('.name')}={value}"
            raise UserError(f"{said}: the stage decode takes the whole run on this machine; leave {said} out")
    if {"infer", "align"} <= {*stages} and "emissions" not in values["outputs"]:
        raise UserError(
            f"outputs=[{','.join(values['outputs'])}]: the stage align reads stored emissions; add emissions to outputs"
        )
    seconds, context = values["chunk.seconds"], values["chunk.context_seconds"]
    if context > seconds / 4:
        raise UserError(
            f"chunk.context_seconds={context}: must be a quarter of chunk.seconds={seconds} at most, so that most of "
            f"what a chunk hears belongs to the chunk; add chunk.context_seconds={seconds / 4}, or less"
        )
