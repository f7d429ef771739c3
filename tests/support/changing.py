"""A folder of recordings and a run over it, in shards of a few recordings, which tests change and run again."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from running import SHIPPED, main

from pipeline.runtime.digests import sha256_file
from pipeline.verify import __main__ as verify

RECORDINGS = sorted((SHIPPED / "digits").glob("*-[12]digits-*.flac"))
TABLES = ("transcripts", "emissions", "features")


class Corpus:
    """A folder of recordings, and a run over it with some options that are always given."""

    def __init__(self, folder: Path, *always: str) -> None:
        self.root, self.out, self.always = folder / "calls", folder / "out", always
        self.root.mkdir(parents=True)

    def add(self, numbers: Sequence[int], into: str = "monday") -> list[Path]:
        (self.root / into).mkdir(parents=True, exist_ok=True)
        return [Path(shutil.copy(RECORDINGS[number], self.root / into)) for number in numbers]

    def given(self, *changed: str) -> list[str]:
        return [
            *("dataset=folder", f"dataset.root={self.root}", "model=digits", "device=cpu", "shard.hours=0.0006"),
            *("stages=[manifest,infer,score]", "loader.workers=0", f"run_dir={self.out}", *self.always, *changed),
        ]

    def run(self, *changed: str) -> int:
        return main(self.given(*changed))

    def files(self) -> dict[str, bytes]:
        paths = (
            path for path in self.out.rglob("*") if path.is_file() and path.parent.name not in ("logs", ".staging")
        )
        return {path.relative_to(self.out).as_posix(): path.read_bytes() for path in paths}

    def manifest(self) -> pa.Table:
        return pq.read_table(self.out / "manifest.parquet")

    def rows(self, table: str) -> dict[tuple[object, ...], dict[str, object]]:
        """The rows of a table by id (and layer)."""
        found = pq.read_table(self.out / table).to_pylist()
        return {(row["id"], row.get("layer"), row.get("part")): row for row in found}


Options = tuple[str, ...]


class Kept:
    """A corpus with its run as it was made. Each test gets it back at the same place, where the run looks for it."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._folder = corpus.out.parent
        self._after: dict[tuple[Options, ...], Path] = {}
        self._keep(())

    def _keep(self, runs: tuple[Options, ...]) -> None:
        self._after[runs] = self._folder.with_name(f"{self._folder.name}-{len(self._after)}")
        shutil.copytree(self._folder, self._after[runs])

    def restored(self, *runs: Options) -> Corpus:
        """The corpus with its run, after further runs with these options, each of which is made once."""
        if runs not in self._after:
            assert self.restored(*runs[:-1]).run(*runs[-1]) == 0
            self._keep(runs)
        shutil.rmtree(self._folder)
        shutil.copytree(self._after[runs], self._folder)
        return copy.copy(self._corpus)


_Rows = dict[tuple[object, ...], dict[str, object]]
_of_one_run: dict[str, dict[str, _Rows]] = {}
"""The rows of each table of a single run, by what the corpus holds and the options that are changed."""


def _rows_of_one_run(corpus: Corpus, folder: Path, *changed: str) -> dict[str, _Rows]:
    files = sorted(path for path in corpus.root.rglob("*") if path.is_file())
    held = [(path.relative_to(corpus.root).as_posix(), sha256_file(path)) for path in files]
    key = repr((held, changed))
    if key not in _of_one_run:
        fresh = Corpus(folder, *changed)
        shutil.rmtree(fresh.root)
        shutil.copytree(corpus.root, fresh.root)
        assert fresh.run() in (0, 3)
        _of_one_run[key] = {table: fresh.rows(table) for table in TABLES}
    return _of_one_run[key]


def assert_equal_to_one_run(corpus: Corpus, folder: Path, *changed: str) -> None:
    """Every row is the one that a single run over the present corpus gives, with some options changed."""
    fresh = _rows_of_one_run(corpus, folder, *changed)
    for table in TABLES:
        found, expected = corpus.rows(table), fresh[table]
        assert found.keys() == expected.keys()
        for key, row in found.items():
            for name, value in row.items():
                if name in ("emission", "feature"):  # other batches change the last bits; features are float16
                    step = {"rtol": 2**-10} if name == "feature" else {}
                    assert np.allclose(value, expected[key][name], **step, atol=1e-3), (key, name)
                elif name not in ("path", "words"):
                    assert value == pytest.approx(expected[key][name], abs=1e-4), (key, name)
    assert verify.main([str(corpus.out)]) == 0
