"""The torchaudio tutorial's own code, run beside the pipeline on its own recording, through real bundles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from published_weights import random_state_dict
from running import SHIPPED, main

from pipeline.models.catalog import MODELS
from pipeline.models.sources import named
from pipeline.results import open_run

ID = "Lab41-SRI-VOiCES-src-sp0307-ch127535-sg0042"


class GreedyCTCDecoder(torch.nn.Module):
    """As in the tutorial "Speech Recognition with Wav2Vec2" (Moto Hira)."""

    def __init__(self, labels: tuple[str, ...], blank: int = 0) -> None:
        super().__init__()
        self.labels = labels
        self.blank = blank

    def forward(self, emission: torch.Tensor) -> str:
        indices = torch.argmax(emission, dim=-1)
        indices = torch.unique_consecutive(indices, dim=-1)
        return "".join(self.labels[i] for i in indices if i != self.blank)


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_the_main_job_on_the_tutorials_recording_equals_the_tutorial(hub: Path) -> None:
    facts = MODELS["wav2vec2_asr_base_960h"]
    published = random_state_dict(facts, seed=5)
    assert published["aux.weight"].shape == (32, 768)
    torch.save(published, hub / named(facts.name).weights_path.name)

    assert main(["features.layers=all", "features.dtype=float32"]) == 0
    run = open_run("runs/voices-sample/wav2vec2_asr_base_960h")

    bundle = torchaudio.pipelines.WAV2VEC2_ASR_BASE_960H
    model = bundle.get_model()
    [path] = SHIPPED.glob("voices/source-16k/**/*.wav")
    samples, sample_rate = soundfile.read(path, dtype="float32")
    waveform = torch.from_numpy(samples)[None]
    if sample_rate != bundle.sample_rate:
        waveform = torchaudio.functional.resample(waveform, sample_rate, bundle.sample_rate)
    with torch.inference_mode():
        features, _ = model.extract_features(waveform)
        emission, _ = model(waveform)
    transcript = GreedyCTCDecoder(bundle.get_labels())(emission[0])

    got = run.emission(ID)
    assert got.shape == (169, 29)
    assert np.abs(got - emission[0].numpy()).max() <= 1e-4
    assert len(features) == 12
    for layer, feature in enumerate(features, start=1):
        assert run.feature(ID, layer=layer).shape == (169, 768)
        assert np.abs(run.feature(ID, layer=layer) - feature[0].numpy()).max() <= 1e-4
    assert run.alphabet == bundle.get_labels()
    assert run.transcripts.ctc_text[0] == transcript
    assert run.transcripts.reference[0].lower() == "i had that curiosity beside me at this moment"


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_self_supervised_bundle_gives_features_and_nothing_else(hub: Path) -> None:
    facts = MODELS["hubert_base"]
    torch.save(random_state_dict(facts, seed=6), hub / named(facts.name).weights_path.name)
    assert main(["model=hubert_base"]) == 0
    run = open_run("runs/voices-sample/hubert_base")
    assert run.feature(ID, layer=12).shape == (169, 768)
    assert run.feature(ID, layer=12).dtype == np.float16
    assert not (run.path / "transcripts").exists()
    assert not (run.path / "emissions").exists()
    with pytest.raises(KeyError, match="layers"):
        run.feature(ID, layer=3)


def test_weights_that_cannot_be_downloaded_name_the_address_the_file_and_the_way_out(
    hub: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # A proxy that refuses at once stands for a machine without the internet.
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    assert main([]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "https://download.pytorch.org/torchaudio/models/wav2vec2_fairseq_base_ls960_asr_ls960.pth" in said
    assert str(hub / "wav2vec2_fairseq_base_ls960_asr_ls960.pth") in said
    assert "dataset=digits" in said
    assert "Traceback" not in said


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04 half a zip"])
def test_a_damaged_cached_file_is_named(hub: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    file = hub / named("hubert_base").weights_path.name
    file.write_bytes(content)
    assert main(["model=hubert_base"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert str(file) in said[0]


@pytest.mark.usefixtures("undrawn")
def test_weights_are_data_and_run_no_code(hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    canary = tmp_path / "canary"

    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (canary,))

    torch.save({"aux.weight": Payload()}, hub / named("hubert_base").weights_path.name)
    assert main(["model=hubert_base"]) == 2
    assert not canary.exists()


def test_other_weights_than_those_configured_are_refused_before_they_are_read(
    hub: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (hub / named("hubert_base").weights_path.name).write_bytes(b"whatever")
    assert main(["model=hubert_base", f"model.sha256={'0' * 64}"]) == 2
    said = capsys.readouterr().err
    assert "model.sha256" in said
    assert "other weights" in said
