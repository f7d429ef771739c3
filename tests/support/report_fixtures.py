"""Runs whose reports are tested, and what stands in a page."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from running import run

from pipeline.config.schema import ReportSettings
from pipeline.report import write_report
from pipeline.storage.commits import encode_record
from pipeline.storage.run_directory import RunDirectory
from scripts.data.make_voices_like import make_corpus

HOSTILE = '</script><script>owned=1</script><img src=x onerror="owned=1">\'$x^2$\u202eback\x07'


def voices_like_run(folder: Path) -> Path:
    """A finished run over 49 recordings in rooms and noise, two of which fail; every layer is kept."""
    make_corpus(folder / "VOiCES_devkit", recordings=7)
    done = run(
        *("dataset=voices", f"dataset.root={folder / 'VOiCES_devkit'}", "model=digits", "features.layers=all"),
        *("shard.hours=0.02", f"run_dir={folder / 'out'}"),
        cwd=folder,
    )
    assert done.returncode == 3, done.stderr
    return folder / "out"


def copied(run_dir: Path, folder: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(run_dir, folder / "copied", symlinks=True))


def rewritten(run_dir: Path, table: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change every row of a table, and what the commit records say of its files."""

    def of_rows(before: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([change(row) for row in before.to_pylist()], schema=before.schema)

    replaced(run_dir, table, of_rows)


def replaced(run_dir: Path, table: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change every file of a table, and what the commit records say of it."""
    directory = RunDirectory(run_dir)
    for shard in directory.commits().values():
        (record,) = shard.having(table)
        path = directory.root / record.files[table].path
        pq.write_table(change(pq.read_table(path)), path, row_group_size=1_000)
        files = {**record.files, table: replace(record.files[table], size=path.stat().st_size)}
        directory.write(directory.commit_name(record.shard), encode_record(replace(record, files=files)))


def hostile_run(run_dir: Path, folder: Path) -> Path:
    """A copy in which every text that a stranger may have chosen is `HOSTILE`: the first few differ, for ids must."""
    changed = copied(run_dir, folder)
    directory = RunDirectory(changed)
    names: dict[str, str] = {}

    def hostile(row: dict[str, Any]) -> dict[str, Any]:
        names.setdefault(row["id"], f"{len(names)}{HOSTILE}")
        columns = ("text", "reference", "message", "speaker", "room")
        texts = {key: HOSTILE for key in columns if row.get(key) is not None}
        words = {"words": [{**word, "word": HOSTILE} for word in row["words"]]} if "words" in row else {}
        return {**row, **texts, **words, "id": names[row["id"]]}

    def renamed(before: pa.Table) -> pa.Table:
        ids = pa.array([names[id_] for id_ in before["id"].to_pylist()], pa.string())
        return before.set_column(0, before.schema.field("id"), ids)

    manifest = pq.read_table(directory.root / "manifest.parquet")
    rows = [hostile(row) for row in manifest.to_pylist()]
    rows[0] |= {"path": f"/{HOSTILE}.wav"}
    pq.write_table(pa.Table.from_pylist(rows, schema=manifest.schema), directory.root / "manifest.parquet")
    for table in ("transcripts", "failures"):
        rewritten(changed, table, hostile)
    replaced(changed, "emissions", renamed)
    for path, columns in (
        ((directory.root / "scores.parquet"), ["value"]),
        ((directory.root / "confusions.parquet"), ["reference", "hypothesis"]),
    ):
        scores = pq.read_table(path)
        for name in columns:
            index = scores.schema.get_field_index(name)
            values = pa.array([HOSTILE if value else value for value in scores[name].to_pylist()], pa.string())
            scores = scores.set_column(index, scores.schema.field(name), values)
        pq.write_table(scores, path)
    (directory.root / "config.yaml").write_text(f"dataset:\n  root: {HOSTILE!r}\n")
    return changed


def page(run_dir: Path, **settings: Any) -> str:
    """The HTML of a report, written anew."""
    path = write_report(RunDirectory(run_dir), ReportSettings(**settings))
    assert path == run_dir / "report" / "index.html"
    return path.read_text(encoding="utf-8")


def table_of(markup: str) -> dict[str, Any]:
    """The table of utterances, as the script of the page unpacks it."""
    (packed,) = re.findall(r'data-rows="([^"]*)"', markup)
    content: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(packed)))
    return content


def text_of(markup: str) -> str:
    """What a reader sees: no elements, no style, no script, white space as single spaces."""
    shown = re.sub(r"<(style|script)>.*?</\1>", " ", markup, flags=re.DOTALL)
    shown = re.sub(r"</?(?:b|bdi|i|small)>", "", shown)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", shown)).split())


def utterances(markup: str) -> dict[str, str]:
    """`worst-1` and so on to the markup of each utterance, in the order of the page."""
    parts = re.split(r'<details class="utterance" id="([a-z]+-\d+)"', markup)[1:]
    return {name: part.partition("</details>")[0] for name, part in zip(parts[::2], parts[1::2], strict=True)}
