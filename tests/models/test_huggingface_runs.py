"""`model=huggingface` from the command line: runs, languages, resuming, and checkpoints that are fetched by name."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from fake_hub import Hub, serving
from running import NO_REPORT, SHORT_DIGITS, environment, main, read, refused, run, run_prepared
from safetensors.torch import load_file, save_file
from transformers_checkpoints import change, config_of, random_model, resave, save, vocabulary

from pipeline.config.run_config import load
from pipeline.models.sources import from_record, named
from pipeline.results import open_run
from pipeline.runtime.digests import sha256_file
from pipeline.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_the_shipped_checkpoint_transcribes_the_shipped_recordings_without_an_error(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["dataset=digits", "model=huggingface", "model.checkpoint=digits", NO_REPORT]
    assert main([*arguments, "outputs=[transcripts]"]) == 0
    assert "WER 0.00 % (0 errors in 186 reference words)" in capsys.readouterr().out
    recorded = json.loads((elsewhere / "runs" / "digits" / "huggingface-digits" / "run.json").read_text())
    assert recorded["weights"]["sha256"] == sha256_file(named("digits").weights_path)
    save(elsewhere / "digits", "Hubert")  # a folder of one's own goes first
    assert named("huggingface", checkpoint="digits").facts.num_layers == 2


def test_one_base_and_many_languages_are_runs_in_directories_of_their_own(mms: Path, elsewhere: Path) -> None:
    arguments = ["-m", *SHORT_DIGITS, "model=huggingface", f"model.checkpoint={mms}", "model.language=deu,fra"]
    assert main([*arguments, "outputs=[emissions]", NO_REPORT]) == 0
    runs = [elsewhere / "runs" / "manifest" / f"huggingface-many-{language}" for language in ("deu", "fra")]
    assert not read(runs[0], "emissions").equals(read(runs[1], "emissions"))
    identities = [json.loads((each / "run.json").read_text())["identity"] for each in runs]
    assert [each["model.language"] for each in identities] == ["deu", "fra"]
    assert identities[0]["weights_sha256"] != identities[1]["weights_sha256"]


def test_a_run_is_finished_without_torch_checked_again_alone_and_not_mixed_with_another_checkpoint(
    copy: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*SHORT_DIGITS, "model=huggingface", f"model.checkpoint={copy}", NO_REPORT]
    assert main(arguments) == 0
    run_dir = elsewhere / "runs" / "manifest" / "huggingface-copy"
    assert open_run(run_dir).alphabet == tuple(vocabulary())
    assert not read(run_dir, "transcripts")["text"].to_pandas().str.contains("<", regex=False).any()
    script = (
        f"import sys; from pipeline.run import main; code = main({arguments!r}); "
        "print(code, {'torch', 'transformers', 'huggingface_hub'} & {*sys.modules}, file=sys.stderr)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=elsewhere, env=environment(), capture_output=True, text=True
    )
    assert ended.stderr.strip() == "0 set()"
    assert "complete already" in ended.stdout

    from pipeline.verify.__main__ import main as verify

    assert verify([str(run_dir), "--exactness", "2"]) == 0
    assert "the same" in capsys.readouterr().out
    change(copy / "tokenizer_config.json", do_lower_case=True)
    assert "model.lower_case: False before, True now" in refused(arguments, capsys)
    assert verify([str(run_dir), "--exactness", "2"]) == 2
    assert "is not the one that the run was made with (model.lower_case)" in capsys.readouterr().err
    change(copy / "tokenizer_config.json", do_lower_case=False)
    resave(copy, lambda state: state["lm_head.bias"].add_(1))
    assert "weights_sha256: " in refused(arguments, capsys)


def test_a_shard_that_changes_is_noticed_although_its_index_stays(elsewhere: Path, capsys: Any) -> None:
    made = save(elsewhere / "shards", "WavLM", saving={"max_shard_size": "8KB"})
    arguments = [*SHORT_DIGITS, "model=huggingface", "model.checkpoint=shards", "outputs=[transcripts]", NO_REPORT]
    assert main(arguments) == 0
    assert main(arguments) == 0
    path = named("huggingface", checkpoint=str(made.folder)).weights_files[-1]
    save_file({name: tensor + 1 for name, tensor in load_file(path).items()}, path)
    assert "weights_sha256: " in refused(arguments, capsys)


def test_an_encoder_without_labels_gives_features_and_another_sample_rate_is_resampled_to(
    saved: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random_model("Hubert", "Model", config_of("Hubert")).save_pretrained(elsewhere / "bare")
    transformers.Wav2Vec2FeatureExtractor(sampling_rate=8000).save_pretrained(elsewhere / "bare")
    arguments = [*SHORT_DIGITS, "model=huggingface", "model.checkpoint=bare", NO_REPORT]
    assert "say outputs=[features]" in refused(arguments, capsys)
    assert main([*arguments, "outputs=[features]"]) == 0
    run_ = open_run("runs/manifest/huggingface-bare")
    first = run_.manifest.iloc[0]
    frames = len(run_.feature(first.id, layer=2))
    assert frames == named("huggingface", checkpoint="bare").facts.num_frames(round(8000 * first.duration_s))


WRONG = [
    ("", "model.checkpoint is required and has no default"),
    ("model.checkpoint=", "model.checkpoint is required and has no default"),
    ("model.checkpoint=/no/such", "model.checkpoint=/no/such: no such folder, and not owner/name of a repository"),
    ("model.checkpoint=model.safetensors", "is a file; give the folder with its config.json"),
    ("model.checkpoint=empty", "has no config.json"),
    ("model.architecture=digits", "model.architecture is a key of model=checkpoint"),
    ("model.checkpoint=tiny model.sha256=x", "model.sha256=x: not a SHA-256"),
]


@pytest.mark.parametrize(("typed", "said"), WRONG, ids=[typed for typed, _ in WRONG])
def test_a_wrong_configuration_is_refused_at_once(typed: str, said: str, elsewhere: Path) -> None:
    (elsewhere / "empty").mkdir()
    (elsewhere / "model.safetensors").touch()
    with pytest.raises(UserError) as caught:
        load(["dataset=digits", "model=huggingface", *typed.split()])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_source_can_be_sent_to_another_process_and_found_by_its_record(saved: Path) -> None:
    source = named("huggingface", checkpoint=str(saved))
    assert pickle.loads(pickle.dumps(source)).identity() == source.identity()
    recorded = json.loads(json.dumps(source.identity()))
    again = from_record("huggingface", recorded, str(source.weights_path))
    assert again.facts == source.facts
    with pytest.raises(UserError, match=r"model\.dim"):
        from_record("huggingface", recorded | {"model.dim": 25}, str(source.weights_path))


# --- by name


def test_a_snapshot_that_has_left_the_cache_is_named_with_the_command_that_fetches_it(
    saved: Path, elsewhere: Path
) -> None:
    snapshot = elsewhere / "hub" / "models--me--tiny-v2" / "snapshots" / ("0a" * 20)
    shutil.copytree(saved, snapshot)
    recorded = json.loads(json.dumps(named("huggingface", checkpoint=str(snapshot)).identity()))
    weights = snapshot / "model.safetensors"
    assert from_record("huggingface", recorded, str(weights)).weights_path == weights
    for path in (weights, snapshot):
        path.unlink() if path.is_file() else shutil.rmtree(path)
        with pytest.raises(UserError) as caught:
            from_record("huggingface", recorded, str(weights))
        assert str(caught.value) == (
            f"model.checkpoint=me/tiny-v2@{snapshot.name}: its files are no longer in {snapshot}; "
            f"fetch them again with `hf download me/tiny-v2 --revision {snapshot.name}`"
        )


@pytest.fixture(scope="module")
def hub() -> Any:
    with serving() as made:
        yield made


TOKEN = "hf_c4n4ryc4n4ry"


def by_name(hub: Hub, name: str, cwd: Path, *more: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A run with a checkpoint of the hub, with a cache in its working directory."""
    arguments = [*SHORT_DIGITS, "model=huggingface", f"model.checkpoint={name}", "outputs=[transcripts]", *more]
    settings = {"HF_ENDPOINT": hub.address, "HF_HOME": str(cwd / "cache"), "HF_TOKEN": TOKEN}
    return run(*arguments, cwd=cwd, **(settings | variables))


def test_a_repository_is_fetched_once_pinned_recorded_and_used_offline(hub: Hub, copy: Path, elsewhere: Path) -> None:
    commit = hub.push("me/tiny", copy)
    ended = by_name(hub, "me/tiny", elsewhere)
    assert ended.returncode == 0, ended.stderr
    assert f"fetching model.safetensors of me/tiny@{commit} to " in ended.stderr
    assert hub.authorizations[-1] == f"Bearer {TOKEN}"
    run_dir = elsewhere / "runs" / "manifest" / "huggingface-me-tiny"
    recorded = json.loads((run_dir / "run.json").read_text())
    assert recorded["weights"]["pinned"] == f"me/tiny@{commit}"
    assert recorded["weights"]["sha256"] == sha256_file(copy / "model.safetensors")
    for path in (file for file in run_dir.rglob("*") if file.is_file()):
        assert TOKEN.encode() not in path.read_bytes()
    assert TOKEN not in ended.stdout + ended.stderr

    asked = len(hub.asked)
    for name, variables in (("me/tiny", {"HF_HUB_OFFLINE": "1"}), (f"me/tiny@{commit}", {})):
        ended = by_name(hub, name, elsewhere, f"run_dir={run_dir}", **variables)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert "complete already" in ended.stdout
    assert not [path for path in hub.asked[asked:] if "/me/tiny/" in path]

    shutil.rmtree(elsewhere / "runs")
    weights = next((elsewhere / "cache").rglob("snapshots/*/model.safetensors"))
    weights.unlink()
    ended = by_name(hub, "me/tiny", elsewhere, HF_HUB_OFFLINE="1")
    assert "not complete in the cache, and HF_HUB_OFFLINE is set" in ended.stderr.splitlines()[-1]
    assert by_name(hub, "me/tiny", elsewhere).returncode == 0

    # Another commit with the same weights goes on; one with other weights does not.
    shutil.copytree(copy, elsewhere / "next")
    (elsewhere / "next" / "README.md").write_text("more")
    assert hub.push("me/tiny", elsewhere / "next") != commit
    ended = by_name(hub, "me/tiny", elsewhere)
    assert ended.returncode == 0, ended.stderr
    resave(elsewhere / "next", lambda state: state["lm_head.bias"].add_(1))
    (elsewhere / "next").rename(elsewhere / "third")
    hub.push("me/tiny", elsewhere / "third")
    ended = by_name(hub, "me/tiny", elsewhere)
    assert ended.returncode == 2
    assert "weights_sha256: " in ended.stderr
    ended = by_name(hub, f"me/tiny@{commit}", elsewhere, f"run_dir={run_dir}")
    assert ended.returncode == 0, ended.stderr


def test_shards_languages_and_torch_files_are_fetched_and_nothing_else(hub: Hub, mms: Path, elsewhere: Path) -> None:
    save(elsewhere / "shards", "Hubert", saving={"max_shard_size": "8KB"})
    made = save(elsewhere / "former", "Hubert")
    torch.save(load_file(made.folder / "model.safetensors"), made.folder / "pytorch_model.bin")
    (made.folder / "model.safetensors").unlink()
    (made.folder / "optimizer.pt").write_bytes(b"large")
    for name, folder, more in (
        ("me/shards", elsewhere / "shards", []),
        ("me/former", made.folder, []),
        ("me/mms", mms, ["model.language=fra"]),
    ):
        hub.push(name, folder)
        ended = by_name(hub, name, elsewhere, *more)
        assert ended.returncode == 0, ended.stderr
    fetched = {path.name for path in (elsewhere / "cache").rglob("snapshots/*/*")}
    assert {"pytorch_model.bin", "adapter.fra.safetensors", "model.safetensors.index.json"} <= fetched
    assert not {"optimizer.pt", "adapter.deu.safetensors"} & fetched


NOT_THERE = {
    "me/none": ({}, "neither a folder nor a repository that can be read"),
    "me/tiny@v9": ({}, "the repository has no revision v9"),
    "me/offline": ({"HF_HUB_OFFLINE": "1"}, "not complete in the cache, and HF_HUB_OFFLINE is set"),
    "me/away": ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "not complete in the cache, and the Hub cannot be reached"),
    "me/empty": ({}, "the repository has no config.json"),
}


@pytest.mark.parametrize(("name", "variables", "said"), [(name, *given) for name, given in NOT_THERE.items()])
def test_a_repository_that_cannot_be_had_is_one_line(
    name: str, variables: dict[str, str], said: str, hub: Hub, copy: Path, elsewhere: Path
) -> None:
    hub.push("me/tiny", copy)
    (elsewhere / "empty").mkdir()
    (elsewhere / "empty" / "README.md").touch()
    hub.push("me/empty", elsewhere / "empty")
    ended = by_name(hub, name, elsewhere, **variables)
    assert ended.returncode == 2
    lines = ended.stderr.strip().splitlines()
    assert lines[-1].startswith(f"error: model.checkpoint={name}: ")
    assert said in lines[-1]
    assert "Traceback" not in ended.stderr


def test_without_the_extra_a_folder_is_enough_and_a_name_says_what_to_install(saved: Path, elsewhere: Path) -> None:
    hidden = "import sys; sys.modules['huggingface_hub'] = sys.modules['transformers'] = None"
    arguments = [*SHORT_DIGITS, "model=huggingface", "outputs=[transcripts]"]
    assert run_prepared(hidden, *arguments, f"model.checkpoint={saved}", cwd=elsewhere).returncode == 0
    ended = run_prepared(hidden, *arguments, "model.checkpoint=me/tiny", cwd=elsewhere)
    assert ended.returncode == 2
    assert ended.stderr.strip() == (
        "error: model.checkpoint=me/tiny: no such folder; "
        "to fetch a repository by name, run pip install huggingface_hub, which the extra huggingface has"
    )
