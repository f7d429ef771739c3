"""`model=checkpoint` with files of fairseq, and `model.labels` from a file."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from random_models import architecture, build
from running import NO_REPORT, SHORT_DIGITS, main
from small_models import SMALL
from torchaudio.models.wav2vec2.utils import import_fairseq

from pipeline.config.run_config import load
from pipeline.models import fairseq
from pipeline.models.catalog import MODELS
from pipeline.models.sources import from_record, load_model, named
from pipeline.results import open_run
from pipeline.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("elsewhere")

DIGITS = MODELS["digits"]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
DICTIONARY = "".join(f"{label} {1000 - index}\n" for index, label in enumerate(DIGITS.labels[1:]))
NAMES = (
    (r"^encoder\.feature_projection\.projection", "post_extract_proj"),
    (r"^encoder\.feature_projection\.layer_norm", "layer_norm"),
    (r"^encoder\.transformer\.pos_conv_embed\.conv", "encoder.pos_conv.0"),
    (r"parametrizations\.weight\.original0", "weight_g"),
    (r"parametrizations\.weight\.original1", "weight_v"),
    (r"^encoder\.transformer\.layer_norm", "encoder.layer_norm"),
    (r"^encoder\.transformer\.layers\.(\d+)\.attention", r"encoder.layers.\1.self_attn"),
    (r"^encoder\.transformer\.layers\.(\d+)\.layer_norm", r"encoder.layers.\1.self_attn_layer_norm"),
    (r"^encoder\.transformer\.layers\.(\d+)\.final_layer_norm", r"encoder.layers.\1.final_layer_norm"),
    (r"^encoder\.transformer\.layers\.(\d+)\.feed_forward\.intermediate_dense", r"encoder.layers.\1.fc1"),
    (r"^encoder\.transformer\.layers\.(\d+)\.feed_forward\.output_dense", r"encoder.layers.\1.fc2"),
    (r"conv_layers\.(\d+)\.conv", r"conv_layers.\1.0"),
    (r"^aux", "proj"),
)
State = dict[str, torch.Tensor]


def as_fairseq(state: State, norm: str = "2", fine_tuned: bool = True) -> State:
    """A model of torchaudio by the names of fairseq; `norm` is the place of a norm in its convolution."""
    found = {}
    for name, tensor in state.items():
        for ours, theirs in (*NAMES, (r"conv_layers\.(\d+)\.layer_norm", rf"conv_layers.\1.{norm}")):
            name = re.sub(ours, theirs, name)
        wrapper = "w2v_encoder." if name.startswith("proj.") else "w2v_encoder.w2v_model."
        found[f"{wrapper if fine_tuned else ''}{name}"] = tensor
    return found


@pytest.fixture
def trained() -> State:
    """The shipped model as a fine-tune of fairseq: with rows for the special labels, of which `<unk>` says Z."""
    state = dict(named("digits").build().state_dict())
    letter = DIGITS.labels.index("Z")
    for name, low in (("aux.weight", 0.0), ("aux.bias", -1e4)):
        values = state[name]
        never = torch.full_like(values[:1], low)
        said = values[letter : letter + 1].clone()
        values = torch.cat([values[:1], never, never, said, values[1:]])
        values[letter + 3] = low
        state[name] = values
    return as_fairseq(state)


def refusal(file: Path | str, said: str = "model.checkpoint=", **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_model(named("checkpoint", checkpoint=str(file), **({"architecture": "digits"} | options)))
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_fine_tune_of_fairseq_runs_with_its_dictionary_and_leaves_special_labels_out_of_texts(
    trained: State, elsewhere: Path
) -> None:
    torch.save({"args": None, "model": trained}, elsewhere / "checkpoint_best.pt")
    (elsewhere / "dict.ltr.txt").write_text(DICTIONARY)
    own = ["model=checkpoint", "model.checkpoint=checkpoint_best.pt", "model.architecture=digits"]
    own.append("model.labels=dict.ltr.txt")
    assert main([*SHORT_DIGITS, *own, "outputs=[transcripts]", NO_REPORT, "run_dir=out"]) == 0
    found = open_run("out").transcripts
    assert found.text.tolist() == [reference.upper().replace("Z", "") for reference in found.reference]
    assert found.ctc_text.str.contains("<unk>ERO|", regex=False).any()
    # Its record has the labels, so that the dictionary may be gone.
    source = load(["dataset=digits", *own]).source
    (elsewhere / "dict.ltr.txt").unlink()
    assert from_record("checkpoint", source.identity(), str(source.weights_path)).facts == source.facts
    assert source.facts.labels == (*SPECIAL, *DIGITS.labels[1:])


@pytest.mark.parametrize("fine_tuned", [True, False], ids=["fine-tuned", "pretrained"])
@pytest.mark.parametrize("name", ["wav2vec2_asr_base_960h", "hubert_asr_large", "wav2vec2_asr_large_lv60k_960h"])
def test_the_names_are_those_that_torchaudio_reads(name: str, fine_tuned: bool) -> None:
    kind, params = architecture(MODELS[name])
    state = build(kind, params | SMALL, seed=0).state_dict()
    if not fine_tuned:
        state = {key: tensor for key, tensor in state.items() if not key.startswith("aux.")}
    given = as_fairseq(state, "2" if params["extractor_mode"] == "group_norm" else "2.1", fine_tuned)
    encoder = {key.removeprefix("w2v_encoder."): tensor for key, tensor in given.items()}
    expected = import_fairseq._convert_state_dict(encoder)
    assert len(expected) == len(state)
    beginning = "w2v_encoder.w2v_model." if fine_tuned else ""
    more = ("mask_emb", "quantizer.vars", "quantizer.weight_proj.bias", "project_q.weight", "final_proj.bias",
            "target_glu.0.weight", "label_embs_concat")  # fmt: skip
    found = fairseq.renamed(given | {f"{beginning}{leftover}": torch.zeros(2) for leftover in more})
    assert found.keys() == expected.keys()
    assert all(found[key] is tensor for key, tensor in expected.items())
    assert fairseq.is_fairseq(given)
    assert not fairseq.is_fairseq(state)


NAMES_OF_FAIRSEQ2 = (
    (r"^encoder\.feature_projection\.projection", "encoder_frontend.model_dim_proj"),
    (r"^encoder\.feature_projection\.layer_norm", "encoder_frontend.post_extract_layer_norm"),
    (r"^encoder\.transformer\.pos_conv_embed\.conv", "encoder_frontend.pos_encoder.conv"),
    (r"parametrizations\.weight\.original0", "weight_g"),
    (r"parametrizations\.weight\.original1", "weight_v"),
    (r"^encoder\.transformer\.", "encoder."),
    (r"^feature_extractor\.conv_layers", "encoder_frontend.feature_extractor.layers"),
    (r"\.attention\.out_proj", ".self_attn.output_proj"),
    (r"\.attention\.", ".self_attn."),
    (r"^encoder\.layers\.(\d+)\.layer_norm", r"encoder.layers.\1.self_attn_layer_norm"),
    (r"final_layer_norm", "ffn_layer_norm"),
    (r"feed_forward\.intermediate_dense", "ffn.inner_proj"),
    (r"feed_forward\.output_dense", "ffn.output_proj"),
    (r"^aux", "final_proj"),
)


def test_a_file_in_the_layout_of_omnilingual_asr_is_loaded_and_other_sizes_are_refused(tmp_path: Path) -> None:
    kind, params = architecture(MODELS["wav2vec2_xlsr_300m"])
    labels = [*SPECIAL, "\N{LOWER ONE EIGHTH BLOCK}", "a", "ب"]
    expected = build(kind, params | {"aux_num_out": len(labels)}, seed=3).state_dict()
    state = {}
    for name, tensor in expected.items():
        for ours, theirs in NAMES_OF_FAIRSEQ2:
            name = re.sub(ours, theirs, name)
        state[name] = tensor
    assert {"encoder_frontend.feature_extractor.layers.6.layer_norm.bias", "encoder.layers.23.ffn.inner_proj.weight",
            "encoder_frontend.pos_encoder.conv.weight_g", "encoder.layers.0.self_attn_layer_norm.bias",
            "encoder.layers.0.self_attn.output_proj.bias", "encoder.layer_norm.bias"} <= state.keys()  # fmt: skip
    torch.save({"model": state, "fs2": True}, tmp_path / "omniASR-CTC-300M.pt")
    (tmp_path / "tokens.txt").write_text("".join(f"{label} {index}\n" for index, label in enumerate(labels)))
    options = {"architecture": "wav2vec2_xlsr_300m", "labels": f"{tmp_path}/tokens.txt"}
    source = named("checkpoint", checkpoint=f"{tmp_path}/omniASR-CTC-300M.pt", **options)
    assert source.facts.delimiter == labels[4]
    assert source.facts.silent == {1, 2, 3}
    assert source.facts.body.normalize_waveform
    found = source.build().state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    file = tmp_path / "omniASR-CTC-300M.pt"
    assert "number of attention heads" in refusal(file, **options | {"architecture": "wav2vec2_xlsr_1b"})
    assert "whose blank is <s>" in refusal(file, architecture="wav2vec2_asr_large_lv60k_960h")
    assert fairseq.renamed(
        {"encoder_frontend.x": torch.zeros(1), "masker.temporal_mask_embed": torch.zeros(1)}
    ).keys() == {"encoder_frontend.x"}


def test_a_tensor_that_is_left_over_or_missing_is_refused_by_its_name(trained: State, tmp_path: Path) -> None:
    (tmp_path / "dict.ltr.txt").write_text(DICTIONARY)
    labels = str(tmp_path / "dict.ltr.txt")
    for changed, said in (
        (trained | {"decoder.embed_tokens.weight": torch.zeros(2)}, "has besides decoder.embed_tokens.weight"),
        (trained | {"proj.bias": torch.zeros(32)}, "has besides w2v_encoder.w2v_model."),  # a tensor under two names
        ({key: value for key, value in trained.items() if "fc1.bias" not in key}, "intermediate_dense.bias"),
    ):
        torch.save({"model": changed}, tmp_path / "x.pt")
        assert said in refusal(tmp_path / "x.pt", labels=labels)


class Payload:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("canary"),))


def test_what_fairseq_saves_beside_the_weights_is_read_without_running_code(
    trained: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("fairseq.data.dictionary")
    module.Dictionary = type("Dictionary", (), {"__module__": module.__name__})
    dictionary = module.Dictionary()
    vars(dictionary).update(symbols=SPECIAL)
    beside = {"cfg": {"task": {"normalize": False}, "model": {"w2v_args": argparse.Namespace(normalize=False)}},
              "task_state": {"target_dictionary": dictionary}, "args": argparse.Namespace(arch="x")}  # fmt: skip
    with monkeypatch.context() as patched:
        for name in ("fairseq", "fairseq.data", module.__name__):
            patched.setitem(sys.modules, name, module)
        torch.save(beside | {"model": trained}, tmp_path / "x.pt")
    (tmp_path / "dict.ltr.txt").write_text(DICTIONARY)
    options = {"architecture": "digits", "labels": str(tmp_path / "dict.ltr.txt")}
    model, _ = load_model(named("checkpoint", checkpoint=str(tmp_path / "x.pt"), **options))
    assert torch.equal(model.state_dict()["aux.bias"], trained["w2v_encoder.proj.bias"])
    for harmful in (Payload(), argparse.Namespace(code=Payload())):
        torch.save({"args": harmful, "model": trained}, tmp_path / "y.pt")
        assert "save the weights alone, with torch.save(model.state_dict(), FILE)" in refusal(tmp_path / "y.pt")
    assert not Path("canary").exists()


def test_other_labels_and_other_waveforms_than_the_file_was_trained_with_are_refused(
    trained: State, tmp_path: Path
) -> None:
    torch.save({"model": trained}, tmp_path / "x.pt")
    assert "model.labels=DIR/dict.ltr.txt" in refusal(tmp_path / "x.pt")
    (tmp_path / "dict.ltr.txt").write_text(DICTIONARY.rpartition("Z ")[0])
    assert "has 32 labels and model.labels names 31" in refusal(tmp_path / "x.pt", labels=f"{tmp_path}/dict.ltr.txt")
    for beside in ({"cfg": {"task": {"normalize": True}}}, {"args": argparse.Namespace(normalize=True)}):
        torch.save({"model": trained, **beside}, tmp_path / "x.pt")
        message = refusal(tmp_path / "x.pt", labels=f"{tmp_path}/dict.ltr.txt")
        assert "fairseq trained it on normalised waveforms" in message
        assert "model=huggingface" in message


def test_a_file_of_transformers_is_sent_to_its_own_model(tmp_path: Path) -> None:
    torch.save({"wav2vec2.encoder.pos_conv_embed.conv.bias": torch.zeros(2)}, tmp_path / "pytorch_model.bin")
    message = refusal(tmp_path / "pytorch_model.bin")
    assert "model=huggingface model.checkpoint=DIR" in message
    assert "SpeechBrain" in message


# --- files of labels


FILES: dict[str, tuple[str, tuple[str, ...]]] = {
    "fairseq": ("| 94802\nE 51860\nÄ 7\n", (*SPECIAL, "|", "E", "Ä")),
    "with indices": ("<blk> 0\n| 1\ne 2\n", ("<blk>", "|", "e")),
    "one a line": ("-\n|\r\na\nnull\n\n", ("-", "|", "a", "null")),
}


@pytest.mark.parametrize(("text", "labels"), FILES.values(), ids=FILES)
def test_labels_are_read_from_a_file(text: str, labels: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "labels").write_text(text, newline="")
    source = named("checkpoint", checkpoint="x.pt", architecture="digits", labels=str(tmp_path / "labels"))
    assert source.facts.labels == labels
    assert source.facts.silent == {index for index, label in enumerate(labels) if label in SPECIAL[1:]}
    assert source.facts.blank == 0


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "not there": (lambda path: None, "cannot be read (No such file or directory); give fairseq's dict.ltr.txt"),
    "a folder": (lambda path: path.mkdir(), "cannot be read (Is a directory)"),
    "empty": (lambda path: path.write_text("\n\n"), "is empty"),
    "bytes": (lambda path: path.write_bytes(b"\xff\xfe"), "is not text in UTF-8"),
    "a space": (lambda path: path.write_text("-\n\u3000\na\n"), "line 2 is neither a label"),
    "three columns": (lambda path: path.write_text("a\nb c d\n"), "line 2 is neither a label, nor a label and"),
    "twice": (lambda path: path.write_text("a 9\na 8\n"), "has 'a' twice"),
    "special": (lambda path: path.write_text("a 9\n<unk> 8\n"), "has '<unk>' twice"),
}


@pytest.mark.parametrize(("make", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_file_of_labels_is_refused(make: Callable[[Path], object], said: str, tmp_path: Path) -> None:
    make(tmp_path / "dict.ltr.txt")
    labels = f"{tmp_path}/dict.ltr.txt"
    assert said in refusal("x.pt", said=f"model.labels={labels}: ", labels=labels)
