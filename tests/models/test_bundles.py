"""Every bundle of torchaudio at its real size: batched equals alone, whatever its kind; the whole way for some."""

from __future__ import annotations

import gc
import shutil
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from exactness import assert_same, exact, pad, speech, stock_alone
from published_weights import random_state_dict
from random_models import architecture, build, wrapped
from running import SHIPPED, main
from torchaudio.models import Wav2Vec2Model, wav2vec2_model, wavlm_model

from pipeline.models.architectures import architecture_of, torchaudio_bundle
from pipeline.models.catalog import BUNDLES, MODELS
from pipeline.models.facts import ModelFacts
from pipeline.models.sources import named
from pipeline.results import open_run


def same_computation() -> dict[str, list[ModelFacts]]:
    """Every bundle, those together that compute the same but for their weights, one with most labels first.

    Dropout is off at inference. A model without labels computes what one with labels does before its last product, and
    how many labels there are is the width of that product alone.
    """
    groups = defaultdict(list)
    for facts in sorted((MODELS[name] for name in BUNDLES), key=lambda facts: -len(facts.labels)):
        kind, params = architecture(facts)
        counts = sorted((key, value) for key, value in params.items() if "drop" not in key and key != "aux_num_out")
        groups[repr((kind, counts, facts.body.normalize_waveform, facts.values == "log_probs"))].append(facts)
    return {"+".join(facts.name for facts in group): group for group in groups.values()}


GROUPS = same_computation()
FACTORIES = {"Wav2Vec2": wav2vec2_model, "WavLM": wavlm_model}


def test_every_bundle_is_in_a_group() -> None:
    listed = [facts.name.upper() for group in GROUPS.values() for facts in group]
    bundles = [
        name
        for name, bundle in vars(torchaudio.pipelines).items()
        if isinstance(bundle, torchaudio.pipelines.Wav2Vec2Bundle)
    ]
    assert sorted(listed) == sorted(bundles)
    assert len(listed) == 30


@pytest.fixture(scope="module")
def waveforms() -> list[torch.Tensor]:
    """Two pieces of real speech, of 0.2 and 0.1 s: the widths and layers are what is tested, not the length."""
    recordings = speech()
    return [recordings[index][4000 : 4000 + length] for index, length in ((0, 3_200), (4, 1_600))]


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
def test_a_bundle_at_its_real_size_batched_equals_torchaudio_alone(
    group: list[ModelFacts], waveforms: list[torch.Tensor], record_property: Callable[[str, object], None]
) -> None:
    facts = group[0]
    began = time.monotonic()
    stock = wrapped(build(*architecture(facts), seed=7), facts)
    built = time.monotonic()
    alone = stock_alone(stock, waveforms)
    ran_alone = time.monotonic()
    # Packing the billions of the three largest would take longer than all the rest; their layers are not special.
    forward = exact(stock, facts, pack=facts.dim <= 1024)
    together = forward(*pad(waveforms), range(1, facts.num_layers + 1))
    ran_together = time.monotonic()
    del stock, forward
    gc.collect()
    difference = assert_same(together, alone)
    record_property(
        "measured",
        f"{', '.join(facts.name for facts in group)}: {difference:.1e} apart at most; alone twice "
        f"{ran_alone - built:.1f} s, together {ran_together - ran_alone:.1f} s, built in {built - began:.1f} s",
    )


# --- the whole way: published weights in the hub's cache, `bundle.get_model()`, tables


def assert_same_weights(ours: Wav2Vec2Model, stock: Wav2Vec2Model) -> None:
    """All that a model computes with is there and equal bit for bit, what is in no state dict too."""
    for (name, own), (theirs, other) in zip(ours.named_modules(), stock.named_modules(), strict=True):
        assert (name, type(own).__name__, own.training) == (theirs, type(other).__name__, other.training)
        held, expected = (
            {
                key: value
                for key, value in (vars(module) | module._parameters | module._buffers).items()
                if isinstance(value, torch.Tensor)
            }
            for module in (own, other)
        )
        assert held.keys() == expected.keys()
        for key, value in held.items():
            assert (value.dtype, value.stride()) == (expected[key].dtype, expected[key].stride())
            assert torch.equal(value, expected[key]), f"{name}.{key}"


def test_every_bundle_is_built_as_torchaudio_builds_it() -> None:
    """The architecture of `get_model`, with as many labels as the catalogue says; on no memory."""
    distinct = {repr((architecture(MODELS[name]), len(MODELS[name].labels))): name for name in BUNDLES}
    for name in distinct.values():
        facts, (kind, params) = MODELS[name], architecture(MODELS[name])
        with torch.device("meta"):
            ours, stock = architecture_of(name).build(len(facts.labels)), FACTORIES[kind](**params)
        for tensors in ("named_parameters", "named_buffers"):
            shapes = [{key: value.shape for key, value in getattr(model, tensors)()} for model in (ours, stock)]
            assert shapes[0] == shapes[1], name
        assert len(ours.state_dict()) == len([*ours.parameters(), *ours.buffers()])  # so a file holds all of them


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("voxpopuli_asr_base_10k_de", "logits"),
        ("wavlm_base_plus", None),
        ("hubert_asr_large", "logits"),
        ("mms_fa", "log_probs"),
    ],
)
def test_the_whole_way_from_published_weights_to_tables_equals_the_bundle(
    name: str, values: str | None, hub: Path, tmp_path: Path
) -> None:
    """Over a second of the tutorial's recording."""
    facts = MODELS[name]
    torch.save(random_state_dict(facts, seed=8), hub / named(facts.name).weights_path.name)
    [recording] = SHIPPED.glob("voices/source-16k/**/*.wav")
    samples, rate = soundfile.read(recording, dtype="float32", start=16_000, frames=16_000)
    (tmp_path / "corpus").mkdir()
    soundfile.write(tmp_path / "corpus" / "a.wav", samples, rate)
    given = ["dataset=folder", "dataset.root=corpus", f"model={name}", "run_dir=out"]
    assert main([*given, "features.dtype=float32", "features.layers=[1,12]"]) == 0
    run = open_run("out")

    bundle = torchaudio_bundle(name)
    is_aligner = isinstance(bundle, torchaudio.pipelines.Wav2Vec2FABundle)
    model = bundle.get_model(with_star=False) if is_aligner else bundle.get_model()
    assert_same_weights(named(name).build(), model if isinstance(model, Wav2Vec2Model) else model.model)
    waveform = torch.from_numpy(samples)[None]
    with torch.inference_mode():
        features, _ = model.extract_features(waveform)
        emission = model(waveform)[0][0].numpy()

    for layer in (1, 12):
        assert np.abs(run.feature("a.wav", layer=layer) - features[layer - 1][0].numpy()).max() <= 1e-4
    assert (run.path / "transcripts").exists() == facts.transcribes
    assert (run.path / "emissions").exists() == (values is not None)
    if values is not None:
        assert np.abs(run.emission("a.wav") - emission).max() <= 1e-4
        assert run.emission_metadata["values"] == values
        assert run.alphabet == facts.labels
    if facts.transcribes:
        path_labels = [label for label, _ in groupby(emission.argmax(-1).tolist()) if label]
        assert run.transcripts.ctc_text[0] == "".join(bundle.get_labels()[label] for label in path_labels)
    shutil.rmtree(hub)  # a gigabyte that need not wait for pytest to tidy up
