"""The shipped model reads recordings it never saw, alone, through torchaudio's own code."""

from __future__ import annotations

import csv
from collections.abc import Iterator

import pytest
import soundfile
import torch
import torchaudio
import transformers
from running import DATA, SHIPPED
from safetensors import safe_open

from pipeline.audio.resampling import resample
from pipeline.models import digits
from pipeline.models.catalog import MODELS
from pipeline.models.sources import named
from pipeline.scoring.counting import count_errors

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@pytest.fixture(scope="module")
def model() -> torchaudio.models.Wav2Vec2Model:
    return named("digits").build()


def read_aloud(model: torch.nn.Module, path: object) -> str:
    samples, rate = soundfile.read(path, dtype="float32")
    with torch.inference_mode():
        emission, _ = model(resample(torch.from_numpy(samples), rate, 16_000)[None])
    best = torch.unique_consecutive(emission[0].argmax(-1)).tolist()
    return "".join(MODELS["digits"].labels[i] for i in best if i != 0).replace("|", " ")


def wer(pairs: Iterator[tuple[str, str]]) -> float:
    errors = [count_errors(hypothesis, reference) for hypothesis, reference in pairs]
    return sum(error.word_errors for error in errors) / sum(error.reference_words for error in errors)


def test_it_reads_strings_of_digits(model: torch.nn.Module) -> None:
    with open(SHIPPED / "digits" / "transcripts.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 60
    pairs = ((read_aloud(model, SHIPPED / "digits" / row["file_name"]), row["transcript"]) for row in rows)
    assert wer(pairs) <= 0.05


def test_it_reads_single_recordings_as_they_are(model: torch.nn.Module) -> None:
    paths = sorted((DATA / "fsdd").glob("*.wav"))
    assert len(paths) == 300
    assert wer((read_aloud(model, path), WORDS[int(path.name[0])]) for path in paths) <= 0.08


def test_it_is_small_and_says_how_it_was_made() -> None:
    path = named("digits").weights_path
    assert path.stat().st_size < 8_000_000
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert {"seed", "steps", "command", "torch", "test_wer_strings", "test_wer_singles"} <= set(metadata)
    digits.build().load_state_dict(named("digits").build().state_dict())
    card = (path.parent / "README.md").read_text()
    for word in ("Free Spoken Digit Dataset", "CC BY-SA 4.0", "WER", "seed", "train_digits.py"):
        assert word in card


def test_transformers_loads_the_shipped_folder_and_gives_the_same_logits(model: torch.nn.Module) -> None:
    folder = named("digits").weights_path.parent
    theirs, said = transformers.Wav2Vec2ForCTC.from_pretrained(folder, output_loading_info=True)
    assert not any(said.values())
    processor = transformers.AutoProcessor.from_pretrained(folder)
    for path in sorted((SHIPPED / "digits").glob("*.flac"))[:5]:
        samples, rate = soundfile.read(path, dtype="float32")
        waveform = resample(torch.from_numpy(samples), rate, 16_000)
        values = processor(waveform.numpy(), sampling_rate=16_000, return_tensors="pt").input_values
        with torch.inference_mode():
            logits = theirs.eval()(values).logits
            torch.testing.assert_close(logits, model(waveform[None])[0], atol=1e-4, rtol=0)
        assert " ".join(processor.batch_decode(logits.argmax(-1))[0].split()) == read_aloud(model, path).strip()
