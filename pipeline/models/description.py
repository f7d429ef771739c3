"""Describes a checkpoint of transformers: what it is, whether it can be run, and how. Fetches no weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.models import sources
from pipeline.models.facts import ModelFacts
from pipeline.models.huggingface import hub
from pipeline.models.huggingface.card import CARD, read_card
from pipeline.models.huggingface.folder import Folder, adapter_names
from pipeline.models.huggingface.vocabulary import languages
from pipeline.runtime.errors import UserError
from pipeline.runtime.terminal import printable

_SHOWN = 12


def describe_checkpoint(typed: str) -> dict[str, Any]:
    """What is known of a checkpoint, as plain values.

    Args:
        typed: A folder, or `owner/name` or `owner/name@revision` of a repository, whose small files are fetched.

    Returns:
        The values. `refused` says why it cannot be run, and is `None` if it can, as far as the small files tell. The
        outputs, labels and sizes are there only if it can be run. `labels` are empty if each language has its own.

    Raises:
        UserError: There is no such checkpoint, or it cannot be fetched.
    """
    folder = hub.find(typed, more=[CARD])
    facts, refused, kind = None, None, None
    names: list[str] = []
    try:
        kind = (folder.find("config.json") or {}).get("architectures")
        names = languages(folder)
        facts = _facts(folder, names)
    except UserError as error:
        refused = str(error).removeprefix(f"model.checkpoint={folder.path}: ").removeprefix(f"{folder.said}: ")
    known = {
        "checkpoint": typed,
        "source": folder.pinned or str(folder.path),
        "class": kind[0] if isinstance(kind, list) and kind else None,
        "refused": refused,
        "languages": names,
        **read_card(folder),
    }
    if facts is None:
        return known
    return known | {
        "outputs": outputs(facts).split(", "),
        "labels": [] if len(names) > 1 else list(facts.labels),
        "sample_rate": facts.sample_rate,
        "layers": facts.num_layers,
        "dim": facts.dim,
        "parameters": facts.num_params,
    }


def outputs(facts: ModelFacts) -> str:
    """What a model gives."""
    if facts.transcribes:
        return "transcripts, emissions, features"
    return "emissions, features" if facts.labels else "features"


def rows(known: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what `describe_checkpoint` says, as names and texts to print."""
    yield "source", known["source"]
    yield "class", str(known["class"] or "")
    yield "can be run", "yes" if known["refused"] is None else f"no: {known['refused']}"
    if known["refused"] is None:
        yield "outputs", ", ".join(known["outputs"])
        own = "each language has its own" if len(known["languages"]) > 1 else "none"
        yield "labels", f"{len(known['labels'])}: {' '.join(known['labels'])}" if known["labels"] else own
    yield "languages", _some(known["languages"])
    if known["refused"] is None:
        yield "sample rate", f"{known['sample_rate'] / 1000:g} kHz"
        yield "layers x dim", f"{known['layers']} x {known['dim']}"
        yield "parameters", f"{known['parameters'] / 1e6:,.1f} M"
    yield "language", known["language"] or "its card does not say"
    yield "licence", known["licence"] or "its card does not say"
    if known["refused"] is None:
        language = "model.language=NAME " if known["languages"] else ""
        use = f"model=huggingface model.checkpoint={known['checkpoint']} {language}dataset=..."
        yield "use", f"python -m pipeline.run {use}"


def lines(name: str, described: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yield a name, and below it what is known, in two columns; without what is empty."""
    yield printable(name)
    width = max(len(key) for key, _ in described) + 2
    yield from (f"  {key.ljust(width)}{printable(value)}" for key, value in described if value)


def _some(names: Sequence[str]) -> str:
    if not names:
        return ""
    return f"{len(names)}: {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"


def _facts(folder: Folder, names: Sequence[str]) -> ModelFacts:
    """The facts of a checkpoint that can be run, as far as its files tell.

    Raises:
        UserError: It cannot be run, with the reason.
    """
    # Of several languages, the first one whose weights are here stands for all.
    here = [name for name in names if any((folder.path / file).is_file() for file in adapter_names(name))]
    language = next(iter(here or names), None)
    source = sources.named("huggingface", checkpoint=str(folder.path), language=language)
    if folder.pinned is None:
        source.check_file()
    return source.facts
