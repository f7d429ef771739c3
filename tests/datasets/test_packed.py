"""Folders of recordings in archives: they are read as if they were unpacked."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from packing import write_tar, write_zip

from pipeline.audio.archives.opening import open_path
from pipeline.datasets import folder
from pipeline.records import Utterance
from pipeline.runtime.errors import UserError

MEMBERS = {
    "b/late.flac": b"1", "b/late.txt": " good  morning\n".encode("utf-16"), "a/early.WAV": b"2", "a/EARLY.txt": b"no",
    "a/early.TXT": b"hello", "a/bad.wav": b"3", "a/bad.txt": b"\xff", "notes.md": b"", "inner.tar": b"",
}  # fmt: skip


def corpus(root: Path, **options: Any) -> folder.Dataset:
    return folder.Dataset(folder.Options(root=str(root), **options))


def described(utterances: list[Utterance]) -> dict[str, tuple[Any, ...]]:
    return {each.id: (each.reference, dict(each.columns), each.error) for each in utterances}


@pytest.mark.parametrize("write", [write_tar, write_zip])
def test_an_archive_has_the_ids_references_and_columns_of_the_folder_that_it_becomes(
    tmp_path: Path, write: Any
) -> None:
    archive = write(tmp_path / f"x.{write.__name__[-3:]}", MEMBERS)
    for name, data in MEMBERS.items():
        path = tmp_path / "x" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (tmp_path / "list.csv").write_text("path,dialect\nb/late.flac,north\n")
    both = [corpus(place, metadata=str(tmp_path / "list.csv")) for place in (archive, tmp_path / "x")]
    found, unpacked = ([*each.utterances()] for each in both)
    assert [each.id for each in found] == ["b/late.flac", "a/early.WAV", "a/bad.wav"]  # the order of the archive
    assert described(found) == described(unpacked)
    assert both[0].columns() == both[1].columns() == {"folder1": "string", "dialect": "string"}
    assert found[0].reference == "good  morning"
    for packed in found:
        plain = next(each for each in unpacked if each.id == packed.id)
        with open_path(packed.path) as (file, _):
            assert file.read() == Path(plain.path).read_bytes()
    nested, wrong = sorted(both[0].warnings())
    assert nested == "archives inside archives, which are not read: 1; the first: inner.tar"
    assert wrong.startswith("references that cannot be used, so that the recording has none: 1; the first: ")
    assert "a/bad.txt: not UTF-8" in wrong
    assert both[0].run_name == f"folder-{archive.name}"


def test_archives_in_a_folder_are_read_where_that_is_asked_for(tmp_path: Path) -> None:
    write_tar(tmp_path / "mon.tar", {"./a.wav": b"1", "d/b.wav": b"2"})
    write_zip(tmp_path / "tue.zip", {"a.wav": b"3"})
    (tmp_path / "old.tgz").write_bytes(b"")
    (tmp_path / "plain.wav").write_bytes(b"4")
    alone = corpus(tmp_path)
    assert [each.id for each in alone.utterances()] == ["plain.wav"]
    assert alone.reading(1).endswith("; 3 archives not read (dataset.archives=true reads tar and zip)")
    packed = corpus(tmp_path, archives=True)
    found = {each.id: each.columns for each in packed.utterances()}
    assert found == {
        "mon.tar/a.wav": {"folder1": "mon.tar"}, "mon.tar/d/b.wav": {"folder1": "mon.tar", "folder2": "d"},
        "plain.wav": {}, "tue.zip/a.wav": {"folder1": "tue.zip"},
    }  # fmt: skip
    assert packed.reading(1).endswith("; 1 archive not read (dataset.archives=true reads tar and zip)")


def test_a_damaged_archive_is_a_failure_beside_what_could_be_listed(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "mon.tar", {"a.wav": b"1", "b.wav": b"2" * 600})
    archive.write_bytes(archive.read_bytes()[:1700])
    (tmp_path / "tue.zip").write_bytes(b"PK")
    good, damaged, none = corpus(tmp_path, archives=True).utterances()
    assert (good.id, good.error) == ("mon.tar/a.wav", None)
    assert (damaged.id, damaged.path) == ("mon.tar", str(archive))
    assert damaged.error == (
        "'mon.tar': the archive ends at byte 1700, within its member 'b.wav'; 1 file before that can be read; "
        "restore the archive"
    )
    assert none.id == "tue.zip"
    assert none.error is not None
    assert "no readable zip file" in none.error


def test_of_two_members_with_one_name_the_last_is_read_and_a_line_says_so(tmp_path: Path) -> None:
    first = write_tar(tmp_path / "x.tar", {"a.wav": b"1", "./a.wav": b"2"})
    dataset = corpus(first)
    (utterance,) = dataset.utterances()
    with open_path(utterance.path) as (file, _):
        assert file.read() == b"2"
    (line,) = dataset.warnings()
    assert line == "files of an archive with a name that a later one has too, which counts: 1; the first: x.tar: a.wav"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("x.tar.gz", "a compressed archive, of which no member can be read without all those before it; unpack it, or"),
        ("x.7z", "a compressed archive"),
        ("x.wav", "not a folder; give one, or an archive that ends in .tar or .zip"),
        ("gone.tar", "no such folder; give the folder that holds the recordings, or a file that ends in .tar or .zip"),
    ],
)
def test_what_cannot_be_read_member_by_member_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    if name != "gone.tar":
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError) as caught:
        corpus(tmp_path / name)
    assert str(caught.value).startswith(f"dataset.root={tmp_path / name}: {reason}")


def test_an_archive_without_recordings_and_one_of_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no recordings found"):
        next(corpus(write_tar(tmp_path / "x.tar", {"a.md": b""})).utterances())
    damaged = tmp_path / "y.tar"
    damaged.write_bytes(b"no tar file" * 100)
    with pytest.raises(UserError, match=r"'y.tar': damaged at byte 0: .* restore the archive .no other row"):
        list(corpus(damaged).utterances())
    with tarfile.open(tmp_path / "z.tar", "w"):
        pass
    os.truncate(tmp_path / "z.tar", 0)
    with pytest.raises(UserError, match="no recordings found"):
        list(corpus(tmp_path / "z.tar").utterances())
