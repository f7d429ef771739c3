"""Renders a template to one self-contained HTML text. The reports of runs and of comparisons share it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from pipeline.runtime.progress import format_duration, format_hours


def render(
    template: str, context: Mapping[str, Any], package: str = "pipeline.report", scripts: Sequence[str] = ("report.js",)
) -> str:
    """Render a page.

    Args:
        template: Name of the template.
        context: Its variables. The style sheet, the script and their hashes are added.
        package: Package whose folder `templates` has the template. It may use those of `pipeline.report` too.
        scripts: Files of the script, in this order.
    """
    environment = _environment(package)
    shared = PackageLoader("pipeline.report")
    style, *parts = (shared.get_source(environment, name)[0] for name in ("report.css", *scripts))
    script = "\n".join(parts)
    return environment.get_template(template).render(
        **context, style=style, script=script, style_hash=_hash(style), script_hash=_hash(script)
    )


@cache
def _environment(package: str) -> Environment:
    """Return the environment for the templates of a package. It keeps what it compiles, for the next page."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("pipeline.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "hours": format_hours, "took": format_duration}
    return environment


def _hash(text: str) -> str:
    """Return the source expression that allows this text in the Content Security Policy (level 2) of the page."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _percent(rate: float | None, digits: int = 1, sign: str = "") -> str:
    return "?" if rate is None else f"{100 * rate:{sign}.{digits}f} %"
