"""`model=huggingface`: what the files of a checkpoint say, and what of them is refused and how."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers_checkpoints import change, resave, vocabulary

from pipeline.models.huggingface.config import CLASSES, read_config
from pipeline.models.huggingface.folder import Folder
from pipeline.models.huggingface.weights import IGNORED
from pipeline.models.sources import load_model, named
from pipeline.runtime.digests import sha256_file
from pipeline.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("elsewhere")


def refusal(folder: Path | str, **options: Any) -> str:
    """Why a checkpoint is refused, when it is described or when its weights are loaded."""
    with pytest.raises(UserError) as caught:
        load_model(named("huggingface", checkpoint=str(folder), **options))
    message = str(caught.value)
    assert message.startswith(f"model.checkpoint={folder}: ")
    assert "\n" not in message
    assert len(message) < 700
    return message


# --- what the files say


def test_the_defaults_of_a_configuration_are_those_of_transformers(tmp_path: Path) -> None:
    for kind, name in CLASSES.items():
        for number, content in enumerate(({}, getattr(transformers, f"{name}Config")().to_dict())):
            folder = tmp_path / f"{kind}{number}"
            folder.mkdir()
            given = {**content, "model_type": kind, "architectures": [f"{name}ForCTC"]}
            (folder / "config.json").write_text(json.dumps(given))
        first, second = (read_config(Folder("x", tmp_path / f"{kind}{number}", None, "x")) for number in (0, 1))
        assert first == second


CONFIG: list[tuple[dict[str, Any], list[str]]] = [
    ({"model_type": "wav2vec2-bert"}, ["wav2vec2-bert", "Wav2Vec2-BERT reads filter banks", "give a checkpoint of"]),
    ({"model_type": "wav2vec2-conformer"}, ["Conformer blocks"]),
    ({"model_type": "data2vec-audio"}, ["stack of positional convolutions"]),
    ({"model_type": "sew"}, ["squeezes the frames"]),
    ({"model_type": "sew-d"}, ["SEW-D"]),
    ({"model_type": "whisper"}, ["no CTC labels"]),
    ({"model_type": "bert"}, ["model_type in config.json says 'bert'", "HubertForCTC"]),
    ({"model_type": None}, ["says None"]),
    ({"model_type": "hubert"}, ["'Wav2Vec2ForCTC'", "give a checkpoint of HubertForCTC"]),
    ({"architectures": None}, ["architectures in config.json is not there"]),
    ({"architectures": ["Wav2Vec2ForSequenceClassification"]}, ["or of the encoder alone (Wav2Vec2Model)"]),
    ({"add_adapter": True}, ["add_adapter in config.json stands for more convolutions"]),
    ({"quantization_config": {"bits": 8}}, ["quantised weights"]),
    ({"auto_map": {"AutoModel": "x.Y"}}, ["code that comes with the checkpoint"]),
    ({"hidden_act": "relu"}, ["hidden_act in config.json says 'relu'", "gelu"]),
    ({"feat_extract_activation": "gelu_new"}, ["feat_extract_activation in config.json says 'gelu_new'"]),
    ({"feat_extract_norm": "batch"}, ["group and layer are supported"]),
    ({"hidden_size": "wide"}, ["hidden_size in config.json says 'wide'; it must be a whole number"]),
    ({"hidden_size": 25}, ["4 does not divide hidden_size=25"]),
    ({"layer_norm_eps": 0}, ["layer_norm_eps in config.json says 0; it must be a number above 0"]),
    ({"conv_dim": [8, 8]}, ["as many numbers as conv_kernel"]),
    ({"conv_dim": [8], "conv_stride": [5], "conv_kernel": [10]}, ["two at least"]),
    ({"conv_stride": [5, -1, 2]}, ["a list of whole numbers above 0"]),
    ({"do_stable_layer_norm": "yes"}, ["it must be true or false"]),
    ({"num_hidden_layers": 3}, ["its weights are not those of its config.json", "lacks encoder.layers.2."]),
    ({"hidden_size": 48}, ["has other shapes:"]),
    ({"vocab_size": 10}, ["vocab.json names 12 labels", "has 10"]),
    ({"vocab_size": 14}, ["vocab.json names 12 of the 14 logits", "not number 12"]),
]


@pytest.mark.parametrize(("values", "said"), CONFIG, ids=[str(values) for values, _ in CONFIG])
def test_a_model_that_cannot_be_run_is_refused_by_name(values: dict[str, Any], said: list[str], copy: Path) -> None:
    change(copy / "config.json", **values)
    message = refusal(copy)
    for part in said:
        assert part in message


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config.json": (lambda it: (it / "config.json").unlink(), "has no config.json; give the folder"),
    "a damaged config.json": (lambda it: (it / "config.json").write_text("{"), "config.json is damaged: it is no JSON"),
    "a list in config.json": (lambda it: (it / "config.json").write_text("[]"), "config.json holds no JSON object"),
    "no vocabulary": (lambda it: (it / "vocab.json").unlink(), "has no vocab.json, so its labels are not known"),
    "an empty vocabulary": (lambda it: (it / "vocab.json").write_text("{}"), "does not say the index of each label"),
    "an index that is none": (lambda it: change(it / "vocab.json", a="1"), "does not say the index of each label"),
    "an index twice": (lambda it: change(it / "vocab.json", a=1), "gives two labels the same index"),
    "another blank": (
        lambda it: change(it / "tokenizer_config.json", pad_token="[PAD]"),
        "pad_token '[PAD]' is none of its 12 labels",
    ),
    "another tokenizer": (
        lambda it: change(it / "tokenizer_config.json", tokenizer_class="BertTokenizer"),
        "tokenizer_class in tokenizer_config.json says 'BertTokenizer'",
    ),
    "something else between words": (
        lambda it: change(it / "tokenizer_config.json", replace_word_delimiter_char="_"),
        "replace_word_delimiter_char in tokenizer_config.json says '_'",
    ),
    "no processor": (lambda it: (it / "processor_config.json").unlink(), "has neither preprocessor_config.json nor"),
    "another processor": (
        lambda it: change(it / "processor_config.json", feature_extractor={"feature_extractor_type": "Whisper"}),
        "feature_extractor_type in feature_extractor of processor_config.json says 'Whisper'",
    ),
    "an impossible sample rate": (
        lambda it: change(it / "processor_config.json", feature_extractor={"sampling_rate": 0}),
        "sampling_rate in feature_extractor of processor_config.json says 0",
    ),
    "no weights": (lambda it: (it / "model.safetensors").unlink(), "no weights in "),
    "a pointer in place of weights": (
        lambda it: (it / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid ..."),
        "model.safetensors is a pointer of Git LFS and no weights; run git lfs pull",
    ),
    "damaged weights": (lambda it: (it / "model.safetensors").write_bytes(b"RIFF" * 9), "is no safetensors file"),
    "truncated weights": (
        lambda it: (it / "model.safetensors").write_bytes((it / "model.safetensors").read_bytes()[:-9]),
        "model.safetensors is neither a safetensors nor a torch file, or is damaged",
    ),
    "an index without a map": (
        lambda it: (it / "model.safetensors").rename(it / "x") and change(it / "model.safetensors.index.json", a=1),
        "model.safetensors.index.json has no weight_map",
    ),
    "an index that leaves the folder": (
        lambda it: (
            (it / "model.safetensors").rename(it / "x")
            and change(it / "model.safetensors.index.json", weight_map={"a": "../other.safetensors"})
        ),
        "names '../other.safetensors', which is no file of the folder",
    ),
    "a shard that is missing": (
        lambda it: (
            (it / "model.safetensors").rename(it / "a.safetensors")
            and change(it / "model.safetensors.index.json", weight_map={"a": "a.safetensors", "b": "b.safetensors"})
        ),
        "b.safetensors is not in ",
    ),
}


@pytest.mark.parametrize(("spoil", "said"), FILES.values(), ids=FILES)
def test_a_file_that_is_missing_or_damaged_is_named(spoil: Callable[[Path], object], said: str, copy: Path) -> None:
    spoil(copy)
    assert said in refusal(copy)


ODD = [None, True, -1, 0, 1.5, 10**9, "x", "", [], {}, [None], ["a"], {"a": 1}, {"content": 3}]


def test_whatever_a_file_says_is_taken_or_refused_in_one_line(saved: Path, tmp_path: Path) -> None:
    """Every value of every file in turn, at two depths."""
    files = {path.name: json.loads(path.read_text()) for path in saved.glob("*.json")}
    assert len(files) > 3
    folder = Path(shutil.copytree(saved, tmp_path / "odd"))
    refusals = set()

    def look(name: str, content: Any) -> None:
        (folder / name).write_text(json.dumps(content))
        try:
            named("huggingface", checkpoint=str(folder)).check_file()
        except UserError as error:
            refusals.add(str(error).partition(": ")[2])

    for name, content in files.items():
        for key, value in content.items():
            for odd in ODD:
                look(name, {**content, key: odd})
                for inner in value if isinstance(value, dict) else ():
                    look(name, {**content, key: {**value, inner: odd}})
        look(name, content)
    assert len(refusals) > 80
    assert not [said for said in refusals if "\n" in said]


def test_older_files_say_the_same_as_newer_ones(saved: Path, copy: Path) -> None:
    """`preprocessor_config.json`, `special_tokens_map.json` and `added_tokens.json`, as transformers 4 wrote them."""
    (copy / "processor_config.json").unlink()
    change(copy / "preprocessor_config.json", do_normalize=False, sampling_rate=8000)
    (copy / "tokenizer_config.json").write_text("{}")
    change(copy / "special_tokens_map.json", pad_token="#", unk_token={"content": "a"}, bos_token=None)
    tokens = {"#" if token == "<pad>" else token: index for token, index in vocabulary().items() if token != "sch"}
    last = max(tokens.values())
    tokens["'"] = vocabulary()["sch"]
    (copy / "vocab.json").write_text(json.dumps(tokens))
    change(copy / "added_tokens.json", added=last, beyond=last + 7)
    facts = named("huggingface", checkpoint=str(copy)).facts
    assert facts.labels == ("#", "<s>", "</s>", "<unk>", "|", *"abcde", "'", "added")
    assert facts.silent == {1, 2, facts.labels.index("a")}
    assert (facts.sample_rate, facts.body.normalize_waveform) == (8000, False)
    assert named("huggingface", checkpoint=str(saved)).facts.body.normalize_epsilon == 1e-7


@pytest.mark.parametrize(
    ("tokens", "options", "delimiter", "silent"),
    [
        (vocabulary(delimiter="|"), {}, "|", SILENT := {"<s>", "</s>", "<unk>"}),
        (vocabulary(delimiter=" "), {"word_delimiter_token": " "}, " ", SILENT),
        (vocabulary(delimiter=" "), {"word_delimiter_token": "|"}, " ", SILENT),
        (vocabulary(delimiter=""), {"word_delimiter_token": None}, "", SILENT),
        (vocabulary(delimiter="|"), {"word_delimiter_token": "_"}, "", SILENT),
        (vocabulary(), {"tokenizer_class": "Wav2Vec2PhonemeCTCTokenizer"}, "", {*SILENT, "|"}),
    ],
)  # fmt: skip
def test_words_end_at_the_delimiter_or_every_label_is_a_word(
    tokens: dict[str, int], options: dict[str, Any], delimiter: str, silent: set[str], copy: Path
) -> None:
    (copy / "vocab.json").write_text(json.dumps(tokens))
    change(copy / "config.json", vocab_size=len(tokens))
    change(copy / "tokenizer_config.json", **options)
    if options.get("word_delimiter_token", "") is None:
        content = json.loads((copy / "tokenizer_config.json").read_text())
        (copy / "tokenizer_config.json").write_text(json.dumps({**content, "word_delimiter_token": None}))
    facts = named("huggingface", checkpoint=str(copy)).facts
    assert facts.delimiter == delimiter
    assert {facts.labels[index] for index in facts.silent} == silent
    assert facts.labels[facts.blank] == "<pad>"


# --- weights


WEIGHTS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], list[str]]] = {
    "a tensor that nobody uses": (
        lambda state: state.update({"wav2vec2.encoder.extra": torch.zeros(1), "other": torch.zeros(1)}),
        ["has besides", "wav2vec2.encoder.extra", "other"],
    ),
    "a parameter that is not set": (
        lambda state: state.pop("wav2vec2.encoder.layers.1.attention.k_proj.bias"),
        ["lacks encoder.layers.1.attention.k_proj.bias"],
    ),
    "half a weight norm": (
        lambda state: state.pop("wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original0"),
        ["lacks encoder.pos_conv_embed.conv.parametrizations.weight.original0"],
    ),
    "another shape": (
        lambda state: state.update({"wav2vec2.encoder.layer_norm.bias": torch.zeros(3)}),
        ["has other shapes: encoder.layer_norm.bias (3,) for (24,)"],
    ),
    "a head with more rows": (
        lambda state: state.update({"lm_head.weight": torch.zeros(15, 24), "lm_head.bias": torch.zeros(15)}),
        ["lm_head.weight has 15 rows, and the vocabulary names 12 labels"],
    ),
    "no head": (lambda state: (state.pop("lm_head.weight"), state.pop("lm_head.bias")), ["lacks lm_head."]),
    "a tensor under two names": (
        lambda state: state.update({"encoder.layer_norm.bias": torch.zeros(24)}),
        ["holds a tensor under two names"],
    ),
    "whole numbers": (
        lambda state: state.update({"lm_head.weight": torch.zeros(12, 24, dtype=torch.int8)}),
        ["holds quantised weights (lm_head.weight is int8)"],
    ),
}


@pytest.mark.parametrize(("alter", "said"), WEIGHTS.values(), ids=WEIGHTS)
def test_every_tensor_is_used_and_every_parameter_is_set(
    alter: Callable[[dict[str, torch.Tensor]], object], said: list[str], copy: Path
) -> None:
    resave(copy, alter)
    message = refusal(copy)
    for part in said:
        assert part in message


def test_only_tensors_on_the_list_are_ignored(copy: Path) -> None:
    expected, _ = load_model(named("huggingface", checkpoint=str(copy)))
    for name in IGNORED:
        resave(
            copy, lambda state, name=name: state.update({f"wav2vec2.{name}{'x' * name.endswith('.')}": torch.zeros(1)})
        )
    found, _ = load_model(named("huggingface", checkpoint=str(copy)))
    assert all(torch.equal(tensor, found.state_dict()[name]) for name, tensor in expected.state_dict().items())
    resave(copy, lambda state: state.update({"wav2vec2.masked_spec_embed_2": torch.zeros(1)}))
    assert "has besides wav2vec2.masked_spec_embed_2" in refusal(copy)


def test_a_torch_file_is_data_and_runs_no_code(copy: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (canary,))

    (copy / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Payload()}, copy / "pytorch_model.bin")
    message = refusal(copy)
    assert "pytorch_model.bin holds more than data" in message
    assert "could run code" in message
    assert not canary.exists()
    torch.save([1], copy / "pytorch_model.bin")
    assert "holds no state dict" in refusal(copy)


def test_weights_in_several_files_have_the_sha256_of_what_sha256sum_writes(mms: Path, saved: Path) -> None:
    assert named("huggingface", checkpoint=str(saved)).fetch() == sha256_file(saved / "model.safetensors")
    command = "LC_ALL=C; sha256sum adapter.fra.safetensors model.safetensors | sha256sum"
    shown = subprocess.run(command, shell=True, cwd=mms, capture_output=True, text=True, check=True).stdout
    source = named("huggingface", checkpoint=str(mms), language="fra")
    assert source.fetch() == shown.split()[0] != named("huggingface", checkpoint=str(mms), language="deu").fetch()


# --- languages


def test_a_wrong_or_missing_language_is_refused_with_the_nearest_names(mms: Path, saved: Path) -> None:
    assert "it has 4 languages (den, deu, eng, fra); add model.language=NAME" in refusal(mms)
    assert "not among its 4 languages; the nearest are deu, den" in refusal(mms, language="de")
    assert "not among its 4 languages; there are den, deu, eng, fra" in refusal(mms, language="xyz")
    message = refusal(mms, language="eng")
    assert "adapter.eng.safetensors is not in" in message
    assert "the languages with weights there are deu, fra" in message
    assert "it has one vocabulary and no languages; leave model.language out" in refusal(saved, language="deu")


def test_the_file_of_a_language_holds_its_adapters_and_head_and_nothing_else(mms: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(mms, tmp_path / "changed"))
    adapters = load_file(folder / "adapter.deu.safetensors")
    lacking = {key: tensor for key, tensor in adapters.items() if "layers.1.adapter_layer.norm.bias" not in key}
    save_file(lacking, folder / "adapter.deu.safetensors")
    assert "encoder.layers.1.adapter_layer.norm.bias is not there" in refusal(folder, language="deu")
    save_file(adapters | {"wav2vec2.encoder.layer_norm.bias": torch.zeros(24)}, folder / "adapter.deu.safetensors")
    assert "encoder.layer_norm.bias is besides" in refusal(folder, language="deu")
    (folder / "adapter.deu.safetensors").unlink()
    torch.save(adapters, folder / "adapter.deu.bin")
    assert named("huggingface", checkpoint=str(folder), language="deu").build()
