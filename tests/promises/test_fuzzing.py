"""Real recordings and real lists, damaged at random: a right answer or a named error, never a crash, a hang or a flood.

FUZZ_MINUTES=10 python -m pytest tests/promises/test_fuzzing.py      each test for ten minutes
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_inputs import FSDD, encoded, samples_of
from fuzzing import BYTES, MINUTES, WORDS, Change, Reader, changes, damaged, for_a_while
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from running import DATA

from pipeline.audio.reader import AudioError
from pipeline.audio.waveforms import SEGMENT_SLACK_S, read_waveform

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300 + 120 * MINUTES)]
# Not made smaller: after a crash or a hang every try takes a new process, and the bytes are kept.
ROUND = settings(
    max_examples=2_000 if MINUTES else 250,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
LONGER_ROUND = settings(ROUND, max_examples=2 * ROUND.max_examples)

# -- Audio ---------------------------------------------------------------------------------------------------------

ENCODED = {
    "WAV": ("PCM_U8", "PCM_16", "PCM_24", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM", "MS_ADPCM", "GSM610", "G721_32"),
    "WAVEX": ("PCM_16",),
    "RF64": ("PCM_16",),
    "W64": ("PCM_16",),
    "AIFF": ("PCM_16", "FLOAT", "IMA_ADPCM"),
    "AU": ("PCM_16", "G721_32"),
    "CAF": ("PCM_16", "ALAC_16"),
    "FLAC": ("PCM_16", "PCM_24"),
    "OGG": ("VORBIS", "OPUS"),
    "MP3": ("MPEG_LAYER_III",),
    "NIST": ("PCM_16",),
    "VOC": ("PCM_16",),
    "IRCAM": ("PCM_16",),
    "SVX": ("PCM_16",),
    "PAF": ("PCM_16",),
    "AVR": ("PCM_16",),
    "PVF": ("PCM_16",),
    "HTK": ("PCM_16",),
    "SDS": ("PCM_16",),
    "XI": ("DPCM_16",),
}


def recordings() -> dict[str, bytes]:
    """A digit in every format that libsndfile reads, and what takes FFmpeg; some kilobytes each."""
    found = {
        f"{format_} {subtype}": encoded(samples_of(), format_, subtype)
        for format_, subtypes in ENCODED.items()
        for subtype in subtypes
    }
    mp3 = found["MP3 MPEG_LAYER_III"]
    found["MP3 without a length"] = mp3[mp3.index(mp3[:2], 4) :]
    found["MP3 twice"] = mp3 * 2
    found["Ogg twice"] = found["OGG VORBIS"] * 2
    for path in sorted((DATA / "formats").iterdir()):
        if path.suffix not in (".md", ".json", ".npz") and not path.name.startswith("."):
            found[path.name] = path.read_bytes()
    return found


RECORDINGS = recordings()


def test_any_damage_to_a_recording_gives_samples_or_a_named_error(tmp_path: Path) -> None:
    others = list(RECORDINGS.values())

    with Reader("audio", tmp_path) as reader:

        @given(st.sampled_from(sorted(RECORDINGS)), changes(BYTES))
        @ROUND
        def one_round(name: str, made: list[Change]) -> None:
            reader.check({"recording": damaged(RECORDINGS[name], made, others)})

        for_a_while(one_round)


# Nothing in them says how long they are, and one that is cut between two frames, fragments or pages is a shorter one.
# (The last page of an Ogg file should be marked, but Android's recorders do not mark it.)
UNMEASURED = {
    "IRCAM PCM_16", "PAF PCM_16", "PVF PCM_16", "XI DPCM_16", "MP3 without a length", "MP3 twice", "Ogg twice",
    "adts.aac", "nb.amr", "wb.awb", "fragmented.mp4", "live.webm", "speex.ogg",
    "OGG VORBIS", "OGG OPUS",
}  # fmt: skip


def test_a_recording_cut_anywhere_is_never_short_without_a_word(tmp_path: Path) -> None:
    lengths = {}
    for name, data in RECORDINGS.items():
        (tmp_path / "whole").write_bytes(data)
        with suppress(AudioError):  # moving pictures without sound, and what is refused
            samples, rate = read_waveform(str(tmp_path / "whole"))
            lengths[name] = len(samples) - round(SEGMENT_SLACK_S * rate)

    with Reader("audio", tmp_path) as reader:

        @given(st.sampled_from(sorted(lengths.keys() - UNMEASURED)), st.floats(0, 1, exclude_max=True))
        @ROUND
        def one_round(name: str, part: float) -> None:
            data = RECORDINGS[name]
            reader.check({"recording": data[: int(part * len(data))]}, at_least=lengths[name])

        for_a_while(one_round)


# -- Lists ---------------------------------------------------------------------------------------------------------


def rows() -> Iterator[dict[str, object]]:
    for number, path in enumerate(sorted(FSDD.glob("7_*.wav"))[:12]):
        start = 0.05 * (number % 3)
        yield {
            "id": path.stem, "audio_filepath": str(path), "offset": start, "duration": 0.2, "text": "seven, \"said\" ü",
            "speaker": path.stem.split("_")[1], "take": number, "loud": number % 2 == 0, "gain": number / 4,
        }  # fmt: skip


def delimited(delimiter: str) -> bytes:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, next(rows()), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows())
    return buffer.getvalue().encode()


def parquet(**options: object) -> bytes:
    buffer = io.BytesIO()
    columns = {"labels": [["a", "b"], []] * 6, "day": [None] * 12}
    table = pa.Table.from_pylist(list(rows()))
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values, pa.list_(pa.string()) if name == "labels" else pa.date32()))
    pq.write_table(table, buffer, row_group_size=5, **options)
    return buffer.getvalue()


JSON_LINES = "".join(json.dumps(row) + "\n" for row in rows()).encode()
RTTM = "".join(f"SPEAKER {row['id']} 1 {row['offset']} 0.2 <NA> <NA> theo <NA> <NA>\n" for row in rows()).encode()
TABLES = {
    "parquet": parquet(),
    "parquet, plain": parquet(compression="none", use_dictionary=False, data_page_version="2.0"),
    "parquet, gzipped": parquet(compression="gzip"),
    "parquet, zstd": parquet(compression="zstd"),
}
TEXTS = {
    "jsonl": JSON_LINES,
    "jsonl, gzipped": gzip.compress(JSON_LINES, mtime=0),
    "csv": delimited(","),
    "tsv": delimited("\t"),
    "lhotse cuts": gzip.decompress((DATA / "lhotse" / "cuts.jsonl.gz").read_bytes()),
    "lhotse cuts, gzipped": (DATA / "lhotse" / "cuts.jsonl.gz").read_bytes(),
    "lhotse recordings": gzip.decompress((DATA / "lhotse" / "recordings.jsonl.gz").read_bytes()),
    "rttm": RTTM,
}
KALDI = {
    "wav.scp": "".join(f"{row['id']} {row['audio_filepath']}\n" for row in rows()).encode(),
    "segments": "".join(f"{row['id']}-1 {row['id']} {row['offset']} 0.3\n" for row in rows()).encode(),
    "text": "".join(f"{row['id']}-1 {row['text']}\n" for row in rows()).encode(),
    "utt2spk": "".join(f"{row['id']}-1 {row['speaker']}\n" for row in rows()).encode(),
    "spk2gender": b"george m\njackson m\n",
    "reco2file_and_channel": "".join(f"{row['id']} {row['id']} A\n" for row in rows()).encode(),
}
WRONG_WORDS = changes(WORDS, often=["word"] * 6)
FORMATS = ("auto", "jsonl", "csv", "tsv", "parquet", "lhotse", "rttm")


def test_any_damage_to_a_list_gives_utterances_or_a_refusal(tmp_path: Path) -> None:
    others = [*TEXTS.values(), *KALDI.values()]

    with Reader("list", tmp_path) as reader:

        @given(st.sampled_from(sorted(TEXTS)), WRONG_WORDS, st.just("auto") | st.sampled_from(FORMATS))
        @LONGER_ROUND
        def one_round(name: str, made: list[Change], format_: str) -> None:
            reader.check({"list": damaged(TEXTS[name], made, others)}, format=format_, audio_root=str(FSDD))

        for_a_while(one_round)


def test_any_damage_to_a_kaldi_folder_gives_utterances_or_a_refusal(tmp_path: Path) -> None:
    others = list(KALDI.values())

    with Reader("list", tmp_path) as reader:

        @given(st.dictionaries(st.sampled_from(sorted(KALDI)), WRONG_WORDS, min_size=1, max_size=3))
        @ROUND
        def one_round(made: dict[str, list[Change]]) -> None:
            reader.check({name: damaged(data, made.get(name, []), others) for name, data in KALDI.items()})

        for_a_while(one_round)


def test_any_damage_to_a_parquet_list_gives_utterances_or_a_refusal(tmp_path: Path) -> None:
    others = list(TABLES.values())

    with Reader("list", tmp_path) as reader:

        @given(st.sampled_from(sorted(TABLES)), changes(BYTES))
        @ROUND
        def one_round(name: str, made: list[Change]) -> None:
            reader.check({"list.parquet": damaged(TABLES[name], made, others)})

        for_a_while(one_round)
