"""Write the reference of `pipeline.results`: signatures and docstrings of its public names."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import docstrings

from pipeline import results

_WIDTH = 88
"""Columns of a signature that fit beside the site's own."""


def reference() -> str:
    """The page, in Markdown."""
    return "\n\n".join(part for name in sorted(results.__all__, key=_order) for part in _documented(name))


def _order(name: str) -> tuple[bool, str]:
    """Functions, then the classes they give."""
    return inspect.isclass(getattr(results, name)), name


def _documented(name: str) -> Iterator[str]:
    exported = getattr(results, name)
    if not inspect.isclass(exported):
        yield _entry("##", name, _signature(name, exported), exported)
        return
    yield _entry("##", name, f"class {name}", exported)
    for member, value in _members(exported):
        if isinstance(value, (property, cached_property)):
            getter = value.fget if isinstance(value, property) else value.func
            yield _entry("###", f"{name}.{member}", f"{member}: {_annotation(getter)}", getter)
        elif inspect.isfunction(value):
            yield _entry("###", f"{name}.{member}", _signature(member, value), value)


def _members(of: type) -> Iterator[tuple[str, Any]]:
    """Public members in the order of the source, after those of base classes in this package."""
    seen: dict[str, Any] = {}
    for base in reversed(of.__mro__):
        if base.__module__.startswith(results.__name__):
            for name, value in vars(base).items():
                if not name.startswith("_") and (callable(value) or isinstance(value, (property, cached_property))):
                    seen[name] = value
    yield from seen.items()


def _annotation(function: Any) -> str:
    return str(inspect.get_annotations(function).get("return", "Any"))


def _signature(name: str, function: Any) -> str:
    """A call as its source has it, a parameter a line where it is long."""
    # Annotations are text already, which `str` of a signature quotes; a default keeps its quotes.
    shown = re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(function)))
    shown = re.sub(r"^\(self(?:, )?", "(", shown)
    if len(name + shown) > _WIDTH:
        parameters, arrow, result = shown[1:].rpartition(") -> ")
        lines = re.split(r", (?=\*{0,2}\w+:|/|\*,)", parameters)
        shown = "".join(["(\n", *(f"    {line},\n" for line in lines), arrow, result])
    return f"{name}{shown}"


def _entry(level: str, anchor: str, shown: str, of: Any) -> str:
    title = anchor.rpartition(".")[2]
    parts = [f"{level} `{title}` {{ #{anchor} }}", f"```python\n{shown}\n```"]
    for heading, body in docstrings.sections(of).items():
        if not heading:
            parts.append(body.strip())
        elif heading in ("Example", "Examples"):
            parts.append(f"```python\n{body}\n```")
        else:
            listed = docstrings.items(body)
            text = "\n".join(f"- `{name}`: {said}" for name, said in listed) if listed else " ".join(body.split())
            parts.append(f"**{'Arguments' if heading == 'Args' else heading}**\n\n{text}")
    return "\n\n".join(part for part in parts if part)
