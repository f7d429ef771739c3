"""Turn a notebook with its outputs into a page of the guide."""

from __future__ import annotations

import json
import re
from typing import Any

SHELL = re.compile(r"^%%sh\n")


def page(source: str, file: str) -> str:
    """Return the Markdown of a notebook: its text, its code, and its outputs as text, tables, sound and pictures.

    Args:
        source: The text of the notebook's file.
        file: The name of the file, for a link to download it.
    """
    [title, *cells] = json.loads(source)["cells"]
    download = f'This page is a notebook with its outputs: <a href="{file}" download>{file}</a>.'
    return "\n\n".join(["".join(title["source"]), download, *map(_cell, cells)]) + "\n"


def _cell(cell: dict[str, Any]) -> str:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return source
    command = SHELL.sub("", source)
    language = "python" if command == source else "sh"
    return "\n\n".join([f"```{language}\n{command}\n```", *map(_output, cell["outputs"])])


def _output(output: dict[str, Any]) -> str:
    data = {kind: "".join(text) for kind, text in output.get("data", {}).items()}
    if "image/png" in data:
        png = "".join(data["image/png"].split())
        return f'<img alt="The picture that this code draws" src="data:image/png;base64,{png}">'
    if "text/html" in data:
        return f'<div class="output">{_plain(data["text/html"])}</div>'
    return f"```text\n{''.join(output.get('text', data.get('text/plain', ''))).rstrip()}\n```"


def _plain(text: str) -> str:
    """Return HTML without the styles of pandas and IPython, in one line: Markdown ends HTML at an empty line."""
    text = re.sub(
        r"<style.*?</style>|</?div>| border=\"1\" class=\"dataframe\"| style=\"[^\"]*\"", "", text, flags=re.DOTALL
    )
    return re.sub(r"\s*\n\s*", " ", text).strip()
