"""Typed configuration: composed by Hydra, checked once and whole, before anything heavy is imported.

`load` turns command-line overrides into a frozen `RunConfig` or raises `UserError` with one line that names
the key, the value, the reason and what is allowed. Nothing here instantiates a `_target_`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline import datasets
from pipeline.config.compose import compose_typed
from pipeline.config.groups import OwnConf
from pipeline.config.schema import (
    ALLOWED,
    CHANNELS,
    DEVICES,
    DTYPES,
    MAX_SHOWN,
    NORMALISERS,
    OUTPUTS,
    PRECISIONS,
    STAGES,
    ModelSettings,
    Settings,
)
from pipeline.models import selection, sources
from pipeline.models.facts import ModelFacts
from pipeline.models.sources import ModelSource
from pipeline.runtime.errors import UserError, explain, one_of
from pipeline.runtime.redaction import mask_secrets

MIN_CHUNK_S = 1.0
"""Shorter than this, a chunk is hardly a word."""


@dataclass(frozen=True)
class RunConfig:
    """A checked configuration.

    Attributes:
        settings: The typed settings.
        dataset: The connector, which has checked its own options.
        dataset_options: The connector's options as plain values, for the record.
        source: Where the chosen model comes from.
        layers: The layers whose features are asked for, ascending; empty where features are not.
        run_dir: Where the tables go.
        yaml: The resolved configuration, secrets masked.
    """

    settings: Settings
    dataset: datasets.Connector
    dataset_options: dict[str, Any]
    source: ModelSource
    layers: tuple[int, ...]
    run_dir: Path
    yaml: str

    @property
    def model(self) -> ModelFacts:
        """What is known of the chosen model."""
        return self.source.facts

    @property
    def result_settings(self) -> dict[str, Any]:
        """The settings that change results: they are part of the fingerprint."""
        settings = self.settings
        result: dict[str, Any] = {
            "outputs": sorted(settings.outputs),
            "channels": settings.channels,
            "chunk.seconds": settings.chunk.seconds,
            "chunk.context_seconds": settings.chunk.context_seconds,
        }
        if self.layers:
            result |= {"features.layers": list(self.layers), "features.dtype": settings.features.dtype}
        if "emissions" in settings.outputs:
            result["emissions.dtype"] = settings.emissions.dtype
        if "transcripts" in settings.outputs:
            result["decoder"] = settings.decoder.name
        return result | self.source.identity()


def load(overrides: Sequence[str], own: OwnConf | None = None) -> RunConfig:
    """Compose and check the configuration.

    Args:
        overrides: `key=value` as typed on the command line.
        own: The person's own configuration files.

    Raises:
        UserError: Anything that is wrong, in one line, which begins with the file that it stands in, if any.
    """
    composed = compose_typed(overrides, Settings, ALLOWED, own)
    with composed.files.named(composed.typed):
        return _checked(composed.config)


def _checked(composed: DictConfig) -> RunConfig:
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise UserError(f"{missing[0]} is required and has no default; add {missing[0]}=...")
    settings: Settings = OmegaConf.to_object(composed)  # type: ignore[assignment]
    _check_choices(settings)
    source = _source(settings.model)
    if "infer" in settings.stages:
        source.check_file()
    model = source.facts
    selection.check_outputs(model, settings.outputs, takes_labels=settings.model.source == "checkpoint")
    layers = selection.select_layers(model, settings.features.layers) if "features" in settings.outputs else ()
    shown = set(settings.report.layers or ()) if {"infer", "report"} <= {*settings.stages} else set()
    if not shown <= {*layers}:  # said now, and not in the morning
        raise UserError(
            f"report.layers={settings.report.layers}: shows features that the run does not store; "
            f"it stores those of layers {list(layers)}, by features.layers= and outputs="
        )
    dataset, options = _dataset(composed)
    run_dir = Path(settings.run_dir) if settings.run_dir else Path("runs") / dataset.run_name / model.name
    composed.run_dir = settings.run_dir or str(run_dir)
    _check_run_dir(run_dir)
    return RunConfig(
        settings=settings,
        dataset=dataset,
        dataset_options=options,
        source=source,
        layers=layers,
        run_dir=run_dir,
        yaml=OmegaConf.to_yaml(OmegaConf.create(mask_secrets(OmegaConf.to_container(composed)))),
    )


def _source(settings: ModelSettings) -> ModelSource:
    """Construct the source of the model, which checks its options."""
    module = sources.load_module(settings.source)
    names = [field.name for field in fields(module.Options)]
    given = {name: value for name, value in vars(settings).items() if name not in ("source", "name")}
    for key, value in given.items():
        if value is not None and key not in names:
            said = f"[{','.join(map(str, value))}]" if isinstance(value, list) else value
            raise UserError(
                f"model.{key}={said}: model={settings.name} has weights and labels of its own; "
                f"add model=checkpoint, or leave it out"
            )
    source: ModelSource = module.Source(settings.name, module.Options(**{name: given[name] for name in names}))
    return source


def _check_run_dir(run_dir: Path) -> None:
    try:
        is_file = any(path.exists() and not path.is_dir() for path in (run_dir, *run_dir.parents))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"run_dir={run_dir}: cannot be used ({reason}); give another folder") from None
    if is_file:
        raise UserError(f"run_dir={run_dir}: is a file, or below one; give a folder, or a name that does not exist yet")


def _dataset(composed: DictConfig) -> tuple[datasets.Connector, dict[str, Any]]:
    """Type the dataset's options by its connector and construct it, which checks roots and lists."""
    given = dict(OmegaConf.to_container(composed.dataset))  # type: ignore[arg-type]
    module = datasets.load(given.pop("connector"))
    try:
        typed = OmegaConf.merge(OmegaConf.structured(module.Options), given)
    except OmegaConfBaseException as error:
        key = (getattr(error, "full_key", "") or "").split("[")[0]
        found = OmegaConf.select(composed.dataset, key)
        value = "null" if found is None else found
        raise UserError(f"dataset.{key}={value}: {explain(error)}") from None
    for key, value in given.items():
        if isinstance(value, list) and any(isinstance(item, list | dict) for item in value):
            raise UserError(f"dataset.{key}={value}: must be a list of single values, such as [a,b]")
    options = OmegaConf.to_object(typed)
    plain: dict[str, Any] = OmegaConf.to_container(typed)  # type: ignore[assignment]
    return module.Dataset(options), plain


def _check_choices(settings: Settings) -> None:
    """Every check that needs no more than the values themselves."""
    one_of("decoder.name", settings.decoder.name, ["greedy"])
    one_of("precision", settings.precision, PRECISIONS)
    one_of("features.dtype", settings.features.dtype, DTYPES)
    one_of("emissions.dtype", settings.emissions.dtype, DTYPES)
    one_of("channels", settings.channels, CHANNELS)
    one_of("score.normaliser", settings.score.normaliser, NORMALISERS)
    _some_of("outputs", settings.outputs, OUTPUTS)
    _some_of("stages", settings.stages, STAGES)
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,2})?", settings.device):
        raise UserError(f"device={settings.device}: not a device; allowed are {DEVICES}")
    if settings.device == "cpu" and settings.precision in ("bf16", "fp16"):
        raise UserError(f"precision={settings.precision}: needs CUDA; on the CPU there is fp32 (or auto)")
    for key, number in (
        ("batch.max_seconds", settings.batch.max_seconds),
        ("chunk.seconds", settings.chunk.seconds),
        ("shard.hours", settings.shard.hours),
        ("loader.timeout_s", settings.loader.timeout_s),
    ):
        if number is not None and not 0 < number <= 1e6:
            raise UserError(f"{key}={number}: must be a number above 0, and 1e6 at most")
    if settings.chunk.seconds < MIN_CHUNK_S:
        raise UserError(f"chunk.seconds={settings.chunk.seconds}: must be {MIN_CHUNK_S:g} at least")
    context_s = settings.chunk.context_seconds
    if not 0 <= context_s <= settings.chunk.seconds / 4:
        raise UserError(
            f"chunk.context_seconds={context_s}: must be 0 or more, and a quarter of "
            f"chunk.seconds={settings.chunk.seconds} at most, so that a chunk has more of its own than of others"
        )
    for key, count in (("loader.workers", settings.loader.workers), ("max_failures", settings.max_failures)):
        if count is not None and count < 0:
            raise UserError(f"{key}={count}: must be 0 or more, or null")
    _check_shown(settings)


def _check_shown(settings: Settings) -> None:
    """What scores and report are asked to show. Which columns and layers a run has is seen once it is there."""
    by, layers, utterances = settings.score.by, settings.report.layers, settings.report.utterances
    if by is not None and not all(isinstance(name, str) and name for name in by):
        raise UserError(f"score.by={by}: must be {ALLOWED['score.by']}, such as [room,distractor,room+distractor]")
    if by is not None and len(set(by)) != len(by):
        raise UserError(f"score.by=[{','.join(by)}]: names one twice; give each once")
    if not 1 <= utterances <= MAX_SHOWN:
        raise UserError(f"report.utterances={utterances}: must be 1 to {MAX_SHOWN}, for the page holds their audio")
    if layers is not None and (min(layers, default=0) < 1 or len(set(layers)) != len(layers)):
        raise UserError(f"report.layers={layers}: must be null, or layers from 1 on, each once")


def _some_of(key: str, values: list[str], allowed: Sequence[str]) -> None:
    if not values:
        raise UserError(f"{key}=[]: nothing to do; give some of {', '.join(allowed)}")
    for value in values:
        one_of(key, value, allowed)
    if len(set(values)) != len(values):
        raise UserError(f"{key}=[{','.join(values)}]: names one twice; give each once")
