"""Run the notebook of the guide, and store what its cells give; `make notebook` does it.

The stored outputs do not say where or when they were made: they have no paths of a machine, no times of execution and
no name of a kernel. If a text differs from the stored one only in what varies from run to run (`VARYING`), the stored
one stays. So a second run leaves the file as it is.

Example:
    python -m scripts.docs.execute_notebook docs/tutorial.ipynb
"""

from __future__ import annotations

import argparse
import copy
import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 300
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
KEPT = ("text/plain", "text/html", "image/png")
VARYING = re.compile(
    # How fast a run was: its progress, of which a slow run says more, and what held it up.
    r"^.* x real time, .* left, .*\n|^.* held this run up.*\n|[\d.]+ x real time, in .*$"
    r"|\d\.\de[+-]\d\d"  # a difference of the size of rounding errors
    r"|(?<=;base64,)[A-Za-z0-9+/=]+",  # a sample of sound may be rounded the other way
    re.MULTILINE,
)
"""Parts of a text that differ from one run to the next, or from one processor to another."""


def executed(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """Return the notebook with the outputs of its cells, which run in `folder`, without a GPU.

    Raises:
        CellExecutionError: A cell ends with an error.
    """
    ran = copy.deepcopy(notebook)
    work, kernel = folder / "work", folder / "kernel"
    for path in (work, kernel):
        path.mkdir(parents=True)
    # Only the kernel of this Python counts, and nothing is read from or written to the user's home.
    manager = AsyncKernelManager(
        kernel_name="python3",
        kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
        connection_file=str(kernel / "connection.json"),
    )
    client = NotebookClient(
        ran,
        km=manager,
        timeout=TIMEOUT_S,
        resources={"metadata": {"path": str(work)}},
        extra_arguments=["--log-level=ERROR"],
        coalesce_streams=True,
    )
    paths = {
        name: os.pathsep.join([str(first), os.environ.get(name, "")]).strip(os.pathsep)
        for name, first in (("PATH", Path(sys.executable).parent), ("PYTHONPATH", ROOT))
    }
    client.execute(env={**os.environ, **paths, "CUDA_VISIBLE_DEVICES": "", "IPYTHONDIR": str(kernel)})
    for cell in ran.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [_normalised(output, f"{work}/") for output in cell.outputs]
    ran.metadata = nbformat.from_dict(METADATA)
    return ran


def refreshed(stored: NotebookNode, fresh: NotebookNode) -> NotebookNode:
    """Return `fresh` with the stored outputs where they say the same."""
    result = copy.deepcopy(fresh)
    before = {cell.id: cell.get("outputs", []) for cell in stored.cells}
    for cell in result.cells:
        for place, (old, new) in enumerate(zip(before.get(cell.id, []), cell.get("outputs", []), strict=False)):
            if masked(old) == masked(new) and "image/png" not in new.get("data", {}):
                cell.outputs[place] = old
    return result


def masked(output: NotebookNode) -> str:
    """Return what an output says: its texts without what varies. Of a picture, only that it is there."""
    texts = {**output.get("data", {}), output.get("name", "text"): output.get("text", "")}
    said = {kind: "" if kind == "image/png" else VARYING.sub("", text) for kind, text in texts.items()}
    return "\n".join(f"{kind}: {text}" for kind, text in sorted(said.items()))


def _normalised(output: NotebookNode, work: str) -> NotebookNode:
    """Take from an output what tells of the machine; `work` is the folder of the cells."""
    if output.output_type == "stream":
        lines = output.text.replace(work, "").splitlines()
        output.text = "".join(f"{line.rstrip()}\n" for line in lines)
    else:
        output.data = {kind: output.data[kind] for kind in KEPT if kind in output.data}
        output.metadata = {}
    return output


def main() -> int:
    """Run one notebook in a temporary folder and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path)
    path = parser.parse_args().notebook
    stored = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory(prefix="notebook-") as folder:
        try:
            fresh = executed(stored, Path(folder))
        except CellExecutionError as error:
            print(f"error: {path}: {error}", file=sys.stderr)
            return 1
    nbformat.write(refreshed(stored, fresh), path)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
