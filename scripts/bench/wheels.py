"""Unpack the wheels of packages that are missing, and report the machine: `wheels.py WHEELS TARGET MACHINE_JSON`.

A machine without a network may lack a package, or have another version of it. Wheels can then lie in a folder beside
the tree. Only those wheels are unpacked whose package is missing or has another version, and only if they were built
for this Python. The exit code is 1 if a package that the pipeline needs cannot be imported afterwards.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

NEEDED = ("numpy", "pandas", "pyarrow", "rich", "yaml", "hydra", "omegaconf", "soundfile", "rapidfuzz", "jiwer")
"""Packages that a run needs, beside torch and torchaudio."""


def main(wheels: Path, target: Path, report: Path) -> int:
    target.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(target))  # before packages of another version
    for wheel in sorted(wheels.glob("*.whl")):
        print(f"{wheel.name}: {unpack(wheel, target)}", flush=True)
    importlib.invalidate_caches()
    facts: dict[str, Any] = {"packages": {}, **machine()}
    # torch takes longest to import, and the report so far is kept if the time runs out.
    for add in (imports, device):
        add(facts)
        report.write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts, indent=1))
    broken = {name: said for name, said in facts["packages"].items() if said.startswith("error")}
    for name, said in broken.items():
        print(f"{name}: {said}")
    return 1 if broken else 0


def unpack(wheel: Path, target: Path) -> str:
    """Unpack a wheel if it is needed and fits; returns what was done with it."""
    if not fits(wheel.name):
        return "was built for another Python"
    with zipfile.ZipFile(wheel) as archive:
        found = modules(archive.namelist())
        package, version = wheel.name.split("-")[:2]
        try:
            installed = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            installed = None
        if installed in (None, version) and all(find_spec(name) for name in found):
            return "is there already"
        archive.extractall(target)
    return f"unpacked, with {', '.join(found)}"


def fits(name: str, version: tuple[int, int] = sys.version_info[:2], architecture: str = platform.machine()) -> bool:
    """Return whether a wheel is for this Python on Linux, by its name."""
    pythons, abis, platforms = name.removesuffix(".whl").split("-")[-3:]
    if platforms != "any" and not ("linux" in platforms and architecture in platforms):
        return False
    for python in pythons.split("."):
        if python == "py3" or python == f"cp{version[0]}{version[1]}":
            return True
        if "abi3" in abis.split(".") and python.startswith("cp3") and int(python[3:]) <= version[1]:
            return True
    return False


def modules(names: Sequence[str]) -> list[str]:
    """Return the modules that a wheel with these files has, without the parts of packages."""
    found = set()
    for name in names:
        first, _, rest = name.partition("/")
        if first.endswith((".dist-info", ".data")) or not (rest or first.endswith((".py", ".so"))):
            continue
        found.add(first.partition(".")[0])
    return sorted(found)


def imports(facts: dict[str, Any]) -> None:
    for name in NEEDED:
        facts["packages"][name] = imported(name)


def device(facts: dict[str, Any]) -> None:
    """Add torch's packages and the CUDA device."""
    for name in ("torch", "torchaudio"):
        facts["packages"][name] = imported(name)
    if facts["packages"]["torch"].startswith("error"):
        return
    import torch

    facts["cuda"] = torch.version.cuda
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        facts["gpu"] = properties.name
        facts["gpu_memory_gib"] = round(properties.total_memory / 2**30, 1)
        facts["works"] = float(torch.ones(2, device="cuda").sum()) == 2


def imported(name: str) -> str:
    """Import a package; returns its version, or the error."""
    try:
        module = importlib.import_module(name)
    except Exception as error:  # noqa: BLE001 - a broken package may raise anything, and the others are to be tried
        return f"error: {type(error).__name__}: {error}"
    version = getattr(module, "__version__", None)
    return str(version) if version else importlib.metadata.version(name)


def machine() -> dict[str, Any]:
    """Facts about the machine that have stopped such programs before."""
    try:
        smi = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=5, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        smi = ""
    space = {place: shutil.disk_usage(place).free / 2**30 for place in (Path(), Path("/dev/shm")) if place.is_dir()}
    return {
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "free_gib": {str(place.resolve()): round(free, 2) for place, free in space.items()},
        "nvidia_smi": "; ".join(line.partition(" (UUID")[0] for line in smi.splitlines()),
    }


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
