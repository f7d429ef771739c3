"""`model=checkpoint`: a file of one's own weights, as plain data, into a named architecture with named labels."""

from __future__ import annotations

import json
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exactness import pad, recordings
from published_weights import random_state_dict
from random_models import architecture, build
from running import ROOT, SHIPPED, SHORT, SHORT_DIGITS, environment, main, refused
from safetensors.torch import save_file

from pipeline.config.run_config import load
from pipeline.models.catalog import MODELS
from pipeline.models.labels import LABEL_SETS
from pipeline.models.sources import ModelSource, load_model, named
from pipeline.results import open_run
from pipeline.runtime.digests import sha256_file
from pipeline.runtime.errors import UserError

DIGITS = MODELS["digits"]


pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture
def trained() -> dict[str, torch.Tensor]:
    """The shipped model's weights."""
    return dict(named("digits").build().state_dict())


def overrides(file: Path | str, *more: str) -> list[str]:
    return ["model=checkpoint", f"model.checkpoint={file}", "model.architecture=digits", *SHORT_DIGITS, *more]


def checkpoint(path: Path, architecture: str, labels: tuple[str, ...] | None) -> ModelSource:
    given = None if labels is None else [*labels]
    return named("checkpoint", checkpoint=str(path), architecture=architecture, labels=given)


def loaded(source: ModelSource) -> dict[str, torch.Tensor]:
    model, sha256 = load_model(source)
    assert sha256 == sha256_file(source.weights_path)
    assert not model.training
    return dict(model.state_dict())


def refusal(source: ModelSource) -> str:
    with pytest.raises(UserError) as caught:
        load_model(source)
    message = str(caught.value)
    assert message.startswith(f"model.checkpoint={source.weights_path}: ")
    assert "\n" not in message
    assert len(message) < 700
    return message


SHAPES: dict[str, Callable[[dict[str, torch.Tensor], Path], object]] = {
    "safetensors": save_file,
    "state dict": torch.save,
    "former zip-less format": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "Lightning": lambda state, path: torch.save(
        {"epoch": 3, "state_dict": {f"model.{name}": tensor for name, tensor in state.items()}}, path
    ),
    "trainer": lambda state, path: torch.save({"model": state, "optimizer": {"lr": 0.1}, "step": 7}, path),
    "DataParallel around the bundles' wrapper": lambda state, path: torch.save(
        {f"module.model.{name}": tensor for name, tensor in state.items()}, path
    ),
    "former names of the weight norm": lambda state, path: torch.save(
        {
            name.replace("parametrizations.weight.original0", "weight_g").replace(
                "parametrizations.weight.original1", "weight_v"
            ): tensor
            for name, tensor in state.items()
        },
        path,
    ),
}


@pytest.mark.parametrize("save", SHAPES.values(), ids=SHAPES)
def test_a_file_is_taken_in_every_shape_that_people_save(
    save: Callable[[dict[str, torch.Tensor], Path], object], trained: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "weights.bin"  # the name says nothing
    save(trained, path)
    found = loaded(checkpoint(path, "digits", None))
    assert found.keys() == trained.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in trained.items())


def test_half_precision_weights_are_loaded_as_float32(trained: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file({name: tensor.half() for name, tensor in trained.items()}, tmp_path / "half.safetensors")
    found = loaded(checkpoint(tmp_path / "half.safetensors", "digits", None))
    assert all(torch.equal(found[name], tensor.half().float()) for name, tensor in trained.items())


@pytest.mark.parametrize("name", ["wav2vec2_asr_base_960h", "voxpopuli_asr_base_10k_de", "wavlm_base"])
def test_a_bundles_published_file_is_taken(name: str, tmp_path: Path) -> None:
    facts = MODELS[name]
    torch.save(random_state_dict(facts, seed=1), tmp_path / "published.pth")
    found = loaded(checkpoint(tmp_path / "published.pth", name, None))
    expected = build(*architecture(facts), seed=1).state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


def test_a_head_with_labels_of_ones_own_on_an_architecture_without(tmp_path: Path) -> None:
    kind, params = architecture(MODELS["wavlm_base"])
    torch.save(build(kind, params | {"aux_num_out": 4}, seed=2).state_dict(), tmp_path / "x.pt")
    source = checkpoint(tmp_path / "x.pt", "wavlm_base", ("_", "|", "a", "sch"))
    model, _ = load_model(source)
    assert model.aux.out_features == 4
    assert source.facts.num_params == sum(parameter.numel() for parameter in model.parameters())
    assert "model.labels names none" in refusal(checkpoint(tmp_path / "x.pt", "wavlm_base", None))


def test_a_checkpoint_of_the_shipped_weights_answers_as_the_shipped_model(
    trained: dict[str, torch.Tensor], elsewhere: Path
) -> None:
    save_file(trained, elsewhere / "own.safetensors")
    assert main(overrides("own.safetensors", "run_dir=own", "emissions.dtype=float32")) == 0
    assert main([*SHORT, "run_dir=shipped"]) == 0
    own, shipped = open_run("own"), open_run("shipped")
    assert own.transcripts.text.tolist() == shipped.transcripts.text.tolist()
    first = own.transcripts.id[0]
    assert np.array_equal(own.emission(first), shipped.emission(first))
    recorded = json.loads((elsewhere / "own" / "run.json").read_text())
    assert recorded["identity"]["model"] == "checkpoint"
    assert recorded["identity"]["model.architecture"] == "digits"
    assert recorded["identity"]["model.labels"] == list(DIGITS.labels)
    assert "model.labels" not in json.loads((elsewhere / "shipped" / "run.json").read_text())["identity"]


def test_a_finished_run_is_recognised_without_torch_and_other_labels_or_weights_are_refused(
    elsewhere: Path, trained: dict[str, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(trained, elsewhere / "my model, v=2.safetensors")
    arguments = overrides("my model, v=2.safetensors", "outputs=[transcripts]")
    assert main(arguments) == 0
    script = (
        "import sys; from pipeline.run import main; "
        f"code = main({arguments!r}); print(code, 'torch' in sys.modules, file=sys.stderr)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script],
        cwd=elsewhere,
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
    )
    assert ended.stderr.strip() == "0 False"
    assert "complete already" in ended.stdout

    capsys.readouterr()
    swapped = ",".join(["-", "'|'", "T", "E", *(f'"{label}"' for label in DIGITS.labels[4:])])
    assert main([*arguments, f"model.labels=[{swapped}]"]) == 2
    assert "model.labels: [-,|,E,T," in capsys.readouterr().err
    trained["aux.bias"] += 1
    save_file(trained, elsewhere / "my model, v=2.safetensors")
    assert main(arguments) == 2
    assert "weights_sha256" in capsys.readouterr().err


def test_weights_other_than_those_configured_are_refused_before_they_are_read(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (elsewhere / "x.pt").write_bytes(b"PK, whatever")
    assert main(overrides("x.pt", f"model.sha256={'0' * 64}")) == 2
    assert "these are other weights" in capsys.readouterr().err


def test_weights_are_data_and_run_no_code(elsewhere: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (canary,))

    for zipped in (True, False):
        torch.save({"aux.weight": Payload()}, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
        message = refusal(checkpoint(tmp_path / "x.pt", "digits", None))
        assert "could run code" in message
        assert "safetensors" in message
        # torch recommends exactly that.
        assert "weights_only" not in message
        assert not canary.exists()


def test_a_whole_pickled_model_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 3), tmp_path / "x.pt")
    message = refusal(checkpoint(tmp_path / "x.pt", "digits", None))
    assert "torch.nn.modules.linear.Linear" in message
    assert "torch.save(model.state_dict(), FILE)" in message


@pytest.mark.parametrize(
    "content", [b"", b"x", b"PK\x03\x04 half a zip", b"\x10" + 7 * b"\0" + b"{not json", b"RIFF" + bytes(100)]
)
def test_a_damaged_file_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    refusal(checkpoint(tmp_path / "x.pt", "digits", None))


@pytest.mark.parametrize("content", [[1, 2], {}, {"model": {"epoch": 3}}, {"a": 1}, torch.zeros(3)])
def test_a_file_without_a_state_dict_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pt")
    assert "holds no state dict" in refusal(checkpoint(tmp_path / "x.pt", "digits", None))


def test_another_architecture_is_refused_with_what_differs(trained: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file(trained, tmp_path / "x.safetensors")
    message = refusal(checkpoint(tmp_path / "x.safetensors", "wav2vec2_asr_base_960h", None))
    assert "is not of model.architecture=wav2vec2_asr_base_960h" in message
    assert "encoder.transformer.layers.4.attention.k_proj.weight" in message
    assert "(48,) for (512,)" in message
    assert "more" in message
    assert "python -m pipeline.models" in message
    renamed = {f"wav2vec2.{name}": tensor for name, tensor in trained.items()}
    save_file(renamed, tmp_path / "y.safetensors")
    message = refusal(checkpoint(tmp_path / "y.safetensors", "digits", None))
    assert "lacks " in message
    assert "has besides wav2vec2.aux.bias" in message


def test_a_wrong_number_of_labels_is_refused_with_both_numbers(
    trained: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    save_file(trained, tmp_path / "x.safetensors")
    message = refusal(checkpoint(tmp_path / "x.safetensors", "digits", LABEL_SETS["voxpopuli_de"]))
    assert "its output layer has 29 labels and model.labels names 32" in message
    del trained["aux.weight"], trained["aux.bias"]
    save_file(trained, tmp_path / "y.safetensors")
    assert "has no labels and model.labels names 29" in refusal(checkpoint(tmp_path / "y.safetensors", "digits", None))


REFUSED = [
    ([], ["model.checkpoint is required", "model.checkpoint=FILE"]),
    (["model.checkpoint=/no/such.pt", "model.architecture=digits"], ["model.checkpoint=/no/such.pt", "no such file"]),
    (["model.checkpoint=/tmp", "model.architecture=digits"], ["model.checkpoint=/tmp", "is not a file"]),
    (["model.checkpoint=x.pt"], ["model.architecture is required", "wavlm_large", "digits"]),
    (["model.checkpoint=x.pt", "model.architecture=wavlm_larg"], ["did you mean wavlm_large?"]),
    (["model.checkpoint=x.pt", "model.architecture=checkpoint"], ["model.architecture=checkpoint", "not allowed"]),
    (
        ["model.checkpoint=x.pt", "model.architecture=hubert_base"],
        ["outputs=[transcripts,emissions,features]", "no labels", "model.labels=", "outputs=[features]"],
    ),
    (
        ["model.checkpoint=x.pt", "model.architecture=mms_fa"],
        ["outputs=[transcripts,emissions,features]", "word boundary", "outputs=[emissions,features]"],
    ),
    (["model.labels=german"], ["model.labels=german", "voxpopuli_de"]),
    (["model.labels={a:1}"], ["model.labels=", "a list", "voxpopuli_de"]),
    (["model.labels=[-,a,a]"], ["model.labels=[-,a,a]", "'a' twice"]),
    (["model.labels=['|',-,a]"], ["the blank comes first"]),
    (["model.labels=[-]"], ["the blank comes first"]),
    (["model.labels=[-,true]"], ["True is not a label", "quoted"]),
    (["model.labels=[-,null]"], ["None is not a label", "quoted"]),
    (["model.labels=[-,'a b']"], ["'a b' is not a label"]),
    (["model.labels=[-,'']"], ["'' is not a label"]),
    (["features.layers=5"], ["features.layers=5", "checkpoint", "1 to 4"]),
]


@pytest.mark.parametrize(("typed", "said"), REFUSED, ids=[" ".join(typed) for typed, _ in REFUSED])
def test_a_wrong_configuration_is_refused_at_once(typed: list[str], said: list[str], elsewhere: Path) -> None:
    (elsewhere / "x.pt").write_bytes(b"PK")
    if typed and not typed[0].startswith("model.checkpoint"):
        typed = ["model.checkpoint=x.pt", "model.architecture=digits", *typed]
    with pytest.raises(UserError) as caught:
        load(["dataset=digits", "model=checkpoint", *typed])
    for part in said:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["checkpoint=x.pt", "architecture=digits", "labels=[-,a]"])
def test_keys_of_a_checkpoint_are_refused_for_other_models(key: str) -> None:
    with pytest.raises(UserError, match="add model=checkpoint") as caught:
        load(["dataset=digits", f"model.{key}"])
    name = f"model.{key.partition('=')[0]}"
    assert str(caught.value).startswith(f"model.{key}: no such key of this choice; {name} is a key of model=checkpoint")


def test_labels_are_taken_as_typed(elsewhere: Path) -> None:
    (elsewhere / "x.pt").write_bytes(b"PK")
    for typed, labels in (
        ("[-,|,a,b]", ("-", "|", "a", "b")),
        ("[_,'|','ä','null',7]", ("_", "|", "ä", "null", "7")),
        ("voxpopuli_it", LABEL_SETS["voxpopuli_it"]),
        ("null", DIGITS.labels),
    ):
        assert load(overrides("x.pt", f"model.labels={typed}")).model.labels == labels


def test_a_file_that_holds_no_weights_is_refused_before_the_manifest_is_made(elsewhere: Path) -> None:
    (elsewhere / "x.pt").write_text("once upon a time")
    with pytest.raises(UserError, match=r"model\.checkpoint=x\.pt: neither safetensors nor a torch file"):
        load(overrides("x.pt"))


def test_weights_that_are_refused_leave_nothing_behind(
    trained: dict[str, torch.Tensor], elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"encoder.weight": torch.zeros(2)}, elsewhere / "other.pt")
    (elsewhere / "damaged.pt").write_bytes(b"PK" + bytes(100))
    save_file(trained, elsewhere / "right.safetensors")
    for file, more in (("other.pt", []), ("damaged.pt", []), ("right.safetensors", [f"model.sha256={'0' * 64}"])):
        said = refused(overrides(file, "run_dir=new/out", *more), capsys)
        assert file in said
        assert not Path("new").exists()


def test_a_checkpoint_that_is_not_read_need_not_be_there() -> None:
    chosen = load(overrides("gone.pt", "stages=[score]"))
    assert chosen.source.weights_path == Path("gone.pt").absolute()


# --- other languages


def test_umlauts_go_right_through_to_text_words_and_rates(trained: dict[str, torch.Tensor], elsewhere: Path) -> None:
    """The shipped model's English digits, each letter said with one of German's: rows move to where that stands."""
    german = LABEL_SETS["voxpopuli_de"]
    english_of = dict(zip("üäeößnirstadhulgcmobwfkzpvj", DIGITS.labels[2:], strict=True)) | {"-": "-", "|": "|"}
    said_as = {english: letter for letter, english in english_of.items()}
    rows = [DIGITS.labels.index(english_of.get(letter, "-")) for letter in german]
    for name in ("aux.weight", "aux.bias"):
        trained[name] = trained[name][rows]
    trained["aux.bias"][[index for index, letter in enumerate(german) if letter not in english_of]] = -1e4
    save_file(trained, elsewhere / "german.safetensors")

    english, _ = load_model(named("digits"))
    audio = elsewhere / "audio"
    audio.mkdir()
    expected = {}
    for flac in sorted((SHIPPED / "digits").glob("*.flac"))[:6]:
        (audio / flac.name).write_bytes(flac.read_bytes())
        said = "".join(said_as.get(letter, " ") for letter in greedy(english, flac))
        expected[flac.name] = said
        # Decomposed, in capitals, with a comma: the comparison is after NFKC, lower case, without punctuation.
        reference = unicodedata.normalize("NFD", said.replace("ß", "ẞ").upper().replace(" ", ", "))
        (audio / flac.name).with_suffix(".txt").write_text(reference, encoding="utf-8")
    assert set("äöüß") <= set("".join(expected.values()))

    own = ["model.checkpoint=german.safetensors", "model.architecture=digits", "model.labels=voxpopuli_de"]
    assert main(["dataset=folder", f"dataset.root={audio}", "run_dir=out", "model=checkpoint", *own]) == 0
    run = open_run("out")
    assert dict(zip(run.transcripts.id, run.transcripts.text, strict=True)) == expected
    assert set(run.words.word) == {word for said in expected.values() for word in said.split()}
    assert run.alphabet == german
    assert run.transcripts.reference_words.sum() > 6
    assert run.transcripts.word_errors.sum() == run.transcripts.char_errors.sum() == 0


@torch.inference_mode()
def greedy(model: torch.nn.Module, path: Path) -> str:
    """Words with single spaces, as the tutorial decodes them."""
    waveforms, _ = pad(recordings([path]))
    best = torch.unique_consecutive(model(waveforms)[0][0].argmax(-1))
    letters = "".join(DIGITS.labels[index] for index in best.tolist() if index)
    return " ".join(letters.replace("|", " ").split())
