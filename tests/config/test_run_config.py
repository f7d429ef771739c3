"""A configuration is right, or it is refused at once in one line that a person can act on."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from pipeline.config import groups
from pipeline.config.run_config import RunConfig, load
from pipeline.config.schema import ReportSettings, ScoreSettings
from pipeline.datasets import EXTENSIONS
from pipeline.models.catalog import MODELS
from pipeline.runtime.errors import UserError
from pipeline.runtime.redaction import mask_secrets
from pipeline.stages.identity import describe
from pipeline.storage.identity import Identity

REPOSITORY = Path(__file__).parents[2]
BASE = "wav2vec2_asr_base_960h"


pytestmark = pytest.mark.usefixtures("elsewhere")


def refusal(*overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load(overrides)
    return str(caught.value)


# What is typed, and what the one line has to say: key and value as typed, what is allowed.
REFUSED: list[tuple[str, list[str]]] = [
    # misspelt and unknown keys
    ("batch.max_secondz=1", ["batch.max_secondz=1", "did you mean batch.max_seconds?"]),
    ("feature.layers=all", ["feature.layers=all", "did you mean features.layers?"]),
    ("max_failure=1", ["max_failure=1", "did you mean max_failures?"]),
    ("datset=digits", ["datset=digits", "did you mean dataset?", "channels, dataset, decoder, device, executor"]),
    ("modle=digits", ["modle=digits", "did you mean model?"]),
    ("decodr=beam", ["decodr=beam", "did you mean decoder?"]),
    ("executr=ray", ["executr=ray", "did you mean executor?"]),
    ("root=/x", ["root=/x", "did you mean dataset.root?"]),
    ("Layers=all", ["Layers=all", "did you mean features.layers or report.layers?"]),
    ("path=/x", ["path=/x", "dataset.path is a key of dataset=manifest"]),
    ("checkpoint=x.pt", ["checkpoint=x.pt", "model.checkpoint is a key of model=checkpoint"]),
    ("DEVICE=cpu", ["DEVICE=cpu", "did you mean device?"]),
    ("foo=1", ["foo=1", "device", "outputs", "precision", "run_dir", "stages", "retry_failed", "max_failures"]),
    ("=1", ["=1", "run_dir"]),
    ("batch=3", ["batch=3", "no such key"]),
    ("batch={max_seconds:3}", ["batch={max_seconds:3}", "no such key"]),
    ("features=null", ["features=null", "no such key"]),
    ("schema=x", ["schema=x", "no such key"]),
    ("defaults=[]", ["defaults=[]", "no such key"]),
    ("hydra.run.dir=/tmp", ["hydra.run.dir=/tmp", "no such key"]),
    ("hydra/launcher=basic", ["hydra/launcher=basic", "no such key"]),
    ("executor=dask", ["executor=dask", "not allowed", "local", "ray"]),
    ("executor.workers=0", ["executor.workers=0", "a whole number from 1 to 1024, or null"]),
    ("executor.workers=two", ["executor.workers=two", "must be a whole number"]),
    ("chunk.second=60", ["chunk.second=60", "did you mean chunk.seconds?"]),
    ("dataset=digits dataset.root=/data", ["dataset.root", "/data", "no such key"]),
    (
        "dataset.path=list.jsonl",
        ["dataset.path=list.jsonl: no such key of this choice; dataset.path is a key of dataset=manifest"],
    ),
    ("dataset=folder dataset.rot=/data", ["dataset.rot=/data", "did you mean dataset.root?"]),
    # what only a choice may set, and what Hydra would instantiate
    ("dataset.connector=folder", ["dataset.connector=folder", "no such key"]),
    ("model.name=digits", ["model.name=digits", "no such key"]),
    ("decoder.name=greedy", ["decoder.name=greedy", "no such key"]),
    ("_target_=os.system", ["_target_=os.system", "no such key"]),
    ("model._target_=os.system", ["model._target_=os.system", "no such key"]),
    ("dataset._target_=os.system", ["dataset._target_=os.system", "no such key"]),
    # choices
    (
        "dataset=voicez",
        ["dataset=voicez", "did you mean voices?", "commonvoice, digits, folder, librispeech, manifest, voices"],
    ),
    ("dataset=", ["dataset=", "commonvoice, digits, folder, librispeech, manifest, voices"]),
    ("dataset=null", ["dataset=", "commonvoice, digits, folder, librispeech, manifest, voices"]),
    ("dataset={connector:folder}", ["dataset=", "commonvoice, digits, folder, librispeech, manifest, voices"]),
    ("model=hubert", ["model=hubert", "did you mean hubert_base?", BASE, "digits"]),
    ("model=WAV2VEC2_ASR_BASE_960", ["model=WAV2VEC2_ASR_BASE_960", BASE]),
    ("model=[digits]", ["model=", "hubert_base", BASE]),
    ("model=../model/digits", ["model=../model/digits", "hubert_base", BASE]),
    ("decoder=bean", ["decoder=bean", "did you mean beam?", "greedy"]),
    ("decoder=null", ["decoder=", "greedy"]),
    # wrong types
    ("batch.max_seconds=abc", ["batch.max_seconds=abc", "must be a number"]),
    ("batch.max_seconds=", ["batch.max_seconds=", "must be a number"]),
    ("batch.max_seconds=[1]", ["batch.max_seconds=[1]", "must be a number"]),
    ("batch.max_seconds=true", ["batch.max_seconds=true", "must be a number"]),
    ("shard.hours=x", ["shard.hours=x", "must be a number"]),
    ("shard.hours=null", ["shard.hours=null", "cannot be null"]),
    ("loader.timeout_s=null", ["loader.timeout_s=null", "cannot be null"]),
    ("loader.workers=1.5", ["loader.workers=1.5", "must be a whole number"]),
    ("loader.workers=true", ["loader.workers=true", "must be a whole number"]),
    ("max_failures=many", ["max_failures=many", "must be a whole number"]),
    ("retry_failed=maybe", ["retry_failed=maybe", "true or false"]),
    ("retry_failed=null", ["retry_failed=null", "cannot be null"]),
    ("stages=null", ["stages=null", "cannot be null"]),
    ("outputs={a:b}", ["outputs={a:b}", "must be a list"]),
    ("device=null", ["device=null", "cannot be null"]),
    ("dataset=folder dataset.root=. dataset.extensions=null", ["dataset.extensions=", "cannot be null"]),
    ("dataset=folder dataset.root=. dataset.extensions=[]", ["dataset.extensions=[]", "[wav,flac]"]),
    ("dataset=folder dataset.root=. dataset.extensions=[[wav]]", ["dataset.extensions", "wav"]),
    # values out of range
    ("batch.max_seconds=0", ["batch.max_seconds=0", "above 0"]),
    ("batch.max_seconds=-1", ["batch.max_seconds=-1", "above 0"]),
    ("batch.max_seconds=nan", ["batch.max_seconds=nan", "above 0"]),
    ("batch.max_seconds=inf", ["batch.max_seconds=inf", "above 0"]),
    ("shard.hours=0", ["shard.hours=0", "above 0"]),
    ("loader.timeout_s=-3", ["loader.timeout_s=-3", "above 0"]),
    ("loader.workers=-1", ["loader.workers=-1", "0 or more"]),
    ("max_failures=-1", ["max_failures=-1", "0 or more, or null"]),
    ("model.sha256=abc", ["model.sha256=abc", "64 lower-case hexadecimal digits"]),
    (f"model.sha256={'A' * 64}", ["model.sha256=AAAA", "64 lower-case hexadecimal digits"]),
    # precision and device
    ("precision=fp8", ["precision=fp8", "auto, fp32, bf16, fp16"]),
    ("precision=", ["precision=", "auto, fp32, bf16, fp16"]),
    ("device=gpu", ["device=gpu", "auto, cpu, cuda, cuda:<number>"]),
    ("device=cuda:x", ["device=cuda:x", "auto, cpu, cuda, cuda:<number>"]),
    ("features.dtype=float64", ["features.dtype=float64", "float16, float32"]),
    ("emissions.dtype=int8", ["emissions.dtype=int8", "float16, float32"]),
    ("features.layout=blob", ["features.layout=blob", "list, binary"]),
    ("emissions.layout=null", ["emissions.layout=null", "list, binary"]),
    # layers
    ("features.layers=0", ["features.layers=0", "last, all, or a list of 1 to 12"]),
    ("features.layers=13", ["features.layers=13", "1 to 12"]),
    ("features.layers=[6,13]", ["features.layers=[6", "13 is not a layer", "1 to 12"]),
    ("features.layers=-1", ["features.layers=-1", "1 to 12"]),
    ("features.layers=[]", ["features.layers=[]", "one at least"]),
    ("features.layers=[6,6]", ["features.layers=[6", "each layer once"]),
    ("features.layers=first", ["features.layers=first", "last, all"]),
    ("features.layers=1.5", ["features.layers=1.5", "1 to 12"]),
    ("features.layers=[last]", ["features.layers=", "last, all"]),
    ("features.layers=null", ["features.layers=", "last, all"]),
    ("features.layers=true", ["features.layers=", "last, all"]),
    ("features.layers={a:1}", ["features.layers=", "last, all"]),
    ("model=digits features.layers=5", ["features.layers=5", "digits", "1 to 4"]),
    # outputs and stages
    ("outputs=[]", ["outputs=[]", "transcripts, emissions, features"]),
    ("outputs=[transcript]", ["outputs=", "transcript", "did you mean transcripts?", "emissions, features"]),
    ("outputs=[features,features]", ["outputs=[features,features]", "once"]),
    ("model=hubert_base outputs=[transcripts]", ["outputs=[transcripts]", "hubert_base", "outputs=[features]", BASE]),
    ("model=hubert_base outputs=[emissions,features]", ["outputs=[emissions,features]", "hubert_base", BASE]),
    ("stages=[]", ["stages=[]", "manifest, vad, infer, decode, align, score, report"]),
    ("stages=[train]", ["stages=", "train", "manifest, vad, infer, decode, align, score, report"]),
    ("stages=[infer,infer]", ["stages=[infer,infer]", "once"]),
    # scores and report
    ("score.by=[[a]]", ["score.by=", "a list of the dataset's own columns"]),
    ("score.by=[a,a]", ["score.by=[a,a]", "each once"]),
    ("score.normaliser=whisper", ["score.normaliser=whisper", "did you mean whisper_english?", "standard", "none"]),
    ("report.utterances=0", ["report.utterances=0", "1 to 20"]),
    ("report.utterances=21", ["report.utterances=21", "1 to 20"]),
    ("report.layers=last", ["report.layers=last", "a list"]),
    ("report.layers=[0]", ["report.layers=[0]", "from 1 on"]),
    ("report.layers=[3]", ["report.layers=[3]", "does not store", "[12]", "features.layers="]),
    ("report.layers=[12] outputs=[transcripts]", ["report.layers=[12]", "does not store", "outputs="]),
    ("report.layers=[1,1]", ["report.layers=[1,1]", "each once"]),
    ("report.layers=[]", ["report.layers=[]", "from 1 on"]),
    # roots and required values
    ("dataset=folder", ["dataset.root", "required", "dataset.root=..."]),
    ("dataset=folder dataset.root=???", ["dataset.root", "required"]),
    ("dataset=folder dataset.root=", ["dataset.root", "required", "the folder that holds the recordings"]),
    ("dataset=folder dataset.root=/no/such", ["dataset.root=/no/such", "no such folder", "give the folder"]),
    ("dataset=voices dataset.root=/no/such", ["dataset.root=/no/such", "no such folder", "give the folder"]),
    ("dataset=folder dataset.root=/dev/null", ["dataset.root=/dev/null", "not a folder", "give the folder"]),
    ("dataset=manifest", ["dataset.path", "required", "dataset.path=..."]),
    ("dataset=manifest dataset.path=", ["dataset.path", "required"]),
    ("dataset=manifest dataset.path=/no/list", ["dataset.path=/no/list", "no such file", "JSON lines"]),
    ("dataset=manifest dataset.path=/dev", ["dataset.path=/dev", "not a file"]),
    ("run_dir=/dev/null", ["run_dir=/dev/null", "is a file", "give a folder"]),
    # names and habits of other tools
    ("gpu=0", ["gpu=0: no such key; write device=cuda for every GPU, or device=cuda:1 for the second one"]),
    ("batch-size=16", ["batch-size=16: no such key; write batch.max_seconds="]),
    ("output_dir=x", ["output_dir=x: no such key; write run_dir=FOLDER"]),
    ("resume=true", ["resume=true: no such key; leave it out; the same command continues a run"]),
    ("model=me/tiny", ["for a checkpoint of transformers write model=huggingface model.checkpoint=me/tiny"]),
    ("model=/etc/passwd", ["for a file of weights write model=checkpoint model.checkpoint=/etc/passwd"]),
    ("model_name_or_path=me/tiny", ["write model=huggingface model.checkpoint=DIR, or model.checkpoint=owner/name"]),
    ("lang=de", ["lang=de: no such key; choose a model of that language; python -m pipeline.models"]),
    ("language=de", ["model.language is a key of model=huggingface; add model=huggingface, or leave it out"]),
    ("dataset=manifest dataset.text=a", ["dataset.text=a: no such key (did you mean dataset.columns.text?)"]),
    ("dataset=/dev", ["dataset=/dev: not allowed", "write dataset=folder dataset.root=/dev"]),
    ("outputs=transcripts,features", ["add -m", "or write 'outputs=[transcripts,features]' for a list"]),
    # not overrides, or overrides that Hydra knows and this project does not
    ("nonsense", ["nonsense", "key=value"]),
    ("-v", ["-v", "key=value"]),
    ("--multirun", ["--multirun", "key=value"]),
    ("--config-path=/tmp", ["--config-path=/tmp", "key=value"]),
    ("features.layers=[1,", ["features.layers=[1,", "key=value"]),
    ("batch..max_seconds=1", ["batch..max_seconds=1", "did you mean batch.max_seconds?"]),
    ("features.layers='1", ["features.layers='1", "close each bracket and each quotation mark"]),
    ("+foo=1", ["+foo=1", "cannot be added, removed or moved"]),
    ("++batch.max_seconds=1", ["++batch.max_seconds=1", "write batch.max_seconds="]),
    ("~decoder", ["~decoder", "cannot be added, removed or moved"]),
    ("batch.max_seconds=1,2", ["batch.max_seconds=1,2", "add -m"]),
    ("batch.max_seconds=range(1,3)", ["batch.max_seconds=range(1,3)", "add -m"]),
    ("dataset=voices,digits", ["dataset=voices,digits", "add -m"]),
    ("model=glob(*)", ["model=glob(*): not allowed", "hubert_base"]),
    ("batch.max_seconds=interval(1,2)", ["batch.max_seconds=interval(1,2)", "must be a number"]),
    ("model@foo=digits", ["model@foo=digits"]),
    ("dataset@x=voices", ["dataset@x=voices"]),
]


@pytest.mark.parametrize(
    ("typed", "same"),
    [
        ("model=WAV2VEC2_ASR_BASE_960H", f"model={BASE}"),
        ("model=Wav2Vec2-ASR-Base-960h", f"model={BASE}"),
        ("dataset=Digits", "dataset=digits"),
        ("outputs=transcripts", "outputs=[transcripts]"),
        ("stages=manifest", "stages=[manifest]"),
        ("score.by=room", "score.by=[room]"),
        ("report.layers=12", "report.layers=[12]"),
        (
            "dataset=folder dataset.root=. dataset.extensions=wav",
            "dataset=folder dataset.root=. dataset.extensions=[wav]",
        ),
    ],
)
def test_what_can_only_mean_one_thing_is_taken(typed: str, same: str) -> None:
    assert load(typed.split(" ")).yaml == load(same.split(" ")).yaml


@pytest.mark.parametrize("value", ["caf\u00e9", ";", "a=b", "(x)", "a#b"])
def test_text_that_hydra_cannot_read_is_taken_as_typed(value: str, elsewhere: Path) -> None:
    (elsewhere / "list.csv").write_text("path\na.wav\n")
    typed = f"dataset=manifest dataset.path=list.csv dataset.columns.text={value} stages=manifest"
    config = load(typed.split(" "))
    assert config.dataset_options["columns"]["text"] == value


@pytest.mark.parametrize(("typed", "said"), REFUSED, ids=[typed[:60] for typed, _ in REFUSED])
def test_a_wrong_configuration_is_refused_in_one_line_with_key_value_and_what_is_allowed(
    typed: str, said: list[str], elsewhere: Path
) -> None:
    message = refusal(*typed.split(" "))
    assert "\n" not in message
    for part in said:
        assert part in message
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("stages=[null]", ["stages=[null]", "manifest, vad, infer, decode, align, score, report"]),
        ("device=[cpu]", ["device=[cpu]", "cuda:<number>"]),
        ("emissions.dtype=[float16]", ["emissions.dtype=[float16]", "float16, float32"]),
        ("dataset=folder dataset.root=null", ["dataset.root=null", "cannot be null"]),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_with_what_is_allowed(typed: str, said: list[str]) -> None:
    message = refusal(*typed.split(" "))
    for part in said:
        assert part in message


@pytest.mark.parametrize(
    "typed",
    [
        "run_dir=${oc.env:NO_SUCH_VARIABLE}",
        "features.layers=${nope}",
        "features.layers=[${nope}]",
        "dataset.root=/data/${nope}",
    ],
)
def test_a_reference_to_nothing_is_refused_with_the_key_it_stands_in(typed: str) -> None:
    key, _, value = typed.partition("=")
    message = refusal(typed)
    assert key in message
    assert value in message


@pytest.mark.parametrize(
    "overrides",
    [
        ["dataset=folder", "dataset.root=/no\nsuch"],
        ["features.layers='a\nb'"],
        ["model='a\nb'"],
        ["device=a\nb"],
        ["ru\nn=1"],
    ],
)
def test_a_line_break_in_a_value_does_not_break_the_message(overrides: list[str]) -> None:
    assert "\n" not in refusal(*overrides)


@pytest.mark.parametrize("overrides", [["run_dir=~no-such-user/x"], ["dataset=folder", "dataset.root=~no-such-user"]])
def test_the_home_of_an_unknown_user_is_refused_or_taken_as_a_name(overrides: list[str]) -> None:
    with suppress(UserError):
        assert load(overrides).run_dir == Path("~no-such-user/x")


def test_a_run_dir_that_no_file_system_can_hold_is_refused() -> None:
    message = refusal(f"run_dir=/tmp/{'a' * 300}")
    assert message.startswith("run_dir=/tmp/aaa")
    assert "\n" not in message


def test_an_added_key_that_does_not_exist_is_not_recommended() -> None:
    assert "write foo=1" not in refusal("+foo=1")


# --- good configurations


@pytest.mark.parametrize(
    ("overrides", "run_dir"),
    [
        ([], f"runs/voices-sample/{BASE}"),
        (["dataset=voices"], f"runs/voices-sample/{BASE}"),
        (["dataset=digits"], "runs/digits/digits"),
        (["dataset=digits", f"model={BASE}"], f"runs/digits/{BASE}"),
        ([f"model={BASE}", "dataset=digits"], f"runs/digits/{BASE}"),
        (["model=digits"], "runs/voices-sample/digits"),
        (["model=hubert_base"], "runs/voices-sample/hubert_base"),
        (["dataset=digits", "model=hubert_base"], "runs/digits/hubert_base"),
        (["dataset=folder", "dataset.root=calls"], f"runs/folder-calls/{BASE}"),
        (["dataset=folder", "dataset.root=calls/"], f"runs/folder-calls/{BASE}"),
        (["dataset=folder", "dataset.root=calls/../calls/."], f"runs/folder-calls/{BASE}"),
        (["dataset=voices", "dataset.root=calls"], f"runs/voices/{BASE}"),
        (["run_dir=null"], f"runs/voices-sample/{BASE}"),
        (["run_dir=/data/out"], "/data/out"),
        (["run_dir=a", "run_dir=b"], "b"),
    ],
)
def test_where_the_tables_go_unless_told_otherwise(overrides: list[str], run_dir: str, elsewhere: Path) -> None:
    (elsewhere / "calls").mkdir()
    assert load(overrides).run_dir == Path(run_dir)


def test_voices_root_in_the_environment_is_the_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOICES_ROOT", str(tmp_path))
    assert load([]).run_dir == Path(f"runs/voices/{BASE}")
    monkeypatch.setenv("VOICES_ROOT", str(tmp_path / "gone"))
    assert f"dataset.root={tmp_path / 'gone'}" in refusal()


def test_the_defaults_are_those_that_are_promised() -> None:
    chosen = load([])
    assert chosen.settings.device == "auto"
    assert chosen.settings.precision == "auto"
    assert chosen.settings.outputs == ["transcripts", "emissions", "features"]
    assert chosen.settings.stages == ["manifest", "infer", "score", "report"]
    assert chosen.settings.features.dtype == "float16"
    assert chosen.settings.emissions.dtype == "float32"
    assert chosen.settings.max_failures is None
    assert chosen.settings.retry_failed is False
    assert chosen.model is MODELS[BASE]
    assert (chosen.settings.decoder.name, chosen.settings.executor.name) == ("greedy", "local")
    assert chosen.layers == (12,)


def test_the_configuration_file_has_a_default_for_every_key() -> None:
    settings = load(["dataset=digits"]).settings
    typed = OmegaConf.to_container(OmegaConf.structured(settings))
    composed = OmegaConf.to_container(OmegaConf.load(groups.conf_dir() / "config.yaml"))
    assert isinstance(typed, dict)
    assert isinstance(composed, dict)
    del composed["defaults"]
    assert composed == {key: typed[key] for key in composed}
    assert set(typed) - set(composed) == {"dataset", "model", "decoder", "executor", "vad"}


def test_what_has_a_command_of_its_own_has_the_same_defaults_there() -> None:
    settings = load(["dataset=digits"]).settings
    assert (settings.score, settings.report) == (ScoreSettings(), ReportSettings())


def test_the_folder_choice_lists_the_extensions_of_its_connector() -> None:
    assert OmegaConf.load(groups.conf_dir() / "dataset" / "folder.yaml").extensions == list(EXTENSIONS)


@pytest.mark.parametrize("order", [1, -1])
def test_a_model_without_labels_gives_features_by_default(order: int) -> None:
    chosen = load(["model=hubert_base", "dataset=digits"][::order])
    assert chosen.settings.outputs == ["features"]
    assert chosen.layers == (12,)
    assert load(["model=hubert_base", "outputs=[features]"]).settings.outputs == ["features"]


@pytest.mark.parametrize(
    ("overrides", "layers"),
    [
        (["features.layers=last"], (12,)),
        (["features.layers=all"], tuple(range(1, 13))),
        (["features.layers=[6,9,12]"], (6, 9, 12)),
        (["features.layers=[12,1]"], (1, 12)),
        (["features.layers=3"], (3,)),
        (["model=digits", "features.layers=last"], (4,)),
        (["model=digits", "features.layers=all"], (1, 2, 3, 4)),
        (["outputs=[transcripts]", "features.layers=all"], ()),
    ],
)
def test_layers_are_last_all_or_a_list(overrides: list[str], layers: tuple[int, ...]) -> None:
    assert load(overrides).layers == layers


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:11"])
def test_a_device_is_taken_by_its_name(device: str) -> None:
    assert load([f"device={device}"]).settings.device == device


def test_only_settings_that_change_results_identify_a_run() -> None:
    def identity(*overrides: str) -> Identity:
        return describe(load(overrides), "digest", "fp32", "sha256")

    default = identity()
    same = ["device=cpu", "batch.max_seconds=9", "loader.workers=0", "max_failures=3", "shard.hours=2", "run_dir=x"]
    assert identity(*same, "outputs=[features,emissions,transcripts]") == default
    for override in ("features.layers=all", "features.dtype=float32", "emissions.dtype=float16", "outputs=[features]"):
        assert identity(override) != default
    for table in ("features", "emissions"):
        assert identity(f"{table}.layout=binary") != identity(f"{table}.layout=list") == default
        without = "outputs=[transcripts]"
        assert identity(without, f"{table}.layout=binary") == identity(without)


PATHS = [
    "/data/my calls",
    "/data/a,b",
    "/data/a=b=c",
    "/data/it's",
    '/data/"quoted"',
    "/data/mixed'\"'",
    "/data/back~up~",
    "C:\\calls\\new",
    "ends with\\",
    "quote\\'",
    "two\\\\",
    "/data/{a}[b](c)",
    "/data/a:b#c;d|e",
    "/data/100 %",
    "/data/a$b",
    "/data/ümläut/語",
    " leading and trailing ",
    "123",
    "true",
    "1,2",
    "[a,b]",
    "+x",
    "/data/a??b/???",
]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_is_taken_as_typed(path: str, elsewhere: Path) -> None:
    root = elsewhere / path.lstrip("/")
    root.mkdir(parents=True)
    chosen = load(["dataset=folder", f"dataset.root={root}", f"run_dir={path}.out"])
    assert chosen.run_dir == Path(f"{path}.out")
    assert chosen.dataset_options["root"] == str(root)
    assert chosen.dataset.run_name == f"folder-{root.name}"


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\0$"), min_size=1, max_size=40).filter(
        lambda text: text[0] not in "'\"~" and text not in ("null", "???")
    )
)
@example("\\'")
@example("a\\")
@example("a\\\n")
def test_any_text_is_a_path_as_typed(text: str) -> None:
    assert load([f"run_dir=x{text}"]).run_dir == Path(f"x{text}")


def test_a_path_may_also_be_quoted_for_hydra() -> None:
    assert load(["run_dir='/data/my calls'"]).run_dir == Path("/data/my calls")
    assert load(['run_dir="/data/a,b"']).run_dir == Path("/data/a,b")


def test_the_home_folder_is_expanded_at_the_beginning_of_a_path_only(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(elsewhere))
    assert load(["run_dir=~/out, put"]).run_dir == elsewhere / "out, put"
    assert load(["run_dir=a/~/b"]).run_dir == Path("a/~/b")
    (elsewhere / "calls").mkdir()
    assert load(["dataset=folder", "dataset.root=~/calls"]).dataset.run_name == "folder-calls"


def test_a_path_that_is_not_utf8_is_taken_and_can_be_recorded(elsewhere: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    (elsewhere / name).mkdir()
    chosen = load(["dataset=folder", f"dataset.root={name}"])
    assert chosen.run_dir == Path(f"runs/folder-caf%E9/{BASE}")
    chosen.yaml.encode()


def test_loading_twice_gives_the_same_and_leaves_nothing_behind(elsewhere: Path) -> None:
    first, second = load(["dataset=digits"]), load(["dataset=digits"])
    assert (first.settings, first.yaml, first.run_dir) == (second.settings, second.yaml, second.run_dir)
    assert list(elsewhere.iterdir()) == []


# --- secrets


@pytest.mark.parametrize(
    ("value", "masked"),
    [
        ({"hub_token": "abc", "root": "/data"}, {"hub_token": "***", "root": "/data"}),
        (
            {"aws": {"Secret_Key": "abc", "password": ["x", "y"]}},
            {"aws": {"Secret_Key": "***", "password": ["***"] * 2}},
        ),
        ({"root": "s3://user:pw@host/x"}, {"root": "s3://***@host/x"}),
        ({"root": "https://h/x?token=abc&a=1"}, {"root": "https://h/x?token=***&a=1"}),
        ({"root": "https://h/x?X-Amz-Signature=abc"}, {"root": "https://h/x?X-Amz-Signature=***"}),
        ({"root": "/data/a=b", "n": 3, "none": None}, {"root": "/data/a=b", "n": 3, "none": None}),
    ],
)
def test_what_looks_like_a_secret_is_masked(value: Any, masked: Any) -> None:
    assert mask_secrets(value) == masked


def test_the_recorded_configuration_holds_no_secret(elsewhere: Path) -> None:
    for secret in ("hunter2", "s3cr3t"):
        (elsewhere / f"calls?token={secret}").mkdir()
    chosen = load(["dataset=folder", "dataset.root=calls?token=hunter2", "run_dir=out?token=s3cr3t"])
    assert "hunter2" not in chosen.yaml
    assert "s3cr3t" not in chosen.yaml
    assert "calls?token=***" in chosen.yaml
    assert chosen.dataset_options["root"] == "calls?token=hunter2"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("ftp://host/out", "ftp://host/out: ftp:// is not known"),
        ("s3://", "s3://: names no bucket"),
        ("s3://me:s3cr3t@bucket/out", "s3://***@bucket/out: names a user"),
    ],
)
def test_a_place_that_cannot_be_used_is_refused(given: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        load(["dataset=digits", f"run_dir={given}"])
    assert said in str(refused.value)
    assert "s3cr3t" not in str(refused.value)


def test_a_run_lies_in_a_folder_or_in_a_store_that_is_made_for_it() -> None:
    assert str(load(["dataset=digits", "run_dir=s3://bucket/runs/digits/"]).run_dir) == "s3://bucket/runs/digits"
    for run_dir, said in (
        ("hf://datasets/me/run", "a run cannot be written"),
        ("ftp://host/out", "ftp:// is not known"),
    ):
        with pytest.raises(UserError, match=said):
            load(["dataset=digits", f"run_dir={run_dir}"])


def test_the_recorded_configuration_is_resolved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VOICES_ROOT", str(tmp_path))
    recorded = OmegaConf.create(load(["features.layers=[1,2]"]).yaml)
    assert recorded.dataset.root == str(tmp_path)
    assert recorded.model.name == BASE
    assert recorded.features.layers == [1, 2]
    assert not OmegaConf.missing_keys(recorded)


# --- the command


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)


def test_a_misspelt_key_ends_the_command_with_code_2_and_one_line(elsewhere: Path) -> None:
    ended = python("-m", "pipeline.run", "batch.max_secondz=1", cwd=elsewhere)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("error: batch.max_secondz=1: no such key")
    assert list(elsewhere.iterdir()) == []


def test_a_misspelt_key_is_refused_without_loading_torch(elsewhere: Path) -> None:
    script = (
        "import atexit, runpy, sys\n"
        "sys.argv = ['run', 'batch.max_secondz=1']\n"
        "atexit.register(lambda: print(sorted({'torch', 'torchaudio'} & set(sys.modules))))\n"
        "runpy.run_module('pipeline.run', run_name='__main__')\n"
    )
    ended = python("-c", script, cwd=elsewhere)
    assert (ended.returncode, ended.stdout) == (2, "[]\n")
    assert list(elsewhere.iterdir()) == []


def test_a_checked_configuration_cannot_be_changed() -> None:
    chosen = load([])
    assert isinstance(chosen, RunConfig)
    with pytest.raises(AttributeError):
        chosen.run_dir = Path("elsewhere")  # type: ignore[misc]
