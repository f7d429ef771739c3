"""Each format, read back by the library that owns it, and by our own readers where we have them."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lhotse
import lhotse.kaldi
import pympi
import pysubs2
import pytest
import webdataset
from lhotse.qa import validate_recordings_and_supervisions
from praatio import textgrid

from pipeline.audio.waveforms import read_waveform
from pipeline.datasets import webdataset as shards
from pipeline.datasets.formats.mapping import Columns
from pipeline.datasets.manifest import Dataset, Options
from pipeline.export.exporting import export
from pipeline.export.formats import load, names
from pipeline.results import open_run

CALL, TALK = "a_1_C3", "talk_1"


@pytest.fixture
def exported(odd_run: Path, tmp_path: Path) -> Callable[..., Path]:
    """Exports the run and returns the file or folder."""

    def make(format: str, **options: Any) -> Path:
        out = tmp_path / (format + load(format).SUFFIX)
        export(odd_run, format, out=out, **options)
        return out

    return make


def listed(path: Path) -> list[tuple[Any, ...]]:
    """What our own reader of lists makes of a file, by id."""
    dataset = Dataset(Options(path=str(path), audio_root=str(path.parent)))
    found = [
        (each.id, each.reference, each.start_s, each.end_s, each.channel, each.error) for each in dataset.utterances()
    ]
    return sorted(found, key=lambda row: str(row[0]))


def test_the_formats_are_those_that_are_promised() -> None:
    promised = "ctm stm srt vtt textgrid elan audacity labelstudio nemo lhotse kaldi hf webdataset rttm"
    assert names() == sorted(promised.split())


def test_lhotse_aligns_the_words_of_a_ctm_file_with_its_own_supervisions(exported: Callable[..., Path]) -> None:
    ctm = exported("ctm")
    lines = ctm.read_text().splitlines()
    assert lines == sorted(lines, key=lambda line: (line.split()[0], line.split()[1], float(line.split()[2])))
    assert lines[0] == f"{CALL} 1 0.200 0.600 hello 0.9000"
    folder = exported("lhotse")
    read = lhotse.SupervisionSet.from_file(folder / "supervisions.jsonl.gz")
    bare = [each.map(lambda each: each) for each in read.to_eager() if each.recording_id == TALK]
    for each in bare:
        each.alignment = None
    aligned = lhotse.SupervisionSet.from_segments(bare).with_alignment_from_ctm(ctm)
    words = {each.id: [item.symbol for item in each.alignment["word"]] for each in aligned}
    assert words == {"día/talk 1.wav#0-3000": ["it's", "<b>", '"so"'], "día/talk 1.wav#3000-6000": ["good", "morning"]}


def test_lhotse_reads_its_manifests_with_words_channels_and_audio(exported: Callable[..., Path]) -> None:
    folder = exported("lhotse")
    recordings = lhotse.RecordingSet.from_file(folder / "recordings.jsonl.gz").to_eager()
    supervisions = lhotse.SupervisionSet.from_file(folder / "supervisions.jsonl.gz").to_eager()
    validate_recordings_and_supervisions(recordings, supervisions)
    assert {each.id: each.duration for each in recordings} == {TALK: 6.0, CALL: 4.0, "noise": 1.0}
    later = supervisions["día/talk 1.wav#3000-6000"]
    assert (later.start, later.duration, later.text) == (3.0, 3.0, "good morning")
    first, second = later.alignment["word"]
    assert (first.symbol, first.start, round(first.duration, 3), first.score) == ("good", 3.2, 0.4, 0.5)
    assert second.symbol == "morning"
    assert [each.channel for each in supervisions.filter(lambda each: each.recording_id == CALL)] == [0, 1]
    cut = lhotse.CutSet.from_manifests(recordings, supervisions).trim_to_supervisions(keep_overlapping=False)
    assert {each.load_audio().shape[1] for each in cut if each.recording_id == TALK} == {48000}


def test_our_reader_of_stm_finds_the_segments_that_are_in_order(exported: Callable[..., Path]) -> None:
    stm = exported("stm", references=True)
    lines = stm.read_text().splitlines()
    assert lines == [
        f"{CALL} 1 c1 0.000 4.000 hello",
        f"{CALL} 2 c2 0.000 4.000 hello",
        f"{TALK} 1 unknown 0.000 3.000 it's so",
    ]
    assert [(each[0], each[1], each[2], each[3], each[5]) for each in listed(stm)] == [
        (f"{CALL}#0-4000#c1#c1", "hello", 0.0, 4.0, None),
        (f"{CALL}#0-4000#c2#c2", "hello", 0.0, 4.0, None),
        (f"{TALK}#0-3000", "it's so", 0.0, 3.0, None),
    ]
    assert "noise 1 unknown 0.000 1.000" in exported("stm").read_text().splitlines()


def test_pysubs2_reads_the_subtitles_of_both_kinds(exported: Callable[..., Path]) -> None:
    srt = exported("srt")
    assert sorted(path.name for path in srt.glob("*.srt")) == [f"{CALL}.srt", "noise.srt", f"{TALK}.srt"]
    call = pysubs2.load(str(srt / f"{CALL}.srt"))
    assert [(each.start, each.end, each.text) for each in call] == [
        (200, 1200, "c1: hello"),
        (600, 1600, "c2: hi"),
        (3000, 4000, "c1: bye"),
    ]
    assert len(pysubs2.load(str(srt / "noise.srt"), format_="srt")) == 0
    vtt = exported("vtt")
    talk = pysubs2.load(str(vtt / f"{TALK}.vtt"))
    assert [(each.start, each.end, html.unescape(each.plaintext)) for each in talk] == [
        (0, 1000, "it's <b>"),
        (2000, 3000, '"so"'),
        (3200, 4200, "good morning"),
    ]
    assert "<v c2>hi" in (vtt / f"{CALL}.vtt").read_text()
    assert (vtt / "noise.vtt").read_text() == "WEBVTT\n"


def test_praatio_reads_the_tiers_of_a_textgrid(exported: Callable[..., Path]) -> None:
    folder = exported("textgrid")
    talk = textgrid.openTextgrid(str(folder / f"{TALK}.TextGrid"), includeEmptyIntervals=False)
    assert talk.tierNames == ("utterances", "words")
    assert talk.maxTimestamp == 6.0
    assert [tuple(each) for each in talk.getTier("utterances").entries] == [
        (0.0, 3.0, 'it\'s <b> "so"'),
        (3.0, 6.0, "good morning"),
    ]
    assert [each.label for each in talk.getTier("words").entries] == ["it's", "<b>", '"so"', "good", "morning"]
    call = textgrid.openTextgrid(str(folder / f"{CALL}.TextGrid"), includeEmptyIntervals=False)
    assert call.tierNames == ("c1 - utterances", "c1 - words", "c2 - utterances", "c2 - words")
    noise = textgrid.openTextgrid(str(folder / "noise.TextGrid"), includeEmptyIntervals=True)
    assert [each.label for each in noise.getTier("utterances").entries] == [""]


def test_pympi_reads_the_tiers_of_elan(exported: Callable[..., Path]) -> None:
    folder = exported("elan")
    talk = pympi.Elan.Eaf(str(folder / f"{TALK}.eaf"))
    assert talk.get_annotation_data_for_tier("utterances") == [
        (0, 3000, 'it\'s <b> "so"'),
        (3000, 6000, "good morning"),
    ]
    assert [each[2] for each in talk.get_annotation_data_for_tier("words")][:2] == ["it's", "<b>"]
    assert talk.get_parameters_for_tier("words")["PARENT_REF"] == "utterances"
    assert talk.get_linked_files()[0]["MEDIA_URL"].endswith("/d%C3%ADa/talk%201.wav")
    call = pympi.Elan.Eaf(str(folder / f"{CALL}.eaf"))
    assert sorted(call.get_tier_names()) == ["c1 - utterances", "c1 - words", "c2 - utterances", "c2 - words"]


def test_audacity_gets_a_label_for_each_stretch_of_speech(exported: Callable[..., Path]) -> None:
    folder = exported("audacity")
    assert (folder / f"{TALK}.txt").read_text() == (
        '0.000000\t0.800000\tit\'s <b>\n2.000000\t2.200000\t"so"\n3.200000\t4.200000\tgood morning\n'
    )
    assert (folder / f"{CALL}.txt").read_text().splitlines()[1] == "0.600000\t1.200000\tc2: hi"


def test_label_studio_gets_a_task_for_each_recording_with_the_ids_of_its_utterances(
    exported: Callable[..., Path], odd_run: Path
) -> None:
    folder = exported("labelstudio", audio_prefix="/data/local-files/?d=")
    tasks = {task["data"]["recording"]: task for task in json.loads((folder / "tasks.json").read_text())}
    assert {*tasks} == {TALK, CALL, "noise"}
    data, (prediction,) = tasks[CALL]["data"], tasks[CALL]["predictions"]
    assert data["audio"] == "/data/local-files/?d=calls/a%231%25C3.wav"
    assert (odd_run.parent / "calls/a#1%C3.wav").is_file()
    texts = {each["id"]: each["value"] for each in prediction["result"] if each["type"] == "textarea"}
    assert {each["id"]: texts[each["region"]]["text"] for each in data["utterances"]} == {
        "calls/a#1%C3.wav#c1": ["hello bye"],
        "calls/a#1%C3.wav#c2": ["hi"],
    }
    assert [each["channel"] for each in texts.values()] == [0, 1]
    assert "<TextArea" in (folder / "config.xml").read_text()


@pytest.mark.parametrize("format", ["nemo", "kaldi"])
def test_our_reader_of_lists_reads_what_is_exported(format: str, exported: Callable[..., Path]) -> None:
    rows = listed(exported(format))
    assert [row[5] for row in rows] == [None] * 5
    by_text = {row[1]: row for row in rows}
    assert by_text["good morning"][2:5] == (3.0, 6.0, None)
    assert [by_text[text][4] for text in ("hello bye", "hi")] == [1, 2]


def test_lhotse_reads_a_kaldi_folder(exported: Callable[..., Path]) -> None:
    folder = exported("kaldi")
    for name in ("wav.scp", "segments", "text", "utt2spk", "spk2utt", "reco2dur"):
        lines = (folder / name).read_bytes().splitlines()
        assert lines == sorted(lines), name
    recordings, supervisions, _ = lhotse.kaldi.load_kaldi_data_dir(folder, sampling_rate=16000)
    assert sorted(each.id for each in recordings) == [f"{CALL}#c1", f"{CALL}#c2", "noise", TALK]
    found = {each.id: (each.text, each.start, each.duration, each.speaker) for each in supervisions}
    assert found["c2-calls/a#1%C3.wav#c2"] == ("hi", 0.0, 4.0, "c2")
    assert found["día/talk%201.wav#3000-6000"][:3] == ("good morning", 3.0, 3.0)
    assert found["noise.wav"][0] == ""


def test_datasets_loads_the_folder_with_audio_and_words(exported: Callable[..., Path], tmp_path: Path) -> None:
    import datasets
    import soundfile

    folder = exported("hf")
    loaded = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert isinstance(loaded.features["audio"], datasets.Audio)
    rows = {row["id"]: row for row in loaded.cast_column("audio", datasets.Audio(decode=False))}
    assert len(rows) == 5
    later = rows["día/talk 1.wav#3000-6000"]
    assert [word["word"] for word in later["words"]] == ["good", "morning"]
    clip = tmp_path / "clip.flac"
    clip.write_bytes(later["audio"]["bytes"])
    assert soundfile.info(clip).frames == 48000
    assert rows["noise.wav"]["audio"]["path"] == "noise.wav.wav"


def test_webdataset_reads_audio_text_and_json_of_each_utterance(exported: Callable[..., Path], odd_run: Path) -> None:
    folder = exported("webdataset")
    samples = list(webdataset.WebDataset(str(folder / "shard-000000.tar"), shardshuffle=False, empty_check=False))
    found = {json.loads(sample["json"])["id"]: sample for sample in samples}
    assert len(found) == 5
    assert found["noise.wav"]["wav"] == (odd_run.parent / "noise.wav").read_bytes()
    side = found["calls/a#1%C3.wav#c2"]
    assert (side["txt"], side["flac"][:4]) == (b"hi", b"fLaC")
    assert json.loads(side["json"])["words"] == [["hi", 0.6, 1.2, 0.6]]


@pytest.mark.parametrize("format", ["hf", "webdataset"])
def test_our_readers_read_back_the_audio_with_ids_and_references(
    format: str, exported: Callable[..., Path], odd_run: Path
) -> None:
    root = str(exported(format))
    if format == "hf":
        found = Dataset(Options(path=root, columns=Columns(text="reference"))).utterances()
    else:
        found = shards.Dataset(shards.Options(root=root, columns=shards.Keys(text="reference"))).utterances()
    read = {each.id: each for each in found}
    run = open_run(odd_run)
    manifest = run.manifest.set_index("id")
    assert {*read} == {*run.transcripts["id"]}
    for id_, utterance in read.items():
        samples, rate = read_waveform(utterance.path, start_s=utterance.start_s, end_s=utterance.end_s)
        assert len(samples) / rate == manifest.loc[id_, "duration_s"]
    assert read["calls/a#1%C3.wav#c1"].reference == "hello"


def test_lhotse_and_our_reader_read_rttm(exported: Callable[..., Path], odd_run: Path) -> None:
    rttm = exported("rttm")
    turns = lhotse.SupervisionSet.from_rttm(rttm).to_eager()
    call = [(each.channel, each.start, each.speaker) for each in turns if each.recording_id == CALL]
    assert call == [(1, 0.2, "c1"), (2, 0.6, "c2"), (1, 3.0, "c1")]
    assert open_run(odd_run).transcripts_of(0).num_rows == 3
    assert len(listed(rttm)) == len(turns) == 6
