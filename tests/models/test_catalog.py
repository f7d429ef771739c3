"""What is known of the models without torch is what torchaudio says of them; the command that lists them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from running import ROOT

from pipeline.config import groups as choices
from pipeline.config.run_config import load
from pipeline.models import __main__ as models
from pipeline.models.catalog import BUNDLES, MODELS
from pipeline.models.facts import ModelFacts
from pipeline.models.labels import LABEL_SETS
from pipeline.models.sources import SOURCES, named

FACTS = [bundle.facts for bundle in BUNDLES.values()]


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch hub cache and no corpus."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("VOICES_ROOT", raising=False)
    return tmp_path / "torch" / "hub" / "checkpoints"


def test_every_model_has_a_choice_and_every_choice_a_model() -> None:
    served = [name for source in SOURCES.shipped() for name in SOURCES.load(source).NAMES]
    assert {*MODELS} < {*served}
    assert choices.group_choices("model") == sorted(served)
    for name, facts in MODELS.items():
        chosen = load(["dataset=digits", f"model={name}"])
        assert chosen.model is facts
        assert ("transcripts" in chosen.settings.outputs) == facts.transcribes
        assert ("emissions" in chosen.settings.outputs) == bool(facts.labels)
        assert "features" in chosen.settings.outputs


def test_every_bundle_of_torchaudio_is_a_model() -> None:
    import torchaudio

    bundles = [
        name
        for name, bundle in vars(torchaudio.pipelines).items()
        if isinstance(bundle, torchaudio.pipelines.Wav2Vec2Bundle)
    ]
    assert sorted(bundles) == sorted(name.upper() for name in BUNDLES)
    assert len(bundles) == 30
    assert sum(facts.transcribes for facts in FACTS) == 16
    assert sum(not facts.labels for facts in FACTS) == 13


@pytest.mark.parametrize("facts", FACTS, ids=lambda facts: facts.name)
def test_the_catalogue_says_what_torchaudio_says_of_a_bundle(facts: ModelFacts) -> None:
    import torch
    import torchaudio

    from pipeline.models.architectures import architecture_of, torchaudio_bundle

    bundle, architecture = torchaudio_bundle(facts.name), architecture_of(facts.name)
    is_aligner = isinstance(bundle, torchaudio.pipelines.Wav2Vec2FABundle)
    labels = bundle.get_labels(**({"star": None} if is_aligner else {})) if hasattr(bundle, "get_labels") else ()
    assert facts.labels == labels
    assert facts.sample_rate == bundle.sample_rate
    assert facts.num_layers == architecture.params["encoder_num_layers"]
    assert facts.dim == architecture.params["encoder_embed_dim"]
    assert len(facts.labels) == (architecture.params["aux_num_out"] or 0)
    assert facts.body.normalize_waveform == bundle._normalize_waveform
    assert facts.values == ("log_probs" if is_aligner else "logits")
    assert named(facts.name).weights_path.name == bundle._path.rpartition("/")[2]
    assert named(facts.name).url.endswith(bundle._path)
    assert not facts.labels or facts.labels[facts.blank] == "-"
    with torch.device("meta"):
        model = architecture.build(len(facts.labels))
    assert facts.num_params == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("facts", FACTS, ids=lambda facts: facts.name)
def test_the_catalogue_says_what_torchaudios_documentation_says_of_training_and_licence(facts: ModelFacts) -> None:
    from pipeline.models.architectures import torchaudio_bundle

    documented = " ".join(torchaudio_bundle(facts.name).__doc__.split())
    assert (facts.origin.licence == "CC BY-NC 4.0") == ("BY-NC" in documented)
    assert (facts.origin.licence == "MIT") == ("MIT License" in documented)
    said = documented.replace("10k hours", "10,000 hours").replace("31K hours", "31,000 hours").replace("*", "")
    for amount in re.findall(r"([\d,]+) h\b", facts.origin.training_data):
        # "the same audio with the corresponding transcripts", "56,000 hours", ...
        assert f"{amount} hours" in said
    for amount in re.findall(r"([\d,]+) min", facts.origin.training_data):
        assert f"{amount} minutes" in said
    # Longer names first: "LibriSpeech" is also the end of "Multilingual LibriSpeech".
    for name, full in {"MLS": "Multilingual LibriSpeech", "Common Voice": "CommonVoice"}.items():
        assert (name in facts.origin.training_data) == (full in said)
    said = said.replace("Multilingual LibriSpeech", "")
    for name in ("LibriSpeech", "Libri-Light", "VoxPopuli", "GigaSpeech", "BABEL", "VoxLingua107"):
        assert (name in facts.origin.training_data) == (name in said), name
    for count in re.findall(r"\(?in ([\d,]+) languages|consisting of (\d+) languages", said):
        assert f"{''.join(count)} languages" in f"{facts.origin.language} {facts.origin.training_data}"


def test_label_sets_are_those_of_the_models() -> None:
    assert set(LABEL_SETS.values()) == {facts.labels for facts in MODELS.values() if facts.labels}
    assert "ß" in LABEL_SETS["voxpopuli_de"]


def test_the_catalogue_says_what_the_shipped_model_is() -> None:
    from pipeline.models import digits

    facts = MODELS["digits"]
    assert facts.num_layers == digits.ARCHITECTURE["encoder_num_layers"]
    assert facts.dim == digits.ARCHITECTURE["encoder_embed_dim"]
    assert len(facts.labels) == digits.ARCHITECTURE["aux_num_out"]
    assert facts.num_params == sum(parameter.numel() for parameter in digits.build().parameters())
    assert named(facts.name).weights_path.is_file()


@pytest.mark.parametrize("facts", MODELS.values(), ids=lambda facts: facts.name)
def test_frames_of_a_length_are_those_of_the_feature_extractor(facts: ModelFacts) -> None:
    import torch
    from torchaudio.models.wav2vec2.components import _get_feature_extractor

    from pipeline.models.architectures import architecture_of

    layers = architecture_of(facts.name).params["extractor_conv_layer_config"]
    narrow = [(1, kernel, stride) for _, kernel, stride in layers]  # the width does not change the length
    extractor = _get_feature_extractor("group_norm", narrow, False).eval()
    lengths = torch.arange(400, 5001)
    with torch.inference_mode():
        features, frames = extractor(torch.zeros(1, 5000), lengths)
        assert [facts.num_frames(int(length)) for length in lengths] == frames.tolist()
        assert facts.num_frames(5000) == features.shape[1]
        for length in (400, 719, 720, 721, 1039, 1040, 4999):
            assert extractor(torch.zeros(1, length), None)[0].shape[1] == facts.num_frames(length)


@pytest.mark.parametrize("facts", MODELS.values(), ids=lambda facts: facts.name)
def test_one_frame_needs_400_samples_and_the_next_320_more(facts: ModelFacts) -> None:
    assert facts.min_samples == 400
    assert facts.stride == 320
    assert facts.seconds_per_frame == pytest.approx(0.02)
    assert [facts.num_frames(n) for n in (0, 1, 399, 400, 719, 720)] == [0, 0, 0, 1, 1, 2]


def test_weights_are_looked_for_where_torch_hub_keeps_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    for variables in ({"TORCH_HOME": str(tmp_path / "a")}, {"XDG_CACHE_HOME": str(tmp_path / "b")}, {}):
        monkeypatch.delenv("TORCH_HOME", raising=False)
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        expected = Path(torch.hub.get_dir()) / "checkpoints" / "hubert_fairseq_base_ls960.pth"
        assert named("hubert_base").weights_path == expected


# --- python -m pipeline.models


def listed(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.models", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_a_pipe_gets_one_line_a_model_with_everything() -> None:
    ended = listed()
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = {line.split()[0]: line for line in ended.stdout.splitlines() if line.strip()}
    for name, facts in MODELS.items():
        for said in ("16 kHz", f"{facts.num_layers} x {facts.dim}", str(len(facts.labels) or "-")):
            assert said in lines[name]
        for said in (facts.origin.language, facts.origin.training_data, facts.origin.licence):
            assert said in lines[name]
    assert "315 M" in lines["mms_fa"]
    assert "1.3 GB" in lines["mms_fa"]
    assert "CC BY-NC 4.0" in lines["voxpopuli_asr_base_10k_fr"]
    assert "8.6 GB" in lines["wav2vec2_xlsr_2b"]
    assert "included" in lines["digits"]


@pytest.mark.parametrize("width", [80, 100, 120, 171])
def test_a_narrower_terminal_gets_lines_that_fit(width: int) -> None:
    lines = [line for text in models.listing(width) for line in text.plain.split("\n")]
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for facts in MODELS.values():
        assert facts.name in text
        assert f"; {facts.origin.licence}" in text


def test_weights_that_are_here_are_said_to_be(hub: Path) -> None:
    hub.mkdir(parents=True)
    (hub / named("wavlm_base").weights_path.name).touch()
    cached = [text.plain.split()[0] for text in models.listing(None) if "  cached  " in text.plain]
    assert cached == ["wavlm_base"]


def test_the_list_as_data() -> None:
    ended = listed("--json", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    rows = {row["model"]: row for row in json.loads(ended.stdout)}
    assert list(rows) == list(MODELS)
    assert rows["voxpopuli_asr_base_10k_de"]["labels"][-8:] == list("üäöjßyxq")
    assert rows["hubert_base"]["outputs"] == ["features"]
    assert rows["mms_fa"]["outputs"] == ["emissions", "features"]
    assert rows["wav2vec2_xlsr_2b"]["parameters"] == 2_159_257_728
    assert rows["digits"]["here"]


def test_the_list_needs_neither_torch_nor_a_reader_to_the_end() -> None:
    script = (
        "import runpy, sys\n"
        "sys.argv = ['models']\n"
        "try:\n    runpy.run_module('pipeline.models', run_name='__main__')\n"
        "except SystemExit:\n    print({'torch', 'torchaudio', 'hydra'} & set(sys.modules), file=sys.stderr)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert ended.stderr == "set()\n"
    shell = f"{sys.executable} -m pipeline.models | head -1"
    ended = subprocess.run(shell, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert (ended.stdout.split()[0], ended.stderr) == ("model", "")


def test_an_argument_that_there_is_not_is_refused_in_one_line() -> None:
    ended = listed("--yaml")
    assert (ended.returncode, ended.stdout) == (2, "")
    usage = "usage: python -m pipeline.models [NAME | DIR | owner/name] [--json]"
    assert ended.stderr == f"error: unrecognized arguments: --yaml; {usage}\n"
    assert listed("--help").returncode == 0


def test_one_model_is_described_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert models.main(["VOXPOPULI_ASR_BASE_10K_DE"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "voxpopuli_asr_base_10k_de"
    said = {line[:17].strip(): line[17:] for line in lines[1:]}
    assert said["outputs"] == "transcripts, emissions, features"
    assert said["labels"].startswith("32: - | e n i")
    assert said["layers x dim"] == "12 x 768"
    assert said["use"] == "python -m pipeline.run model=voxpopuli_asr_base_10k_de dataset=..."
    assert models.main(["hubert_base", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outputs"] == ["features"]
    assert models.main(["hubert_bas"]) == 2
    assert "(did you mean hubert_base?)" in capsys.readouterr().err
