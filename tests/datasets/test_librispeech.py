"""A LibriSpeech tree made of real recordings, named and laid out as in its release."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import DATA

from pipeline.datasets import Connector, librispeech
from pipeline.records import Utterance
from pipeline.runtime.errors import UserError
from pipeline.stages.build_manifest import build

RECORDINGS = sorted((DATA / "librivox").glob("*.wav"))
SPEAKERS = """;ID  |SEX| SUBSET           |MINUTES| NAME
84   | F | dev-clean        | 8.02  | Christie Nowak
1272 | M | dev-clean        | 8.09  | | CRAIG | Franklin
"""
CHAPTERS = """;ID    |READER|MINUTES| SUBSET           | PROJ.|BOOK ID| CH. TITLE | PROJECT TITLE
121123 | 84   | 8.02  | dev-clean        | 2032 | 1184 | Chapter 112: The Departure | Count of Monte Cristo
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    release = tmp_path / "LibriSpeech"
    for number, name in enumerate(
        ("84/121123/84-121123-0000", "84/121123/84-121123-0001", "1272/128104/1272-128104-0000")
    ):
        path = release / "dev-clean" / f"{name}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(RECORDINGS[number], path)
    chapter = release / "dev-clean" / "84" / "121123"
    (chapter / "84-121123.trans.txt").write_text("84-121123-0000 GO DO YOU HEAR\n84-121123-0001 BUT IN LESS\n")
    (release / "SPEAKERS.TXT").write_text(SPEAKERS)
    (release / "CHAPTERS.TXT").write_text(CHAPTERS)
    (release / "README.TXT").write_text("readme\n")
    return release


def found(root: Path) -> dict[str, Utterance]:
    dataset: Connector = librispeech.Dataset(librispeech.Options(root=str(root)))
    utterances = list(dataset.utterances())
    for utterance in utterances:
        assert list(utterance.columns) == list(dataset.columns())
    return {utterance.id: utterance for utterance in utterances}


def test_every_column_of_every_recording(root: Path) -> None:
    utterances = found(root)
    assert list(utterances) == ["1272-128104-0000", "84-121123-0000", "84-121123-0001"]
    assert utterances["84-121123-0000"] == Utterance(
        id="84-121123-0000",
        path=str(root / "dev-clean/84/121123/84-121123-0000.flac"),
        reference="GO DO YOU HEAR",
        columns={
            "subset": "dev-clean", "speaker": "84", "chapter": "121123", "segment": "0000", "gender": "F",
            "book": "Count of Monte Cristo",
        },
    )  # fmt: skip
    silent = utterances["1272-128104-0000"]
    assert (silent.reference, silent.columns["gender"], silent.columns["book"]) == (None, "M", None)


@pytest.mark.parametrize("part", ["dev-clean", "dev-clean/84", "dev-clean/84/121123", "."])
def test_a_part_of_the_release_will_do(root: Path, part: str) -> None:
    row = found(root / part)["84-121123-0001"]
    assert (row.reference, row.columns["subset"]) == ("BUT IN LESS", "dev-clean")
    assert row.columns["gender"] == ("F" if part in (".", "dev-clean") else None)


def test_the_folder_around_the_release_will_do(root: Path) -> None:
    assert found(root.parent)["84-121123-0000"].columns["gender"] == "F"


def test_the_subset_comes_from_the_tables_where_the_folders_do_not_say_it(root: Path) -> None:
    (root / "dev-clean").rename(root / "mine")
    rows = found(root)
    assert rows["84-121123-0000"].columns["subset"] == "dev-clean"
    assert rows["1272-128104-0000"].columns["subset"] == "dev-clean"
    (root / "SPEAKERS.TXT").unlink()
    (root / "CHAPTERS.TXT").unlink()
    assert found(root)["84-121123-0000"].columns["subset"] is None


def test_a_missing_recording_is_a_row_where_its_list_stands(root: Path) -> None:
    (root / "dev-clean/84/121123/84-121123-0000.flac").unlink()
    rows = found(root)
    assert list(rows) == ["1272-128104-0000", "84-121123-0001", "84-121123-0000"]
    assert rows["84-121123-0000"].reference == "GO DO YOU HEAR"
    table = build(librispeech.Dataset(librispeech.Options(root=str(root))), shard_hours=1).table
    assert table["num_samples"].null_count == 1


def test_converted_recordings_and_other_names_are_rows_too(root: Path) -> None:
    chapter = root / "dev-clean/84/121123"
    (chapter / "84-121123-0000.flac").rename(chapter / "84-121123-0000.wav")
    shutil.copy(RECORDINGS[0], chapter / "extra.wav")
    rows = found(root)
    assert len(rows) == 4
    assert rows["84-121123-0000"].reference == "GO DO YOU HEAR"
    assert rows["extra"].columns["speaker"] is None


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"84-121123-0000 A\n../../x B\n", "line 2: '../../x' is not the name of a recording"),
        (b"/etc/passwd\n", "line 1: '/etc/passwd' is not the name of a recording"),
        (b"\n84-121123-0000 \xff\n", "line 2: not UTF-8"),
    ],
)
def test_a_wrong_line_is_counted_and_costs_no_other(root: Path, data: bytes, reason: str) -> None:
    list_ = root / "dev-clean/84/121123/84-121123.trans.txt"
    list_.write_bytes(data)
    dataset = librispeech.Dataset(librispeech.Options(root=str(root)))
    assert len(list(dataset.utterances())) == len(found(root))
    assert dataset.warnings()[0].startswith(f"lines of lists that cannot be used: 1; the first: {list_}: {reason}")


def test_a_tree_without_recordings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no recordings found; expected the folder LibriSpeech"):
        found(tmp_path)
    with pytest.raises(UserError, match=r"dataset\.root is required"):
        librispeech.Dataset(librispeech.Options())


@given(st.binary(max_size=200) | st.text("84-121123 01AB\n|;", max_size=80).map(str.encode))
@settings(deadline=None)
def test_any_bytes_give_utterances_or_a_refusal(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.getbasetemp() / "LibriSpeech" / "84" / "121123"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "84-121123-0000.flac").touch()
    for name in ("84-121123.trans.txt", "SPEAKERS.TXT", "CHAPTERS.TXT"):
        (folder / name).write_bytes(data)
    try:
        rows = found(folder)
    except UserError:
        return
    assert "84-121123-0000" in rows
    assert all(Path(row.path).parent == folder for row in rows.values())


def test_capital_extensions_lose_nothing(root: Path) -> None:
    chapter = root / "dev-clean" / "84" / "121123"
    (chapter / "84-121123-0000.flac").rename(chapter / "84-121123-0000.FLAC")
    (chapter / "84-121123.trans.txt").rename(chapter / "84-121123.TRANS.TXT")
    utterances = found(root)
    assert len(utterances) == 3
    assert utterances["84-121123-0000"].reference == "GO DO YOU HEAR"
