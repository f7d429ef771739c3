"""The built package, installed without the checkout in sight, does the work from any directory.

Nothing is downloaded: hatchling, of the `dev` extra, builds; the installed package finds what it needs in the
environment of the tests.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pandas as pd
import pytest
import running

from pipeline import __version__
from pipeline.results import open_run
from pipeline.stages import identity

SOURCES = ("pipeline", "conf")


def build(kind: str, source: Path, out: Path) -> Path:
    """The wheel or the sdist of a source tree, as `pip` has it built."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(out)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=120)
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a release is built from, without what tools and runs leave in a working directory."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in (*SOURCES, "scripts", "tests"):
        shutil.copytree(running.ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in running.ROOT.iterdir():
        if path.is_file() and path.name in ("LICENSE", "pyproject.toml", "constraints.txt", "Makefile", ".gitignore"):
            shutil.copy(path, folder)
    for path in running.ROOT.glob("*.md"):
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", checkout, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has the wheel, read-only, and knows nothing of the checkout."""
    folder = tmp_path_factory.mktemp("installed") / "an environment"
    venv.create(folder)
    site = Path(sysconfig.get_path("purelib", "venv", vars={"base": str(folder)}))
    # A folder named in a .pth is not searched for other .pth, so an editable install of the checkout stays out.
    (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    target = ["--no-deps", "--no-index", "--target", str(site), str(wheel)]
    subprocess.run([*install, *target], check=True, capture_output=True, timeout=240)
    for path in (site, *site.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o222)
    return folder / "bin" / "python"


def execute(python: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VOICES_ROOT")}
    command = [str(python), "-m", *arguments]
    return subprocess.run(
        command, cwd=cwd, env=environment | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240
    )


SEVERAL = """
import importlib, json, sys
for module, *arguments in json.loads(sys.argv[1]):
    try:
        code = importlib.import_module(module).main(arguments)
    except SystemExit as ended:
        code = ended.code
    assert not code, (module, arguments, code)
    print(end="\\0", flush=True)
"""


def several(python: Path, *commands: list[str], cwd: Path) -> list[str]:
    """What commands print that end well, one after the other in one interpreter: importing takes longest."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VOICES_ROOT")}
    ended = subprocess.run(
        [str(python), "-c", SEVERAL, json.dumps(commands)], cwd=cwd, env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.split("\0")[:-1]


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def metadata(wheel: Path) -> Message:
    return message_from_bytes(contents(wheel)[f"overnight_speech-{__version__}.dist-info/METADATA"])


def test_the_wheel_holds_the_code_the_configuration_and_what_is_shipped_and_nothing_else(
    checkout: Path, wheel: Path
) -> None:
    expected = {}
    for source, target in (("pipeline", "pipeline"), ("conf", "pipeline/conf")):
        for path in (checkout / source).rglob("*"):
            if path.is_file():
                expected[f"{target}/{path.relative_to(checkout / source).as_posix()}"] = path.read_bytes()
    found = {name: data for name, data in contents(wheel).items() if ".dist-info/" not in name}
    assert sorted(found) == sorted(expected)
    assert found == expected
    kinds = {"", ".py", ".bash", ".yaml", ".json", ".md", ".csv", ".flac", ".wav", ".safetensors"}
    assert {Path(name).suffix for name in found} <= kinds | {".html", ".css", ".js"}
    for name in ("conf/config.yaml", "shipped/model/model.safetensors", "shipped/digits/transcripts.csv"):
        assert f"pipeline/{name}" in found


def test_the_sdist_builds_the_same_wheel(checkout: Path, wheel: Path, tmp_path: Path) -> None:
    sdist = build("sdist", checkout, tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    assert contents(build("wheel", source, tmp_path / "wheel")) == contents(wheel)


def test_the_image_gets_the_files_that_the_package_is_built_from_and_no_others(
    checkout: Path, wheel: Path, tmp_path: Path
) -> None:
    lines = (running.ROOT / "Dockerfile").read_text().splitlines()
    copied = [name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]]
    for name in copied:
        copy = shutil.copytree if (checkout / name).is_dir() else shutil.copy
        copy(checkout / name, tmp_path / name)
    ignored = (running.ROOT / ".dockerignore").read_text().splitlines()
    assert sorted(line.removeprefix("!") for line in ignored if line.startswith("!")) == sorted(copied)
    assert contents(build("wheel", tmp_path, tmp_path / "wheel")) == contents(wheel)


def test_the_licence_of_everything_shipped_is_in_the_metadata(wheel: Path) -> None:
    found = metadata(wheel)
    licences = {name for name in contents(wheel) if ".dist-info/licenses/" in name}
    assert {name.rpartition(".dist-info/licenses/")[2] for name in licences} == {*found.get_all("License-File")}
    shipped = {path.name for path in running.SHIPPED.iterdir() if path.is_dir()}
    assert {f"pipeline/shipped/{name}/LICENSE.md" for name in shipped} | {"LICENSE"} == {*found.get_all("License-File")}
    assert found["License-Expression"] == "BSD-2-Clause"


def test_the_metadata_says_version_python_and_needs(wheel: Path) -> None:
    found = metadata(wheel)
    assert (found["Name"], found["Version"]) == ("overnight-speech", __version__)
    assert found["Requires-Python"] == ">=3.11"
    assert found["Description-Content-Type"] == "text/markdown"
    assert found.get_payload().startswith("# Overnight speech")
    needed = {re.split(r"[<>=]", line)[0] for line in found.get_all("Requires-Dist") if "extra ==" not in line}
    assert {"torch", "torchaudio", "hydra-core", "pyarrow"} <= needed
    assert not {"pytest", "hatchling", "ruff"} & needed


@pytest.mark.slow
def test_an_installed_package_transcribes_the_digits_from_any_directory(python: Path, tmp_path: Path) -> None:
    cwd = tmp_path / "any where"
    cwd.mkdir()
    before = snapshot(python)
    given = ["dataset=digits", "report.utterances=1"]
    ended = execute(python, "pipeline.run", *given, cwd=cwd)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert re.search(r"WER 0\.0", ended.stdout)
    run_dir = cwd / "runs" / "digits" / "digits"
    assert len(pd.read_parquet(run_dir / "transcripts")) == 60
    paths = open_run(run_dir).manifest["path"]
    assert all(str(running.ROOT) not in path for path in paths)
    running.assert_accounting(run_dir)
    status, again = several(python, ["pipeline.status", str(run_dir)], ["pipeline.run", *given], cwd=cwd)
    assert "done     60 of 60 utterances" in status
    assert "complete already" in again
    assert snapshot(python) == before  # nothing was written where it is installed
    assert [path.name for path in cwd.iterdir()] == ["runs"]


def test_an_installed_package_helps_and_takes_files_of_ones_own(python: Path, tmp_path: Path) -> None:
    (tmp_path / "my conf" / "dataset").mkdir(parents=True)
    (tmp_path / "my conf" / "dataset" / "mycalls.yaml").write_text("defaults: [folder]\nroot: .\n")
    helped, shown, version, composed, status = several(
        python,
        ["pipeline.run", "--help"],
        ["pipeline.run", "--help", "dataset=folder"],
        ["pipeline.run", "--version"],
        ["pipeline.run", "-cd", "my conf", "dataset=mycalls", "--cfg", "job"],
        ["pipeline.status", "--help"],
        cwd=tmp_path,
    )
    assert "dataset=digits" in helped
    assert f"({python.parent.parent}" in shown
    assert version == f"overnight-speech {__version__}\n"
    assert "connector: folder" in composed
    assert status.startswith("usage: ")


def test_an_installed_package_records_its_versions(python: Path, tmp_path: Path) -> None:
    script = tmp_path / "said.py"
    script.write_text("from pipeline.stages import identity\nprint(identity.versions(), identity.__file__)\n")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    ended = subprocess.run([python, script], env=environment, cwd=tmp_path, capture_output=True, text=True)
    said, _, file = ended.stdout.rpartition("} ")
    assert f"{said}}}" == str(identity.versions())
    assert file.startswith(str(python.parent.parent))


def snapshot(python: Path) -> set[tuple[str, int]]:
    """Every installed file of the project, and when it was written."""
    return {(str(path), path.stat().st_mtime_ns) for path in python.parent.parent.rglob("*")}
