"""Write the reference of the commands: the text that each command prints for `--help`."""

from __future__ import annotations

import importlib
import io
from contextlib import redirect_stdout
from pathlib import Path

import pipeline

_ORDER = (
    *("run", "status", "verify", "report", "compare", "tune", "lm", "export", "import", "sample", "duplicates", "plot"),
    "models",
)


def names() -> list[str]:
    """Modules that `python -m pipeline.NAME` runs; those that a person meets first come first."""
    folder = Path(pipeline.__file__).parent
    found = {path.stem for path in folder.glob("*.py") if '__name__ == "__main__"' in path.read_text()}
    found |= {path.parent.name for path in folder.glob("*/__main__.py")}
    return sorted(found, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name))


def page(name: str) -> str:
    """What `python -m pipeline.NAME --help` prints."""
    module = importlib.import_module(f"pipeline.{name}")
    if not hasattr(module, "main"):
        module = importlib.import_module(f"pipeline.{name}.__main__")
    printed = io.StringIO()
    with redirect_stdout(printed):
        module.main(["--help"])
    return printed.getvalue().rstrip()


def reference() -> str:
    """The page, in Markdown."""
    return "\n\n".join(f"## `pipeline.{name}` {{ #{name} }}\n\n```text\n{page(name)}\n```" for name in names())
