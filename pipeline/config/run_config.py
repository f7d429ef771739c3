"""The checked configuration of a run. It is checked once and whole, before anything heavy is imported.

`load` turns command-line overrides into a frozen `RunConfig`, or raises `UserError` with one line that names the key,
the value, the reason and what is allowed. Nothing here instantiates a `_target_`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pipeline.config.compose import compose, naming, read
from pipeline.config.groups import DETECTORS, OwnConf
from pipeline.config.schema import Settings, check_values
from pipeline.config.user_files import Value, flat
from pipeline.datasets import CONNECTORS, Connector
from pipeline.decoding import identity_of, paths_of
from pipeline.decoding.alignment.numbers import Numbers
from pipeline.models import selection
from pipeline.models.facts import ModelFacts
from pipeline.models.sources import SOURCES, ModelSource
from pipeline.runtime.errors import UserError
from pipeline.runtime.places import Place, Url, filesystem, place
from pipeline.runtime.redaction import mask_secrets
from pipeline.vad import Detector


@dataclass(frozen=True)
class RunConfig:
    """A checked configuration.

    Attributes:
        settings: The typed settings.
        dataset: The connector, which has checked its own options.
        dataset_options: The connector's options as plain values, for the record.
        source: The source of the model.
        detector: Finds speech; `None` with `vad=none`.
        layers: The layers whose features are asked for, ascending; empty where features are not.
        run_dir: The folder for the tables.
        yaml: The resolved configuration, secrets masked.
        arguments: Arguments of `python -m pipeline.run` that give this configuration, secrets not masked.
    """

    settings: Settings
    dataset: Connector
    dataset_options: dict[str, Any]
    source: ModelSource
    detector: Detector | None
    layers: tuple[int, ...]
    run_dir: Place
    yaml: str
    arguments: tuple[str, ...]

    @property
    def model(self) -> ModelFacts:
        """What is known of the chosen model."""
        return self.source.facts

    @property
    def makes_segments(self) -> bool:
        """Whether the manifest is to be made of stretches of speech."""
        return {"manifest", "vad"} <= {*self.settings.stages}

    @property
    def identity_options(self) -> dict[str, Any]:
        """The options of the model and of the decoder that identify a run: `model.labels` and the like.

        Files of the decoder stand there with the SHA-256 of their content, so a run continues after they were moved.
        """
        options: dict[str, Any] = self.source.identity()
        if "transcripts" in self.settings.outputs:
            options |= self.decoder_options
        return options

    @property
    def decoding(self) -> str:
        """The name of what the stage `decode` makes."""
        return self.settings.decode.name or self.settings.decoder.name

    @cached_property
    def decoder_options(self) -> dict[str, Any]:
        """The options of the decoder, which identify transcripts: `decoder.beam_size` and the like."""
        return identity_of(self.settings.decoder)

    @property
    def decoder_files(self) -> dict[str, str]:
        """The absolute paths of the decoder's files, by their keys in `decoder_options`."""
        return paths_of(self.settings.decoder)


def load(overrides: Sequence[str], own: OwnConf | None = None) -> RunConfig:
    """Compose and check the configuration of `key=value` as typed, and of the person's own files.

    Raises:
        UserError: Anything that is wrong, in one line, which begins with the file that it stands in, if any.
    """
    return _load([value for text in overrides for value in read(text)], own)


def load_sweep(overrides: Sequence[str], own: OwnConf | None = None) -> list[RunConfig]:
    """Compose and check the configurations of a sweep: every combination of values, the last key changing first.

    Raises:
        UserError: As `load`; or two runs would write to the same folder.
    """
    configs: dict[Place, RunConfig] = {}
    for typed in itertools.product(*(read(text, sweep=True) for text in overrides)):
        config = _load(typed, own)
        resolved = config.run_dir.resolve()
        if resolved in configs:
            raise UserError(
                f"run_dir={config.run_dir}: two runs of the sweep would write to it; give each a folder of its own, "
                f"by a value that differs, such as run_dir='out/${{model.name}}' or run_dir='out/${{features.dtype}}'"
            )
        configs[resolved] = config
    return list(configs.values())


def load_decoders(choice: str, overrides: Sequence[str]) -> list[Any]:
    """Check every combination of values of a decoder's options, such as `decoder.lm_weight=1,2`.

    Args:
        choice: The choice of the group `decoder`.
        overrides: Values of keys of the decoder, as typed.

    Returns:
        The options of each combination, as the decoder's `Options`.

    Raises:
        UserError: As `load`.
    """
    given = [read(text, sweep=True) for text in overrides]
    chosen = read(f"decoder={choice}")[0]
    return [_decoder_options([chosen, *typed]) for typed in itertools.product(*given)]


def _decoder_options(typed: Sequence[Value]) -> Any:
    composed, given = compose(typed)
    with naming(given):
        return OmegaConf.to_object(composed.decoder)


def _load(typed: Sequence[Value], own: OwnConf | None) -> RunConfig:
    composed, given = compose(typed, own)
    with naming(given):
        return _checked(composed, (*(own.arguments if own else ()), *(item.typed for item in typed)))


def _checked(composed: DictConfig, arguments: tuple[str, ...]) -> RunConfig:
    plain: dict[str, Any] = OmegaConf.to_container(composed)  # type: ignore[assignment]
    values = dict(flat(plain))
    if missing := sorted(key for key, value in values.items() if value == "???"):
        raise UserError(f"{missing[0]} is required and has no default; add {missing[0]}=...")
    check_values(values)
    settings: Settings = OmegaConf.to_object(composed)  # type: ignore[assignment]
    model = settings.model
    source: ModelSource = SOURCES.load(model.source).Source(model.name, model)
    if "infer" in settings.stages:
        source.check_file()
    if "align" in settings.stages and settings.align.numbers is not None:
        Numbers(settings.align.numbers)
    selection.check_outputs(source.facts, settings.outputs, takes_labels=hasattr(model, "labels"))
    layers = selection.select_layers(source.facts, settings.features.layers) if "features" in settings.outputs else ()
    shown = set(settings.report.layers or ()) if {"infer", "report"} <= {*settings.stages} else set()
    if not shown <= {*layers}:  # said now, not after hours of work
        raise UserError(
            f"report.layers={settings.report.layers}: shows features that the run does not store; "
            f"it stores those of layers {list(layers)}, by features.layers= and outputs="
        )
    detector = _detector(settings)
    dataset: Connector = CONNECTORS.load(settings.dataset.connector).Dataset(settings.dataset)
    _check_headers(settings)
    run_dir = place(settings.run_dir) if settings.run_dir else Path("runs") / dataset.run_name / source.run_name
    _check_run_dir(run_dir)
    plain["run_dir"] = settings.run_dir or str(run_dir)
    for key, value in flat(mask_secrets(plain)):
        if value != values[key]:
            OmegaConf.update(composed, key, value)
    return RunConfig(
        settings=settings,
        dataset=dataset,
        dataset_options=asdict(settings.dataset),
        source=source,
        detector=detector,
        layers=layers,
        run_dir=run_dir,
        yaml=OmegaConf.to_yaml(composed),
        arguments=arguments,
    )


def _detector(settings: Settings) -> Detector | None:
    """Return the detector of speech; `None` with `vad=none`.

    Raises:
        UserError: The stages do not fit `vad=`, or the package of the detector is not installed.
    """
    name, stages = settings.vad.name, ",".join(settings.stages)
    if name == "none":
        if "vad" in settings.stages:
            raise UserError(f"stages=[{stages}]: the stage vad needs a detector of speech; add vad=silero")
        return None
    if "manifest" in settings.stages and "vad" not in settings.stages:
        raise UserError(f"stages=[{stages}]: vad={name} makes segments in the stage vad; add vad, or set vad=none")
    detector: Detector = DETECTORS.load(name).Detector(settings.vad)
    return detector


def _check_headers(settings: Settings) -> None:
    """Refuse settings for which the manifest needs every header, if the headers are not to be read."""
    if getattr(settings.dataset, "read_headers", True) or "manifest" not in settings.stages:
        return
    for key, value, usual in (("channels", settings.channels, ("mix", "first")), ("vad", settings.vad.name, ("none",))):
        if value not in usual:
            raise UserError(f"{key}={value}: needs the headers of all recordings; leave out dataset.read_headers=false")


def _check_run_dir(run_dir: Place) -> None:
    if isinstance(run_dir, Url):
        if run_dir.protocol == "hf":
            raise UserError(f"run_dir={run_dir}: a run cannot be written to hf://; give a folder, or s3://BUCKET/NAME")
        filesystem(run_dir)  # refuses a store whose package is not installed
        return
    try:
        is_file = any(path.exists() and not path.is_dir() for path in (run_dir, *run_dir.parents))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"run_dir={run_dir}: cannot be used ({reason}); give another folder") from None
    if is_file:
        raise UserError(f"run_dir={run_dir}: is a file, or below one; give a folder, or a name that does not exist yet")
