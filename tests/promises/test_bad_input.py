"""Every bad input among good ones, through the whole pipeline: it costs its own row, says why, and nothing else."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bad_inputs import FILES, FSDD, LISTS, NO_ROWS, ROWS, SEVEN, BadFile, BadList, BadRow
from running import assert_accounting, run_prepared

from pipeline.records import ErrorName
from pipeline.results import Run, open_run
from pipeline.run import main

pytestmark = pytest.mark.slow

# By their names, which come before, between and after those of the bad files.
GOOD = ("0_george_0", "2_jackson_1", "3_lucas_2", "7_theo_1", "8_nicolas_0", "9_yweweler_3")
NAMES = frozenset(ErrorName.__args__)
AS_NOBODY_SPECIAL = """
import ctypes
libc = ctypes.CDLL(None)
header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()  # capset(2), version 3
assert libc.capget(header, sets) == 0
for place in (0, 1):  # effective and permitted
    sets[place] &= ~(1 << 1 | 1 << 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: to read whatever the mode says
assert libc.capset(header, sets) == 0
"""
"""Root reads what nobody may; the pipeline must not, so that there is something unreadable."""


@dataclass(frozen=True)
class Ran:
    """A run and everything it printed."""

    results: Run
    exit_code: int
    said: str
    log: str


def modes_hold() -> bool:
    """Whether a run is kept from what its mode forbids: not where root may not give up its privileges."""
    with tempfile.NamedTemporaryFile() as file:
        os.fchmod(file.fileno(), 0)
        reads = [sys.executable, "-S", "-c", f"{AS_NOBODY_SPECIAL}\nopen({file.name!r})"]
        done = subprocess.run(reads, capture_output=True, text=True, check=False)
        return "PermissionError" in done.stderr


BAD_FILES = [bad for bad in FILES if bad.message != "Permission denied" or modes_hold()]


def infer(cwd: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """A run as a process; that it ends in time is part of what is tested."""
    given = ("model=digits", "features.dtype=float32", "shard.hours=0.005", "loader.workers=2", "run_dir=out")
    return run_prepared(AS_NOBODY_SPECIAL, *given, *overrides, cwd=cwd, timeout=200)


def ran(cwd: Path, *done: subprocess.CompletedProcess[str]) -> Ran:
    said = "".join(process.stdout + process.stderr for process in done)
    return Ran(open_run(cwd / "out"), done[-1].returncode, said, (cwd / "out" / "logs" / "run.log").read_text())


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    """All bad files among the good ones; some went bad after the manifest was made."""
    cwd = tmp_path_factory.mktemp("mixed")
    root = cwd / "calls"
    root.mkdir()
    copy_good(root)
    for bad in BAD_FILES:
        bad.make(root / bad.file_name)
    for name, make in NO_ROWS.items():
        make(root / name)
    given = ("dataset=folder", f"dataset.root={root}")
    manifest = infer(cwd, *given, "stages=[manifest]")
    assert manifest.returncode == 0, manifest.stderr
    for bad in BAD_FILES:
        if bad.changed:
            bad.changed(root / bad.file_name)
    yield ran(cwd, manifest, infer(cwd, *given))
    for locked in root.iterdir():
        if locked.is_file() and not locked.is_symlink():
            locked.chmod(0o600)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The good files without the bad ones."""
    cwd = tmp_path_factory.mktemp("alone")
    (cwd / "calls").mkdir()
    copy_good(cwd / "calls")
    return ran(cwd, infer(cwd, "dataset=folder", "dataset.root=calls"))


def copy_good(root: Path) -> None:
    for name in GOOD:
        shutil.copy(FSDD / f"{name}.wav", root)


def assert_failed(run: Run, id_: str, error: str, message: str) -> None:
    """One failure, under the expected name, with a message for people."""
    rows = run.failures[run.failures.id == id_]
    assert len(rows) == 1
    (row,) = rows.itertuples()
    assert row.error in error.split("|"), row.message
    assert row.error in NAMES
    assert re.search(message, row.message), row.message
    assert row.message.isprintable()
    assert 10 < len(row.message) < 200
    # A class, an address or a number of the operating system tells a person nothing.
    assert not re.search(r"\b[A-Za-z]+(Error|Exception)\b|Errno|0x[0-9a-f]{6}|Traceback|<.* object", row.message)


@pytest.mark.parametrize("bad", BAD_FILES, ids=lambda bad: bad.title)
def test_each_file_fails_with_its_reason_or_has_the_right_result(mixed: Ran, bad: BadFile) -> None:
    if bad.error is not None:
        assert_failed(mixed.results, bad.row_id, bad.error, bad.message)
        return
    rows = mixed.results.transcripts[mixed.results.transcripts.id == bad.row_id]
    assert len(rows) == 1, mixed.results.failures[mixed.results.failures.id == bad.row_id].message.tolist()
    (row,) = rows.itertuples()
    manifest = mixed.results.manifest.set_index("id")
    assert manifest.loc[bad.row_id, "num_samples"] == bad.num_samples
    assert row.duration_s * manifest.loc[bad.row_id, "sample_rate"] == pytest.approx(bad.num_samples)
    assert bad.text is None or row.text == bad.text
    emission = mixed.results.emission(bad.row_id)
    assert len(emission) == row.num_frames >= 1
    assert np.isfinite(emission).all()


def batch_sizes(of: Ran) -> list[int]:
    with open(of.results.path / "logs" / "metrics.jsonl") as file:
        return [json.loads(line)["size"] for line in file]


def test_good_rows_are_those_of_a_run_without_bad_files(mixed: Ran, alone: Ran) -> None:
    assert alone.exit_code == 0, alone.said
    assert max(batch_sizes(mixed)) > len(GOOD)  # among others, in other batches
    expected = alone.results.transcripts.set_index("id")
    found = mixed.results.transcripts.set_index("id").loc[expected.index]
    # Some of the odd files have the samples of a good one, so `same_as` is another one among them.
    exact = [name for name in expected.columns if name not in ("path", "avg_logprob", "words", "same_as")]
    pd.testing.assert_frame_equal(found[exact], expected[exact])
    np.testing.assert_allclose(found.avg_logprob, expected.avg_logprob, atol=1e-4)
    words, expected_words = (
        frame.words[frame.words.id.isin(expected.index)].sort_values(["id", "start_s"], ignore_index=True)
        for frame in (mixed.results, alone.results)
    )
    pd.testing.assert_frame_equal(words, expected_words, atol=1e-4)
    for id_ in expected.index:
        for one, other in (
            (mixed.results.emission(id_), alone.results.emission(id_)),
            (mixed.results.feature(id_, layer=4), alone.results.feature(id_, layer=4)),
        ):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)


def test_every_file_is_accounted_for_and_nothing_else_is(mixed: Ran) -> None:
    assert_accounting(mixed.results.path)
    expected = {f"{name}.wav" for name in GOOD} | {bad.row_id for bad in BAD_FILES}
    assert set(mixed.results.manifest.id) == expected
    assert set(mixed.results.failures.id) == {bad.row_id for bad in BAD_FILES if bad.error}


def test_the_run_ends_with_3_and_no_traceback(mixed: Ran) -> None:
    assert mixed.exit_code == 3, mixed.said
    for text in (mixed.said, mixed.log):
        assert "Traceback" not in text
        assert "Error:" not in text


def test_names_of_what_is_wrong_are_those_of_the_contract_and_most_occur(mixed: Ran) -> None:
    found = set(mixed.results.failures.error)
    # What takes a hanging or dying decoder, or no memory, is in the loader's tests.
    assert NAMES - found == {"timeout", "worker_died", "out_of_memory"}
    assert set(mixed.results.failures.stage) == {"manifest", "load"}


# -- Lists ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """All bad rows among good ones, in one list."""
    cwd = tmp_path_factory.mktemp("listed")
    shutil.copy(SEVEN, cwd / "seven.wav")
    with open(cwd / "list.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["id", "path", "start", "end", "channel"])
        writer.writeheader()
        for number, row in enumerate(ROWS):
            writer.writerow({"id": f"good {number}", "path": "seven.wav"})
            writer.writerow({"id": row.title, "path": "seven.wav"} | row.cells)
    return ran(cwd, infer(cwd, "dataset=manifest", "dataset.path=list.csv"))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.title)
def test_each_row_of_a_list_fails_with_its_reason_or_has_the_right_result(listed: Ran, row: BadRow) -> None:
    if row.error is not None:
        assert_failed(listed.results, row.title, row.error, row.message)
    else:
        assert listed.results.transcripts.set_index("id").loc[row.title, "text"] == "SEVEN"


def test_rows_beside_bad_ones_are_untouched(listed: Ran) -> None:
    assert listed.exit_code == 3, listed.said
    assert_accounting(listed.results.path)
    assert len(listed.results.manifest) == 2 * len(ROWS)
    good = listed.results.transcripts[listed.results.transcripts.id.str.startswith("good ")]
    assert good.text.tolist() == ["SEVEN"] * len(ROWS)
    assert "Traceback" not in listed.said + listed.log


@pytest.mark.parametrize("bad", LISTS, ids=lambda bad: bad.title)
def test_a_list_that_is_wrong_is_refused_before_anything_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], bad: BadList
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(bad.name).write_text(bad.text)
    assert main(["dataset=manifest", f"dataset.path={bad.name}", "model=digits", "run_dir=out"]) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    assert re.search(bad.message, said), said
    assert [path.name for path in tmp_path.iterdir()] == [bad.name]
