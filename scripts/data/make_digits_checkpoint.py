"""Write the shipped model as transformers saves one: the weights with their names, and the files that describe them.

    PYTHONPATH=. python scripts/data/make_digits_checkpoint.py digits.safetensors pipeline/shipped/model

`digits.safetensors` is what train_digits.py wrote. No value of a tensor changes. transformers is not needed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pipeline.models.catalog import DIGITS
from pipeline.models.digits import ARCHITECTURE

CHANNELS, KERNELS, STRIDES = (list(each) for each in zip(*ARCHITECTURE["extractor_conv_layer_config"], strict=True))
CONFIG = {
    "architectures": ["Wav2Vec2ForCTC"],
    "model_type": "wav2vec2",
    "feat_extract_norm": "group",
    "conv_dim": CHANNELS,
    "conv_kernel": KERNELS,
    "conv_stride": STRIDES,
    "conv_bias": ARCHITECTURE["extractor_conv_bias"],
    "num_feat_extract_layers": len(CHANNELS),
    "hidden_size": ARCHITECTURE["encoder_embed_dim"],
    "num_hidden_layers": ARCHITECTURE["encoder_num_layers"],
    "num_attention_heads": ARCHITECTURE["encoder_num_heads"],
    "intermediate_size": ARCHITECTURE["encoder_ff_interm_features"],
    "num_conv_pos_embeddings": ARCHITECTURE["encoder_pos_conv_kernel"],
    "num_conv_pos_embedding_groups": ARCHITECTURE["encoder_pos_conv_groups"],
    "do_stable_layer_norm": ARCHITECTURE["encoder_layer_norm_first"],
    "vocab_size": len(DIGITS.labels),
    "pad_token_id": DIGITS.blank,
    "bos_token_id": None,
    "eos_token_id": None,
    # Without masks in training there is no embedding for masked frames.
    "mask_time_prob": 0.0,
    "mask_feature_prob": 0.0,
}
TOKENIZER = {
    "tokenizer_class": "Wav2Vec2CTCTokenizer",
    "pad_token": DIGITS.labels[DIGITS.blank],
    "word_delimiter_token": DIGITS.delimiter,
    "unk_token": None,
    "bos_token": None,
    "eos_token": None,
}
EXTRACTOR = {
    "feature_extractor_type": "Wav2Vec2FeatureExtractor",
    "sampling_rate": DIGITS.sample_rate,
    "do_normalize": DIGITS.body.normalize_waveform,
    "return_attention_mask": False,
}
NAMES = (
    ("encoder.feature_projection.", "wav2vec2.feature_projection."),
    ("encoder.transformer.", "wav2vec2.encoder."),
    ("feature_extractor.", "wav2vec2.feature_extractor."),
    ("aux.", "lm_head."),
)
"""How names begin in torchaudio, and in transformers."""


def transformers_name(name: str) -> str:
    ours, theirs = next(pair for pair in NAMES if name.startswith(pair[0]))
    return theirs + name.removeprefix(ours)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with safe_open(options.weights, "pt") as file:
        metadata = file.metadata()
    state = {transformers_name(name): tensor for name, tensor in load_file(options.weights).items()}
    save_file(state, options.folder / "model.safetensors", metadata)
    files: dict[str, dict[str, Any]] = {
        "config": CONFIG,
        "vocab": {label: index for index, label in enumerate(DIGITS.labels)},
        "tokenizer_config": TOKENIZER,
        "preprocessor_config": EXTRACTOR,
    }
    for name, content in files.items():
        (options.folder / f"{name}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
