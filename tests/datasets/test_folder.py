"""Folders of recordings, the shipped digits, and the choice of a connector by name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from pipeline import datasets
from pipeline.datasets import Connector, digits, folder
from pipeline.records import Utterance
from pipeline.runtime.errors import UserError

ROOT = Path(__file__).parents[2]
LIBRIVOX = ROOT / "tests" / "data" / "librivox"


def make(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def found(root: Path, **options: list[str]) -> list[Utterance]:
    dataset: Connector = folder.Dataset(folder.Options(root=str(root), **options))
    return list(dataset.utterances())


def ids(root: Path, **options: list[str]) -> list[str]:
    return [utterance.id for utterance in found(root, **options)]


def test_real_recordings_are_found_with_their_paths() -> None:
    dataset = folder.Dataset(folder.Options(root=str(LIBRIVOX)))
    utterances = list(dataset.utterances())
    assert dataset.run_name == "folder-librivox"
    assert dataset.notice is None
    assert dataset.columns() == {}
    assert [utterance.id[-8:] for utterance in utterances] == [f"{n:04}.wav" for n in (870, 880, 890, 920, 930)]
    assert all(utterance.path == str(LIBRIVOX / utterance.id) for utterance in utterances)
    assert all(utterance.reference is None for utterance in utterances)


def test_ids_are_sorted_bytewise_over_the_whole_path(tmp_path: Path) -> None:
    names = ["a/z.wav", "a.wav", "a-b.wav", "B.wav", "a/b/c.wav", "ä.wav", "a0.wav"]
    make(tmp_path, *names)
    assert ids(tmp_path) == sorted(names, key=os.fsencode)


def test_extensions_are_compared_without_case_and_dot(tmp_path: Path) -> None:
    make(tmp_path, "a.WAV", "b.Flac", "c.mp3", "d.txt", "e", "f.wav.part", "g.h.ogg")
    assert ids(tmp_path) == ["a.WAV", "b.Flac", "c.mp3", "g.h.ogg"]
    assert ids(tmp_path, extensions=[".wav", "MP3"]) == ["a.WAV", "c.mp3"]


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    make(tmp_path, "a.wav", ".b.wav", "._a.wav", ".trash/c.wav", "d/.e/f.wav")
    assert ids(tmp_path) == ["a.wav"]


def test_a_folder_named_like_a_recording_is_walked_and_a_pipe_is_kept(tmp_path: Path) -> None:
    make(tmp_path, "x.wav/inner.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "dangling.wav").symlink_to("gone.wav")
    (tmp_path / "itself.wav").symlink_to("itself.wav")
    # A file that cannot be read is listed too, so that it becomes a failure and is not lost.
    assert ids(tmp_path) == ["dangling.wav", "itself.wav", "pipe.wav", "x.wav/inner.wav"]


def test_links_to_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    outside = make(tmp_path / "outside", "far.wav")
    root = make(tmp_path / "root", "a/near.wav", "b/other.wav")
    (root / "link").symlink_to(outside)
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "self").symlink_to(root / "a")
    (root / "b" / "twin").symlink_to(root / "a")
    assert ids(root) == ["a/near.wav", "b/other.wav", "b/twin/near.wav", "link/far.wav"]


def test_undecodable_names_appear_escaped_and_keep_their_bytes(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(raw)
    for name in (b"/\xff.wav", b"/\xff.txt"):
        with open(raw + name, "wb") as file:
            file.write(b"hello")
    (utterance,) = found(tmp_path)
    assert utterance.id == "caf%E9/%FF.wav"
    assert os.fsencode(utterance.path) == raw + b"/\xff.wav"
    assert utterance.reference == "hello"
    assert folder.Dataset(folder.Options(root=os.fsdecode(raw))).run_name == "folder-caf%E9"


def test_names_with_spaces_quotes_and_newlines_are_kept(tmp_path: Path) -> None:
    names = ["a b.wav", "line\nbreak.wav", "quo'te\".wav", "🎙.wav", "e\u0301.wav", "\u00e9.wav"]
    make(tmp_path, *names)
    assert ids(tmp_path) == sorted(names, key=os.fsencode)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"  He was not ill disposed.\n", "He was not ill disposed."),
        (b"\xef\xbb\xbfBOM", "BOM"),
        ("früh".encode("utf-16"), "früh"),
        (b"caf\xe9", None),
        ("one".encode("utf-16-le"), None),
        (b" \n", None),
        (b"x" * (2**20 + 1), None),
    ],
)
def test_a_text_beside_a_recording_is_its_reference(tmp_path: Path, data: bytes, expected: str | None) -> None:
    make(tmp_path, "a.b.wav")
    (tmp_path / "a.b.txt").write_bytes(data)
    assert found(tmp_path)[0].reference == expected


def test_references_that_cannot_be_used_are_counted_and_an_encoding_helps(tmp_path: Path) -> None:
    make(tmp_path, "a.wav", "b.wav", "c.wav", "d.wav")
    for name, data in {"a": b"caf\xe9", "b": "früh".encode(), "c": b"x" * (2**20 + 1)}.items():
        (tmp_path / f"{name}.txt").write_bytes(data)
    for encoding, references in ((None, [None, "früh", None, None]), ("cp1252", ["café", "früh", None, None])):
        dataset = folder.Dataset(folder.Options(root=str(tmp_path), encoding=encoding))
        assert [utterance.reference for utterance in dataset.utterances()] == references
        (line,) = dataset.warnings()
        assert line.startswith("references that cannot be used, so that the recording has none: ")
        assert (": 2; the first: a.txt: not UTF-8; save it" in line) == (encoding is None)
    with pytest.raises(UserError, match=r"dataset\.encoding=ansi: no such encoding; give one that Python knows"):
        folder.Dataset(folder.Options(root=str(tmp_path), encoding="ansi"))


def test_a_reference_that_is_no_file_is_none(tmp_path: Path) -> None:
    make(tmp_path, "a.wav", "b.wav", "c.wav", "b.txt/x")
    os.mkfifo(tmp_path / "a.txt")
    (tmp_path / "c.txt").symlink_to("c.txt")
    assert [utterance.reference for utterance in found(tmp_path)] == [None] * 3


def test_recordings_are_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a/1.wav", "b/2.wav", "c/3.wav")
    entered: list[str] = []
    scandir = os.scandir

    def note(path: bytes) -> Any:
        entered.append(os.fsdecode(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", note)
    dataset = folder.Dataset(folder.Options(root=str(tmp_path)))
    dataset.columns()  # has to know how deep the folders are
    entered.clear()
    utterances = dataset.utterances()
    assert next(utterances).id == "a/1.wav"
    assert entered == [f"{tmp_path}/", f"{tmp_path}/a/"]


@pytest.mark.parametrize(
    ("root", "reason"),
    [
        ("/nope", "dataset.root=/nope: no such folder; give"),
        ("", "required"),
        ("???", "required"),
        (__file__, "not a folder"),
    ],
)
def test_a_wrong_root_is_refused_at_once(root: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason.replace("?", r"\?")):
        folder.Dataset(folder.Options(root=root))


@pytest.mark.parametrize("extensions", [[], [""], ["."]])
def test_no_extension_is_refused(tmp_path: Path, extensions: list[str]) -> None:
    with pytest.raises(UserError, match=r"dataset\.extensions="):
        folder.Dataset(folder.Options(root=str(tmp_path), extensions=extensions))


def test_a_folder_without_recordings_is_refused(tmp_path: Path) -> None:
    make(tmp_path, "notes.txt")
    with pytest.raises(UserError, match=f"{tmp_path}: no recordings found; looked for files that end in ogg, wav"):
        found(tmp_path, extensions=["wav", "ogg"])


def test_an_unreadable_folder_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a/1.wav", "b/2.wav")
    scandir = os.scandir

    def refuse(path: bytes) -> object:
        if path.endswith(b"/b/"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"'b/' cannot be read \(Permission denied\)"):
        found(tmp_path)


def test_a_relative_root_and_home_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "calls/a.wav")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for root in ("calls", "calls/", "~/calls", "./calls/../calls"):
        dataset = folder.Dataset(folder.Options(root=root))
        assert dataset.run_name == "folder-calls"
        assert next(dataset.utterances()).path == str(tmp_path / "calls" / "a.wav")


def digits_corpus(root: Path, rows: str) -> Path:
    make(root, "test/b.flac", "a.flac")
    (root / "transcripts.csv").write_text(f"file_name,transcript,speaker,num_digits,source\n{rows}")
    return root


def test_digits_come_with_speaker_and_length(tmp_path: Path) -> None:
    corpus = digits_corpus(tmp_path, "test/b.flac,one two,theo,2,x\na.flac,seven,lucas,1,y\n")
    dataset: Connector = digits.Dataset(digits.Options(), corpus)
    first, second = dataset.utterances()
    assert (dataset.run_name, dataset.notice) == ("digits", None)
    assert dataset.columns() == {"speaker": "string", "num_digits": "int16"}
    assert (first.id, first.reference, first.path) == ("a.flac", "seven", str(tmp_path / "a.flac"))
    assert (second.id, second.reference) == ("test/b.flac", "one two")
    assert second.columns == {"speaker": "theo", "num_digits": 2}


@pytest.mark.parametrize(
    ("rows", "reason"), [("", "lists no recordings"), ("a.flac,seven,lucas,many,y\n", "num_digits is not a number")]
)
def test_damaged_digits_are_refused(tmp_path: Path, rows: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        list(digits.Dataset(digits.Options(), digits_corpus(tmp_path, rows)).utterances())


def test_missing_digits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"transcripts\.csv is missing; install"):
        digits.Dataset(digits.Options(), tmp_path)


@pytest.mark.parametrize("name", ["voices", "folder", "manifest", "digits"])
def test_every_connector_has_options_that_its_yaml_gives(name: str) -> None:
    module = datasets.CONNECTORS.load(name)
    given: Any = OmegaConf.load(ROOT / "conf" / "dataset" / f"{name}.yaml")
    given = given.get("dataset", given)  # some files also override another group
    assert given.pop("connector") == name
    options = OmegaConf.structured(module.Options)
    assert set(given) == set(options)
    if name == "folder":
        assert list(given.extensions) == list(options.extensions)
    assert callable(module.Dataset)


@pytest.mark.parametrize("name", ["", "nope", "folder.x", "../folder", "__init__", "Folder"])
def test_an_unknown_connector_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(UserError, match=r"dataset\.connector=.*there are commonvoice, digits, .*manifest, .*voices"):
        datasets.CONNECTORS.load(name)


def test_datasets_load_neither_torch_nor_arrow_nor_a_decoder() -> None:
    code = (
        "import sys; from pipeline.datasets import CONNECTORS\n"
        "for name in ('voices', 'librispeech', 'commonvoice', 'folder', 'manifest', 'digits'): CONNECTORS.load(name)\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'pyarrow', 'soundfile')) and 1)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_reference_is_found_whatever_the_case_of_its_extension(tmp_path: Path) -> None:
    make(tmp_path, "SA1.WAV", "b.wav", "c.wav")
    (tmp_path / "SA1.TXT").write_text("0 46797 She had your dark suit.\n")
    (tmp_path / "b.Txt").write_text("0 46797 5")
    (tmp_path / "c.TXT").write_text("upper")
    (tmp_path / "c.txt").write_text("lower")
    # The first is a text of TIMIT, which begins with numbers of samples.
    assert [utterance.reference for utterance in found(tmp_path)] == ["She had your dark suit.", "0 46797 5", "lower"]


def test_the_folders_are_columns(tmp_path: Path) -> None:
    make(tmp_path, "2024/mon/a.wav", "2025/b.wav", "c.wav", "x/y/z/notes.txt")
    dataset: Connector = folder.Dataset(folder.Options(root=str(tmp_path)))
    assert dataset.columns() == {"folder1": "string", "folder2": "string"}  # always: a new folder changes no type
    assert [utterance.columns for utterance in dataset.utterances()] == [
        {"folder1": "2024", "folder2": "mon"}, {"folder1": "2025"}, {}
    ]  # fmt: skip
    make(tmp_path, "late/new/deep/d.wav")  # while the manifest is made
    assert list(dataset.utterances())[-1].columns == {"folder1": "late", "folder2": "new"}
    deep = folder.Dataset(folder.Options(root=str(make(tmp_path / "deep", "1/2/3/4/5/6/7/8/9/10/a.wav"))))
    assert list(deep.columns()) == [f"folder{level}" for level in range(1, 11)]
