"""What `python -m pipeline.verify` finds, what it says of a rerun, and what it leaves alone."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from running import DATA, assert_same_tables, environment, kill_group, main, mtimes, run, start, wait_until

from pipeline.records import Chunk, Emission
from pipeline.runtime.digests import digest_of_json, encode_checked, sha256_file
from pipeline.scoring.schemas import CONFUSIONS
from pipeline.storage import manifest as manifests
from pipeline.storage.commits import decode_record, encode_record
from pipeline.storage.layouts import LAYOUTS
from pipeline.storage.run_directory import RunDirectory
from pipeline.verify import __main__ as verify
from pipeline.verify.audit import audit
from pipeline.verify.comparison import NEAR_TIE, TOLERANCE, Comparison
from pipeline.verify.exactness import choose

Damage = Callable[[Path], object]
BAD = "broken.wav"
SHARD = 1
"""The shard that is damaged; it holds the recording that fails."""


def given_for(corpus: Path) -> tuple[str, ...]:
    """A run with several shards, several layers and a failure."""
    return ("dataset=folder", f"dataset.root={corpus}", "model=digits", "shard.hours=0.001", "features.layers=[2,4]")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    recordings = sorted((DATA / "fsdd").glob("*.wav"))[:30]
    for path in recordings:
        shutil.copy(path, folder)
    (folder / recordings[0].name).with_suffix(".txt").write_text("zero")
    (folder / f"{recordings[10].stem}-{BAD}").write_bytes(b"not a recording")
    return folder


@pytest.fixture(scope="module")
def undisturbed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    done = run(*given_for(corpus), f"run_dir={out}", cwd=out.parent)
    assert done.returncode == 3, done.stderr
    assert len(list((out / "commits").iterdir())) >= 4
    assert pq.read_metadata(out / "failures" / f"shard-0000{SHARD}.parquet").num_rows == 1
    return out


@pytest.fixture
def out(undisturbed: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(undisturbed, tmp_path / "out"))


def table_file(out: Path, table: str, shard: int = SHARD) -> Path:
    return RunDirectory(out).locate(RunDirectory(out).table(table, shard).name)


def record_file(out: Path, shard: int = SHARD) -> Path:
    return RunDirectory(out).locate(RunDirectory(out).commit_name(shard))


def verified(out: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, list[str], str]:
    """Exit code, lines and errors."""
    code = verify.main([str(out), *options])
    said = capsys.readouterr()
    return code, said.out.splitlines(), said.err


def flip(path: Path, place: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 0x10
    path.write_bytes(data)


def rewrite(out: Path, table: str, change: Callable[[pa.Table], pa.Table], shard: int = SHARD) -> None:
    """Change rows of a committed table and set its record right, so that only the accounting can tell."""
    path = table_file(out, table, shard)
    with pq.ParquetFile(path) as file:
        before = file.read()
    pq.write_table(change(before), path, compression="zstd")
    record = decode_record(record_file(out, shard).read_bytes())
    file = replace(
        record.files[table],
        size=path.stat().st_size,
        sha256=sha256_file(path),
        rows=pq.read_metadata(path).num_rows,
    )
    record_file(out, shard).write_bytes(encode_record(replace(record, files={**record.files, table: file})))


def edit_record(**changes: Any) -> Damage:
    """Change a record and its checksum with it."""

    def edit(out: Path) -> None:
        record = decode_record(record_file(out).read_bytes())
        record_file(out).write_bytes(encode_record(replace(record, **changes)))

    return edit


def with_column(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    index = table.schema.get_field_index(name)
    return table.set_column(index, table.schema.field(name), pa.array(values, table.schema.field(name).type))


def change_first(name: str, value: Any) -> Callable[[pa.Table], pa.Table]:
    return lambda table: with_column(table, name, [value, *table[name].to_pylist()[1:]])


def drop_row(table: pa.Table) -> pa.Table:
    return table.slice(1)


def repeat_row(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table.slice(0, 1), table])


def row_for(id_: str) -> Callable[[pa.Table], pa.Table]:
    """A copy of the first row under another id."""
    return lambda table: pa.concat_tables([change_first("id", id_)(table.slice(0, 1)), table])


def failed_id(out: Path) -> str:
    return str(pq.read_table(table_file(out, "failures"))["id"][0].as_py())


def first_id(out: Path) -> str:
    return str(pq.read_table(table_file(out, "transcripts"), columns=["id"])["id"][0].as_py())


def edit_manifest(out: Path) -> None:
    """Another reference, written as the pipeline writes it, digest and all."""
    directory = RunDirectory(out)
    manifest, made_with = manifests.read(directory.manifest)
    table = change_first("reference", "something else")(manifest.table)
    changed = manifests.Manifest(table, manifests.digest_of(table))
    manifests.write(directory, changed, made_with)


def edit_manifest_rows(out: Path) -> None:
    """The same, with the digest as it was."""
    path = out / "manifest.parquet"
    table = pq.read_table(path)
    pq.write_table(change_first("reference", "something else")(table), path, compression="zstd")


def edit_manifest_path(out: Path) -> None:
    """Where a recording lies is not in the digest."""
    path = out / "manifest.parquet"
    pq.write_table(change_first("path", "/elsewhere.wav")(pq.read_table(path)), path, compression="zstd")


def edit_run_json(change: Callable[[dict[str, Any]], object], checked: bool) -> Damage:
    def edit(out: Path) -> None:
        content = json.loads((out / "run.json").read_bytes())
        change(content)
        data = encode_checked(content) if checked else json.dumps(content, indent=1).encode()
        (out / "run.json").write_bytes(data)

    return edit


# --- sound


def test_a_finished_run_is_sound(undisturbed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = mtimes(undisturbed)
    code, said, errors = verified(undisturbed, capsys)
    shards = len(list((undisturbed / "commits").iterdir()))
    assert (code, errors) == (0, "")
    assert said == [
        f"sound: {shards} shards sound, 0 damaged, 0 pending; 31 of 31 utterances sound; "
        "a rerun computes no shard again"
    ]
    assert mtimes(undisturbed) == before


@pytest.mark.parametrize("given", ["no/such/folder", "."])
def test_no_run_there_is_code_2_and_one_line_and_nothing_is_made(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for options in ([], ["--retract"], ["--exactness", "2"]):
        assert verify.main([given, *options]) == 2
        said = capsys.readouterr()
        assert (said.out, said.err.count("\n")) == ("", 1)
        assert "no run there" in said.err
    assert list(tmp_path.iterdir()) == []


def test_a_run_stopped_before_its_model_was_there_is_pending_and_sound(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("run.json", "scores.parquet"):
        (out / name).unlink(missing_ok=True)
    for name in ("commits", "transcripts", "emissions", "features", "failures"):
        shutil.rmtree(out / name)
    code, said, _ = verified(out, capsys)
    assert code == 0
    assert said[-1].startswith("sound: 0 shards sound, 0 damaged, ")
    assert "0 of 31 utterances sound" in said[-1]
    assert ": 31 utterances, " in said[-1]


def test_a_shard_that_is_not_done_is_pending_and_no_damage(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record_file(out).unlink()
    for table in ("transcripts", "emissions", "features", "failures"):
        table_file(out, table).unlink()
    code, said, _ = verified(out, capsys)
    assert code == 0
    assert "1 pending" in said[-1]
    assert f"a rerun computes shard {SHARD}: " in said[-1]


@pytest.mark.parametrize("point", ["renaming:2", "renamed:2"])
def test_tables_of_a_commit_that_was_killed_are_named_and_no_damage(
    point: str, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killed = run(*given_for(corpus), "run_dir=out", cwd=tmp_path, PIPELINE_FAILPOINT=point)
    assert killed.returncode == -signal.SIGKILL
    code, said, _ = verified(tmp_path / "out", capsys)
    assert code == 0
    assert any("failures/shard-00002.parquet" in line and "left by an unfinished commit" in line for line in said)
    assert "2 shards sound, 0 damaged" in said[-1]


def test_a_run_that_is_being_written_is_sound_and_said_to_be(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    process = start(*given_for(corpus), f"run_dir={out}", cwd=tmp_path, PIPELINE_FAILPOINT="renamed:2=stop")
    try:
        assert wait_until(lambda: table_file(out, "features", 2).exists())
        code, said, _ = verified(out, capsys)
        assert code == 0
        assert "note: shard 2 is being written now" in said
        assert "note: a process is writing to this run" in "\n".join(said)
        assert said[-1].startswith("sound: 2 shards sound, 0 damaged")
        code, said, errors = verified(out, capsys, "--retract")
        assert (code, said) == (2, [])
        assert f"locked by process {process.pid}" in errors
    finally:
        kill_group(process)


def test_a_shard_that_is_committed_while_it_is_looked_at_is_no_problem(
    undisturbed: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.verify import shard

    record_file(out).unlink()
    look = shard._audit_passes

    def commits_meanwhile(*arguments: Any) -> Any:
        found = look(*arguments)
        if arguments[2] == SHARD and not record_file(out).exists():
            shutil.copy(record_file(undisturbed), record_file(out))
        return found

    monkeypatch.setattr(shard, "_audit_passes", commits_meanwhile)
    code, said, _ = verified(out, capsys)
    assert (code, len(said)) == (0, 1)


def test_unknown_files_are_named_and_left_alone(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("notes.txt", "transcripts/notes.txt", "commits/old.txt"):
        (out / name).write_text("mine")
    code, said, _ = verified(out, capsys, "--retract")
    assert code == 0
    for name in ("notes.txt", "transcripts/notes.txt", "commits/old.txt"):
        assert f"note: {name}: not a file of this run; left as it is" in said
        assert (out / name).read_text() == "mine"


def test_what_is_printed_holds_no_control_characters(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (out / "a\x1b[31m\nb\u202e\udcff").write_text("")
    _, said, _ = verified(out, capsys)
    assert "note: a\\x1b[31m\\nb\\u202e%FF: not a file of this run; left as it is" in said


# --- damage

DAMAGE: dict[str, tuple[Damage, str, str]] = {
    **{
        f"{table}, a byte flipped": (
            lambda out, table=table: flip(table_file(out, table)), f"{table}/shard-00001.parquet", "sha256"
        )
        for table in ("transcripts", "emissions", "features", "failures")
    },
    **{
        f"{table}, cut": (
            lambda out, table=table: table_file(out, table).write_bytes(table_file(out, table).read_bytes()[:-9]),
            f"{table}/shard-00001.parquet", "bytes, ",
        )
        for table in ("transcripts", "emissions", "features", "failures")
    },
    **{
        f"{table}, deleted": (
            lambda out, table=table: table_file(out, table).unlink(), f"{table}/shard-00001.parquet", "missing"
        )
        for table in ("transcripts", "emissions", "features", "failures")
    },
    **{
        f"{table}, a row deleted": (
            lambda out, table=table: rewrite(out, table, drop_row),
            f"{table if table != 'failures' else 'transcripts'}/shard-00001.parquet", "lacks",
        )
        for table in ("transcripts", "emissions", "features", "failures")
    },
    **{
        f"{table}, a row twice": (
            lambda out, table=table: rewrite(out, table, repeat_row), f"{table}/shard-00001.parquet",
            "twice or not all" if table in ("emissions", "features") else "more than once",
        )
        for table in ("transcripts", "emissions", "features", "failures")
    },
    **{
        f"{table}, a foreign id": (
            lambda out, table=table: rewrite(out, table, row_for("foreign")),
            f"{table}/shard-00001.parquet", "'foreign', which this shard does not have",
        )
        for table in ("transcripts", "emissions", "features", "failures")
    },
    **{
        f"{table}, a failed id": (
            lambda out, table=table: rewrite(out, table, row_for(failed_id(out))),
            f"{table}/shard-00001.parquet", "but so does failures",
        )
        for table in ("transcripts", "emissions", "features")
    },
    "a result among the failures": (
        lambda out: rewrite(out, "failures", row_for(first_id(out))),
        "emissions/shard-00001.parquet", "but so does failures",
    ),
    "emissions, a part missing": (
        lambda out: rewrite(out, "emissions", change_first("part", 1)), "emissions/shard-00001.parquet", "parts of",
    ),
    "features, a gap between parts": (
        lambda out: rewrite(out, "features", change_first("start_frame", 3)),
        "features/shard-00001.parquet", "parts of",
    ),
    "emissions, other frames than the transcript": (
        lambda out: rewrite(out, "emissions", change_first("num_frames", 7)),
        "emissions/shard-00001.parquet", "7 frames, but transcripts has",
    ),
    "features, a layer missing": (
        lambda out: rewrite(out, "features", lambda table: table.filter(pa.compute.equal(table["layer"], 2))),
        "features/shard-00001.parquet", "of layer 4",
    ),
    "features, a layer too many": (
        lambda out: rewrite(out, "features", change_first("layer", 3)),
        "features/shard-00001.parquet", "layer 3, which was not requested",
    ),
    "emissions, another type": (
        lambda out: rewrite(out, "emissions", lambda table: table.drop_columns(["num_labels"])),
        "emissions/shard-00001.parquet", "columns",
    ),
    "emissions, not a table": (
        lambda out: (
            table_file(out, "emissions").write_bytes(b"x"), edit_record(files={
                **decode_record(record_file(out).read_bytes()).files,
                "emissions": replace(
                    decode_record(record_file(out).read_bytes()).files["emissions"], size=1,
                    sha256=sha256_file(table_file(out, "emissions")),
                ),
            })(out),
        ),
        "emissions/shard-00001.parquet", "not a readable table",
    ),
    "record, a byte flipped": (lambda out: flip(record_file(out)), "commits/shard-00001.json", ""),
    "record, a count edited": (
        lambda out: record_file(out).write_text(record_file(out).read_text().replace('"audio_s": ', '"audio_s": 1')),
        "commits/shard-00001.json", "checksum",
    ),
    "record, a space more": (
        lambda out: record_file(out).write_text(record_file(out).read_text() + " "),
        "commits/shard-00001.json", "has been edited",
    ),
    "record, cut": (
        lambda out: record_file(out).write_bytes(record_file(out).read_bytes()[:80]), "commits/shard-00001.json", ""
    ),
    "record, deleted": (lambda out: record_file(out).unlink(), "commits/shard-00001.json", "though there is trans"),
    "record, of another shard": (
        lambda out: shutil.copy(record_file(out, 2), record_file(out)), "commits/shard-00001.json", "of shard 2"
    ),
    "record, of another run": (edit_record(fingerprint="0" * 64), "commits/shard-00001.json", "fingerprint 000"),
    "record, other utterances": (edit_record(utterances=1), "commits/shard-00001.json", "counts 1 utterances"),
    "record, other failures": (edit_record(failures={"empty": 1}), "commits/shard-00001.json", "1 empty failures"),
    "record, other audio": (edit_record(audio_s=9e9), "commits/shard-00001.json", "s of audio"),
    "record, other counts": (
        edit_record(counts={"empty_transcripts": 99}), "commits/shard-00001.json", "empty_transcripts 99"
    ),
    "record, a path out of the run": (
        lambda out: edit_record(files={
            table: replace(file, path="../../../etc/passwd")
            for table, file in decode_record(record_file(out).read_bytes()).files.items()
        })(out),
        "commits/shard-00001.json", "'../../../etc/passwd'",
    ),
    "record, a table less": (
        lambda out: edit_record(files={
            table: file
            for table, file in decode_record(record_file(out).read_bytes()).files.items() if table != "features"
        })(out),
        "commits/shard-00001.json", "the tables are",
    ),
}  # fmt: skip

WIDTHS = {"emissions": ("emission", "num_labels"), "features": ("feature", "dim")}


def change_array(table: str, change: Callable[[NDArray[np.floating]], NDArray[np.floating]]) -> Damage:
    """Other numbers in the first array, in whichever layout it is stored."""

    def edit(rows: pa.Table) -> pa.Table:
        values, width = WIDTHS[table]
        first, dtype = rows[values][0].as_py(), np.float32 if table == "emissions" else np.float16
        array = np.frombuffer(first, dtype) if isinstance(first, bytes) else np.asarray(first, dtype)
        changed = change(array.reshape(-1, rows[width][0].as_py()).copy()).reshape(-1)
        value = changed.tobytes() if isinstance(first, bytes) else changed.tolist()
        return change_first(values, value)(rows)

    return lambda out: rewrite(out, table, edit, shard=0)


def last(value: float) -> Callable[[NDArray[np.floating]], NDArray[np.floating]]:
    def change(array: NDArray[np.floating]) -> NDArray[np.floating]:
        array[-1, -1] = value
        return array

    return change


def change_metadata(key: bytes, value: bytes | None) -> Damage:
    def edit(rows: pa.Table) -> pa.Table:
        metadata = {**rows.schema.metadata, key: value}
        return rows.replace_schema_metadata({name: each for name, each in metadata.items() if each is not None})

    return lambda out: rewrite(out, "features", edit, shard=0)


ARRAYS: dict[str, tuple[Damage, str, str]] = {
    **{
        f"{table}, {what}": (change_array(table, change), table, said)
        for table in WIDTHS
        for what, change, said in (
            ("a frame less", lambda array: array[1:], " bytes of 'a.wav', "),
            ("a number less", lambda array: array.reshape(-1)[1:], " bytes of 'a.wav', "),
            ("no numbers", lambda array: array[:0], "holds 0 bytes of 'a.wav', "),
            ("NaN", last(float("nan")), "holds numbers of 'a.wav' that are not finite"),
            ("infinite", last(float("-inf")), "holds numbers of 'a.wav' that are not finite"),
        )
    },
    **{
        f"{table}, another width": (
            lambda out, table=table, width=width: rewrite(out, table, change_first(width, 28), shard=0),
            table, "frames of 28 numbers take",
        )
        for table, (_, width) in WIDTHS.items()
    },
}  # fmt: skip
OF_BINARY: dict[str, tuple[Damage, str, str]] = {
    "bytes of half a number": (
        lambda out: rewrite(
            out, "features", lambda rows: change_first("feature", rows["feature"][0].as_py()[:-1])(rows), shard=0
        ),
        "features", " bytes of 'a.wav', ",
    ),
    "metadata, another width": (change_metadata(b"width", b"80"), "features", "its metadata say width 80, "),
    "metadata, another type": (change_metadata(b"dtype", b'"<f4"'), "features", " bytes of 'a.wav', "),
    "metadata, no type": (change_metadata(b"dtype", None), "features", "its metadata say dtype None"),
    "metadata, no layout": (change_metadata(b"layout", None), "features", "its metadata say layout None"),
    "lists": (
        lambda out: rewrite(
            out, "features", lambda rows: rows.set_column(
                rows.schema.get_field_index("feature"), "feature",
                pa.array([[0.0]] * len(rows), pa.list_(pa.float16())),
            ), shard=0,
        ),
        "features", "wrong columns",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def in_layouts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small run in each layout."""
    folder = tmp_path_factory.mktemp("layouts")
    (folder / "corpus").mkdir()
    for name, path in zip("ab", sorted((DATA / "fsdd").glob("*.wav")), strict=False):
        shutil.copy(path, folder / "corpus" / f"{name}.wav")
    given_ = ["dataset=folder", f"dataset.root={folder / 'corpus'}", "model=digits", "stages=[manifest,infer]"]
    for layout in LAYOUTS:
        layouts = [f"features.layout={layout}", f"emissions.layout={layout}", f"run_dir={folder / layout}"]
        assert main([*given_, *layouts]) == 0
    return {layout: folder / layout for layout in LAYOUTS}


@pytest.mark.parametrize(
    ("layout", "what"),
    [*((layout, what) for layout in LAYOUTS for what in ARRAYS), *(("binary", w) for w in OF_BINARY)],
)
def test_arrays_that_are_not_what_their_rows_say_are_found_in_both_layouts(
    in_layouts: dict[str, Path], layout: str, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(in_layouts[layout], tmp_path / "out"))
    capsys.readouterr()
    assert verified(out, capsys)[0] == 0
    damage, table, said_ = (ARRAYS | OF_BINARY)[what]
    damage(out)
    code, said, _ = verified(out, capsys)
    assert code == 1
    (line,) = [line for line in said if line.startswith(f"{table}/shard-00000.parquet: ")]
    assert said_ in line


WHOLE: dict[str, tuple[Damage, str, str]] = {
    "manifest, a byte flipped": (lambda out: flip(out / "manifest.parquet"), "manifest.parquet", ""),
    "manifest, its last byte flipped": (lambda out: flip(out / "manifest.parquet", 1.0), "manifest.parquet", "read"),
    "manifest, deleted": (lambda out: (out / "manifest.parquet").unlink(), "manifest.parquet", "missing"),
    "manifest, rows edited": (edit_manifest_rows, "manifest.parquet", "digest"),
    "manifest, edited with its digest": (edit_manifest, "manifest.parquet", "run.json says"),
    "manifest, a path edited": (edit_manifest_path, "manifest.parquet", "sha256"),
    "run.json, deleted": (lambda out: (out / "run.json").unlink(), "run.json", "missing"),
    "run.json, a byte flipped": (lambda out: flip(out / "run.json"), "run.json", ""),
    "run.json, identity edited": (
        edit_run_json(lambda content: content["identity"].update(model="hubert_base"), checked=False), "run.json", ""
    ),
    "run.json, identity edited with the checksum": (
        edit_run_json(lambda content: content["identity"].update(model="hubert_base"), checked=True),
        "run.json", "fingerprint",
    ),
    "run.json, versions edited": (
        edit_run_json(lambda content: content["versions"].update(torch="1.0"), checked=False), "run.json", "checksum"
    ),
    "run.json, checksum taken out": (
        edit_run_json(lambda content: content.update(chekcsum=content.pop("checksum")), checked=False),
        "run.json", "lost its checksum",
    ),
    "run.json, not an object": (lambda out: (out / "run.json").write_text("[1]"), "run.json", "read"),
    "scores, a byte flipped": (lambda out: flip(out / "scores.parquet", 1.0), "scores.parquet", "cannot be read"),
    "scores, edited": (
        lambda out: pq.write_table(
            change_first("word_errors", 77)(pq.read_table(out / "scores.parquet")), out / "scores.parquet"
        ),
        "scores.parquet", "77 word_errors",
    ),
    "scores, a byte of the values flipped": (
        lambda out: flip(out / "scores.parquet", 0.3), "scores.parquet", "cannot be read"
    ),
    "scores, rates edited": (
        lambda out: pq.write_table(
            change_first("wer", 0.5)(pq.read_table(out / "scores.parquet")), out / "scores.parquet"
        ),
        "scores.parquet", "the rates of overall",
    ),
    "confusions, a byte flipped": (
        lambda out: flip(out / "confusions.parquet", 1.0), "confusions.parquet", "cannot be read"
    ),
    "confusions, one more": (
        lambda out: pq.write_table(
            pa.table({"kind": ["deletion"], "reference": ["a"], "hypothesis": [None], "count": [1]}, schema=CONFUSIONS),
            out / "confusions.parquet",
        ),
        "confusions.parquet", "has 1 wrong words, scores.parquet has 0",
    ),
    "confusions, other columns": (
        lambda out: pq.write_table(pa.table({"kind": ["deletion"]}), out / "confusions.parquet"),
        "confusions.parquet", "does not have the columns of confusions.parquet",
    ),
    "a table nobody knows": (
        lambda out: shutil.copy(table_file(out, "transcripts"), out / "transcripts" / "copy.parquet"),
        "transcripts/copy.parquet", "readers of the folder read it too",
    ),
    "a shard nobody knows": (
        lambda out: shutil.copy(table_file(out, "transcripts"), table_file(out, "transcripts", 99)),
        "transcripts/shard-00099.parquet", "readers of the folder read it too",
    ),
    "a record nobody knows": (
        lambda out: shutil.copy(record_file(out), record_file(out, 99)),
        "commits/shard-00099.json", "move it away",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_to_a_shard_is_named_and_only_that_shard_is_damaged(
    damage: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    do, path, what = DAMAGE[damage]
    do(out)
    code, said, errors = verified(out, capsys)
    assert (code, errors) == (1, "")
    assert any(line.startswith(f"{path}: ") and what in line for line in said), said
    assert all("computes shard 1 again" in line for line in said[:-1])
    assert said[-1].startswith(f"not sound, {len(said) - 1} problem")
    assert "1 damaged, 0 pending" in said[-1]
    assert "a rerun computes shard 1 again: " in said[-1]


@pytest.mark.parametrize("damage", WHOLE)
def test_damage_to_the_whole_is_named_and_every_shard_is_sound(
    damage: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    do, path, what = WHOLE[damage]
    do(out)
    code, said, errors = verified(out, capsys)
    assert (code, errors) == (1, "")
    assert len(said) == 2, said
    assert said[0].startswith(f"{path}: ")
    assert what in said[0]
    assert "31 of 31 utterances sound" in said[-1]
    assert "0 damaged, 0 pending" in said[-1]


def test_two_damages_are_two_lines_and_one_rerun(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(table_file(out, "emissions", 0))
    table_file(out, "features", 2).unlink()
    table_file(out, "emissions", 3).write_bytes(b"")
    code, said, _ = verified(out, capsys)
    assert code == 1
    assert [line.split(":")[0] for line in said[:-1]] == [
        "emissions/shard-00000.parquet", "features/shard-00002.parquet", "emissions/shard-00003.parquet"
    ]  # fmt: skip
    assert f"rm {record_file(out, 0)}, then a rerun computes shard 0 again" in said[0]
    assert said[1].endswith("; a rerun computes shard 2 again")
    assert (
        "a rerun computes shards 0, 2 to 3 again" in said[-1]
        or "a rerun computes shards 0 and 2 to 3 again" in said[-1]
    )
    assert f"first remove the commit record of shard 0: python -m pipeline.verify {out} --retract" in said[-1]


@pytest.fixture(scope="module")
def to_flip(undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(undisturbed, tmp_path_factory.mktemp("flip") / "out"))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(
        [
            *(f"{table}/shard-00001.parquet" for table in ("transcripts", "emissions", "features", "failures")),
            "commits/shard-00001.json", "manifest.parquet", "run.json",
        ]
    ),
    place=st.floats(0, 1),
    bit=st.integers(0, 7),
)  # fmt: skip
def test_any_flipped_bit_is_found(name: str, place: float, bit: int, to_flip: Path) -> None:
    path = to_flip / name
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[int(place * (len(whole) - 1))] ^= 1 << bit
    path.write_bytes(damaged)
    try:
        assert name in {problem.path for problem in audit(RunDirectory(to_flip)).problems}
    finally:
        path.write_bytes(whole)


# --- what a rerun does


def rerun(corpus: Path, out: Path) -> int:
    """The same command again, with as many threads: only then every bit is the same."""
    return run(*given_for(corpus), f"run_dir={out}", cwd=out.parent).returncode


@pytest.mark.parametrize("damage", ["emissions, a byte flipped", "failures, a row deleted"])
def test_after_retract_the_same_command_does_the_damaged_shard_again_and_only_that(
    damage: str, undisturbed: Path, corpus: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = mtimes(out)
    DAMAGE[damage][0](out)
    code, said, _ = verified(out, capsys, "--retract")
    assert code == 1
    assert f"removed {record_file(out)}" in said
    assert "first remove the commit record" not in said[-1]
    assert sorted(path.stem for path in (out / "commits").iterdir()) == sorted(
        path.stem for path in (undisturbed / "commits").iterdir() if path.stem != "shard-00001"
    )
    assert rerun(corpus, out) == 3
    assert verified(out, capsys)[0] == 0
    assert_same_tables(undisturbed, out)
    after = mtimes(out)
    assert {path for path in before if after[path] != before[path]} == {path for path in before if "00001" in path}


@pytest.mark.parametrize("damage", ["record, a count edited", "features, cut"])
def test_what_resume_sees_by_itself_needs_no_retract(
    damage: str, undisturbed: Path, corpus: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    DAMAGE[damage][0](out)
    code, said, _ = verified(out, capsys)
    assert code == 1
    assert all("rm " not in line for line in said[:-1])
    assert rerun(corpus, out) == 3
    assert verified(out, capsys)[0] == 0
    assert_same_tables(undisturbed, out)


REMEDIES = [
    damage
    for damage in WHOLE
    if not damage.endswith(
        (" flipped", "identity edited", "taken out", "rates edited", "other columns", "a shard nobody knows")
    )
] + ["manifest, a byte flipped"]
"""One damage for each remedy; a file that cannot be read is written again whatever its damage."""


@pytest.mark.parametrize("damage", REMEDIES)
def test_the_remedy_that_is_named_sets_it_right_and_does_no_shard_again(
    damage: str, undisturbed: Path, corpus: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = mtimes(undisturbed)
    WHOLE[damage][0](out)
    code, said, _ = verified(out, capsys)
    assert code == 1
    if "remove " in said[0] or "move it away" in said[0]:
        (out / WHOLE[damage][1]).unlink()
    kept = {path: time for path, time in mtimes(out).items() if "00099" not in path}
    assert main([*given_for(corpus), f"run_dir={out}"]) == 3
    capsys.readouterr()
    code, said, _ = verified(out, capsys)
    assert (code, len(said)) == (0, 1), said
    assert mtimes(out) == kept
    assert before.keys() == kept.keys()


@pytest.mark.parametrize("lost", [False, True], ids=["kept", "lost"])
def test_a_manifest_written_again_for_a_moved_corpus_is_sound(
    lost: bool, corpus: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = shutil.copytree(corpus, tmp_path / "moved")
    before = (out / "manifest.parquet").read_bytes()
    if lost:
        (out / "manifest.parquet").unlink()
    assert main([*given_for(moved), f"run_dir={out}"]) == 3
    assert (out / "manifest.parquet").read_bytes() != before
    capsys.readouterr()
    assert verified(out, capsys)[0] == 0


def test_retract_takes_back_nothing_that_it_cannot_judge(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(table_file(out, "emissions"))
    edit_manifest(out)
    (out / "run.json").unlink()
    before = mtimes(out)
    code, said, _ = verified(out, capsys, "--retract")
    assert code == 1
    assert "no commit record is removed: without a sound manifest and run.json" in "\n".join(said)
    assert mtimes(out) == before


def test_a_record_of_no_shard_does_not_make_a_run_complete(
    undisturbed: Path, corpus: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = decode_record(record_file(out, 2).read_bytes())
    record_file(out, 99).write_bytes(encode_record(replace(record, shard=99)))
    record_file(out).unlink()
    assert main([*given_for(corpus), f"run_dir={out}"]) == 3
    assert record_file(out).exists()


def test_retract_on_a_sound_run_takes_nothing_back(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = mtimes(out)
    code, said, _ = verified(out, capsys, "--retract")
    assert (code, len(said)) == (0, 1)
    assert mtimes(out) == before


# --- exactness


@pytest.mark.parametrize(
    ("settings_", "tables"),
    [
        ((), ("emissions", "features")),
        (("emissions.dtype=float16", "outputs=[emissions]"), ("emissions",)),
        (("outputs=[transcripts]",), ()),
        (("chunk.seconds=2", "chunk.context_seconds=0.4"), ("emissions", "features")),
    ],
    ids=["default", "float16", "texts", "chunks"],
)
def test_utterances_alone_are_what_is_stored_of_them(
    settings_: tuple[str, ...], tables: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus"
    shutil.copytree(DATA / "librivox", corpus)
    main(["dataset=folder", f"dataset.root={corpus}", "model=digits", f"run_dir={tmp_path / 'out'}", *settings_])
    capsys.readouterr()
    code, said, errors = verified(tmp_path / "out", capsys, "--exactness", "3", "--device", "cpu")
    assert (code, errors) == (0, "")
    assert said[-1].startswith("exactness: 3 utterances alone on cpu in fp32: ")
    assert said[-1].endswith("; the same")
    for table in ("emissions", "features"):
        assert (f"largest difference of {table}" in said[-1]) == (table in tables)
    assert ("texts compared" in said[-1]) == (not tables)


def shift(column: str, by: float) -> Callable[[pa.Table], pa.Table]:
    """Every value a little other."""
    return lambda table: with_column(
        table, column, [[value + by for value in row] for row in table[column].to_pylist()]
    )


@pytest.mark.parametrize(
    ("table", "change", "what"),
    [
        ("emissions", shift("emission", 1e-3), "largest difference of emissions 1.0e-03"),
        ("features", shift("feature", 0.5), "largest difference of features"),
        ("transcripts", lambda t: with_column(t, "ctc_text", ["NO|SUCH|"] * len(t)), "the stored text is 'NO|SUCH|'"),
    ],
)
def test_values_that_the_model_does_not_give_are_not_the_same(
    table: str, change: Callable[[pa.Table], pa.Table], what: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(out, table, change, shard=0)
    ids = pq.read_table(table_file(out, table, 0), columns=["id"])["id"].to_pylist()
    code, said, _ = verified(out, capsys, "--exactness", "3")
    assert code == 1
    (line,) = [line for line in said if "not the same alone: " in line]
    assert line.split(":")[0].strip("'") in ids
    assert what in line
    assert said[-1].endswith("; 1 not the same")


@pytest.mark.parametrize(
    ("key", "value", "said_"),
    [
        ("weights_sha256", "0" * 64, "the run was made with 0000"),
        ("precision", "fp16", "the run used precision fp16, which needs CUDA"),
    ],
)
def test_what_the_run_was_made_with_and_is_not_here_is_refused(
    key: str, value: str, said_: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((out / "run.json").read_bytes())
    content["identity"][key] = value
    content["fingerprint"] = digest_of_json(content["identity"])
    (out / "run.json").write_bytes(encode_checked(content))
    for shard in range(len(list((out / "commits").iterdir()))):
        record = decode_record(record_file(out, shard).read_bytes())
        changed = replace(record, fingerprint=content["fingerprint"])
        record_file(out, shard).write_bytes(encode_record(changed))
    code, said, errors = verified(out, capsys, "--exactness", "2", "--device", "cpu")
    assert (code, len(said), errors.count("\n")) == (2, 1, 1)
    assert said_ in errors


def test_recordings_that_are_gone_are_said(
    corpus: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hidden = corpus.with_name("hidden")
    corpus.rename(hidden)
    try:
        code, _, errors = verified(out, capsys, "--exactness", "2")
    finally:
        hidden.rename(corpus)
    assert code == 2
    assert "none of 2 recordings could be run again; not_found" in errors


@pytest.mark.parametrize(("count", "total"), [(1, 1), (3, 10), (10, 3), (7, 7), (1, 100)])
def test_utterances_are_chosen_evenly_and_the_same_each_time(count: int, total: int) -> None:
    chosen = choose(count, total)
    assert chosen == sorted(set(chosen)) == choose(count, total)
    assert len(chosen) == min(count, total)
    assert all(0 <= place < total for place in chosen)
    gaps = np.diff([-1, *chosen, total])
    assert gaps.max() <= 2 * total / len(chosen)


def emission(logits: list[list[float]]) -> Emission:
    values = np.asarray(logits, dtype=np.float32)
    return Emission(Chunk(0, 400), len(values), values, {}, None)


def compared(stored: list[list[float]], alone: list[list[float]], dtype: str = "float32") -> Comparison:
    comparison = Comparison("a", {"emissions": np.asarray(stored, dtype=dtype)}, None)
    comparison.take(emission(alone))
    comparison.finish(None)
    return comparison


def test_the_rule_of_the_same_is_that_of_the_tolerance() -> None:
    assert compared([[1.0, 0.0]], [[1.0, 0.9 * TOLERANCE]]).same
    assert not compared([[1.0, 0.0]], [[1.0, 1.1 * TOLERANCE]]).same
    near = compared([[1.0, 1.0 + 0.4 * NEAR_TIE]], [[1.0 + 0.4 * NEAR_TIE, 1.0]])
    assert near.same
    assert near.changed == 0
    assert compared([[0.0, 1.0]], [[1.0, 0.0]]).changed == 1
    assert not compared([[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0]]).same
    assert not compared([[float("nan"), 0.0]], [[1.0, 0.0]]).same


def test_values_stored_in_float16_may_be_as_far_as_they_were_rounded() -> None:
    value = 12.3456
    assert abs(float(np.float16(value)) - value) > 2 * TOLERANCE
    assert compared([[value, 0.0]], [[value, 0.0]], "float16").same
    assert not compared([[value, 0.0]], [[value + 0.02, 0.0]], "float16").same


# --- the command


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["a", "b"], ["--watch", "a"], ["a", "--exactness"], ["a", "--exactness", "x"], ["a", "--exactness", "0"],
        ["a", "--device", "cpu"],
    ],
)  # fmt: skip
def test_a_mistake_on_the_command_line_is_one_line_and_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify.main(arguments) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)


def test_the_page_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert verify.main(["--help"]) == 0
    page = capsys.readouterr().out
    for word in ("RUN_DIR", "--exactness N", "--device", "--retract", "exit codes"):
        assert word in page
    assert max(map(len, page.splitlines())) <= 80


def test_verifying_does_not_load_torch_and_changes_nothing(undisturbed: Path) -> None:
    before = sorted((str(path), path.stat().st_mtime_ns) for path in undisturbed.rglob("*"))
    script = (
        "import sys\nfrom pipeline.verify.__main__ import main\ncode = main(sys.argv[1:])\n"
        "assert not {'torch', 'torchaudio', 'hydra'} & set(sys.modules)\nsys.exit(code)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, str(undisturbed)], env=environment(), capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert sorted((str(path), path.stat().st_mtime_ns) for path in undisturbed.rglob("*")) == before
