"""Architecture of the small CTC model for spoken English digits.

A wav2vec 2.0 model as torchaudio defines it, with the time resolution of the
960-hour bundle (stride 320 samples, receptive field 400 samples at 16 kHz)
and its 29 labels, but about 1.6 million parameters instead of 94 million.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchaudio.models import Wav2Vec2Model

ARCHITECTURE: dict[str, Any] = {
    "extractor_mode": "group_norm",
    # (output channels, kernel, stride); few channels where the frame rate is high.
    "extractor_conv_layer_config": [
        (48, 10, 5),
        (64, 3, 2),
        (96, 3, 2),
        (128, 3, 2),
        (160, 3, 2),
        (160, 2, 2),
        (160, 2, 2),
    ],
    "extractor_conv_bias": False,
    "encoder_embed_dim": 160,
    "encoder_projection_dropout": 0.0,
    # 32 frames of 20 ms: about one word on each side is enough to order letters.
    "encoder_pos_conv_kernel": 32,
    "encoder_pos_conv_groups": 8,
    "encoder_num_layers": 4,
    "encoder_num_heads": 4,
    "encoder_attention_dropout": 0.0,
    "encoder_ff_interm_features": 640,
    "encoder_ff_interm_dropout": 0.0,
    "encoder_dropout": 0.0,
    # Pre-norm layers train from scratch at a high learning rate without diverging.
    "encoder_layer_norm_first": True,
    "encoder_layer_drop": 0.0,
    "aux_num_out": 29,
}


def build(dropout: float = 0.0) -> Wav2Vec2Model:
    """Return the model with random weights.

    Args:
        dropout: probability of every dropout in the encoder; it acts in
            training mode only, so inference leaves it at 0.

    Returns:
        A model that maps waveforms ``[batch, samples]`` at 16 kHz to logits
        ``[batch, frames, 29]``, one frame for each 20 ms.
    """
    from torchaudio.models import wav2vec2_model

    dropouts = {
        "encoder_projection_dropout": dropout,
        "encoder_attention_dropout": dropout,
        "encoder_ff_interm_dropout": dropout,
        "encoder_dropout": dropout,
    }
    return wav2vec2_model(**(ARCHITECTURE | dropouts))
