"""`python -m pipeline.models [NAME]` lists the models, or describes one, or a checkpoint. Does not import torch."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from rich.text import Text

from pipeline.models import sources
from pipeline.models.catalog import BUNDLES, MODELS
from pipeline.models.description import describe_checkpoint, lines, outputs, rows
from pipeline.models.facts import ModelFacts
from pipeline.runtime.command import Parser, command
from pipeline.runtime.errors import one_of
from pipeline.runtime.stdout import console

_USAGE = "python -m pipeline.models [NAME | DIR | owner/name] [--json]"
_HEADINGS = ("model", "labels", "rate", "layers", "parameters", "download")
_FURTHER = ("language", "training data", "licence")
_GAP = "  "
_FLOAT32_BYTES = 4


def describe(facts: ModelFacts) -> dict[str, Any]:
    """What is known of a model, as plain values. The download is as large as the parameters in float32."""
    weights = sources.named(facts.name).weights_path
    return {
        "model": facts.name,
        "bundle": facts.name.upper() if facts.name in BUNDLES else None,
        "outputs": outputs(facts).split(", "),
        "sample_rate": facts.sample_rate,
        "labels": list(facts.labels),
        "language": facts.origin.language if facts.origin else None,
        "layers": facts.num_layers,
        "dim": facts.dim,
        "parameters": facts.num_params,
        "download_bytes": facts.num_params * _FLOAT32_BYTES if facts.name in BUNDLES else 0,
        "training_data": facts.origin.training_data if facts.origin else None,
        "licence": facts.origin.licence if facts.origin else None,
        "weights": str(weights),
        "here": weights.is_file(),
    }


def listing(width: int | None) -> Iterator[Text]:
    """The models by what they give, in lines.

    Args:
        width: Columns there are: where one line a model does not fit, it gets two. `None` for any number.
    """
    table = {name: [*_numbers(facts), *_words(facts)] for name, facts in MODELS.items()}
    widths = [max(map(len, column)) for column in zip((*_HEADINGS, *_FURTHER), *table.values(), strict=True)]
    numbers = len(_HEADINGS)
    width = width or sys.maxsize
    in_one = sum(widths) + len(_GAP) * (len(widths) - 1) <= width
    shown = len(widths) if in_one else numbers

    def line(cells: Sequence[str]) -> str:
        # Numbers stand right, words left.
        padded = [
            cell.rjust(room) if 0 < index < numbers else cell.ljust(room)
            for index, (cell, room) in enumerate(zip(cells[:shown], widths, strict=False))
        ]
        return _GAP.join(padded).rstrip()

    yield Text(line([*_HEADINGS, *_FURTHER]), style="bold")
    if not in_one:
        yield Text(_GAP + "; ".join(_FURTHER), style="bold")
    for given, members in groupby(MODELS.values(), outputs):
        yield Text()
        yield Text(given, style="bold cyan")
        for facts in members:
            yield Text(line(table[facts.name]))
            if not in_one:
                words = "; ".join(table[facts.name][numbers:])
                folded = textwrap.wrap(words, width, initial_indent=_GAP, subsequent_indent=2 * _GAP)
                yield Text("\n".join(folded), style="dim")
    yield Text()
    yield Text("Downloads are about so large; cached: the file is here already.")
    yield Text("CC BY-NC: not for commercial use.")
    yield Text("model=checkpoint loads a file of your own into any of these architectures.")
    yield Text("model=huggingface runs a checkpoint of transformers: a folder, or owner/name.")
    yield Text("`python -m pipeline.models owner/name` says whether it can be run.")


def details(facts: ModelFacts) -> Iterator[str]:
    """Yield what is known of one model, in lines."""
    known = describe(facts)
    *_, rate, layers, parameters, download = _numbers(facts)
    described = {
        "outputs": ", ".join(known["outputs"]),
        "labels": f"{len(facts.labels)}: {' '.join(facts.labels)}" if facts.labels else "none",
        "sample rate": rate,
        "layers x dim": layers,
        "parameters": parameters,
        "download": download,
        "weights": known["weights"],
        **dict(zip(_FURTHER, _words(facts), strict=True)),
        "use": f"python -m pipeline.run model={facts.name} dataset=...",
    }
    yield from lines(facts.name, [*described.items()])


def _numbers(facts: ModelFacts) -> list[str]:
    size = facts.num_params * _FLOAT32_BYTES
    download = f"{size / 1e6:.0f} MB" if size < 1e9 else f"{size / 1e9:.1f} GB"
    if sources.named(facts.name).weights_path.is_file():
        download = "cached" if facts.name in BUNDLES else "included"
    return [
        facts.name,
        str(len(facts.labels) or "-"),
        f"{facts.sample_rate / 1000:g} kHz",
        f"{facts.num_layers} x {facts.dim}",
        f"{facts.num_params / 1e6:,.1f} M" if facts.num_params < 1e7 else f"{facts.num_params / 1e6:,.0f} M",
        download,
    ]


def _words(facts: ModelFacts) -> list[str]:
    origin = facts.origin
    return ["", "", ""] if origin is None else [origin.language, origin.training_data, origin.licence]


def main(arguments: Sequence[str]) -> int:
    """List the models and return the exit code."""
    return command(arguments, f"usage: {_USAGE}", _list, "not every model is listed")


def _list(arguments: Sequence[str]) -> int:
    parser = Parser(_USAGE)
    parser.add_argument("name", nargs="?")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    out = console()
    if given.name is not None:
        known, described = _described(given.name)
        text = json.dumps(known, indent=1) if given.json else "\n".join(described)
        out.print(text, markup=False)
        return 0
    if given.json:
        out.print(json.dumps([describe(facts) for facts in MODELS.values()], indent=1), markup=False)
        return 0
    # A pipe has no width: each model gets one line, so that grep finds everything about a model.
    for line in listing(out.width if out.is_terminal else None):
        out.print(line)
    return 0


def _described(name: str) -> tuple[dict[str, Any], Iterator[str]]:
    """What is known of a model of the catalogue, or of a checkpoint: as plain values, and in lines."""
    if (facts := MODELS.get(name.lower())) is not None:
        return describe(facts), details(facts)
    if os.sep not in name and not os.path.exists(name):
        one_of("NAME", name.lower(), list(MODELS), "; or give a folder or owner/name of a checkpoint of transformers")
    known = describe_checkpoint(name)
    return known, lines(name, [*rows(known)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
