"""Sources of models: one interface, no torch before `load`, and found again by the record of a run."""

from __future__ import annotations

import pickle
import pwd
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from running import ROOT

from pipeline.models.catalog import BUNDLES, MODELS
from pipeline.models.facts import Body, ModelFacts
from pipeline.models.sources import from_record, load_model, named
from pipeline.runtime.errors import UserError

SHA256 = "0" * 64


@pytest.mark.parametrize("name", MODELS)
def test_a_source_has_the_facts_of_the_catalogue_and_adds_nothing_to_the_identity(name: str) -> None:
    source = named(name, sha256=SHA256)
    assert source.facts is MODELS[name]
    assert source.identity() == {}
    assert source.sha256 == SHA256
    assert pickle.loads(pickle.dumps(source.facts)) == source.facts


@pytest.mark.parametrize("name", ["digits", "wav2vec2_asr_base_960h"])
def test_a_run_of_release_01_names_its_model_and_weights(name: str) -> None:
    source = from_record(name, {"model": name, "weights_sha256": SHA256}, "/elsewhere/weights")
    assert source.facts is MODELS[name]
    assert source.weights_path == named(name).weights_path


def test_weights_that_are_not_those_of_a_run_are_refused_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    source = named("digits")
    found = source.fetch()
    assert load_model(source, found)[1] == found
    monkeypatch.setattr(type(source), "build", lambda self: pytest.fail("built"))
    with pytest.raises(UserError, match=f"has the sha256 {found}, the run was made with {SHA256}; put those"):
        load_model(source, SHA256)


def test_a_cache_of_weights_without_a_home_is_refused_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "TORCH_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])
    source = named("hubert_base")
    assert not source.weights_path.is_file()
    for need in (source.check_file, source.fetch):
        with pytest.raises(UserError, match="this user has no home directory; set TORCH_HOME to a folder"):
            need()
    monkeypatch.setenv("TORCH_HOME", "/cache")
    assert named("hubert_base").weights_path.parent == Path("/cache/hub/checkpoints")


@pytest.mark.parametrize("labels", [["-", "|", "a", "7"], []])
def test_a_run_of_release_01_from_a_checkpoint_names_its_file_architecture_and_labels(
    labels: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(b"PK")
    identity = {"model": "checkpoint", "model.architecture": "digits", "model.labels": labels, "weights_sha256": SHA256}
    source = from_record("checkpoint", identity, str(path))
    assert source.weights_path == path
    assert source.facts.labels == tuple(labels)
    assert source.identity() == {"model.architecture": "digits", "model.labels": labels}
    with pytest.raises(UserError, match="no such file"):
        from_record("checkpoint", identity, str(tmp_path / "gone.pt"))


def test_an_unknown_model_or_source_is_refused_with_what_there_is() -> None:
    with pytest.raises(
        UserError, match=r"model\.name=digit: not allowed \(did you mean digits\?\); there are .*mms_fa"
    ):
        from_record("digit", {}, "")
    with pytest.raises(UserError, match=r"model\.source=hub: not allowed.*; there are bundle, checkpoint, digits"):
        from_record("digits", {"model.source": "hub"}, "")


def test_sources_do_not_import_torch() -> None:
    script = (
        "import sys\nfrom pipeline.models.sources import named\n"
        "named('digits'); named('hubert_base').check_file()\n"
        "print({'torch', 'torchaudio', 'safetensors'} & set(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (ended.stdout, ended.stderr) == ("set()\n", "")


def test_a_model_transcribes_where_its_labels_can_be_written_as_words() -> None:
    for name, bundle in BUNDLES.items():
        assert bundle.facts.delimiter == ("|" if "|" in bundle.facts.labels else None), name
    digits = MODELS["digits"]
    assert digits.transcribes
    assert replace(digits, delimiter="").transcribes
    assert not replace(digits, delimiter=None).transcribes
    assert not replace(digits, labels=()).transcribes


def test_frames_follow_from_the_convolutions_of_the_body() -> None:
    halved = ModelFacts("halved", Body(1, 1, 1, convolutions=((4, 2), (3, 1))), sample_rate=8000)
    assert (halved.stride, halved.min_samples, halved.seconds_per_frame) == (2, 8, 0.00025)
    assert [halved.num_frames(samples) for samples in (7, 8, 9, 10)] == [0, 1, 1, 2]
