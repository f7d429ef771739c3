"""A VOiCES tree made of real recordings, named and laid out as in its releases."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.audio.waveforms import read_waveform
from pipeline.datasets import Connector, voices
from pipeline.records import Utterance
from pipeline.runtime.errors import UserError

LIBRIVOX = sorted((Path(__file__).parents[1] / "data" / "librivox").glob("*.wav"))
SOURCE = "Lab41-SRI-VOiCES-src-sp0307-ch127535-sg0042"
DISTANT = "Lab41-SRI-VOiCES-rm1-babb-sp0032-ch021625-sg0005-mc01-stu-clo-dg080"
FAR = "Lab41-SRI-VOiCES-rm4-none-sp0032-ch021625-sg0005-mc20-lav-ds3-dg000"
TREE = (
    f"source-16k/train/sp0307/{SOURCE}.wav",
    f"distant-16k/speech/train/rm1/babb/sp0032/{DISTANT}.wav",
    f"distant-16k/speech/test/rm4/none/sp0032/{FAR}.wav",
    "distant-16k/distractors/rm1/babb/Lab41-SRI-VOiCES-rm1-babb-mc01-stu-clo.wav",
    "distant-16k/room-response/rm1/impulse/Lab41-SRI-VOiCES-rm1-impulse-mc01-stu-clo.wav",
    "distant-16k/room_response/rm1/tone/Lab41-SRI-VOiCES-rm1-tone-mc01-stu-clo.wav",
)
TRANSCRIPTS = f"""index,file_name,transcript
0,{SOURCE},i had that curiosity beside me at this moment
1,{DISTANT},"a text, with a comma"
2,{FAR}.wav,another
"""
GENDERS = """Speaker Gender Dataset
32   F   train-clean-360
307  M   train-clean-100
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    devkit = tmp_path / "VOiCES_devkit"
    for number, name in enumerate(TREE):
        place(devkit, name, number)
    (devkit / "references").mkdir()
    return devkit


def place(devkit: Path, name: str, number: int = 0) -> None:
    path = devkit / name
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(LIBRIVOX[number % len(LIBRIVOX)], path)


def refer(root: Path, name: str, text: str) -> None:
    (root / "references" / name).write_text(text, encoding="utf-8")


def found(root: Path | None) -> dict[str, Utterance]:
    dataset: Connector = voices.Dataset(voices.Options(root=None if root is None else str(root)))
    utterances = list(dataset.utterances())
    assert [utterance.path for utterance in utterances] == sorted(utterance.path for utterance in utterances)
    for utterance in utterances:
        assert list(utterance.columns) == list(dataset.columns())
    return {utterance.id: utterance for utterance in utterances}


def test_every_column_of_every_recording(root: Path) -> None:
    refer(root, "filename_transcripts", TRANSCRIPTS)
    refer(root, "Lab41-SRI-VOiCES-speaker-gender-dataset.tbl", GENDERS)
    utterances = found(root)
    assert set(utterances) == {SOURCE, DISTANT, FAR}
    assert utterances[SOURCE].columns == {
        "split": "train",
        "source": True,
        "room": None,
        "distractor": None,
        "speaker": "sp0307",
        "chapter": "ch127535",
        "segment": "sg0042",
        "mic": None,
        "mic_type": None,
        "mic_location": None,
        "degrees": None,
        "gender": "M",
    }
    assert utterances[DISTANT].columns == {
        "split": "train",
        "source": False,
        "room": "rm1",
        "distractor": "babb",
        "speaker": "sp0032",
        "chapter": "ch021625",
        "segment": "sg0005",
        "mic": "mc01",
        "mic_type": "stu",
        "mic_location": "clo",
        "degrees": 80,
        "gender": "F",
    }
    far = utterances[FAR].columns
    assert (far["split"], far["room"], far["distractor"], far["degrees"]) == ("test", "rm4", "none", 0)
    assert (far["mic"], far["mic_type"], far["mic_location"]) == ("mc20", "lav", "ds3")
    assert utterances[SOURCE].reference == "i had that curiosity beside me at this moment"
    assert utterances[DISTANT].reference == "a text, with a comma"
    assert utterances[FAR].reference == "another"
    assert utterances[DISTANT].path == str(root / TREE[1])


def test_column_types_are_the_contracts() -> None:
    columns = voices.Dataset(voices.Options()).columns()
    assert columns.pop("source") == "bool"
    assert columns.pop("degrees") == "int16"
    assert set(columns.values()) == {"string"}
    assert list(columns) == [
        "split", "room", "distractor", "speaker", "chapter", "segment", "mic", "mic_type", "mic_location", "gender"
    ]  # fmt: skip


def test_missing_references_give_nulls(root: Path) -> None:
    (root / "references").rmdir()
    for utterance in found(root).values():
        assert utterance.reference is None
        assert utterance.columns["gender"] is None


@pytest.mark.parametrize("extension", ["", ".wav"])
def test_older_references_are_joined_by_passage(root: Path, extension: str) -> None:
    source = "Lab41-SRI-VOiCES-src-sp0032-ch021625-sg0005"
    refer(
        root,
        "Lab41-SRI-VOiCES.refs",
        f"{SOURCE}{extension} I HAD THAT CURIOSITY\n\n{source}{extension}\tSAID BY  MANY MICROPHONES \n{source}x\n",
    )
    utterances = found(root)
    assert utterances[SOURCE].reference == "I HAD THAT CURIOSITY"
    assert utterances[DISTANT].reference == utterances[FAR].reference == "SAID BY  MANY MICROPHONES"


def test_older_names_are_understood(root: Path) -> None:
    older = DISTANT.replace("-sg", "-seg").replace("rm1", "rm2")
    source = SOURCE.replace("-src-", "-scr-")
    place(root, f"distant-16k/speech/rm2/babb/sp0032/{older}.wav")
    place(root, f"source-16k/sp0307/{source}.wav")
    refer(root, "Lab41-SRI-VOiCES.refs", f"{DISTANT} A TEXT\n")
    utterances = found(root)
    assert utterances[older].columns["segment"] == "seg0005"
    assert utterances[older].columns["room"] == "rm2"
    assert utterances[older].columns["split"] is None
    assert utterances[older].reference == "A TEXT"
    assert utterances[source].columns["source"] is True


def test_a_reference_that_is_not_utf_8_is_not_used_and_counted(root: Path) -> None:
    (root / "references").mkdir(exist_ok=True)
    (root / "references" / "Lab41-SRI-VOiCES.refs").write_bytes(f"{DISTANT} CAF".encode() + b"\xe9\n")
    dataset = voices.Dataset(voices.Options(root=str(root)))
    assert {utterance.reference for utterance in dataset.utterances()} == {None}
    assert dataset.warnings()[0].startswith(
        "references that are not UTF-8, so that the recording has none: 1; the first"
    )


def test_the_newer_reference_file_is_right(root: Path) -> None:
    refer(root, "filename_transcripts", f"index,file_name,transcript\n0,{DISTANT},new\n")
    refer(root, "Lab41-SRI-VOiCES.refs", f"{DISTANT} OLD\n{SOURCE} ONLY HERE\n")
    utterances = found(root)
    assert utterances[DISTANT].reference == utterances[FAR].reference == "new"
    assert utterances[SOURCE].reference == "ONLY HERE"


def test_a_recordings_own_text_comes_first(root: Path) -> None:
    refer(root, "filename_transcripts", f"index,file_name,transcript\n0,{DISTANT},one\n1,{FAR},two\n")
    utterances = found(root)
    assert (utterances[DISTANT].reference, utterances[FAR].reference) == ("one", "two")


@pytest.mark.parametrize(
    "table",
    [
        ";Speaker Gender Dataset\n0032 f x\n0307 m y\n",
        "sp0032 f\nsp0307 m\n",
        "32 | f | train-clean-360\n307 | m | train-clean-100\n",
        "Gender Speaker\nf 32\nm 307\n",
        "\ufeffSpeaker\tGender\r\n32\tf\r\n307\tm\r\n",
    ],
)
def test_gender_tables_of_several_shapes(root: Path, table: str) -> None:
    refer(root, "Lab41-SRI-VOiCES-speaker-gender-dataset.tbl", table)
    utterances = found(root)
    assert (utterances[DISTANT].columns["gender"], utterances[SOURCE].columns["gender"]) == ("f", "m")


def test_a_recording_outside_the_scheme_is_kept_with_nulls(root: Path) -> None:
    place(root, "source-16k/test/my own take.WAV")
    refer(root, "filename_transcripts", "index,file_name,transcript\n0,my own take,mine\n")
    utterance = found(root)["my own take"]
    assert utterance.columns.pop("split") == "test"  # type: ignore[attr-defined]
    assert set(utterance.columns.values()) == {None}
    assert utterance.reference == "mine"


@pytest.mark.parametrize(
    "name",
    [
        "Lab41-SRI-VOiCES-src-sp0307-ch127535-sg0042-mc01-stu-clo-dg080",
        "Lab41-SRI-VOiCES-rm1-babb-sp0307-ch127535-sg0042",
        "Lab41-SRI-VOiCES-rm1-babb-mc01-stu-clo",
        "Lab41-SRI-VOiCES-rm1-babb-sp0032-ch021625-sg0005-mc01-stu-clo-dg99999",
        "x" + SOURCE,
        SOURCE + "\n",
        "",
    ],
)
def test_names_that_only_resemble_the_scheme_give_nulls(name: str) -> None:
    assert set(voices.parse_name(name).values()) == {None}


def test_a_part_of_the_tree_is_a_corpus_too(root: Path) -> None:
    assert set(found(root / "source-16k")) == {SOURCE}


@pytest.mark.parametrize("given", [None, ""])
def test_without_a_root_the_shipped_recording_stands_in(given: str | None) -> None:
    dataset = voices.Dataset(voices.Options(root=given))
    (utterance,) = dataset.utterances()
    assert dataset.run_name == "voices-sample"
    assert dataset.notice is not None
    assert "VOICES_ROOT" in dataset.notice
    assert "dataset.root" in dataset.notice
    assert utterance.id == SOURCE
    assert (utterance.reference or "").upper() == "I HAD THAT CURIOSITY BESIDE ME AT THIS MOMENT"
    assert utterance.columns["source"] is True
    assert len(read_waveform(utterance.path)[0]) == 54_400


def test_a_given_root_is_the_corpus(root: Path) -> None:
    dataset = voices.Dataset(voices.Options(root=str(root)))
    assert (dataset.run_name, dataset.notice) == ("voices", None)


def test_a_root_without_recordings_says_what_is_expected(tmp_path: Path) -> None:
    place(tmp_path, "distant-16k/distractors/Lab41-SRI-VOiCES-rm1-babb-mc01-stu-clo.wav")
    with pytest.raises(UserError, match=r"no recordings found; expected the folder VOiCES_devkit with source-16k"):
        found(tmp_path)


def test_a_wrong_root_is_refused_at_once() -> None:
    with pytest.raises(UserError, match=r"dataset\.root=/nope: no such folder; give"):
        voices.Dataset(voices.Options(root="/nope"))


def test_a_reference_file_that_cannot_be_read_stops_the_run(root: Path) -> None:
    (root / "references" / "filename_transcripts").mkdir()
    with pytest.raises(UserError, match=r"filename_transcripts: cannot be read"):
        found(root)
