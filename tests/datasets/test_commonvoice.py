"""A language of Common Voice, laid out as in its releases."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import DATA

from pipeline.datasets import Connector, commonvoice
from pipeline.records import Utterance
from pipeline.runtime.errors import UserError
from pipeline.stages.build_manifest import build

HEADER = (
    "client_id\tpath\tsentence_id\tsentence\tsentence_domain\tup_votes\tdown_votes\tage\tgender\taccents\t"
    "variant\tlocale\tsegment"
)
FIRST = 'c0ffee\tcommon_voice_de_1.mp3\t9f\t"Ja", sagte sie, "das\t\t2\t0\ttwenties\tfemale_feminine\t\t\tde\t'
SECOND = "beef\tcommon_voice_de_2.mp3\t7e\tNein.\tgeneral\t3\t1\t\t\t\t\tde\tBenchmark"


def language(root: Path, *lines: str | bytes, split: str = "validated") -> Path:
    folder = root / "cv-corpus-21.0" / "de"
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    data = b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines)
    (folder / f"{split}.tsv").write_bytes(data)
    return folder


def opened(folder: Path, **options: str) -> commonvoice.Dataset:
    return commonvoice.Dataset(commonvoice.Options(root=str(folder), **options))


def refused(folder: Path, **options: str) -> str:
    with pytest.raises(UserError) as caught:
        list(opened(folder, **options).utterances())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_column_of_every_clip(tmp_path: Path) -> None:
    folder = language(tmp_path, HEADER, FIRST, SECOND)
    dataset: Connector = opened(folder)
    assert dataset.columns() == {
        "client_id": "string", "sentence_id": "string", "sentence_domain": "string", "up_votes": "int32",
        "down_votes": "int32", "age": "string", "gender": "string", "accents": "string", "variant": "string",
        "locale": "string", "segment": "string",
    }  # fmt: skip
    first, second = dataset.utterances()
    assert first == Utterance(
        id="common_voice_de_1",
        path=str(folder / "clips" / "common_voice_de_1.mp3"),
        reference='"Ja", sagte sie, "das',
        columns={
            "client_id": "c0ffee", "sentence_id": "9f", "sentence_domain": None, "up_votes": 2, "down_votes": 0,
            "age": "twenties", "gender": "female_feminine", "accents": None, "variant": None, "locale": "de",
            "segment": None,
        },
    )  # fmt: skip
    assert (second.reference, second.columns["segment"], second.columns["up_votes"]) == ("Nein.", "Benchmark", 3)


def test_the_first_releases_list_names_without_extension(tmp_path: Path) -> None:
    folder = language(tmp_path, "client_id\tpath\tsentence\tup_votes", "a\t0f3b9c\tHallo\t", split="test")
    (clip,) = opened(folder, split="test").utterances()
    assert (clip.id, clip.path) == ("0f3b9c", str(folder / "clips" / "0f3b9c.mp3"))
    assert clip.columns["up_votes"] is None


def test_a_split_is_chosen_and_one_that_is_missing_is_refused(tmp_path: Path) -> None:
    folder = language(tmp_path, HEADER, FIRST, split="dev")
    language(tmp_path, HEADER, FIRST, split="other")
    assert len(list(opened(folder, split="dev").utterances())) == 1
    assert "dataset.split=validated: " in refused(folder)
    assert "is missing; choose dataset.split from dev, other" in refused(folder)
    assert "dataset.split=all: not allowed; there are validated, train" in refused(folder, split="all")
    assert "give the folder of a language" in refused(tmp_path)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("a\tb.mp3\tx", "line 3: 3 values instead of 4; restore the list"),
        ("a\t../../b.mp3\tx\t1", "path='../../b.mp3': must be the name of a file in clips"),
        ("a\t/etc/passwd\tx\t1", "path='/etc/passwd': must be the name"),
        ("a\t\tx\t1", "path='': must be the name"),
    ],
)
def test_a_wrong_line_fails_with_its_file_and_number(tmp_path: Path, line: str, reason: str) -> None:
    folder = language(tmp_path, "client_id\tpath\tsentence\tup_votes", "a\tok.mp3\tx\t1", line)
    good, bad = opened(folder).utterances()
    assert (good.error, bad.id, bad.path) == (None, "line 3", "")
    assert str(bad.error).startswith(f"{folder / 'validated.tsv'}: line 3: ")
    assert reason in str(bad.error)


def test_a_wrong_value_is_null_and_counted(tmp_path: Path) -> None:
    lines = [f"a\t{votes}.mp3\tx\t{votes}" for votes in ("1", "many", "99999999999", "2.5")]
    dataset = opened(language(tmp_path, "client_id\tpath\tsentence\tup_votes", *lines))
    assert [clip.columns["up_votes"] for clip in dataset.utterances()] == [1, None, None, None]
    (said,) = dataset.warnings()
    assert said.endswith(
        "up_votes that cannot be used, and are null: 3; the first: line 3: up_votes='many': must be a whole number"
    )


def test_a_list_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    folder = language(tmp_path, "client_id\tpath\tsentence\tup_votes", b"a\tb.mp3\t\xff\t1")
    assert refused(folder).startswith(f"{folder / 'validated.tsv'}: line 2: not UTF-8")


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("client_id\tsentence", "line 1: column path is missing"),
        ("path", "line 1: column sentence is missing"),
        ("path\tsentence\tx\tx", "two columns have the same name"),
        ("path\tsentence", "lists no clips"),
    ],
)
def test_a_wrong_header_is_refused(tmp_path: Path, header: str, reason: str) -> None:
    assert reason in refused(language(tmp_path, header))


def test_clips_become_a_manifest(tmp_path: Path) -> None:
    folder = language(tmp_path, HEADER, FIRST, SECOND)
    # The content of a clip decides how it is read, and not its name.
    (folder / "clips" / "common_voice_de_2.mp3").write_bytes((DATA / "fsdd" / "7_theo_1.wav").read_bytes())
    table = build(opened(folder), shard_hours=1).table
    assert table["id"].to_pylist() == ["common_voice_de_1", "common_voice_de_2"]
    assert table["num_samples"].to_pylist() == [None, 2892]
    assert table["down_votes"].to_pylist() == [0, 1]


@given(
    st.binary(max_size=200)
    | st.text('path\tsenc\n"\r.1é', max_size=80).map(lambda text: f"path\tsentence\n{text}".encode())
)
@settings(deadline=None)
def test_any_bytes_give_utterances_or_a_refusal(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = language(tmp_path_factory.getbasetemp(), data)
    try:
        clips = list(opened(folder).utterances())
    except UserError:
        return
    assert all(clip.error or Path(clip.path).parent == folder / "clips" for clip in clips)


def test_converted_clips_are_found(tmp_path: Path) -> None:
    folder = language(tmp_path, HEADER, FIRST, SECOND)
    (folder / "clips" / "common_voice_de_1.wav").touch()
    first, second = opened(folder).utterances()
    assert (first.id, first.path) == ("common_voice_de_1", str(folder / "clips" / "common_voice_de_1.wav"))
    assert second.path == str(folder / "clips" / "common_voice_de_2.mp3")
