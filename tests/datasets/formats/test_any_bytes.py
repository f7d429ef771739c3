"""Any bytes in any format give utterances that fit a table, or a refusal. Nothing is executed."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzzing import check_list
from hypothesis import example, given, settings
from hypothesis import strategies as st
from running import DATA, assert_accounting, main, read, run

from pipeline.datasets.formats.detect import FORMATS, detect
from pipeline.datasets.formats.source import MAX_LINE_BYTES, Source
from pipeline.results import open_run
from pipeline.runtime.errors import UserError

FSDD = DATA / "fsdd"
LINES = (
    *(DATA / "lhotse" / "refused.jsonl").read_text().splitlines(),
    *(DATA / "lhotse" / "supervisions.jsonl").read_text().splitlines(),
    '{"audio_filepath": "a.wav", "offset": 1, "duration": 2, "text": "x"}',
    "path,start,end,channel,text",
    "path\tstart\tend\tchannel\ttext",
    "a.wav,1,2,1,x",
    "a.wav\t1\t2\t1\tx",
    "SPEAKER a 1 0.5 2 <NA> <NA> b <NA> <NA>",
    "a a.wav",
    "a | touch canary",
    "u a 0 -1",
    "a 1 b 0.5 2 <o,f0> c",
    "/tmp",
    "a.wav\t16000",
    "1_2_3\tx",
    "a|b|c",
    "sep=|",
    "[",
    '{"id": {"wav": "a.wav", "x": 1.10}},',
    "]",
)
TEXTS = st.lists(st.sampled_from(LINES) | st.text(max_size=20), max_size=6).map(lambda lines: "\n".join(lines).encode())


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Lines of every format with some bytes changed, removed or added."""
    data = bytearray(draw(TEXTS))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=3))
    return bytes(data)


@given(st.sampled_from(["auto", *FORMATS]), st.binary(max_size=100) | damaged(), st.booleans())
@example("auto", b"PAR1PAR1", False)
@example("lhotse", b'{"id": "c", "type": "MonoCut", "start": 1e308, "duration": 1e308}', False)
@settings(deadline=None, max_examples=400)
def test_any_bytes_give_utterances_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, format_: str, data: bytes, mapped: bool
) -> None:
    folder = tmp_path_factory.getbasetemp() / "any"
    folder.mkdir(exist_ok=True)
    (folder / "list").write_bytes(data)
    if format_ != "kaldi":
        check_list(str(folder / "list"), format=format_, columns={"path": "a", "text": ""} if mapped else {})
    assert not (folder / "canary").exists()


@given(st.lists(damaged() | st.binary(max_size=60), min_size=6, max_size=6), st.sets(st.integers(1, 5)))
@settings(deadline=None)
def test_any_bytes_in_a_kaldi_folder_give_utterances_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, contents: list[bytes], missing: set[int]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "kaldi"
    folder.mkdir(exist_ok=True)
    names = ("wav.scp", "segments", "text", "utt2spk", "spk2gender", "reco2file_and_channel")
    for number, (name, data) in enumerate(zip(names, contents, strict=True)):
        (folder / name).unlink(missing_ok=True)
        if number not in missing:
            (folder / name).write_bytes(data)
    check_list(str(folder))
    assert not (folder / "canary").exists()


@given(st.data())
@settings(deadline=None)
def test_a_damaged_parquet_file_gives_utterances_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "list.parquet"
    pq.write_table(pa.table({"path": ["a.wav", "b.wav"], "start": [0.5, None], "x": [["y"], None]}), path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    check_list(str(path))


@pytest.mark.parametrize(
    ("name", "text", "format_"),
    [
        ("a.JSONL", "", "jsonl"),
        ("a.csv", "{}", "csv"),
        ("a.tsv.gz", "", "tsv"),
        ("a.rttm", "", "rttm"),
        ("a.parquet", "", "parquet"),
        ("a", "", "jsonl"),
        ("a.txt", "\n\n{}", "jsonl"),
        ("a.txt", "path\ttext\n", "tsv"),
        ("a.txt", "path,text\n", "csv"),
        ("a.txt", "b.wav\nc.wav\n", "csv"),
        ("a.STM", "", "stm"),
        ("a.tsv", "/\nb.wav\t7\n", "fairseq"),
        ("a.txt", "1_2_3\tx\n", "mls"),
        ("a.json", '[{"id": "r", "sources": []}]', "lhotse"),
        ("a.lst", ";; x\n", "rttm"),
        ("a.lst", "SPEAKER a 1 0 1\n", "rttm"),
        ("a.manifest", '{"id": "r", "sources": []}', "lhotse"),
        ("a.json", "PAR1", "parquet"),
    ],
)
def test_formats_are_told_by_name_and_beginning(tmp_path: Path, name: str, text: str, format_: str) -> None:
    (tmp_path / name).write_text(text)
    assert detect(Source(str(tmp_path / name), "list")) == format_


def test_a_line_without_an_end_does_not_fill_the_memory(tmp_path: Path) -> None:
    with open(tmp_path / "list.jsonl", "wb") as file:
        file.write(b"{}\n")
        file.truncate(2 * MAX_LINE_BYTES)
    with pytest.raises(UserError, match="line 2: longer than 64 MB"):
        list(Source(str(tmp_path / "list.jsonl"), "list").lines())


def test_a_csv_becomes_transcripts_of_its_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    long = DATA / "long" / "jfk.flac"
    rows = [{"wav": FSDD / "7_theo_1.wav", "said": "seven"}, {"wav": long, "from": 1, "to": 3.5}, {"wav": "gone.wav"}]
    pd.DataFrame(rows).to_csv("list.csv", index=False)
    given_ = ["dataset=manifest", "dataset.path=list.csv", "model=digits", "outputs=[transcripts]"]
    mapping = ["dataset.columns.path=wav", "dataset.columns.text=said", "dataset.columns.start=from"]
    assert main([*given_, *mapping, "dataset.columns.end=to"]) == 3
    assert (
        "list.csv read as csv: path from 'wav', reference from 'said', start from 'from', end from 'to', "
        "own columns none; 1 of 3 utterances have a reference\n"
    ) in capsys.readouterr().out
    opened = open_run("runs/manifest/digits")
    assert_accounting(Path("runs/manifest/digits"), ["transcripts"])
    frame = opened.transcripts.set_index("path")
    assert frame.loc[str(long), "duration_s"] == pytest.approx(2.5)
    assert frame.loc[str(FSDD / "7_theo_1.wav"), "reference"] == "seven"
    assert list(opened.failures.error) == ["not_found"]


def test_a_kaldi_folder_with_segments_becomes_transcripts(tmp_path: Path) -> None:
    data = tmp_path / "data folder"
    data.mkdir()
    (data / "wav.scp").write_text("theo fsdd/7_theo_1.wav\njfk long/jfk.flac\n")
    (data / "segments").write_text("jfk-1 jfk 0 2.5\ntheo-1 theo 0.0 -1\njfk-2 jfk 2.5 -1\n")
    (data / "text").write_text("theo-1 seven\n")
    done = run(
        "dataset=manifest", f"dataset.path={data}", f"dataset.audio_root={DATA}", "model=digits",
        "outputs=[transcripts]", "run_dir=out", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = read(tmp_path / "out", "transcripts")
    assert table["id"].to_pylist() == ["jfk-1", "jfk-2", "theo-1"]
    assert table["duration_s"].to_pylist() == pytest.approx([2.5, 8.5, 0.3615])
    assert table["reference"].to_pylist() == [None, None, "seven"]


def test_a_wrong_line_ends_the_run_before_it_begins(tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_text(json.dumps({"audio_filepath": "a.wav", "offset": -1}) + "\n")
    done = run("dataset=manifest", "dataset.path=list.jsonl", "model=digits", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip().endswith(
        "dataset.path=list.jsonl: line 1: offset=-1: must not be negative (no other row can be used either)"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["list.jsonl"]
