"""Recordings in tar and zip files: every kind of member, and archives that are damaged or were written again."""

from __future__ import annotations

import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from packing import DIGITS, NAMES, link, recordings, write_tar, write_zip

from pipeline.audio.archives.contents import Contents, Shelf, list_archive, member_in, read_entry
from pipeline.audio.archives.held import Held
from pipeline.audio.archives.members import Member, member_of, unpacked
from pipeline.audio.archives.opening import open_path
from pipeline.audio.archives.ranges import RangeFile
from pipeline.audio.headers import Headers
from pipeline.audio.reader import read_header
from pipeline.audio.waveforms import read_waveform
from pipeline.runtime.errors import AudioError
from pipeline.runtime.paths import encode_path

ONE = NAMES[0]
FORMATS = Path(__file__).parents[2] / "data" / "formats"


def paths_in(archive: Path) -> dict[str, str]:
    return {entry.place: member_in(str(archive), entry).path for entry in list_archive(str(archive)).entries}


def content(path: str) -> bytes:
    with open_path(encode_path(path)) as (file, size):
        data = file.read()
    assert len(data) == size
    return data


def failure(path: str) -> str:
    with pytest.raises(AudioError) as caught:
        read_waveform(path)
    return str(caught.value)


def samples_or_failure(path: str) -> object:
    try:
        return read_waveform(path)[0]
    except AudioError as error:
        return str(error)


@pytest.mark.parametrize(
    "write",
    [
        lambda path, members: write_tar(path, members, format=tarfile.USTAR_FORMAT),
        lambda path, members: write_tar(path, members, format=tarfile.GNU_FORMAT),
        lambda path, members: write_tar(path, members, format=tarfile.PAX_FORMAT),
        lambda path, members: write_zip(path, members, zipfile.ZIP_STORED),
        write_zip,
    ],
    ids=["ustar", "gnu", "pax", "stored", "deflated"],
)
def test_a_member_is_read_like_the_file_that_it_was(
    tmp_path: Path, write: Callable[[Path, dict[str, bytes]], Path]
) -> None:
    long = f"{'folder' * 14}/{'größe' * 4}/{ONE}"  # more than 100 bytes, which a plain header cannot hold
    members = {"./a/x.flac": recordings()[ONE], long: recordings()[NAMES[1]], "note.md": b"not audio"}
    kind = "zip" if "zip" in write.__name__ or "ZIP" in str(write.__code__.co_names) else "tar"
    archive = write(tmp_path / f"x.{kind}", members)
    found = paths_in(archive)
    assert [*found] == ["a/x.flac", long, "note.md"]
    for place, name in (("a/x.flac", ONE), (long, NAMES[1])):
        whole, rate = read_waveform(str(DIGITS / name))
        assert np.array_equal(read_waveform(found[place])[0], whole)
        assert np.array_equal(
            read_waveform(found[place], start_s=0.1, end_s=0.3)[0], whole[rate // 10 : 3 * rate // 10]
        )
        assert read_header(found[place]) == read_header(str(DIGITS / name))
        assert unpacked(found[place]) == f"{archive}/{place}"
    assert content(found["note.md"]) == b"not audio"


@pytest.mark.parametrize(
    "name", sorted(path.name for path in FORMATS.iterdir() if path.suffix not in ("", ".md", ".json", ".npz"))
)
def test_every_format_is_read_from_a_tar_as_from_a_file(tmp_path: Path, name: str) -> None:
    archive = write_tar(tmp_path / "x.tar", {"before.txt": b"x", name: (FORMATS / name).read_bytes()})
    expected, found = (samples_or_failure(path) for path in (str(FORMATS / name), paths_in(archive)[name]))
    assert np.array_equal(found, expected)  # type: ignore[arg-type]


def test_names_that_are_not_utf8_absolute_or_above_the_archive_give_plain_places(tmp_path: Path) -> None:
    names = [os.fsdecode(b"caf\xe9.flac"), "100%E9.flac", "/abs.flac", "../../up.flac", "a@3+4::b.flac"]
    archive = write_tar(tmp_path / "x.tar", {name: name.encode("utf-8", "surrogateescape") for name in names})
    found = paths_in(archive)
    assert [*found] == ["caf%E9.flac", "100%E9.flac", "abs.flac", "up.flac", "a@3+4::b.flac"]
    for name, path in zip(names, found.values(), strict=True):
        assert content(path) == name.encode("utf-8", "surrogateescape")


def test_hidden_members_and_folders_are_left_out_and_the_last_of_two_names_counts(tmp_path: Path) -> None:
    members = {"._a.flac": b"1", "__MACOSX/._a.flac": b"2", ".git/b.flac": b"3", "d": link("d", "", tarfile.DIRTYPE)}
    archive = write_tar(tmp_path / "x.tar", {**members, "a.flac": b"first", "b.flac": b"other", "./a.flac": b"second"})
    contents = list_archive(str(archive))
    assert [entry.place for entry in contents.entries] == ["b.flac", "a.flac"]
    assert contents.repeated == ["a.flac"]
    assert content(paths_in(archive)["a.flac"]) == b"second"


def test_links_are_read_as_what_they_mean(tmp_path: Path) -> None:
    members = {
        "early.flac": link("early.flac", "d/real.flac"), "d/real.flac": recordings()[ONE],
        "d/near.flac": link("d/near.flac", "real.flac"), "hard.flac": link("hard.flac", "d/real.flac", tarfile.LNKTYPE),
        "far.flac": link("far.flac", "hard.flac"), "gone.flac": link("gone.flac", "../gone.flac"),
        "itself.flac": link("itself.flac", "itself.flac"),
    }  # fmt: skip
    found = paths_in(write_tar(tmp_path / "x.tar", members))
    assert {*found} == {*members}
    for name in ("early.flac", "d/near.flac", "hard.flac", "far.flac"):
        assert found[name] == found["d/real.flac"]
    assert failure(found["gone.flac"]) == "not_found: a link to 'gone.flac', which is not in the archive"
    assert failure(found["itself.flac"]).startswith("not_found: a link to 'itself.flac'")


def test_of_a_truncated_tar_counts_what_came_before(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "x.tar", recordings(3))
    whole, found = archive.read_bytes(), paths_in(archive)
    position = member_of(found[NAMES[2]]).position  # type: ignore[union-attr]
    archive.write_bytes(whole[: position + 600])
    contents = list_archive(str(archive))
    assert [entry.place for entry in contents.entries] == NAMES[:2]
    assert contents.damage == f"the archive ends at byte {position + 600}, within its member {NAMES[2]!r}"
    assert failure(found[NAMES[2]]) == f"truncated: the archive ends at byte {position + 600}, within this member"
    assert len(read_waveform(found[NAMES[1]])[0])
    archive.write_bytes(whole[:position])  # without the mark at the end, which some programs do not write
    assert list_archive(str(archive)).damage == ""
    assert failure(found[NAMES[2]]).startswith(f"truncated: the archive has {position} bytes")
    archive.write_bytes(whole[:position] + b"x" * 2000)
    assert list_archive(str(archive)).damage.startswith(f"damaged at byte {position}: ")
    archive.unlink()
    assert failure(found[ONE]) == "not_found: no such file"
    assert list_archive(str(archive)) == Contents(damage="No such file or directory")


def test_an_archive_that_was_written_again_gives_an_error_and_no_other_recording(tmp_path: Path) -> None:
    same = {"a.flac": b"1234", "b.flac": b"5678"}
    for write, archive in ((write_tar, tmp_path / "x.tar"), (write_zip, tmp_path / "x.zip")):
        before = paths_in(write(archive, same))
        write(archive, dict(reversed(same.items())))
        assert failure(before["a.flac"]).startswith("changed: the archive was written again: at byte 0 is ")
        assert content(paths_in(archive)["a.flac"]) == b"1234"


def test_members_that_cannot_be_read_fail_alone_and_say_why(tmp_path: Path) -> None:
    sparse = tarfile.TarInfo("sparse.flac")
    sparse.pax_headers.update({"GNU.sparse.map": "0,0", "GNU.sparse.size": "10", "GNU.sparse.name": "sparse.flac"})
    tar = write_tar(tmp_path / "x.tar", {"sparse.flac": sparse, "empty.flac": b"", ONE: recordings()[ONE]})
    found = paths_in(tar)
    assert failure(found["sparse.flac"]).startswith("unsupported_format: stored as a sparse file")
    assert failure(found["empty.flac"]) == "empty: the file has 0 bytes"
    assert len(read_waveform(found[ONE])[0])

    archive = write_zip(tmp_path / "x.zip", {ONE: recordings()[ONE], "b.wav": bytes(5000)})
    found, data = paths_in(archive), bytearray(archive.read_bytes())
    other = write_zip(tmp_path / "other.zip", {ONE: recordings()[ONE]}, zipfile.ZIP_BZIP2)
    assert failure(paths_in(other)[ONE]).startswith("unsupported_format: compressed with method 12 of zip")
    data[1000] ^= 0xFF
    archive.write_bytes(data)
    assert failure(found[ONE]).startswith("unreadable: damaged in the archive: ")
    data[6] |= 1
    archive.write_bytes(data)
    assert failure(found[ONE]) == "unreadable: encrypted; unpack the archive with its password"
    data[6] &= 0xFE
    archive.write_bytes(data[:2000])
    assert failure(found[ONE]).startswith("truncated: the archive ends at byte 2000")
    assert list_archive(str(archive)).damage.startswith("no readable zip file (")


def test_zip_files_that_were_streamed_or_may_be_large_are_read(tmp_path: Path) -> None:
    class Pipe:
        """A file that cannot be sought in, so that sizes follow the members."""

        def __init__(self, path: Path) -> None:
            self.file = path.open("wb")

        def write(self, data: bytes) -> int:
            return self.file.write(data)

        def flush(self) -> None:
            self.file.flush()

    pipe = Pipe(tmp_path / "x.zip")
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:  # type: ignore[call-overload]
        archive.writestr("a.txt", b"streamed" * 50)
        with archive.open("b.txt", "w", force_zip64=True) as file:
            file.write(b"large" * 50)
    pipe.file.close()
    found = paths_in(tmp_path / "x.zip")
    assert [content(path) for path in found.values()] == [b"streamed" * 50, b"large" * 50]


def test_a_member_that_inflates_to_very_much_is_cut_where_the_beginning_is_enough(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "x.zip", {"a.txt": bytes(10**7)})
    assert archive.stat().st_size < 20_000
    (entry,) = list_archive(str(archive)).entries
    assert read_entry(str(archive), entry, 1000) == bytes(1000)
    assert len(content(paths_in(archive)["a.txt"])) == 10**7


def test_headers_of_members_are_read_in_processes(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "x.tar", {**recordings(2), "bad.flac": b"no audio"})
    found = paths_in(archive)
    with Headers(60) as headers:
        good, *_, bad, gone = headers.of([*found.values(), found[ONE].replace("x.tar", "y.tar")])
    assert good == (read_header(str(DIGITS / ONE)), (DIGITS / ONE).stat().st_size)
    assert bad == (None, 8)
    assert gone == (None, None)


def test_a_path_is_that_of_a_member_or_of_a_file() -> None:
    member = Member("parquet", "audio/a.wav", 17, 99, "/data/x.parquet")
    assert member_of(member.path) == member
    assert unpacked(member.path) == "/data/x.parquet/a.wav"
    assert unpacked(member._replace(name="audio").path) == "/data/x.parquet/17"
    for path in ("/data/a@1+2::/b.wav", "tar://a.flac::/data/a.tar", "s3://bucket/a.tar", "a.wav"):
        assert member_of(path) is None
        assert unpacked(path) == path


def test_a_shelf_lists_an_archive_again_only_after_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[str] = []
    listing = "pipeline.audio.archives.contents.list_archive"
    monkeypatch.setattr(listing, lambda path: listed.append(path) or list_archive(path))
    shelf, archive = Shelf(), write_tar(tmp_path / "x.tar", recordings(2))
    other = write_zip(tmp_path / "x.zip", recordings(1))
    for _ in range(2):
        assert [len(shelf.contents(str(path)).entries) for path in (archive, other)] == [2, 1]
    assert listed == [str(archive), str(other)]
    write_tar(archive, recordings(3))
    os.utime(archive, (1, 1))
    assert len(shelf.contents(str(archive)).entries) == 3


def test_what_is_held_stays_below_the_limit_and_the_latest_stays() -> None:
    held, made = Held(10), list[str]()

    def get(key: str, size: int) -> str:
        return str(held.get(key, lambda: (made.append(key) or key, size)))

    for key, size in (("a", 4), ("b", 4), ("a", 4), ("c", 4), ("a", 4), ("b", 4), ("large", 99), ("large", 99)):
        assert get(key, size) == key
    assert made == ["a", "b", "c", "b", "large"]


def test_a_range_behaves_like_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(range(100)))
    with path.open("rb", buffering=0) as file:
        part = RangeFile(file, 10, 20)
        assert (part.readable(), part.seekable(), part.tell()) == (True, True, 0)
        assert part.read(3) == bytes([10, 11, 12])
        assert part.seek(-2, os.SEEK_END) == 18
        assert part.read() == bytes([28, 29])
        assert (part.seek(50), part.read(5)) == (50, b"")
        assert (part.seek(5), part.seek(-1, os.SEEK_CUR), part.read(1)) == (5, 4, bytes([14]))
        with pytest.raises(ValueError, match="negative seek position"):
            part.seek(-1)
