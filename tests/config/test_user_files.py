"""Configuration files of the person's own: chosen like the shipped ones, and refused in one line with the file."""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import running

from pipeline.config import commandline
from pipeline.config import run_config as config
from pipeline.config.run_config import RunConfig
from pipeline.runtime.errors import UserError
from pipeline.stages.identity import describe
from pipeline.stages.session import Session

BASE = "wav2vec2_asr_base_960h"
CANARY = "canary-that-a-file-would-make-if-it-ran"


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The person's folder; the working directory is an empty one beside it, `../calls` the recordings."""
    for name in ("cwd", "calls", "own/dataset", "own/model"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.delenv("VOICES_ROOT", raising=False)
    return tmp_path / "own"


def write(own: Path, **files: str) -> None:
    for name, content in files.items():
        (own / f"{name.replace('__', '/')}.yaml").write_text(content)


def load(own: Path, *arguments: str) -> RunConfig:
    command = commandline.parse(["--config-dir", str(own), *arguments])
    return config.load(command.overrides, command.own)


def refusal(own: Path, *arguments: str) -> str:
    with pytest.raises(UserError) as caught:
        load(own, *arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert os.listdir() == []
    return message


# --- choices of one's own


@pytest.mark.parametrize("spelling", [["--config-dir", "{}"], ["--config-dir={}"], ["-cd", "{}"], ["-cd={}"]])
def test_a_file_in_the_folder_is_a_choice(own: Path, spelling: list[str]) -> None:
    write(own, dataset__mycalls="connector: folder\nroot: ../calls\n")
    arguments = [part.format(own) for part in spelling]
    for command in (
        commandline.parse([*arguments, "dataset=mycalls"]),
        commandline.parse(["dataset=mycalls", *arguments]),
    ):
        chosen = config.load(command.overrides, command.own)
        assert chosen.dataset_options["root"] == "../calls"
        assert chosen.run_dir == Path(f"runs/folder-calls/{BASE}")


def test_options_that_the_file_leaves_out_have_the_defaults_and_can_be_typed(own: Path) -> None:
    write(own, dataset__mycalls="connector: folder\n")
    shipped = config.load(["dataset=folder", "dataset.root=../calls"])
    assert load(own, "dataset=mycalls", "dataset.root=../calls").dataset_options == shipped.dataset_options
    typed = load(own, "dataset=mycalls", "dataset.root=../calls", "dataset.extensions=[wav]")
    assert typed.dataset_options["extensions"] == ["wav"]
    assert "dataset.root is required" in refusal(own, "dataset=mycalls")


def test_a_choice_may_build_on_a_shipped_one_or_on_another_of_the_folder(own: Path) -> None:
    write(
        own,
        dataset__base="defaults: [folder]\nextensions: [flac]\n",
        dataset__mycalls="defaults: [base, _self_]\nroot: ../calls\n",
        model__mine="defaults: [digits]\nsha256: " + "ab" * 32,
    )
    chosen = load(own, "dataset=mycalls", "model=mine")
    assert chosen.dataset_options == {
        "root": "../calls", "archives": False, "metadata": None, "encoding": None, "extensions": ["flac"]
    }  # fmt: skip
    assert chosen.model.name == "digits"
    assert chosen.settings.model.sha256 == "ab" * 32


def test_a_choice_may_choose_and_set_other_things_as_a_shipped_one_may(own: Path) -> None:
    content = "# @package _global_\ndefaults:\n  - override /model: digits\noutputs: [transcripts]\n"
    write(own, dataset__mycalls=f"{content}dataset: {{connector: folder, root: ../calls}}\n")
    chosen = load(own, "dataset=mycalls")
    assert (chosen.model.name, chosen.settings.outputs) == ("digits", ["transcripts"])
    assert load(own, "dataset=mycalls", f"model={BASE}", "outputs=[features]").settings.outputs == ["features"]


def test_shipped_choices_stay(own: Path) -> None:
    write(own, dataset__mycalls="connector: folder\n")
    assert load(own, "dataset=digits").yaml == config.load(["dataset=digits"]).yaml


def test_the_identity_and_the_manifest_follow_the_options_not_the_name_of_the_file(own: Path) -> None:
    write(own, dataset__mycalls="connector: folder\nroot: ../calls\n", dataset__other="defaults: [mycalls]\n")
    shipped = config.load(["dataset=folder", "dataset.root=../calls"])
    for name in ("mycalls", "other"):
        chosen = load(own, f"dataset={name}")
        assert Session(chosen).manifest_stage.made_with() == Session(shipped).manifest_stage.made_with()
        assert describe(chosen, "d", "fp32", "w") == describe(shipped, "d", "fp32", "w")
        assert chosen.run_dir == shipped.run_dir


@pytest.mark.parametrize("name", ["with space", "it's", 'a"b', "a,b", "[x]", "a=b", "ümläut", "a$b", "100%", "a'\\b"])
def test_the_folder_may_have_any_name(own: Path, name: str) -> None:
    folder = own.rename(own.parent / name)
    write(
        folder,
        dataset__mycalls="connector: folder\nroot: ../calls\n",
        myrun="defaults: [config, _self_, {override dataset: mycalls}]",
    )
    assert load(folder, "dataset=mycalls").dataset_options["root"] == "../calls"
    assert load(folder, "--config-name=myrun").dataset_options["root"] == "../calls"


def test_a_home_folder_is_expanded(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(own.parent))
    write(own, dataset__mycalls="# @package _global_\ndataset: {connector: folder, root: ~/calls}\nrun_dir: ~/out\n")
    command = commandline.parse(["--config-dir=~/own", "dataset=mycalls"])
    chosen = config.load(command.overrides, command.own)
    assert chosen.run_dir == own.parent / "out"
    assert chosen.dataset.run_name == "folder-calls"


def test_without_a_home_a_path_that_needs_one_is_refused(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])
    write(own, dataset__mycalls="connector: folder\nroot: ../calls\n")
    assert load(own, "dataset=mycalls", "model=digits").dataset.run_name == "folder-calls"
    for key in ("run_dir", "dataset.root"):
        said = f"{key}=~/x: ~ is no home directory here; write the path without ~, or set HOME"
        assert refusal(own, "dataset=mycalls", f"{key}=~/x") == said
    assert refusal(own, "dataset=mycalls", "run_dir=~nobody-here/x").startswith("run_dir=~nobody-here/x: ~nobody-here")
    with pytest.raises(UserError, match="--config-dir=~/own: ~ is no home directory"):
        commandline.parse(["--config-dir=~/own", "dataset=mycalls"])


def test_an_environment_variable_fills_in_a_value_and_a_typed_value_replaces_it(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(own, dataset__mycalls="connector: folder\nroot: ${oc.env:CALLS}\n")
    message = refusal(own, "dataset=mycalls")
    assert message.startswith(f"{own}/dataset/mycalls.yaml: dataset.root=${{oc.env:CALLS}}: ")
    assert "'CALLS' not found" in message
    assert load(own, "dataset=mycalls", "dataset.root=../calls").dataset_options["root"] == "../calls"
    monkeypatch.setenv("CALLS", "../calls")
    assert load(own, "dataset=mycalls").dataset_options["root"] == "../calls"


def test_a_secret_in_a_file_is_masked_where_it_is_recorded(own: Path) -> None:
    (own.parent / "calls?token=hunter2").mkdir()
    write(own, dataset__mycalls="connector: folder\nroot: ../calls?token=hunter2\n")
    chosen = load(own, "dataset=mycalls")
    assert "hunter2" not in chosen.yaml
    assert chosen.dataset_options["root"] == "../calls?token=hunter2"


# --- the settings of a whole run


RUN = """\
defaults:
  - config
  - _self_
  - override dataset: mycalls
  - override model: digits
outputs: [transcripts]
run_dir: ../out
batch:
  max_seconds: 30
dataset:
  extensions: [wav]
"""


@pytest.mark.parametrize(
    "spelling", [["-cn", "myrun"], ["-cn=myrun"], ["--config-name=myrun"], ["--config-name", "myrun.yaml"]]
)
def test_the_settings_of_a_whole_run_come_from_one_file(own: Path, spelling: list[str]) -> None:
    write(own, myrun=RUN, dataset__mycalls="connector: folder\nroot: ../calls\n")
    chosen = load(own, *spelling)
    assert chosen.model.name == "digits"
    assert chosen.settings.outputs == ["transcripts"]
    assert chosen.settings.batch.max_seconds == 30
    assert chosen.settings.shard.hours == config.load([]).settings.shard.hours
    assert chosen.dataset_options == {
        "root": "../calls", "archives": False, "metadata": None, "encoding": None, "extensions": ["wav"]
    }  # fmt: skip
    assert chosen.run_dir == Path("../out")


def test_a_main_file_builds_on_the_shipped_one_whether_it_says_so_or_not(own: Path) -> None:
    write(own, bare="outputs: [transcripts]\ndataset: {root: ../calls}\n")
    chosen = load(own, "-cn=bare", "dataset=folder", "model=digits")
    assert (chosen.settings.outputs, chosen.dataset_options["root"]) == (["transcripts"], "../calls")
    assert chosen.settings.shard.hours == config.load([]).settings.shard.hours


def test_what_is_typed_goes_before_the_file(own: Path) -> None:
    write(own, myrun=RUN, dataset__mycalls="connector: folder\nroot: ../calls\n")
    chosen = load(own, "-cn=myrun", "batch.max_seconds=9", f"model={BASE}", "dataset.extensions=[flac]", "run_dir=x")
    assert (chosen.settings.batch.max_seconds, chosen.model.name, chosen.run_dir) == (9, BASE, Path("x"))
    assert chosen.dataset_options["extensions"] == ["flac"]
    assert load(own, "-cn=myrun", "dataset=folder", "dataset.root=..").dataset_options["root"] == ".."
    message = refusal(own, "-cn=myrun", "dataset=digits")  # which has no extensions
    assert message.startswith(f"{own}/myrun.yaml: dataset.extensions=['wav']: no such key of this choice")


# --- refused


GLOBAL = "# @package _global_\ndataset: {connector: folder, root: ../calls}\n"
# The content of dataset/mine.yaml, and what the line says after the file's name.
REFUSED: dict[str, tuple[str, list[str]]] = {
    "misspelt option": ("connector: folder\nrot: x", [": dataset.rot=x: no such key (did you mean dataset.root?)"]),
    "option of another connector": (
        "connector: folder\npath: x",
        [": dataset.path=x: no such key of this choice; dataset.path is a key of dataset=manifest"],
    ),
    "unknown connector": (
        "connector: foldr",
        [": dataset.connector=foldr: not allowed (did you mean folder"],
    ),
    "no connector": ("root: x", [": builds on nothing", "defaults: [NAME, _self_]", "folder"]),
    "empty": ("", [": builds on nothing"]),
    "all commented out": ("# connector: folder", [": builds on nothing"]),
    "a word": ("hello", [": builds on nothing"]),
    "a number": ("3", [": "]),
    "a list": ("- a", [": is a list", "key: value"]),
    "unclosed bracket": ("connector: folder\nroot: [a", [":2: not YAML", "',' or ']'"]),
    "a tab": ("connector: folder\n\troot: a", [":2: not YAML", "'\\t'"]),
    "a key twice": ("connector: folder\nroot: a\nroot: b", [":3: not YAML", "duplicate key root"]),
    "a control character": ("root: \x01", [": not a configuration", "special characters"]),
    "wrong type": (
        "connector: folder\nroot: ../calls\nextensions: {a: b}",
        [": dataset.extensions.a=b: no such key (did you mean dataset.extensions?)"],
    ),
    "no such folder": ("connector: folder\nroot: /no/such", [": dataset.root=/no/such: no such folder"]),
    "other setting misspelt": (
        f"{GLOBAL}batch: {{max_secondz: 1}}",
        [": batch.max_secondz=1: no such key (did you mean"],
    ),
    "section as value": (f"{GLOBAL}batch: 3", [": batch=3: no such key", "batch.max_seconds"]),
    "other setting of wrong type": (f"{GLOBAL}batch: {{max_seconds: x}}", [": batch.max_seconds=x: must be a number"]),
    "other setting out of range": (f"{GLOBAL}batch: {{max_seconds: 0}}", [": batch.max_seconds=0.0: ", "above 0"]),
    "mapping in place of a list": (
        f"{GLOBAL}outputs: {{a: b}}",
        [": outputs.a=b: no such key (did you mean outputs?)"],
    ),
    "word that is not allowed": (f"{GLOBAL}precision: fp8", [": precision=fp8: not allowed", "bf16"]),
    "builds on nothing": (
        "defaults: [foldr]",
        [": dataset=foldr: not allowed (did you mean folder?)", "mine, voices"],
    ),
    "chooses nothing": (f"{GLOBAL}defaults: [override /model: digit]", [": model=digit: not allowed", "digits"]),
    "builds on itself": ("defaults: [mine]", [": builds on itself"]),
    "defaults that are no list": (
        "defaults: folder",
        [": defaults=folder: ", "must be a list"],
    ),
    "reference to nothing": ("connector: folder\nroot: ${nope}", [": dataset.root=${nope}: ", "'nope' not found"]),
    "reference to nothing as connector": ("connector: ${nope}", [": dataset.connector=${nope}: not allowed", "folder"]),
    "_self_ before its base": (
        "defaults: [_self_, folder]",
        [": defaults=['_self_', 'folder']: must be", "then _self_"],
    ),
    "another package": ("# @package dataset\nconnector: folder", [": @package dataset: not supported; write _global_"]),
    # nothing in a file runs code or reaches Hydra
    "python in YAML": (f"root: !!python/object/apply:os.system ['touch {CANARY}']", [":1: not YAML", "os.system"]),
    "target": (
        f"connector: folder\n_target_: os.system\ncommand: touch {CANARY}",
        [": dataset._target_=os.system: no such key"],
    ),
    "target as a value": (
        f"connector: folder\nroot: {{_target_: os.system, command: touch {CANARY}}}",
        [": dataset.root._target_=os.system: no such key"],
    ),
    "another resolver": (
        f"connector: folder\nroot: ${{eval:'touch {CANARY}'}}",
        [": dataset.root=", "interpolation type eval"],
    ),
    "search path": (
        f"{GLOBAL}hydra: {{searchpath: [pkg://antigravity]}}",
        [": hydra.searchpath=['pkg://antigravity']: no such key"],
    ),
    "hydra's groups": (
        f"{GLOBAL}defaults: [override /hydra/launcher: x]",
        [": defaults=[{'override /hydra/launcher': 'x'}]: must be a list of names", "`override /GROUP: NAME`"],
    ),
}


@pytest.mark.parametrize(("content", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_in_a_file_is_one_line_that_begins_with_the_file(
    own: Path, content: str, said: Sequence[str]
) -> None:
    write(own, dataset__mine=content)
    message = refusal(own, "dataset=mine")
    assert message.startswith(f"{own}/dataset/mine.yaml{said[0]}")
    for part in said[1:]:
        assert part in message


def test_a_file_that_is_not_utf8_is_refused(own: Path) -> None:
    (own / "dataset" / "mine.yaml").write_bytes(b"connector: folder\nroot: caf\xe9\n")
    message = refusal(own, "dataset=mine")
    assert message.startswith(f"{own}/dataset/mine.yaml: not a configuration ('utf-8' codec can't decode")
    assert message.endswith("give `key: value` lines in UTF-8")


def test_a_file_that_another_builds_on_is_checked(own: Path) -> None:
    base = "connector: folder\nhydra: {searchpath: [pkg://antigravity]}\n"
    write(own, dataset__mine="defaults: [base]\n", dataset__base=base)
    assert refusal(own, "dataset=mine").startswith(f"{own}/dataset/base.yaml: dataset.hydra.searchpath=")
    write(own, dataset__base="connector: folder\nrot: x\n")
    assert refusal(own, "dataset=mine").startswith(f"{own}/dataset/base.yaml: dataset.rot=x: no such key")
    write(own, dataset__mine="defaults: [base.yaml]\n")
    assert "dataset=base.yaml: not allowed (did you mean base?)" in refusal(own, "dataset=mine")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("defaults: [digits]\nsha: x", ": model.sha=x: no such key (did you mean model.sha256?)"),
        ("defaults: [digits]\nsha256: abc", ": model.sha256=abc: not a SHA-256"),
        ("defaults: [digits]\nsource: null", ": model.source=None: not allowed; there are bundle, checkpoint, digits"),
        ("source: digits\nname: digit", ": model.name=digit: not allowed"),
        ("source: digits\nname: null", ": model.name=None: not allowed; there are digits"),
        ("source: digits\nname: [digits]", ": model.name=['digits']: not allowed"),
        ("name: digits", ": builds on nothing; begin it with `defaults: [NAME, _self_]`"),
        ("sha256: abc", ": builds on nothing"),
    ],
)
def test_a_model_of_ones_own_is_checked_likewise(own: Path, content: str, said: str) -> None:
    write(own, model__mine=content)
    assert refusal(own, "model=mine", "dataset=digits").startswith(f"{own}/model/mine.yaml{said}")


def test_a_file_may_name_another_connector_than_its_base_whose_own_keys_then_do_not_count(own: Path) -> None:
    (own.parent / "calls" / "list.csv").write_text("path\na.wav\n")
    write(own, dataset__mine="defaults: [folder]\nconnector: manifest\npath: ../calls/list.csv\n")
    assert load(own, "dataset=mine").dataset_options["path"] == "../calls/list.csv"
    write(own, dataset__mine="defaults: [base]\nconnector: manifest\n", dataset__base="connector: folder\nroot: x\n")
    assert refusal(own, "dataset=mine").startswith(f"{own}/dataset/base.yaml: dataset.root=x: no such key")


def test_a_typed_value_that_is_wrong_is_not_blamed_on_a_file(own: Path) -> None:
    write(own, dataset__mine="connector: folder\nroot: ../calls\n")
    assert refusal(own, "dataset=mine", "dataset.root=/no").startswith("dataset.root=/no: no such folder")
    assert refusal(own, "dataset=mine", "dataset.rot=/no").startswith("dataset.rot=/no: no such key")
    assert refusal(own, "dataset=mine", "dataset.extensions=null").startswith("dataset.extensions=null: cannot be null")
    assert refusal(own, "dataset=mine", "dataset.connector=digits").startswith("dataset.connector=digits: no such key")


def test_an_unknown_choice_lists_the_shipped_ones_and_ones_own(own: Path) -> None:
    write(own, dataset__mycalls="connector: folder\n")
    message = refusal(own, "dataset=mycals")
    assert message.startswith("dataset=mycals: not allowed (did you mean mycalls?); there are ")
    for name in ("digits", "folder", "mycalls", "voices"):
        assert name in message


@pytest.mark.parametrize("chosen", ["dataset=digits", "dataset=folder"])
def test_a_file_with_the_name_of_a_shipped_choice_is_refused_not_ignored(own: Path, chosen: str) -> None:
    write(own, dataset__digits="connector: folder\n")
    message = refusal(own, chosen)
    assert message.startswith(f"{own}/dataset/digits.yaml: has the name of a choice that is there already; rename it")


def test_a_main_file_with_the_shipped_name_is_refused_not_ignored(own: Path) -> None:
    write(own, config="outputs: [features]\n", dataset__mine="connector: folder\n")
    message = refusal(own, "dataset=mine")
    assert message.startswith(f"{own}/config.yaml: ")
    assert "rename it" in message


MAINS = {
    "misspelt key": (
        "defaults: [config, _self_]\noutput: [features]",
        "output=['features']: no such key (did you mean outputs?)",
    ),
    "value": (
        "defaults: [config, _self_]\noutputs: [feature]",
        "outputs=feature: not allowed (did you mean features?)",
    ),
    "search path": (
        "defaults: [config]\nhydra: {searchpath: [pkg://antigravity]}",
        "hydra.searchpath=['pkg://antigravity']: no such key",
    ),
    "choice": ("defaults: [config, {override dataset: mine}]", "dataset=mine: not allowed"),
    "choice as a value": (
        "dataset: digits",
        "dataset=digits: no such key; write `defaults: [override dataset: NAME]`, or leave it out",
    ),
    "no override": (
        "defaults: [config, {dataset: digits}]",
        "`override /GROUP: NAME` for choices of other groups",
    ),
    "not YAML": ("defaults: [config", "not YAML"),
}


@pytest.mark.parametrize(("content", "said"), MAINS.values(), ids=MAINS)
def test_a_main_file_is_checked_likewise(own: Path, content: str, said: str) -> None:
    write(own, myrun=content)
    message = refusal(own, "--config-name=myrun")
    assert message.startswith(f"{own}/myrun.yaml:")
    assert said in message


def test_a_folder_that_cannot_be_used_is_refused(own: Path) -> None:
    assert refusal(own / "none", "dataset=digits").startswith(
        f"--config-dir={own}/none: is no folder; give one that holds"
    )
    (own / "file").write_text("")
    assert refusal(own / "file", "dataset=digits").startswith(
        f"--config-dir={own}/file: is no folder; give one that holds"
    )
    assert refusal(own, "dataset=digits").startswith(
        f"--config-dir={own}: has no choices; put files into {own}/dataset"
    )
    write(own, myrun=RUN)
    assert "or add --config-name NAME (there are myrun)" in refusal(own, "dataset=digits")
    assert "(did you mean myrun?)" in refusal(own, "--config-name=myrum")
    (own / "dataset" / "mycalls.yml").write_text("connector: folder\n")
    assert refusal(own, "dataset=mycalls").startswith(f"{own}/dataset/mycalls.yml: only .yaml is read; rename it")


def test_the_folder_of_a_main_file_has_to_be_named() -> None:
    with pytest.raises(UserError, match=r"--config-name=myrun: needs the folder of that file; add --config-dir DIR"):
        commandline.parse(["--config-name=myrun"])


def test_hidden_files_and_other_folders_are_left_alone(own: Path) -> None:
    write(own, dataset__mine="connector: folder\nroot: ../calls\n")
    (own / "dataset" / ".#mine.yaml").symlink_to("nobody@nowhere")
    (own / "dataset" / ".digits.yaml").write_text("{")
    (own / "notes").mkdir()
    (own / "docker-compose.yml").write_text("x: [")
    assert load(own, "dataset=mine").dataset_options["root"] == "../calls"


# --- the command


def test_the_command_runs_a_choice_of_ones_own_and_continues_it_under_another_name(own: Path, tmp_path: Path) -> None:
    shutil.copy(running.SHIPPED / "digits" / "lucas-1digits-02.flac", tmp_path / "calls")
    write(
        own,
        dataset__mycalls="defaults: [folder]\nroot: ../calls\n",
        dataset__renamed="connector: folder\nroot: ../calls\n",
    )
    settings = ("--config-dir", "../own", "model=digits", "outputs=[transcripts]")
    cwd = tmp_path / "cwd"
    ended = running.run(*settings, "dataset=mycalls", cwd=cwd)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert running.ids(cwd / "runs/folder-calls/digits", "transcripts") == ["lucas-1digits-02.flac"]
    again = running.run(*settings, "dataset=renamed", cwd=cwd)
    assert again.returncode == 0
    assert "complete already" in again.stdout


def test_a_mistake_in_a_file_ends_the_command_with_code_2_and_one_line(own: Path, tmp_path: Path) -> None:
    write(own, dataset__mine="connector: folder\nrot: ../calls\n")
    ended = running.run("--config-dir=../own", "dataset=mine", cwd=tmp_path / "cwd")
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert ended.stderr.startswith(f"error: {own}/dataset/mine.yaml: dataset.rot=../calls: no such key")
    assert list((tmp_path / "cwd").iterdir()) == []
