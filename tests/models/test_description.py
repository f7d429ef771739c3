"""`python -m pipeline.models DIR|owner/name`: what a checkpoint is, whether it can be run, and what its card says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers
from fake_hub import serving
from running import ROOT, environment
from transformers_checkpoints import change, config_of, random_model, save, save_languages, vocabulary

from pipeline.models import __main__ as models
from pipeline.models.huggingface.card import read_card
from pipeline.models.huggingface.folder import Folder

pytestmark = pytest.mark.usefixtures("elsewhere")


def said(text: str) -> dict[str, str]:
    """What is said of a checkpoint, by the names of the lines."""
    pairs = (line.strip().partition("  ") for line in text.splitlines()[1:])
    return {name: value.strip() for name, _, value in pairs}


def test_a_folder_is_described_with_its_labels_and_what_its_card_says(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(elsewhere / "tiny", "WavLM")
    (elsewhere / "tiny" / "README.md").write_text("---\nlanguage: [de, no]\nlicense: apache-2.0\n---\n# Title\n")
    assert models.main(["tiny"]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0] == "tiny"
    lines = said(printed)
    assert lines.pop("source") == str(elsewhere / "tiny")
    assert lines.pop("parameters").endswith(" M")
    assert lines == {
        "class": "WavLMForCTC",
        "can be run": "yes",
        "outputs": "transcripts, emissions, features",
        "labels": f"12: {' '.join(vocabulary())}",
        "sample rate": "16 kHz",
        "layers x dim": "2 x 24",
        "language": "de, no",
        "licence": "apache-2.0",
        "use": "python -m pipeline.run model=huggingface model.checkpoint=tiny dataset=...",
    }
    assert models.main(["tiny", "--json"]) == 0
    known = json.loads(capsys.readouterr().out)
    assert known["labels"] == list(vocabulary())
    assert known["refused"] is None


def test_languages_encoders_and_what_cannot_be_run_are_told(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_languages(elsewhere / "many")
    assert models.main(["./many"]) == 0
    lines = said(capsys.readouterr().out)
    assert lines["languages"] == "4: den, deu, eng, fra"
    assert lines["labels"] == "each language has its own"
    assert "model.checkpoint=./many model.language=NAME dataset" in lines["use"]
    assert lines["licence"] == "its card does not say"

    random_model("Hubert", "Model", config_of("Hubert")).save_pretrained(elsewhere / "bare")
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(elsewhere / "bare")
    assert models.main(["bare"]) == 0
    lines = said(capsys.readouterr().out)
    assert (lines["outputs"], lines["labels"]) == ("features", "none")

    (elsewhere / "bare" / "README.md").write_text("---\nlicense: mit\n---\n")
    for change_it, reason in (
        ({"model_type": "sew"}, "model_type in config.json says 'sew', which cannot be run (SEW squeezes the frames"),
        ({"speechbrain_interface": "EncoderASR"}, "speechbrain_interface in config.json says that it is a model of S"),
    ):
        change(elsewhere / "bare" / "config.json", **change_it)
        assert models.main(["bare"]) == 0
        lines = said(capsys.readouterr().out)
        assert lines["can be run"].startswith(f"no: {reason}")
        assert lines["licence"] == "mit"
        assert "use" not in lines
    (elsewhere / "many" / "model.safetensors").unlink()
    assert models.main(["many", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["refused"].startswith("no weights in")


def test_a_repository_is_described_without_its_weights_and_without_torch(elsewhere: Path) -> None:
    save(elsewhere / "tiny", "Hubert")
    (elsewhere / "tiny" / "README.md").write_text("---\nlanguage: sw\nlicense: other\nlicense_name: mine\n---\n")
    script = "import sys; from pipeline.models.__main__ import main; code = main(['me/tiny']); "
    script += "print(code, 'torch' in sys.modules, file=sys.stderr)"
    with serving() as hub:
        commit = hub.push("me/tiny", elsewhere / "tiny")
        given = {"HF_ENDPOINT": hub.address, "HF_HOME": str(elsewhere / "cache"), "PYTHONPATH": str(ROOT)}
        ended = subprocess.run(
            [sys.executable, "-c", script], env=environment(**given), capture_output=True, text=True, check=True
        )
        assert not [path for path in hub.asked if "model.safetensors" in path]
    assert ended.stderr == "0 False\n"
    lines = said(ended.stdout)
    assert lines["source"] == f"me/tiny@{commit}"
    assert (lines["language"], lines["licence"]) == ("sw", "mine")
    assert lines["can be run"] == "yes"


CARDS: dict[str, Any] = {
    "---\nlanguage: no\n---\n": ("no", None),
    "---\nlicense:\n- mit\n- 7\n---": (None, "mit, 7"),
    "# no head\nlicense: mit\n": (None, None),
    "---\nlicense: mit\n": (None, None),
    "---\n- a\n---\n": (None, None),
    "---\n[: {\n---\n": (None, None),
    "---\nlicense: !!python/object/apply:os.system [exit]\n---\n": (None, "exit"),
    "---\nlicense: {a: b}\n---\n": (None, None),
    "\xff": (None, None),
    "": (None, None),
}


@pytest.mark.parametrize(("text", "expected"), CARDS.items(), ids=map(repr, CARDS))
def test_a_card_is_read_as_plain_text(text: str, expected: tuple[str | None, str | None], tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(text, encoding="latin-1")
    found = read_card(Folder("x", tmp_path, None, "x"))
    assert (found["language"], found["licence"]) == expected


def test_a_name_that_is_neither_is_refused_with_what_may_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert models.main(["hubert_bas"]) == 2
    assert "folder or owner/name of a checkpoint" in capsys.readouterr().err
    assert models.main(["./none"]) == 2
    assert "no such folder" in capsys.readouterr().err
