"""The lists of single corpora: fairseq's TSV, LJSpeech and Multilingual LibriSpeech."""

from __future__ import annotations

from pathlib import Path

import pytest
from lists import dataset, failed, read, refused

TSV = "{root}\na/1.flac\t16000\nb/2.flac\t32000\n"


@pytest.mark.parametrize(
    ("ending", "labels", "references"),
    [
        ("wrd", "HELLO THERE\nI'M\n", ["HELLO THERE", "I'M"]),
        ("ltr", "H E L L O | T H E R E |\nI ' M |\n", ["HELLO THERE", "I'M"]),
        ("km", "1 2 3\n4 5\n", [None, None]),
    ],
)
def test_fairseq_with_the_transcripts_beside_it(
    tmp_path: Path, ending: str, labels: str, references: list[str | None]
) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / f"train.{ending}").write_text(labels)
    for root in (str(tmp_path / "corpus"), "../corpus"):
        given = dataset(tmp_path / "lists", TSV.format(root=root), "train.tsv")
        utterances = list(given.utterances())
        assert given.columns() == {}
        assert [utterance.id for utterance in utterances] == ["a/1.flac", "b/2.flac"]
        assert Path(utterances[0].path) == tmp_path / "corpus" / "a" / "1.flac"
        assert [utterance.reference for utterance in utterances] == references


def test_a_moved_fairseq_corpus_needs_its_new_root(tmp_path: Path) -> None:
    assert "line 1: '/gone': no such folder; set dataset.audio_root=" in refused(
        tmp_path, TSV.format(root="/gone"), "train.tsv"
    )
    (first, _) = read(tmp_path, TSV.format(root="/gone"), "train.tsv", audio_root=str(tmp_path))
    assert (first.id, first.path) == ("a/1.flac", str(tmp_path / "a" / "1.flac"))


@pytest.mark.parametrize("labels", ["ONE\n", "ONE\nTWO\nTHREE\n"])
def test_transcripts_of_another_list_are_refused(tmp_path: Path, labels: str) -> None:
    (tmp_path / "train.wrd").write_text(labels)
    assert "another number of lines" in refused(tmp_path, TSV.format(root="."), "train.tsv")
    assert "line 3: 'b/2.flac' is not a path, a tab and" in failed(
        tmp_path, "/\na.wav\t7\nb/2.flac\n", "l.tsv", audio_root=str(tmp_path)
    )


def test_ljspeech(tmp_path: Path) -> None:
    (tmp_path / "wavs").mkdir()
    (tmp_path / "wavs" / "LJ1-1.wav").touch()
    text = 'LJ1-1|"In 1455, we,|"In fourteen fifty-five, we,\nLJ1-2|Two|Two\n'
    given = dataset(tmp_path, text, "metadata.csv")
    first, second = given.utterances()
    assert (first.id, first.path) == ("LJ1-1", str(tmp_path / "wavs" / "LJ1-1.wav"))
    assert (first.reference, first.columns) == ('"In fourteen fifty-five, we,', {"text": '"In 1455, we,'})
    assert second.path == str(tmp_path / "wavs" / "LJ1-2.wav")
    (two,) = read(tmp_path, "LJ1-1|only one text\n", "metadata.csv")
    assert (two.reference, two.columns) == ("only one text", {})
    assert "line 2: 2 values instead of 3" in failed(tmp_path, text[: text.rindex("|")] + "\n", "metadata.csv")


def test_a_converted_ljspeech(tmp_path: Path) -> None:
    (tmp_path / "wavs").mkdir()
    (tmp_path / "wavs" / "x.FLAC").touch()
    (utterance,) = read(tmp_path, "x|one|one\n", "metadata.csv")
    assert (utterance.id, utterance.path) == ("x", str(tmp_path / "wavs" / "x.FLAC"))


def test_multilingual_librispeech(tmp_path: Path) -> None:
    (tmp_path / "audio" / "48" / "100").mkdir(parents=True)
    (tmp_path / "audio" / "48" / "100" / "48_100_000001.opus").touch()
    given = dataset(tmp_path, "48_100_000000\tund so weiter\n48_100_000001\tja\n", "transcripts.txt")
    first, second = given.utterances()
    assert (first.id, first.reference) == ("48_100_000000", "und so weiter")
    assert first.columns == {"speaker": 48, "book": 100}
    assert first.path == str(tmp_path / "audio" / "48" / "100" / "48_100_000000.flac")
    assert second.path.endswith("48_100_000001.opus")
    assert "line 2: 'x' is not SPEAKER_BOOK_SEGMENT" in failed(tmp_path, "4_1_0\tja\nx\n", "transcripts.txt")
