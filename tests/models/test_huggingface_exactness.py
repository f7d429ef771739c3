"""`model=huggingface`: batched equals alone equals transformers alone, for checkpoints of every combination."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from exactness import TOLERANCE, Alone, assert_same, pad
from safetensors.torch import load_file, save_file
from transformers_checkpoints import (
    CLASSES,
    LETTERS,
    Saved,
    alone,
    config_of,
    decoded,
    random_model,
    save,
    tokenizer_of,
    vocabulary,
)

from pipeline.decoding import greedy
from pipeline.models.forward import ExactForward
from pipeline.models.sources import ModelSource, load_model, named
from pipeline.models.transfer import best_path
from pipeline.records import BestPath, UtteranceEmission


def noise(seed: int, *sizes: int, scale: float = 0.1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(size, generator=generator) for size in sizes]


# Lengths on and beside the grid of frames, one frame, silence, an offset, and so quiet that the epsilon counts.
WAVEFORMS = [
    *noise(0, 6000, 173, 2999, 8003),
    torch.zeros(900),
    *noise(1, 2000, scale=3e-4),
    0.2 + noise(2, 1500)[0],
]


def exact(source: ModelSource, together: bool | None = None) -> ExactForward:
    body = source.facts.body
    forward = ExactForward(
        load_model(source)[0],
        normalize_waveform=body.normalize_waveform,
        normalize_epsilon=body.normalize_epsilon,
        together=together,
    )
    forward.pack()
    return forward


def texts(source: ModelSource, logits: Sequence[torch.Tensor]) -> list[str]:
    """What the greedy decoder makes of logits."""
    emissions = []
    for each in logits:
        labels, logprobs = best_path(each)
        emissions.append(UtteranceEmission(BestPath(labels.numpy(), logprobs.numpy()), None, 0.0))
    decoder = greedy.Decoder(greedy.Options(), source.facts.ctc_labels, source.facts.seconds_per_frame)
    return decoder(emissions).text.to_list()


def check(saved: Saved, waveforms: list[torch.Tensor] = WAVEFORMS, **options: Any) -> list[Alone]:
    """A checkpoint in a batch, in tiles and at once, beside transformers with each recording alone."""
    source = named("huggingface", checkpoint=str(saved.folder), **options)
    waveforms = [waveform for waveform in waveforms if len(waveform) >= source.facts.min_samples]
    expected = alone(saved.model, saved.processor.feature_extractor, waveforms)
    for together in (False, True):
        output = exact(source, together)(*pad(waveforms), range(1, source.facts.num_layers + 1))
        assert_same(output, expected)
    if source.facts.labels:
        first = exact(source)(*pad(waveforms[:1]), [])
        assert (first.logits - expected[0].emission).abs().max() <= TOLERANCE
        check_texts(saved, expected, **options)
    return expected


def check_texts(saved: Saved, answers: Sequence[Alone], **options: Any) -> list[str]:
    """The transcripts of logits, beside transformers' own decoding of them."""
    source = named("huggingface", checkpoint=str(saved.folder), **options)
    logits = [answer.emission for answer in answers if answer.emission is not None]
    found, wanted = texts(source, logits), decoded(saved, logits)
    if not source.facts.delimiter:  # then every label is a word
        wanted = [text.replace(" ", "") for text in wanted]
        assert [text.replace(" ", "") for text in found] == wanted
    else:
        assert found == wanted
    assert len("".join(found)) > 3
    return found


ENCODERS = [
    (name, norm, stable, bias, adapter)
    for name, norm, stable, bias in itertools.product(CLASSES, ("group", "layer"), (False, True), (False, True))
    for adapter in ((None, 6) if stable and name != "WavLM" else (None,))  # the others have none in transformers
]


@pytest.mark.parametrize(("name", "norm", "stable", "bias", "adapter"), ENCODERS)
def test_every_encoder_with_every_blank_and_delimiter_equals_transformers_alone(
    name: str, norm: str, stable: bool, bias: bool, adapter: int | None, tmp_path: Path
) -> None:
    number = ENCODERS.index((name, norm, stable, bias, adapter))
    saved = save(
        tmp_path,
        name,
        extractor={"do_normalize": number % 3 > 0, "return_attention_mask": norm == "layer"},
        feat_extract_norm=norm,
        do_stable_layer_norm=stable,
        conv_bias=bias,
        **({"adapter_attn_dim": adapter} if adapter else {}),
        num_conv_pos_embeddings=(16, 15, 7, 128)[number % 4],
        seed=number,
    )
    answers = check(saved)
    for blank, delimiter in itertools.product(("first", "middle", "last"), ("|", " ", "")):
        letters = LETTERS if delimiter else [*LETTERS, "f"]  # as many labels as the model has
        made = tokenizer_of(vocabulary(blank, delimiter, letters), word_delimiter_token=delimiter or None)
        made.save_pretrained(tmp_path)
        saved.processor.tokenizer = made
        check_texts(saved, answers)


def test_a_tensor_that_differs_a_little_is_noticed(tmp_path: Path) -> None:
    """The checks above can fail."""
    saved = save(tmp_path, "Wav2Vec2", do_stable_layer_norm=True, adapter_attn_dim=6)
    for key in ("encoder.layers.1.adapter_layer.linear_2.bias", "encoder.pos_conv_embed.conv.bias"):
        model = saved.model.wav2vec2.get_parameter(key)
        before = model.data.clone()
        model.data += 1e-3
        with pytest.raises(AssertionError):
            check(saved)
        model.data = before
    check(saved)


def test_stock_transformers_in_a_padded_batch_does_not_equal_itself_alone(tmp_path: Path) -> None:
    saved = save(tmp_path, "Wav2Vec2", extractor={"return_attention_mask": False})
    expected = check(saved)
    extractor = saved.processor.feature_extractor
    given = extractor([each.numpy() for each in WAVEFORMS], sampling_rate=16_000, padding=True, return_tensors="pt")
    with torch.inference_mode():
        batched = saved.model(**given).logits
    difference = max(
        float((found[: len(answer.emission)] - answer.emission).abs().max())
        for found, answer in zip(batched, expected, strict=True)
    )
    assert difference > 10 * TOLERANCE


SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "wide convolutions and a narrow end": (
        "Wav2Vec2",
        {"conv_dim": (20, 6, 9, 5), "conv_kernel": (7, 4, 3, 2), "conv_stride": (3, 4, 2, 2)},
    ),
    "a stride beyond the kernel": ("Hubert", {"conv_dim": (8, 8), "conv_kernel": (9, 2), "conv_stride": (5, 3)}),
    "seven convolutions": (
        "UniSpeechSat",
        {"conv_dim": (6,) * 7, "conv_kernel": (10, 3, 3, 3, 3, 2, 2), "conv_stride": (5, 2, 2, 2, 2, 2, 2)},
    ),
    "one head and one group": ("WavLM", {"num_attention_heads": 1, "num_conv_pos_embedding_groups": 1}),
    "a positional kernel of one tap": ("UniSpeech", {"num_conv_pos_embeddings": 1}),
    "a large epsilon": ("Wav2Vec2", {"layer_norm_eps": 0.05, "do_stable_layer_norm": True, "adapter_attn_dim": 4}),
    "HuBERT's batch norm before the positional convolution": ("Hubert", {"conv_pos_batch_norm": True}),
    "HuBERT without the norm of the projection": ("Hubert", {"feat_proj_layer_norm": False}),
    "WavLM's default buckets": ("WavLM", {"num_buckets": 320, "max_bucket_distance": 800}),
}


@pytest.mark.parametrize(("name", "config"), SHAPES.values(), ids=SHAPES)
def test_other_shapes_equal_transformers_alone(name: str, config: dict[str, Any], tmp_path: Path) -> None:
    saved = save(tmp_path, name, **config)
    check(saved)
    facts = named("huggingface", checkpoint=str(tmp_path)).facts
    assert facts.num_params == sum(
        parameter.numel() for key, parameter in saved.model.named_parameters() if key.count("masked_spec_embed") == 0
    )
    assert facts.min_samples <= 400
    assert facts.num_frames(6000) == int(saved.model._get_feat_extract_output_lengths(6000))


@pytest.mark.parametrize("head", ["Model", "ForPreTraining"])
@pytest.mark.parametrize("name", CLASSES)
def test_an_encoder_without_labels_gives_the_features_that_transformers_gives(
    name: str, head: str, tmp_path: Path
) -> None:
    if head == "ForPreTraining" and name in ("Hubert", "WavLM"):
        head = "Model"  # transformers has no such class
    model = random_model(name, head, config_of(name, do_stable_layer_norm=head == "Model"))
    model.save_pretrained(tmp_path)
    processor = save(tmp_path / "other", name).processor
    processor.feature_extractor.save_pretrained(tmp_path)
    saved = Saved(tmp_path, getattr(model, model.base_model_prefix, model), processor)
    check(saved)
    assert not named("huggingface", checkpoint=str(tmp_path)).facts.labels


def test_files_in_half_precision_become_float32(tmp_path: Path) -> None:
    saved = save(tmp_path, "Wav2Vec2")
    for dtype in (torch.float16, torch.bfloat16):
        half = saved.model.to(dtype)
        half.save_pretrained(tmp_path)
        check(Saved(tmp_path, half.float(), saved.processor))


@pytest.mark.parametrize("name", ["Wav2Vec2", "WavLM"])
def test_the_former_names_of_a_weight_norm_and_torch_files_are_read(name: str, tmp_path: Path) -> None:
    saved = save(tmp_path, name)
    state = load_file(tmp_path / "model.safetensors")
    former = {
        key.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for key, tensor in state.items()
    }
    assert former.keys() != state.keys()
    save_file(former, tmp_path / "model.safetensors")
    check(saved)
    (tmp_path / "model.safetensors").unlink()
    torch.save(former, tmp_path / "pytorch_model.bin")
    check(saved)


def test_shards_are_read_as_one_file(tmp_path: Path) -> None:
    saved = save(tmp_path, "Wav2Vec2", saving={"max_shard_size": "8KB"})
    files = named("huggingface", checkpoint=str(tmp_path)).weights_files
    assert len(files) > 2
    check(saved)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    for path in files:  # as transformers formerly saved them
        torch.save(load_file(path), path.with_suffix(".bin"))
        path.unlink()
    moved = {key: file.replace(".safetensors", ".bin") for key, file in index["weight_map"].items()}
    (tmp_path / "model.safetensors.index.json").unlink()
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": moved}))
    check(saved)


def test_another_sample_rate_is_that_of_the_facts(tmp_path: Path) -> None:
    saved = save(tmp_path, "Wav2Vec2", extractor={"sampling_rate": 8000})
    check(saved)
    facts = named("huggingface", checkpoint=str(tmp_path)).facts
    assert facts.sample_rate == 8000
    assert facts.seconds_per_frame == 40 / 8000


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("within", [False, True])
def test_added_and_special_tokens_and_lower_case_are_written_as_transformers_writes_them(
    within: bool, lower: bool, tmp_path: Path
) -> None:
    """Tokens that were added to the vocabulary have logits, or lie beyond them."""
    tokens = vocabulary("middle", letters=["A", "Σ", "ß", "'", "SCH"])
    saved = save(tmp_path, "Hubert", tokens=tokens, tokenizer={"do_lower_case": lower})
    tokenizer = saved.processor.tokenizer
    tokenizer.add_tokens(["QU", "É"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<noise>"]})
    saved.processor.save_pretrained(tmp_path)
    size = len(tokenizer) if within else len(tokens)
    model = random_model("Hubert", "ForCTC", config_of("Hubert", vocab_size=size), seed=3)
    model.save_pretrained(tmp_path)
    found = "".join(
        check_texts(Saved(tmp_path, model, saved.processor), check(Saved(tmp_path, model, saved.processor)))
    )
    source = named("huggingface", checkpoint=str(tmp_path))
    loaded = transformers.Wav2Vec2CTCTokenizer.from_pretrained(tmp_path)
    assert source.facts.labels == tuple(loaded.convert_ids_to_tokens(list(range(size))))
    assert ("QU" in source.facts.labels) == within
    assert ("qu" if lower else "QU") in found or not within
    assert not {"<", ">"} & set(found)
    assert len(source.facts.silent) == 3 + within
    if lower:
        assert found == found.lower()


def test_special_tokens_that_no_file_gives_an_index_come_after_the_vocabulary(tmp_path: Path) -> None:
    tokens = {"[PAD]": 0, "|": 1, **{letter: index for index, letter in enumerate("abcdefg", start=2)}}
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    tokenizer = tokenizer_of(tokens, **names)
    saved = save(tmp_path, "WavLM", tokens=tokens, tokenizer=names, vocab_size=len(tokenizer))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names))
    (tmp_path / "added_tokens.json").unlink()
    loaded = transformers.Wav2Vec2CTCTokenizer.from_pretrained(tmp_path)
    facts = named("huggingface", checkpoint=str(tmp_path)).facts
    assert facts.labels == tuple(loaded.convert_ids_to_tokens(list(range(len(loaded)))))
    assert facts.labels[-3:] == ("<s>", "</s>", "[UNK]")
    check(saved)


def test_phonemes_are_written_as_transformers_writes_them(tmp_path: Path) -> None:
    tokens = vocabulary("last", "|", ["a", "tʃ", "ŋ", "ə", "əʊ"])
    saved = save(tmp_path, "UniSpeech", tokens=tokens)
    (tmp_path / "phonemes.json").write_text(json.dumps(tokens))
    tokenizer = transformers.Wav2Vec2PhonemeCTCTokenizer(
        str(tmp_path / "phonemes.json"), word_delimiter_token="|", do_phonemize=False
    )
    tokenizer.save_pretrained(tmp_path)
    saved.processor.tokenizer = tokenizer
    answers = check(saved)
    found = texts(named("huggingface", checkpoint=str(tmp_path)), [each.emission for each in answers])
    assert found == decoded(saved, [each.emission for each in answers])


MMS = {
    "deu": {token: index for index, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *"äbcde"])},
    "fra": {token: index for index, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *"éfghijkl"])},
}


def test_a_fine_tune_to_one_language_may_have_the_adapters_among_its_weights(tmp_path: Path) -> None:
    saved = save(tmp_path, "Wav2Vec2", tokens=MMS["deu"], do_stable_layer_norm=True, adapter_attn_dim=6)
    tokenizer_of({"deu": MMS["deu"]}, target_lang="deu").save_pretrained(tmp_path)
    check(saved, language="deu")
    adapters = {key: 0.3 * torch.randn_like(tensor) for key, tensor in saved.model._get_adapters().items()}
    save_file(adapters, tmp_path / "adapter.deu.safetensors")
    saved.model.load_state_dict(adapters, strict=False)
    check(saved, language="deu")


def test_each_language_of_mms_has_its_adapter_head_and_vocabulary(tmp_path: Path) -> None:
    answers: dict[str, list[Alone]] = {}
    for language, tokens in MMS.items():
        made = save(
            tmp_path,
            "Wav2Vec2",
            tokens=tokens,
            do_stable_layer_norm=True,
            adapter_attn_dim=6,
            feat_extract_norm="layer",
        )
        torch.manual_seed(len(answers))
        adapters = {key: 0.3 * torch.randn_like(tensor) for key, tensor in made.model._get_adapters().items()}
        answers[language] = []
        save_file(adapters, tmp_path / f"adapter.{language}.safetensors")
    tokenizer_of(MMS, target_lang="deu").save_pretrained(tmp_path)
    for language in MMS:
        model = transformers.Wav2Vec2ForCTC.from_pretrained(
            tmp_path, target_lang=language, ignore_mismatched_sizes=True
        ).eval()
        processor = transformers.Wav2Vec2Processor.from_pretrained(tmp_path)
        processor.tokenizer.set_target_lang(language)
        answers[language] = check(Saved(tmp_path, model, processor), language=language)
        assert named("huggingface", checkpoint=str(tmp_path), language=language).facts.labels == tuple(MMS[language])
    assert not torch.allclose(answers["deu"][0].features[-1], answers["fra"][0].features[-1])
