"""Shards of WebDataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from packing import write_tar

from pipeline.audio.archives.members import unpacked
from pipeline.datasets.webdataset import Dataset, Keys, Options
from pipeline.records import Utterance
from pipeline.runtime.errors import UserError


def js(**values: Any) -> bytes:
    return json.dumps(values).encode()


def found(dataset: Dataset) -> dict[str, Utterance]:
    return {each.id: each for each in dataset.utterances()}


def test_samples_are_the_files_with_one_name_up_to_its_first_dot(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "train" / "shard-1.tar",
        {"d/a.b.flac": b"", "d/a.txt": b"hello ", "d/a.json": js(speaker="s1", age=30), "__key__": b"", "n.cls": b"3"},
    )
    write_tar(
        tmp_path / "train" / "shard-0.tar",
        {"x.wav": b"", "x.transcript": b"bye", "y.json": js(age=31.5, tags=["p"]), "y.MP3": b"", "z.audio": b""},
    )
    dataset = Dataset(Options(root=str(tmp_path)))
    utterances = found(dataset)
    assert [*utterances] == ["train/shard-0/x", "train/shard-0/y", "train/shard-0/z", "train/shard-1/d/a"]
    assert dataset.columns() == {"age": "float64", "speaker": "string", "tags": "string"}
    first, *_, last = utterances.values()
    assert (first.reference, last.reference, utterances["train/shard-0/y"].reference) == ("bye", "hello", None)
    assert dict(last.columns) == {"speaker": "s1", "age": 30.0}
    assert dict(utterances["train/shard-0/y"].columns) == {"age": 31.5, "tags": '["p"]'}
    assert unpacked(last.path) == f"{tmp_path}/train/shard-1.tar/d/a.b.flac"
    assert dataset.warnings() == [
        "samples without a recording, which are left out: 2; the first: train/shard-1.tar: __key__"
    ]
    alone = Dataset(Options(root=str(tmp_path / "train" / "shard-1.tar")))
    assert [*found(alone)] == ["shard-1/d/a"]
    assert (dataset.run_name, alone.run_name) == (f"webdataset-{tmp_path.name}", "webdataset-shard-1.tar")


def test_each_recording_of_a_sample_is_an_utterance(tmp_path: Path) -> None:
    write_tar(tmp_path / "s.tar", {"a.left.flac": b"", "a.right.flac": b"", "a.txt": b"hello", "a.json": js(id="call")})
    utterances = found(Dataset(Options(root=str(tmp_path))))
    assert {id_: each.reference for id_, each in utterances.items()} == {
        "call.left.flac": "hello", "call.right.flac": "hello",
    }  # fmt: skip
    assert utterances["call.left.flac"].path != utterances["call.right.flac"].path


def test_the_json_gives_id_and_reference_where_it_has_them(tmp_path: Path) -> None:
    write_tar(tmp_path / "s.tar", {"a.wav": b"", "a.json": js(uttid=7, text="hello", said="bye"), "b.wav": b""})
    dataset = Dataset(Options(root=str(tmp_path)))
    assert {id_: each.reference for id_, each in found(dataset).items()} == {"7": "hello", "s/b": None}
    assert dataset.columns() == {"said": "string"}
    assert dataset.reading(1).endswith(": id from the key 'uttid'; text from the key 'text'; own columns 'said'")
    other = Dataset(Options(root=str(tmp_path), columns=Keys(text="said", id="")))
    assert {id_: each.reference for id_, each in found(other).items()} == {"s/a": "bye", "s/b": None}
    write_tar(tmp_path / "s.tar", {"a.wav": b"", "a.json": js(text="hello", said="bye"), "a.txt": b"txt"})
    assert found(Dataset(Options(root=str(tmp_path))))["s/a"].reference == "txt"
    named = Dataset(Options(root=str(tmp_path), columns=Keys(text="text")))
    assert found(named)["s/a"].reference == "hello"


@pytest.mark.parametrize(
    ("values", "columns", "reason"),
    [
        (
            {"text": "a", "reference": "b"},
            Keys(),
            "keys text and reference may both hold the text; set dataset.columns",
        ),
        ({"a": "b"}, Keys(text="said"), "dataset.columns.text=said: no such key; the keys of the JSON objects are 'a'"),
    ],
)
def test_keys_that_are_not_there_or_unclear_are_refused(
    tmp_path: Path, values: dict[str, str], columns: Keys, reason: str
) -> None:
    write_tar(tmp_path / "s.tar", {"a.wav": b"", "a.json": js(**values)})
    with pytest.raises(UserError) as caught:
        list(Dataset(Options(root=str(tmp_path), columns=columns)).utterances())
    assert reason in str(caught.value)


def test_what_cannot_be_used_costs_no_more_than_itself(tmp_path: Path) -> None:
    write_tar(tmp_path / "s.tar", {"a.wav": b"", "a.json": b"{", "a.txt": b"\xff", "b.wav": b"", "b.json": b"[1]"})
    shard = write_tar(tmp_path / "t.tar", {"c.wav": b"", "d.wav": bytes(600)})
    shard.write_bytes(shard.read_bytes()[:1100])
    (tmp_path / "u.tar.gz").write_bytes(b"")
    dataset = Dataset(Options(root=str(tmp_path)))
    utterances = found(dataset)
    assert [(id_, each.error is None) for id_, each in utterances.items()] == [
        ("s/a", True), ("s/b", True), ("t/c", True), ("t.tar", False),
    ]  # fmt: skip
    assert sorted(line.partition(";")[0] for line in dataset.warnings()) == [
        "JSON that cannot be used, so that the recording has no columns: 2",
        "compressed shards, which are not read",
        "references that cannot be used, so that the recording has none: 1",
    ]
    (tmp_path / "x.zip").write_bytes(b"")
    with pytest.raises(UserError, match=r"not a folder; give one, or an archive that ends in \.tar$"):
        Dataset(Options(root=str(tmp_path / "x.zip")))
    with pytest.raises(UserError, match="no samples with a recording found"):
        list(Dataset(Options(root=str(write_tar(tmp_path / "e.tar", {"a.txt": b""})))).utterances())
