"""Killed at every failpoint that a run in an object store reaches, the same commands end with the same tables."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import s3
from changing import RECORDINGS, Corpus
from running import assert_accounting, assert_same_tables, main

from pipeline.runtime.failpoints import POINTS
from pipeline.runtime.places import place
from pipeline.storage.object_files import ObjectFiles
from pipeline.verify import __main__ as verify

imported = importlib.import_module("pipeline.import").main

NOT_IN_STORES = {"file-staged", "file-synced"}
"""A store has no file that is written and not yet in place."""
FIRST = (
    *("manifest", "manifest-written", "run-json", "run-json-written", "decode", "decoded", "forward", "forwarded"),
    *("take", "spool", "table", "sync", "staged", "renaming@2", "moved", "renamed", "file@4", "committed"),
    *("file-moved@3", "scores", "scored", "compact", "compacted"),
)
"""The points of a first run, in an order in which each can still be reached."""
WHILE_TABLES_APPEAR = ("table", "renaming@2", "moved", "renamed")
BUCKET = "kills-of-tests"
ELSEWHERE = {"report"}  # `test_object_store` has reports; making one takes longer than all the rest
pytestmark = pytest.mark.usefixtures("default_signals")


class Months:
    """What happens to a small run over months, command by command. Each has the points at which it is killed."""

    def __init__(self, folder: Path, run_dir: str) -> None:
        self.corpus, self.run_dir = Corpus(folder), run_dir
        self.given = [*self.corpus.given()[:-1], "threads=1", f"run_dir={run_dir}"]
        self.given.append("outputs=[transcripts,emissions]")  # two tables have every point that three have
        self.corrected = folder / "right.csv"

    def commands(self) -> Iterator[tuple[Callable[[Sequence[str]], int], list[str], Sequence[str]]]:
        """Prepare each command, and yield it with the points that it reaches."""
        self.corpus.add(range(4))
        (self.corpus.root / "monday" / f"{RECORDINGS[0].stem}.txt").write_text("one")
        broken = self.corpus.root / "monday" / "broken.flac"
        broken.write_bytes(b"fLaC")
        compacted = [*self.given, "stages=[manifest,infer,score,compact]"]
        yield main, compacted, FIRST
        shutil.copy(RECORDINGS[8], broken)
        yield main, [*compacted, "retry_failed=true"], []
        self.corpus.add([4], into="tuesday")
        shutil.copy(RECORDINGS[0], self.corpus.root / "tuesday" / "again.flac")
        yield main, compacted, ["extend", "extended", "settle", "renewal", "renewal-decided", "settled"]
        yield (
            main,
            [*self.given, "stages=[align,decode,score]"],
            ["table", "staged", "renamed", "committed", "committed@3"],
        )
        (self.corpus.root / "monday" / f"{RECORDINGS[1].stem}.txt").write_text("nine")
        yield main, compacted, ["described"]
        self.corrected.write_text(f"id,reference\nmonday/{RECORDINGS[0].name},nine nine\n")
        yield imported, [self.run_dir, str(self.corrected)], ["references", "references-written"]
        shutil.copy(RECORDINGS[8], self.corpus.root / "monday" / RECORDINGS[1].name)
        yield main, [*compacted, "redo_changed=true"], ["retract", "retracted", "removing"]
        yield main, [*self.given, "outputs=[transcripts,emissions,features]"], []


def killed(command: Callable[[Sequence[str]], int], given: Sequence[str], point: str) -> bool:
    """Whether a process that executes the command reaches the point, where it is killed."""
    child = os.fork()
    if not child:
        os.environ["PIPELINE_FAILPOINT"] = point
        try:
            command(given)
        finally:
            traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status == -signal.SIGKILL


def assert_tables_are_complete(store: s3.Store, local: Path) -> None:
    """Whatever has the name of a table can be read."""
    for key in s3.keys(store, BUCKET):
        if key.endswith(".parquet"):
            s3.client(store).download_file(BUCKET, key, str(local))
            pq.read_table(local)


@pytest.mark.slow
def test_killed_at_every_point_of_its_months_a_run_in_a_store_has_the_tables_of_an_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    here = Months(tmp_path / "months", str(tmp_path / "here"))
    codes = [command(given) for command, given, _ in here.commands()]
    assert {*codes} == {0, 3}
    reached, runs = set(), 0
    shutil.rmtree(tmp_path / "months")
    with s3.serving() as store:
        for name, value in store.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        s3.client(store).create_bucket(Bucket=BUCKET)
        there = Months(tmp_path / "months", f"s3://{BUCKET}/run")
        for code, (command, given, points) in zip(codes, there.commands(), strict=True):
            runs += (len(points) + 1) * (command is main)
            for point in points:
                assert killed(command, given, point), (point, capfd.readouterr())
                reached.add(point.partition("@")[0])
                if point in WHILE_TABLES_APPEAR:
                    assert_tables_are_complete(store, tmp_path / "table.parquet")
            assert command(given) == code, capfd.readouterr()
            if "stages=[align,decode,score]" in given:
                assert len(s3.keys(store, BUCKET, "run/alignments/")) > 2
        assert verify.main([there.run_dir]) == 0, capfd.readouterr()
        found = s3.download(store, BUCKET, "run", tmp_path / "copy")
        scratch = ObjectFiles(place(there.run_dir)).scratch  # type: ignore[arg-type]
    assert_same_tables(found, tmp_path / "here")
    assert_accounting(found)
    for name in ("alignments", "transcripts-greedy", "compacted-transcripts", "scores.parquet"):
        assert pq.read_table(found / name).equals(pq.read_table(tmp_path / "here" / name)), name
    assert (found / "scores.parquet").read_bytes() == (tmp_path / "here" / "scores.parquet").read_bytes()
    assert {path.name for path in (found / "commits").iterdir()} == {
        path.name for path in (tmp_path / "here" / "commits").iterdir()
    }
    assert (found / "logs" / "run.log").read_text().count("run_dir s3://") == runs
    assert not (found / ".staging").exists()
    assert [path for path in scratch.rglob("*") if path.is_file()] == []
    assert reached == {*POINTS} - NOT_IN_STORES - ELSEWHERE
