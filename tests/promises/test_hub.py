"""Recordings in a dataset of Hugging Face (`hf://`) are read as those in a folder, and what goes wrong there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import hf
import pytest
from packing import recordings, write_parquet
from running import main, read

MODEL = ("model=digits", "outputs=[transcripts]", "stages=[manifest,infer]", "loader.workers=1")
PLACE = "hf://datasets/owner/calls"
pytestmark = pytest.mark.usefixtures("default_signals")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with recordings, a reference, a list and a Parquet file."""
    root = tmp_path_factory.mktemp("here") / "calls"
    found = recordings(3)
    for name, data in found.items():
        (root / "audio" / "monday").mkdir(parents=True, exist_ok=True)
        (root / "audio" / "monday" / name).write_bytes(data)
    (root / "audio" / "monday" / min(found)).with_suffix(".txt").write_text("one")
    write_parquet(
        root / "data" / "train.parquet",
        [{"audio": {"bytes": data, "path": name}, "text": "one"} for name, data in found.items()],
    )
    listed = [*(f"audio/monday/{name}" for name in found), "audio/none.flac"]
    (root / "list.csv").write_text("\n".join(["path", *listed]))
    return root


@pytest.fixture
def hub(here: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[hf.Hub]:
    """The same files on the hub, and nobody who is logged in."""
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    files = {path.relative_to(here).as_posix(): path.read_bytes() for path in here.rglob("*") if path.is_file()}
    with hf.serving(hf.Hub("owner/calls", files), monkeypatch) as found:
        yield found


CORPORA = {
    "folder": (["dataset=folder", "dataset.root={}/audio"], 0),
    "list": (["dataset=manifest", "dataset.path={}/list.csv"], 3),
    "parquet": (["dataset=manifest", "dataset.path={}/data/train.parquet"], 0),
}


@pytest.mark.parametrize("corpus", CORPORA)
def test_the_tables_are_those_of_the_same_files_in_a_folder(
    hub: hf.Hub, here: Path, tmp_path: Path, corpus: str
) -> None:
    given, code = CORPORA[corpus]
    for name, root in (("there", PLACE), ("here", str(here))):
        assert main([*(each.format(root) for each in given), *MODEL, f"run_dir={tmp_path / name}"]) == code
    for table in ("transcripts", "failures"):
        there, beside = (read(tmp_path / name, table) for name in ("there", "here"))
        same = [name for name in there.schema.names if name not in ("path", "message")]
        assert there.select(same).equals(beside.select(same))
    assert read(tmp_path / "there", "transcripts").num_rows == 3
    assert any(path.startswith("/datasets/owner/calls/resolve/") for _, path in hub.asked)


def test_a_private_dataset_needs_a_token_which_is_written_nowhere(
    hub: hf.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.private = True
    given = ["dataset=folder", f"dataset.root={PLACE}/audio", *MODEL, f"run_dir={tmp_path / 'run'}"]
    assert main(given) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        f"error: dataset.root={PLACE}/audio: no object has a name that begins so, or the store does "
    )
    assert error.endswith("check the credentials\n")
    monkeypatch.setenv("HF_TOKEN", hf.TOKEN)
    assert main(given) == 0
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not [path for path in written if hf.TOKEN.encode() in path.read_bytes()]


def test_a_recording_that_stalls_costs_its_row(hub: hf.Hub, tmp_path: Path) -> None:
    stalled = f"audio/monday/{min(recordings(3))}"
    hub.stalls.add(stalled)
    given = ["dataset=folder", f"dataset.root={PLACE}/audio", "loader.timeout_s=2"]
    assert main([*given, *MODEL, f"run_dir={tmp_path / 'run'}"]) == 3
    (failure,) = read(tmp_path / "run", "failures").to_pylist()
    assert (failure["id"], failure["error"]) == (stalled.removeprefix("audio/"), "timeout")
    assert read(tmp_path / "run", "transcripts").num_rows == 2


def test_what_is_not_there_is_one_line(hub: hf.Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for root in (f"{PLACE}/none", "hf://datasets/owner/other/audio"):
        assert main(["dataset=folder", f"dataset.root={root}", *MODEL, f"run_dir={tmp_path / 'run'}"]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: dataset.root={root}: ")
        assert error.count("\n") == 1
