"""Small checkpoints with random weights, made and saved by transformers, and what it says of recordings alone."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from exactness import Alone
from safetensors.torch import load_file, save_file

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

CLASSES = ("Wav2Vec2", "Hubert", "WavLM", "UniSpeech", "UniSpeechSat")
CONVOLUTIONS = {"conv_dim": (8, 12, 16), "conv_kernel": (10, 3, 4), "conv_stride": (5, 4, 2)}
LETTERS = [*"abcde", "sch", "'"]
SPECIAL = ["<s>", "</s>", "<unk>"]


@dataclass(frozen=True)
class Saved:
    """A checkpoint: its folder, and what transformers made it of."""

    folder: Path
    model: Any
    processor: Any


def config_of(name: str, **changes: Any) -> Any:
    """A configuration of a tiny encoder."""
    small = {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 40,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
        "layer_norm_eps": 1e-4,
        **CONVOLUTIONS,
    }
    if name == "WavLM":
        small |= {"num_buckets": 32, "max_bucket_distance": 60}
    return getattr(transformers, f"{name}Config")(**(small | changes))


def random_model(name: str, head: str, config: Any, seed: int = 0) -> Any:
    """A model in eval mode. Every tensor is random, so that one that is not loaded shows."""
    torch.manual_seed(seed)
    model = getattr(transformers, f"{name}{head}")(config).eval()
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            positive = "norm.weight" in key or "original0" in key or "running_var" in key or "const" in key
            spread = tensor[0].numel() ** -0.5 if tensor.dim() > 1 and not positive else 0.1
            tensor.normal_(std=spread)
            if positive:
                tensor.add_(1.0).abs_()
    return model


def vocabulary(blank: str = "first", delimiter: str = "|", letters: Sequence[str] = LETTERS) -> dict[str, int]:
    """Tokens with their indices: the blank first, in the middle or last; a delimiter or none."""
    tokens = [*SPECIAL, *([delimiter] if delimiter else []), *letters]
    tokens.insert({"first": 0, "middle": len(tokens) // 2, "last": len(tokens)}[blank], "<pad>")
    return {token: index for index, token in enumerate(tokens)}


def tokenizer_of(tokens: dict[str, Any], **options: Any) -> Any:
    """A tokenizer of transformers."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.json"
        path.write_text(json.dumps(tokens))
        return transformers.Wav2Vec2CTCTokenizer(str(path), **options)


def save(
    folder: Path,
    name: str,
    *,
    tokens: dict[str, int] | None = None,
    tokenizer: dict[str, Any] | None = None,
    extractor: dict[str, Any] | None = None,
    saving: dict[str, Any] | None = None,
    seed: int = 0,
    **config: Any,
) -> Saved:
    """Make a `ForCTC` checkpoint and save model and processor as their own `save_pretrained` does."""
    tokens = vocabulary() if tokens is None else tokens
    made = tokenizer_of(tokens, **(tokenizer or {}))
    processor = transformers.Wav2Vec2Processor(transformers.Wav2Vec2FeatureExtractor(**(extractor or {})), made)
    settings = {"vocab_size": len(tokens), "pad_token_id": made.pad_token_id} | config
    model = random_model(name, "ForCTC", config_of(name, **settings), seed)
    model.save_pretrained(folder, **(saving or {}))
    processor.save_pretrained(folder)
    return Saved(folder, model, processor)


def save_languages(folder: Path) -> Path:
    """Save a checkpoint in the shape of MMS, with four vocabularies and the weights of two languages."""
    languages = {name: vocabulary(letters=[*"abcde"]) for name in ("deu", "den", "eng", "fra")}
    for number, name in enumerate(("deu", "fra")):
        made = save(folder, "Wav2Vec2", tokens=languages[name], do_stable_layer_norm=True, adapter_attn_dim=6)
        torch.manual_seed(number)
        adapters = {key: 0.3 * torch.randn_like(tensor) for key, tensor in made.model._get_adapters().items()}
        save_file(adapters, folder / f"adapter.{name}.safetensors")
    tokenizer_of(languages, target_lang="deu").save_pretrained(folder)
    return folder


def change(file: Path, **values: Any) -> None:
    """Set keys of a JSON file; `None` removes one, and all of them where there is no file yet."""
    content = json.loads(file.read_text()) if file.exists() else {}
    content |= values
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def resave(folder: Path, alter: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Alter the tensors of a checkpoint."""
    state = load_file(folder / "model.safetensors")
    alter(state)
    save_file(state, folder / "model.safetensors")


@torch.inference_mode()
def alone(model: Any, extractor: Any, waveforms: Sequence[torch.Tensor]) -> list[Alone]:
    """What transformers gives for each recording alone: the output of every layer, and the logits."""
    kept: list[torch.Tensor] = []

    def keep(module: Any, given: Any, output: Any) -> None:
        kept.append((output[0] if isinstance(output, tuple) else output).squeeze(0))

    layers = getattr(model, model.base_model_prefix, model).encoder.layers
    hooks = [layer.register_forward_hook(keep) for layer in layers]
    answers = []
    for waveform in waveforms:
        kept.clear()
        rate = extractor.sampling_rate
        values = extractor(waveform.numpy(), sampling_rate=rate, return_tensors="pt").input_values
        output = model(values)
        answers.append(Alone([*kept], output.logits[0] if hasattr(output, "logits") else None))
    for hook in hooks:
        hook.remove()
    return answers


def decoded(saved: Saved, logits: Sequence[torch.Tensor]) -> list[str]:
    """transformers' own decoding of logits, without the special tokens that it spells out, and with single spaces."""
    tokenizer = saved.processor.tokenizer
    lower_case = getattr(tokenizer, "do_lower_case", False)
    tokenizer.do_lower_case = False  # a token beside a letter may change its case
    texts = saved.processor.batch_decode([each.argmax(-1) for each in logits])
    tokenizer.do_lower_case = lower_case
    for token in {*tokenizer.all_special_tokens} - {tokenizer.word_delimiter_token}:
        texts = [text.replace(token, "") for text in texts]
    return [" ".join(text.lower().split() if lower_case else text.split()) for text in texts]
