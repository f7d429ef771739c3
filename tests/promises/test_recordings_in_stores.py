"""Recordings in an object store are read as those in a folder: folders, lists, archives, and what goes wrong there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import s3
from packing import recordings, write_parquet, write_tar
from running import main, read, refused, run
from s3 import Fault, Store

from pipeline.results import open_run

BUCKET = "recordings-of-tests"
MODEL = ("model=digits", "outputs=[transcripts]", "stages=[manifest,infer,score]")
pytestmark = pytest.mark.usefixtures("default_signals")


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """The server, which the environment names, with an empty bucket."""
    with s3.bucket(BUCKET) as found:
        yield found


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of recordings with texts, in folders and in a tar file."""
    root = tmp_path_factory.mktemp("corpus") / "calls"
    found = recordings()
    for number, (name, data) in enumerate(found.items()):
        if number >= 4:
            continue
        folder = root / ("monday" if number % 2 else "tuesday")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        (folder / name).with_suffix(".txt").write_text("one")
    packed = dict([*found.items()][4:])
    write_tar(root / "more.tar", packed | {f"{name.removesuffix('.flac')}.txt": b"two" for name in packed})
    (root / ".hidden.flac").write_bytes(b"")
    return root


@pytest.fixture(scope="module")
def place(store: Store, corpus: Path) -> str:
    """The same files in the store. For reading only."""
    return upload(store, corpus, "calls")


@pytest.fixture(scope="module")
def local(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run over the folder."""
    out = tmp_path_factory.mktemp("local") / "run"
    assert main(["dataset=folder", f"dataset.root={corpus}", "dataset.archives=true", *MODEL, f"run_dir={out}"]) == 0
    return out


def upload(store: Store, folder: Path, prefix: str) -> str:
    for path in folder.rglob("*"):
        if path.is_file():
            s3.client(store).upload_file(str(path), BUCKET, f"{prefix}/{path.relative_to(folder)}")
    return f"s3://{BUCKET}/{prefix}"


def rows(run_dir: Path) -> pa.Table:
    """The transcripts, but for what says where a recording is."""
    return read(run_dir, "transcripts").drop_columns(["path"]).sort_by("id").replace_schema_metadata()


def failures(run_dir: Path) -> dict[str, tuple[str, str]]:
    return {row["id"]: (row["error"], row["message"]) for row in read(run_dir, "failures").to_pylist()}


def test_a_folder_in_a_store_gives_the_transcripts_of_a_local_one(place: str, local: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    # The slash at the end is no part of the ids. The loading and probing processes are forked beside the client.
    given = ["dataset=folder", f"dataset.root={place}/", "dataset.archives=true", "loader.workers=1"]
    assert main([*given, *MODEL, f"run_dir={out}"]) == 0
    assert rows(out).equals(rows(local))
    assert set(read(out, "transcripts")["reference"].to_pylist()) == {"one", "two"}
    ours, theirs = open_run(out), open_run(local)
    assert set(ours.transcripts.path.str.startswith((place, "tar://"))) == {True}
    for id_ in theirs.transcripts.id:
        assert np.array_equal(ours.audio(id_)[0], theirs.audio(id_)[0])


@pytest.mark.parametrize("how", ["URLs", "relative", "beside"])
def test_a_list_names_recordings_in_a_store(store: Store, place: str, local: Path, tmp_path: Path, how: str) -> None:
    wanted = rows(local).to_pandas()
    wanted = wanted[~wanted.id.str.startswith("more.tar")]
    prefix, root = f"{place}/" if how == "URLs" else "", [f"dataset.audio_root={place}"] if how == "relative" else []
    pd.DataFrame({"path": [prefix + id_ for id_ in wanted.id]}).to_csv(tmp_path / "list.csv", index=False)
    path, out = str(tmp_path / "list.csv"), tmp_path / "run"
    if how == "beside":  # the list lies in the store, and its paths are relative to it
        s3.client(store).upload_file(path, BUCKET, "calls/list.csv")
        path = f"{place}/list.csv"
    assert main(["dataset=manifest", f"dataset.path={path}", *root, *MODEL, f"run_dir={out}"]) == 0
    found = rows(out).to_pandas()
    assert list(found.id) == list(wanted.id)
    assert list(found.text) == list(wanted.text)


def test_shards_of_webdataset_in_a_store_are_read(store: Store, tmp_path: Path) -> None:
    samples = recordings(2)
    texts = {f"{name.removesuffix('.flac')}.txt": b"one" for name in samples}
    write_tar(tmp_path / "shards" / "000.tar", dict(sorted((samples | texts).items())))
    root = upload(store, tmp_path / "shards", "shards")
    given = ["dataset=webdataset", f"dataset.root={root}", *MODEL]
    assert main([*given, f"run_dir={tmp_path / 'run'}"]) == 0
    assert main(["dataset=webdataset", f"dataset.root={tmp_path / 'shards'}", *MODEL, f"run_dir={tmp_path / 'b'}"]) == 0
    assert rows(tmp_path / "run").equals(rows(tmp_path / "b"))


def test_a_list_and_parquet_files_with_recordings_lie_in_a_store(store: Store, local: Path, tmp_path: Path) -> None:
    sounds = [{"audio": {"bytes": data, "path": name}, "text": "one"} for name, data in recordings(4).items()]
    write_parquet(tmp_path / "lists" / "data" / "train.parquet", sounds)
    lists = upload(store, tmp_path / "lists", "lists")
    for name, wanted in (("data", list(recordings(4))), ("data/train.parquet", list(recordings(4)))):
        out = tmp_path / name.replace("/", "-")
        assert main(["dataset=manifest", f"dataset.path={lists}/{name}", *MODEL, f"run_dir={out}"]) == 0
        assert [Path(id_).name for id_ in sorted(read(out, "transcripts")["id"].to_pylist())] == sorted(wanted)


def test_a_recording_that_the_store_does_not_give_costs_its_row(
    store: Store, corpus: Path, local: Path, tmp_path: Path
) -> None:
    place, out = upload(store, corpus / "monday", "stalled"), tmp_path / "run"
    names = sorted(path.name for path in (corpus / "monday").glob("*.flac"))
    given = ["dataset=folder", f"dataset.root={place}", *MODEL, f"run_dir={out}", "loader.timeout_s=1"]
    assert main([*given, "stages=[manifest]"]) == 0
    with store.failing(Fault("GET", names[0], "hang", times=None)):
        stopped = run(*given, cwd=tmp_path, **store.environment())
    assert stopped.returncode == 3, stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert {id_: error for id_, (error, _) in failures(out).items()} == {names[0]: "timeout"}
    assert read(out, "transcripts")["id"].to_pylist() == names[1:]
    assert main([*given, "retry_failed=true"]) == 0  # the store answers again
    assert failures(out) == {}
    assert sorted(read(out, "transcripts")["id"].to_pylist()) == names


def test_a_recording_that_is_gone_or_refused_is_a_failure_that_names_it(
    store: Store, corpus: Path, tmp_path: Path
) -> None:
    place, out = upload(store, corpus / "tuesday", "gone"), tmp_path / "run"
    names = sorted(path.name for path in (corpus / "tuesday").glob("*.flac"))
    given = ["dataset=folder", f"dataset.root={place}", *MODEL, f"run_dir={out}"]
    assert main([*given, "stages=[manifest]"]) == 0
    s3.client(store).delete_object(Bucket=BUCKET, Key=f"gone/{names[0]}")
    with store.failing(Fault("GET|HEAD", names[1], "403", times=None)):
        assert main(given) == 3
    found = failures(out)
    assert found[names[0]][0] == "not_found"
    assert found[names[1]][0] == "unreadable"
    assert "s3cr3t" not in str(found)


def test_requests_that_fail_for_a_moment_are_repeated(store: Store, place: str, local: Path, tmp_path: Path) -> None:
    faults = [Fault("GET", r"monday/", "503", times=1), Fault("GET", r"tuesday/", "cut", times=1)]
    out = tmp_path / "run"
    with store.failing(*faults, Fault("LIST", "calls", "500", times=1)):
        given = ["dataset=folder", f"dataset.root={place}", "dataset.archives=true", "loader.workers=0"]
        assert main([*given, *MODEL, f"run_dir={out}"]) == 0
    assert rows(out).equals(rows(local))


def test_new_and_changed_recordings_are_noticed(store: Store, corpus: Path, tmp_path: Path) -> None:
    place, out = upload(store, corpus / "monday", "growing"), tmp_path / "run"
    given = ["dataset=folder", f"dataset.root={place}", *MODEL, f"run_dir={out}"]
    assert main(given) == 0
    before = sorted(read(out, "transcripts")["id"].to_pylist())
    name, data = [*recordings().items()][5]
    s3.client(store).put_object(Bucket=BUCKET, Key=f"growing/z/{name}", Body=data)
    s3.client(store).put_object(Bucket=BUCKET, Key=f"growing/{before[0]}", Body=data)
    assert main(given) == 0
    assert sorted(read(out, "transcripts")["id"].to_pylist()) == [*before, f"z/{name}"]
    assert main([*given, "redo_changed=true"]) == 0
    texts = open_run(out).transcripts.set_index("id").text
    assert texts[before[0]] == texts[f"z/{name}"]


def test_a_url_with_a_password_in_a_list_costs_its_row_and_is_written_nowhere(place: str, tmp_path: Path) -> None:
    name = next(iter(recordings()))
    secret = f"s3://me:hunter2@{BUCKET}/calls/tuesday/{name}"
    (tmp_path / "list.csv").write_text(f"path,text\n{place}/tuesday/{name},one\n{secret},two\n")
    out = tmp_path / "run"
    assert main(["dataset=manifest", f"dataset.path={tmp_path / 'list.csv'}", *MODEL, f"run_dir={out}"]) == 3
    assert len(read(out, "transcripts")) == 1
    ((error, message),) = failures(out).values()
    assert "names a user" in message
    assert error == "unreadable"
    assert not any(b"hunter2" in path.read_bytes() for path in out.rglob("*") if path.is_file())
    for table in ("transcripts", "failures"):
        assert "hunter2" not in str(read(out, table).to_pylist())


@pytest.mark.parametrize(
    ("dataset", "root", "said"),
    [
        ("folder", f"s3://{BUCKET}/nothing-here", "no object has a name that begins so"),
        ("folder", "s3://no-such-bucket-of-ours/calls", "no-such-bucket-of-ours"),
        ("librispeech", f"s3://{BUCKET}/calls", "which dataset=folder, webdataset and lists with URLs"),
    ],
)
def test_what_is_no_corpus_is_refused_in_one_line(
    place: str, dataset: str, root: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"dataset={dataset}", f"dataset.root={root}", *MODEL, f"run_dir={tmp_path / 'run'}"]
    assert said in refused(given, capsys)
