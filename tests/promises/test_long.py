"""Long recordings: read and run piece by piece, stitched on the frame grid, nothing lost or doubled at a join."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from running import DATA, SHIPPED, assert_accounting, assert_same_tables, ids, main, peak_mib, read, run

from pipeline.audio import headers
from pipeline.audio.reader import AudioError, read_header
from pipeline.audio.resampling import resample, resample_window, source_window
from pipeline.audio.waveforms import Extent, WaveformReader, read_waveform
from pipeline.datasets import folder
from pipeline.datasets import manifest as listed
from pipeline.datasets.formats import blocks
from pipeline.decoding import greedy
from pipeline.inference import staged_arrays
from pipeline.inference.loader import Recordings
from pipeline.inference.planning import Chunking
from pipeline.inference.stitching import Stitcher
from pipeline.inference.transcription import joined
from pipeline.models import digits
from pipeline.models.catalog import MODELS
from pipeline.models.engine import Engine, EngineSettings
from pipeline.models.sources import named
from pipeline.records import AudioHeader, Chunk, Rejected
from pipeline.results import open_run
from pipeline.stages.build_manifest import build as build_manifest

WORDS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")
FACTS = MODELS["digits"]
PAUSE_S = 0.12


def speak(speaker: str, spoken: list[int], pause_s: float = PAUSE_S) -> NDArray[np.float32]:
    """Real recordings of digits, one after another with pauses of silence, at 8 kHz."""
    pieces = [np.zeros(round(pause_s * 8000), np.float32)]
    for place, digit in enumerate(spoken):
        samples, _ = soundfile.read(DATA / "fsdd" / f"{digit}_{speaker}_{place % 5}.wav", dtype="float32")
        pieces += [samples / max(0.1, np.abs(samples).max()), np.zeros(round(pause_s * 8000), np.float32)]
    return np.concatenate(pieces)


def words_of(spoken: list[int]) -> str:
    return " ".join(WORDS[digit] for digit in spoken)


SPOKEN = [7, 0, 1, 6, 5, 9, 2, 4, 3, 8, 6, 7, 3, 1, 0, 9] * 3


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a minute of digits, FLAC at 8 kHz, with what is said beside it."""
    root = tmp_path_factory.mktemp("long")
    soundfile.write(root / "long.flac", speak("george", SPOKEN), 8000)
    (root / "long.txt").write_text(words_of(SPOKEN))
    return root / "long.flac"


@pytest.fixture(scope="module")
def stock() -> torch.nn.Module:
    return named(FACTS.name).build()


@pytest.fixture(scope="module")
def cut_run(recording: Path) -> Path:
    """The recording in chunks of five seconds beside two short ones, every layer."""
    root = recording.parent
    for name in ("3_theo_0.wav", "8_jackson_1.wav"):
        (root / name).symlink_to(DATA / "fsdd" / name)
    run_dir = root.parent / "cut"
    done = run(*given(root, run_dir), cwd=root.parent)
    assert done.returncode == 0, done.stderr
    return run_dir


def given(root: Path, run_dir: Path) -> list[str]:
    return [
        *("dataset=folder", f"dataset.root={root}", "model=digits", f"run_dir={run_dir}", "features.layers=all"),
        *("features.dtype=float32", "chunk.seconds=5", "chunk.context_seconds=1"),
    ]


def planned(path: Path, seconds: float = 5, context_s: float = 1) -> tuple[torch.Tensor, list[Chunk]]:
    samples, rate = read_waveform(str(path))
    waveform = resample(torch.from_numpy(samples), rate, 16_000)
    chunking = Chunking(int(seconds * 16_000), round(context_s * 50), FACTS.stride, FACTS.min_samples)
    return waveform, chunking.chunks(0, len(waveform))


def test_a_long_recording_is_its_chunks_run_alone_and_stitched_on_the_frame_grid(
    cut_run: Path, recording: Path, stock: torch.nn.Module
) -> None:
    waveform, chunks = planned(recording)
    assert len(chunks) > 6
    outputs = []
    for chunk in chunks:
        piece = waveform[None, chunk.start : chunk.start + chunk.num_samples]
        with torch.inference_mode():
            outputs.append(
                [stock(piece)[0][0].numpy(), *(layer[0].numpy() for layer in stock.extract_features(piece)[0])]
            )
    result = open_run(cut_run)
    stitched = [result.emission("long.flac"), *(result.feature("long.flac", layer) for layer in (1, 2, 3, 4))]
    assert stitched[0].shape == (FACTS.num_frames(len(waveform)), 29)
    place = 0
    for index, chunk in enumerate(chunks):
        # A chunk's frames are believed up to a join, which is the planned one or near it.
        if index + 1 < len(chunks):
            joins = range(chunks[index + 1].join - 25, chunks[index + 1].join + 26)
        else:
            joins = range(len(stitched[0]), len(stitched[0]) + 1)
        same = [
            join
            for join in joins
            if all(
                np.abs(array[place:join] - output[place - chunk.first_frame : join - chunk.first_frame]).max() <= 1e-4
                for array, output in zip(stitched, outputs[index], strict=True)
            )
        ]
        assert same, f"chunk {index}"
        place = same[-1]
    assert place == len(stitched[0])


def test_every_word_of_a_long_recording_is_read_once_and_where_it_is(cut_run: Path) -> None:
    frame = open_run(cut_run).transcripts.set_index("id")
    row = frame.loc["long.flac"]
    assert row.text == words_of(SPOKEN)
    assert row.wer == 0
    assert row.num_frames == len(open_run(cut_run).emission("long.flac"))
    times = [(word["start_s"], word["end_s"]) for word in row.words]
    assert all(start < end for start, end in times)
    assert all(left[1] <= right[0] for left, right in itertools.pairwise(times))
    # Where each digit really lies, from how the recording was made.
    place = PAUSE_S
    for digit, (start, end), index in zip(SPOKEN, times, range(len(SPOKEN)), strict=True):
        duration = soundfile.info(DATA / "fsdd" / f"{digit}_george_{index % 5}.wav").duration
        assert place - 0.1 <= start < end <= place + duration + 0.15
        place += duration + PAUSE_S
    assert_accounting(cut_run, layers=4)


def test_a_segment_of_a_long_recording_is_cut_too_and_its_times_are_those_of_the_file(
    recording: Path, tmp_path: Path
) -> None:
    listed = tmp_path / "list.jsonl"
    listed.write_text(f'{{"audio_filepath": "{recording}", "offset": 4.0, "duration": 12.0, "id": "middle"}}\n')
    given = ["dataset=manifest", f"dataset.path={listed}", "model=digits", "chunk.seconds=5", "chunk.context_seconds=1"]
    assert run(*given, f"run_dir={tmp_path / 'out'}", cwd=tmp_path).returncode == 0
    words = open_run(tmp_path / "out").words
    assert len(words) > 10
    assert 4.0 <= words.start_s.min() < 5
    assert 15 < words.end_s.max() <= 16.1
    assert " ".join(words.word[1:]) in words_of(SPOKEN)  # the segment begins inside a word


class Reader:
    """The shipped model over a waveform in chunks, as the pipeline does it."""

    def __init__(self, stock: torch.nn.Module) -> None:
        settings = EngineSettings(layers=(), feature_dtype="float32", logits=False)
        model = digits.build().eval()
        model.load_state_dict(stock.state_dict())
        self.engine = Engine(FACTS, model, torch.device("cpu"), "fp32", settings)

    def __call__(self, waveform: torch.Tensor, chunking: Chunking) -> tuple[str, int, list[int]]:
        chunks = chunking.chunks(0, len(waveform))
        decoder = greedy.Decoder(greedy.Options(), FACTS.ctc_labels, FACTS.seconds_per_frame)
        longest = max(chunk.num_samples for chunk in chunks)
        waveforms = torch.zeros(len(chunks), longest)
        for index, chunk in enumerate(chunks):
            waveforms[index, : chunk.num_samples] = waveform[chunk.start : chunk.start + chunk.num_samples]
        lengths = torch.tensor([chunk.num_samples for chunk in chunks])
        pieces, rejected = Stitcher().take(*self.engine.run(chunks, waveforms, lengths))
        assert rejected == []
        (transcript,) = decoder([joined(pieces, 0.0)])
        joins = [chunk.join for chunk in chunks[1:]]
        return transcript.text, transcript.num_frames, joins


@pytest.mark.slow
def test_words_at_joins_are_neither_lost_nor_doubled_at_any_offset_within_a_stride(stock: torch.nn.Module) -> None:
    """The joins move through the words over a whole stride, by even and by odd samples."""
    reader = Reader(stock)
    torch.set_num_threads(1)
    inside = 0
    for first, speaker, spoken in ((0, "george", [3, 7, 0, 5, 8]), (1, "jackson", [6, 1, 9, 2, 4])):
        speech = resample(torch.from_numpy(speak(speaker, spoken, pause_s=0.1)), 8000, 16_000)
        lengths = [soundfile.info(DATA / "fsdd" / f"{d}_{speaker}_{i}.wav").duration for i, d in enumerate(spoken)]
        ends = np.cumsum(np.asarray(lengths) + 0.1)
        begins = ends - lengths
        for offset in range(first, FACTS.stride, 5):
            waveform = torch.cat([torch.zeros(offset), speech])
            text, frames, joins = reader(waveform, Chunking(24_000 + 16 * offset, 25, FACTS.stride, FACTS.min_samples))
            assert len(joins) >= 2
            assert text == words_of(spoken), f"{speaker} at offset {offset}"
            assert frames == FACTS.num_frames(len(waveform))
            times = np.asarray(joins) * FACTS.seconds_per_frame - offset / 16_000
            inside += int(((begins + 0.05 < times[:, None]) & (times[:, None] < ends - 0.05)).sum())
    assert inside > 100, f"{inside} joins lie within a word"


def test_the_check_above_can_fail(stock: torch.nn.Module) -> None:
    """Without context, words at joins are misread."""
    reader = Reader(stock)
    speech = resample(torch.from_numpy(speak("george", [3, 7, 0, 5, 8])), 8000, 16_000)
    texts = {
        reader(torch.cat([torch.zeros(offset), speech]), Chunking(8_000, 0, FACTS.stride, FACTS.min_samples))[0]
        for offset in range(0, 320, 64)
    }
    assert texts != {words_of([3, 7, 0, 5, 8])}


RATES = [8_000, 11_025, 16_000, 16_001, 22_050, 44_100, 48_000, 15_999]


@pytest.mark.parametrize("rate", RATES)
def test_a_resampled_window_is_that_of_the_resampled_whole(rate: int) -> None:
    waveform = torch.randn(4 * rate, generator=torch.Generator().manual_seed(rate))
    whole = resample(waveform, rate, 16_000)
    for start, stop in ((0, 16_000), (320, 9_999), (15_999, 40_001), (31_680, len(whole)), (63_000, len(whole))):
        first, last = source_window(start, stop, rate, 16_000)
        assert 0 <= first <= start * rate / 16_000
        # No more than the stretch, the filter on both sides and what puts it on its grid.
        assert min(last, len(waveform)) - first <= (stop - start) * rate / 16_000 + 2.1 * max(rate / 50, 16_001)
        window = resample_window(waveform[first:last], first, start, stop, rate, 16_000)
        assert len(window) == stop - start
        assert (window - whole[start:stop]).abs().max() <= 1e-6


def encodings() -> list[tuple[str, dict[str, str]]]:
    subtypes = ["PCM_16", "FLOAT", "IMA_ADPCM"]
    return [
        *(("wav", {"subtype": subtype}) for subtype in subtypes),
        *(("ogg", {"subtype": subtype}) for subtype in ("VORBIS", "OPUS")),
        ("flac", {}),
        ("mp3", {}),
    ]


@pytest.mark.parametrize(("ending", "options"), encodings())
def test_windows_of_any_format_are_slices_of_the_whole(ending: str, options: dict[str, str], tmp_path: Path) -> None:
    speech = speak("theo", [1, 2, 3, 4, 5, 6, 7, 8, 9, 0] * 4)
    path = tmp_path / f"speech.{ending}"
    soundfile.write(path, np.stack([speech, speech[::-1]], axis=1), 8000, **options)
    for channel, start_s in ((None, None), (2, 1.5)):
        extent = Extent(str(path), start_s=start_s, channel=channel)
        whole, rate = read_waveform(str(path), start_s=start_s, channel=channel)
        reader = WaveformReader()
        last = len(whole)
        windows = [(0, 9_000), (7_000, 16_000), (7_500, 16_000), (40_000, 60_000), (59_000, None), (100, 5_000)]
        for first, stop in [*windows, (last - 50, None)]:
            samples, found = reader.read(extent, (first, stop))
            assert found == rate
            # An MP3's samples vary in the last bit with the size of the blocks that are asked for.
            np.testing.assert_allclose(samples, whole[first:stop], rtol=0, atol=1e-6 if ending == "mp3" else 0)
        reader.close()


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the samples that libsndfile decodes."""
    counts: list[int] = []
    decode = soundfile.SoundFile.read

    def counting(self: soundfile.SoundFile, *given: object, **options: object) -> NDArray[np.float32]:
        block: NDArray[np.float32] = decode(self, *given, **options)
        counts.append(len(block))
        return block

    monkeypatch.setattr(soundfile.SoundFile, "read", counting)
    return counts


def test_a_window_of_a_lossless_file_is_read_without_the_rest(tmp_path: Path, decoded: list[int]) -> None:
    soundfile.write(tmp_path / "a.wav", np.tile(speak("theo", [1, 2, 3]), 50), 8000)
    decoded.clear()
    WaveformReader().read(Extent(str(tmp_path / "a.wav")), (300_000, 308_000))
    assert sum(decoded) == 8_000


def without_length(path: Path) -> Path:
    """An MP3 as a program writes it that does not go back to the first frame: without the tag that counts."""
    data = path.read_bytes()
    path.write_bytes(data.replace(b"Xing", bytes(4)).replace(b"Info", bytes(4)))
    return path


def test_a_file_that_cannot_be_sought_is_decoded_once_for_all_of_its_windows_and_segments(
    tmp_path: Path, decoded: list[int]
) -> None:
    speech = np.tile(speak("theo", [1, 2, 3]), 20)
    soundfile.write(tmp_path / "a.mp3", speech, 8000)
    path = str(without_length(tmp_path / "a.mp3"))
    decoded.clear()
    reader = WaveformReader()
    for first in range(0, len(speech) - 16_000, 8_000):
        reader.read(Extent(path), (first, first + 16_000))
    assert sum(decoded) <= len(speech)
    decoded.clear()
    segments = [(start, start + 1.5) for start in range(20)]
    pieces = [reader.read(Extent(path, *segment))[0] for segment in segments]
    assert sum(decoded) <= len(speech)
    for segment, piece in zip(segments, pieces, strict=True):
        alone, _ = read_waveform(path, start_s=segment[0], end_s=segment[1])
        np.testing.assert_allclose(piece, alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("ending", ["mp3", "ogg", "flac"])
def test_a_segment_has_the_samples_of_the_whole(ending: str, tmp_path: Path) -> None:
    speech = speak("theo", [1, 2, 3, 4, 5, 6, 7, 8, 9, 0] * 4)
    soundfile.write(tmp_path / f"a.{ending}", speech, 8000)
    whole, rate = read_waveform(str(tmp_path / f"a.{ending}"))
    for start_s in (0.5, 3.337, 11.0):
        segment, _ = read_waveform(str(tmp_path / f"a.{ending}"), start_s=start_s, end_s=start_s + 2)
        first = round(start_s * rate)
        np.testing.assert_allclose(segment, whole[first : first + len(segment)], rtol=0, atol=1e-6)


def test_a_channel_that_is_not_there_is_said(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros((100, 2)), 8000)
    with pytest.raises(AudioError, match="channel 3 was asked for, but the recording has 2 channels"):
        read_waveform(str(tmp_path / "a.wav"), channel=3)


def test_a_long_recording_that_breaks_off_is_one_failure_and_nothing_of_it_stays(
    recording: Path, tmp_path: Path
) -> None:
    root = tmp_path / "broken"
    root.mkdir()
    data = bytearray(recording.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4000] = bytes(4000)
    (root / "broken.flac").write_bytes(data)
    (root / "long.flac").symlink_to(recording)
    done = run(*given(root, tmp_path / "out"), cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert ids(tmp_path / "out", "failures") == ["broken.flac"]
    assert set(ids(tmp_path / "out", "emissions")) == {"long.flac"}
    assert_accounting(tmp_path / "out", layers=4)
    assert "1 failure," in done.stdout or "1 failed" in done.stdout


def test_the_header_of_a_recording_is_read_once_for_all_of_its_segments(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f'{{"audio_filepath": "{recording}", "offset": {start}, "duration": 1}}\n' for start in range(20)]
    (tmp_path / "list.jsonl").write_text("".join(lines))
    seen = tmp_path / "seen"  # headers are read in processes of their own

    def counting(path: str, go_on: Callable[[], bool]) -> AudioHeader:
        with open(seen, "a") as file:
            file.write(f"{path}\n")
        return read_header(path, go_on)

    monkeypatch.setattr(headers, "read_header", counting)
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 6)
    built = build_manifest(listed.Dataset(listed.Options(path=str(tmp_path / "list.jsonl"))), 1.0)
    assert len(built) == 20
    assert seen.read_text() == f"{recording}\n"


@pytest.mark.parametrize(("channels", "reason"), [("mix", "longer than chunk.seconds"), ("each", "by channel")])
def test_a_recording_that_could_not_be_read_before_is_not_run_as_something_else_now(
    recording: Path, channels: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(path: str, go_on: object = None) -> None:
        raise AudioError("unsupported_format", "install the extra")

    with monkeypatch.context() as patch:
        patch.setattr(headers, "read_header", unreadable)
        dataset = folder.Dataset(folder.Options(root=str(recording.parent), extensions=["flac"]))
        built = build_manifest(dataset, 1.0, channels=channels)
    recordings = Recordings(built, 16_000, 400, channels, max_samples=80_000 if channels == "mix" else None)
    found = recordings.load(Chunk(0, 0))
    assert isinstance(found, Rejected)
    assert (found.stage, found.error) == ("manifest", "changed")
    assert reason in found.message
    if channels == "mix":  # short enough to be the same work as in a run of its own
        assert not isinstance(Recordings(built, 16_000, 400, channels).load(Chunk(0, 0)), Rejected)


def test_an_emission_too_long_for_one_list_goes_on_in_parts(
    cut_run: Path, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staged_arrays, "PART_BYTES", 100_000)
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the run it is compared with: threads share products out, and round differently
    try:
        assert main(given(recording.parent, tmp_path / "out")) == 0
    finally:
        torch.set_num_threads(threads)
    parts = read(tmp_path / "out", "emissions").filter(pq.filters_to_expression([("id", "==", "long.flac")]))
    assert parts.num_rows > 1
    assert parts["part"].to_pylist() == list(range(parts.num_rows))
    assert parts["start_frame"].to_pylist() == np.cumsum([0, *parts["num_frames"].to_pylist()])[:-1].tolist()
    whole, in_parts = open_run(cut_run), open_run(tmp_path / "out")
    np.testing.assert_array_equal(in_parts.emission("long.flac"), whole.emission("long.flac"))
    np.testing.assert_array_equal(in_parts.feature("long.flac", layer=3), whole.feature("long.flac", layer=3))
    for (left, mine), (right, theirs) in zip(in_parts.features(2), whole.features(2), strict=True):
        assert left == right
        np.testing.assert_array_equal(mine, theirs)
    assert read(tmp_path / "out", "transcripts").equals(read(cut_run, "transcripts"))


def test_the_plan_of_the_batches_does_not_change_a_long_recording(
    cut_run: Path, recording: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "out"
    done = run(*given(recording.parent, run_dir), "batch.max_seconds=2", "loader.workers=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    left, right = open_run(cut_run), open_run(run_dir)
    assert left.transcripts.text.tolist() == right.transcripts.text.tolist()
    assert np.abs(left.emission("long.flac") - right.emission("long.flac")).max() <= 1e-4


def test_other_chunks_are_another_run(cut_run: Path, recording: Path, tmp_path: Path) -> None:
    done = run(*given(recording.parent, cut_run), "chunk.seconds=8", cwd=tmp_path)
    assert done.returncode == 2
    assert "chunk.seconds: 5.0 before, 8.0 now" in done.stderr


def test_the_same_run_again_is_equal_bit_for_bit(cut_run: Path, recording: Path, tmp_path: Path) -> None:
    assert run(*given(recording.parent, tmp_path / "again"), cwd=tmp_path).returncode == 0
    assert_same_tables(cut_run, tmp_path / "again")


@pytest.mark.slow
def test_peak_memory_is_that_of_a_chunk_and_not_of_the_recording(tmp_path: Path) -> None:
    """400 s against 20 s as FLAC, and 80 s as MP3. Run whole, they would take 1.3 times the memory."""
    sample = speak("yweweler", SPOKEN)[: 20 * 8000]
    corpora = [tmp_path / "short", tmp_path / "long"]
    for root, flac, mp3 in zip(corpora, (1, 20), (1, 4), strict=True):
        root.mkdir()
        soundfile.write(root / "long.flac", np.tile(sample, flac), 8000)
        soundfile.write(root / "long.mp3", np.tile(sample, mp3), 8000)
    given = ["chunk.seconds=10", "chunk.context_seconds=2", "loader.workers=0"]
    short, long = (peak_mib(root, tmp_path / f"out-{root.name}", *given) for root in corpora)
    if long > 1.15 * short:  # how threads overlap moves a peak by some MiB either way: the lower of two runs each
        again = (peak_mib(root, tmp_path / f"again-{root.name}", *given) for root in corpora)
        short, long = map(min, zip((short, long), again, strict=True))
    assert long <= 1.15 * short, f"{short:.0f} MiB for 20 s, {long:.0f} MiB for 400 s"


def test_a_chunk_knows_whether_it_is_all_there_is() -> None:
    chunk = Chunk(0, 1000)
    assert chunk.whole
    assert not replace(chunk, last=False).whole
    assert not replace(chunk, start=320).whole


def test_the_shipped_corpus_is_short_enough_to_be_run_whole() -> None:
    assert max(soundfile.info(path).duration for path in (SHIPPED / "digits").glob("*.flac")) < 60
