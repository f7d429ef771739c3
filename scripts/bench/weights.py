"""Random weights in the published shapes, for the benchmarks, which download nothing."""

from __future__ import annotations

import corpora
import torch
from common import ready
from published_weights import random_state_dict

from pipeline.models.architectures import architecture_of
from pipeline.models.catalog import BUNDLES, MODELS
from pipeline.models.sources import load_model, named


def prepare_weights(name: str) -> None:
    """Random weights of a bundle in their published shape, where torchaudio would have downloaded them.

    The last layer is brought to logits that change from frame to frame, with the blank in half of them or more, so
    that there is something to decode (some ten labels a second, as in speech) and changed labels can be counted.
    """
    facts = MODELS[name]
    path = named(name).weights_path
    if name not in BUNDLES or path.is_file():
        return
    state = random_state_dict(facts, seed=0)
    torch.save(state, ready(path.parent) / path.name)
    if not facts.labels:
        return
    with torch.inference_mode():
        logits = load_model(named(name))[0](torch.from_numpy(corpora.speech()[None, : 10 * corpora.RATE]))[0][0]
    mean, deviation = logits.mean(0), logits.std(0)
    logits = (logits - mean) / deviation
    # The blank wins half of the frames; its lead is added to its bias.
    lead = (logits[:, 1:].amax(1) - logits[:, 0]).median()
    removed = architecture_of(name).unused_labels
    rows = [row for row in range(len(state["aux.bias"])) if row not in removed]
    state["aux.weight"][rows] /= deviation[:, None]
    state["aux.bias"][rows] = (state["aux.bias"][rows] - mean) / deviation
    state["aux.bias"][rows[0]] += lead
    torch.save(state, path)
