"""What a listing has read of recordings survives a kill, and is used only for files that are the same."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from running import DATA, main

from pipeline.audio import headers
from pipeline.audio.headers import Probed
from pipeline.records import AudioHeader
from pipeline.runtime.errors import UserError
from pipeline.storage import headers as stored
from pipeline.storage.headers import ProbedHeaders
from pipeline.storage.run_directory import RunDirectory

WAV = DATA / "fsdd" / "7_theo_1.wav"
HEADER = AudioHeader(8_000, 1, 2_892, 5_828)


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that gets the name of each recording whose header a process reads. Each header is stored at once."""
    log, read_header = tmp_path / "read", headers.read_header

    def noting(path: str, *given: object) -> AudioHeader:
        with open(log, "a") as file:
            file.write(Path(path).name + "\n")
        return read_header(path, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(headers, "read_header", noting)
    monkeypatch.setattr(stored, "STORED_EVERY_S", 0.0)
    return log


def names(log: Path) -> list[str]:
    found = sorted(log.read_text().split())
    log.unlink()
    return found


def test_a_listing_that_was_killed_reads_only_the_other_headers(
    tmp_path: Path, read: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, run = tmp_path / "corpus", tmp_path / "run"
    corpus.mkdir()
    for number in range(6):
        shutil.copy(WAV, corpus / f"{number}.wav")
    asked = ["dataset=folder", f"dataset.root={corpus}", "model=digits", "stages=[manifest]"]
    assert main([*asked, f"run_dir={tmp_path / 'whole'}"]) == 0
    assert names(read) == [f"{number}.wav" for number in range(6)]
    kept: list[str] = []
    keep = ProbedHeaders.keep

    def killed(self: ProbedHeaders, path: str, probed: Probed) -> None:
        if len(kept) == 4:
            raise UserError("killed")
        keep(self, path, probed)
        kept.append(path)

    with monkeypatch.context() as patch:
        patch.setattr(ProbedHeaders, "keep", killed)
        assert main([*asked, f"run_dir={run}"]) == 2
    read.unlink()
    shutil.copy(DATA / "fsdd" / "2_jackson_1.wav", corpus / "0.wav")  # replaced since
    os.utime(corpus / "1.wav", ns=(1, 1))
    assert main([*asked, f"run_dir={run}"]) == 0
    assert names(read) == ["0.wav", "1.wav", "4.wav", "5.wav"]
    assert not (run / ".staging" / "headers").exists()
    lengths = RunDirectory(run).manifest.read(["num_samples"])["num_samples"].to_pylist()
    before = RunDirectory(tmp_path / "whole").manifest.read(["num_samples"])["num_samples"].to_pylist()
    assert lengths[1:] == before[1:]
    assert lengths[0] != before[0]


def test_headers_are_found_in_several_files_and_damage_costs_only_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "STORED_EVERY_S", 0.0)
    directory = RunDirectory(tmp_path / "run")
    kept = ProbedHeaders(directory)
    for path, version in [("a", "1"), ("b", "1"), ("a", "2"), ("\udcff", "3")]:
        kept.keep(path, Probed(HEADER, HEADER.file_size, version))
    again = ProbedHeaders(directory)
    found = [again.find(path) for path in ("a", "b", "\udcff", "%FF")]
    assert [None if each is None else each.version for each in found] == ["2", "1", "3", None]
    assert found[0] == Probed(HEADER, HEADER.file_size, "2")
    (tmp_path / "run" / ".staging" / "headers" / "batch-00001.parquet").write_bytes(b"damaged")
    again = ProbedHeaders(directory)
    assert again.find("b") is None
    assert again.find("a") == found[0]
    again.keep("b", Probed(HEADER, HEADER.file_size, "4"))
    last = ProbedHeaders(directory).find("b")
    assert last is not None
    assert last.version == "4"


def test_a_file_that_is_soon_read_is_not_written_at_once(tmp_path: Path) -> None:
    ProbedHeaders(RunDirectory(tmp_path / "run")).keep("a", Probed(HEADER, HEADER.file_size, "1"))
    assert not (tmp_path / "run").exists()
