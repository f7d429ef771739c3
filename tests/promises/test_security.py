"""No configuration, list, recording or weights file executes code, chooses where is written, or reaches the network;
and what is secret is neither said nor recorded. SECURITY.md says it in plain words.
"""

from __future__ import annotations

import ast
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import uuid
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from published_weights import random_state_dict
from running import DATA, ROOT, assert_accounting, environment, execute, ids, listed, main, refused, run_prepared

from pipeline.inference.staged_arrays import StagedArrays
from pipeline.models.catalog import MODELS
from pipeline.models.sources import load_model, named
from pipeline.runtime.digests import sha256_file
from pipeline.storage.run_directory import RunDirectory

WAV = DATA / "fsdd" / "7_theo_1.wav"
CANARY = "c4n4ry"
"""Part of every secret that a test plants."""

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is made if anything executes what it should not."""
    path = tmp_path / "canary-file"
    monkeypatch.setenv("CANARY_FILE", str(path))
    return path


# --- weights are data


def unsafe_calls(source: str) -> list[str]:
    """Calls that unpickle more than data or run text, and what would hide them from this search."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module in ("torch", "torch.hub", "pickle", "yaml", "numpy", "os"):
            found += [name.name for name in node.names if name.name in ("load", "loads", "system", "popen")]
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        words = {keyword.arg: keyword.value for keyword in node.keywords}

        def says(name: str, value: bool, words: dict[str | None, ast.expr] = words) -> bool:
            given = words.get(name)
            return isinstance(given, ast.Constant) and given.value is value

        if called == "torch.load" or called.endswith("load_state_dict_from_url"):
            unsafe = not says("weights_only", True)
        elif called.endswith(".get_model"):
            given = words.get("dl_kwargs")
            safe = [
                isinstance(key, ast.Constant) and key.value == "weights_only" and ast.unparse(value) == "True"
                for key, value in (zip(given.keys, given.values, strict=True) if isinstance(given, ast.Dict) else [])
            ]
            unsafe = not any(safe)
        elif called == "yaml.load":
            loader = words.get("Loader")
            unsafe = loader is None or ast.unparse(loader) not in ("yaml.BaseLoader", "yaml.SafeLoader")
        else:
            unsafe = (
                called in ("eval", "exec", "compile", "__import__", "os.system", "os.popen", "instantiate")
                or called.startswith(("pickle.", "cPickle.", "dill.", "joblib.", "shelve.", "marshal."))
                or called.endswith(
                    ("jit.load", "hub.load", "read_pickle", ".unsafe_load", ".full_load", ".instantiate")
                )
                or says("allow_pickle", True)
                or says("shell", True)
                or says("trust_remote_code", True)
            )
        if unsafe:
            found.append(called)
    return found


ALLOWED = {
    "pipeline/executors/processes/link.py": ["pickle.dumps"],
    "pipeline/executors/processes/messages.py": ["pickle.dumps", "pickle.loads", "pickle.loads", "pickle.dumps"],
    "pipeline/inference/batches.py": ["pickle.loads", "pickle.dumps"],
    "pipeline/vad/engine/network.py": ["torch.jit.load"],
    "scripts/docs/executing.py": ["exec", "compile", "exec", "compile"],
}
"""Pickles between processes that the run has started, in memory or pipes that nobody else has: no more than
`multiprocessing` does itself. The weights in the installed package `silero-vad`, which is code that runs anyway. And
the Python blocks of the guide, which `make outputs` and the tests run."""
SOURCES = [path for folder in ("pipeline", "scripts") for path in sorted((ROOT / folder).rglob("*.py"))]


def test_no_source_loads_more_than_data_or_runs_text() -> None:
    assert len(SOURCES) > 60
    found = {str(path.relative_to(ROOT)): calls for path in SOURCES if (calls := unsafe_calls(path.read_text()))}
    assert found == ALLOWED


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "torch.hub.load_state_dict_from_url(url)",
        "bundle.get_model()",
        "bundle.get_model(dl_kwargs={'weights_only': False})",
        "pickle.loads(data)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, yaml.Loader)",
        "yaml.load(text, Loader=yaml.FullLoader)",
        "torch.jit.load(path)",
        "hydra.utils.instantiate(config)",
        "eval(text)",
        "subprocess.run(text, shell=True)",
        "from torch import load",
    ],
)
def test_the_search_for_such_calls_finds_them(source: str) -> None:
    assert len(unsafe_calls(source)) == 1


class Payload:
    """Pickled, it is a file where somebody loads it."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path(os.environ["CANARY_FILE"]),))


def _plain_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"aux.weight": Payload()}, protocol=2))


def _legacy_zip(path: Path) -> None:
    _plain_pickle(path.with_suffix(".inner"))
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(path.with_suffix(".inner"), "model.pth")


def _after_a_safetensors_header(path: Path) -> None:
    header = b'{"aux.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    data = pickle.dumps(Payload(), protocol=2)
    path.write_bytes((len(header) + 10**6).to_bytes(8, "little") + header + data)


PICKLES: dict[str, Callable[[Path], None]] = {
    "torch's zip": lambda path: torch.save({"aux.weight": Payload()}, path),
    "before the zip": lambda path: torch.save({"a": Payload()}, path, _use_new_zipfile_serialization=False),
    "a pickle": _plain_pickle,
    "a zip of a pickle": _legacy_zip,
    "safetensors with a wrong header": _after_a_safetensors_header,
}


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("save", PICKLES.values(), ids=PICKLES)
@pytest.mark.parametrize("where", ["x.pt", "x.safetensors", "cache"])
def test_a_pickle_that_would_run_code_is_refused_as_checkpoint_and_in_the_cache(
    save: Callable[[Path], None], where: str, hub: Path, canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if where == "cache":
        path, chosen = hub / named("hubert_base").weights_path.name, ["model=hubert_base"]
    else:
        path = Path(where).absolute()
        chosen = ["model=checkpoint", f"model.checkpoint={where}", "model.architecture=digits"]
    save(path)
    said = refused(["dataset=digits", *chosen], capsys)
    assert path.name in said
    assert "weights_only" not in said  # torch's own message recommends to load without the check
    assert not canary.exists()
    assert not Path("runs").exists()


def test_the_pickles_of_these_tests_do_run_code_where_nothing_prevents_it(canary: Path) -> None:
    PICKLES["a pickle"](Path("x.pt"))
    pickle.loads(Path("x.pt").read_bytes())
    assert canary.exists()


# --- the SHA-256 of weights


@pytest.fixture
def unbuilt(monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights are read as weights, and no model is built."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("read, or built, before the sum was compared")

    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(torch.nn.Module, "__init__", refuse)
    monkeypatch.setattr("safetensors.torch.load_file", refuse)
    monkeypatch.setattr("pipeline.models.checkpoint.load_file", refuse)


@pytest.mark.usefixtures("unbuilt")
@pytest.mark.parametrize("kind", ["a bundle's cached file", "a checkpoint", "the shipped model"])
def test_other_weights_than_configured_are_refused_before_a_model_is_built(
    kind: str, hub: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if kind == "a bundle's cached file":
        path, chosen = hub / named("hubert_base").weights_path.name, ["model=hubert_base"]
        path.write_bytes(b"other weights")
    elif kind == "a checkpoint":
        path = Path("w.safetensors").absolute()
        shutil.copy(named("digits").weights_path, path)
        chosen = ["model=checkpoint", f"model.checkpoint={path}", "model.architecture=digits"]
    else:
        path, chosen = named("digits").weights_path, ["model=digits"]
    wanted = "0" * 64
    said = refused(["dataset=digits", *chosen, f"model.sha256={wanted}"], capsys)
    assert f"model.sha256={wanted}: {path} has {sha256_file(path)}; these are other weights" in said
    assert f"or give model.sha256={sha256_file(path)} if these are meant" in said
    assert not Path("runs").exists()


@pytest.mark.usefixtures("unbuilt")
def test_downloaded_weights_are_compared_before_they_are_read(
    hub: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda url, path: Path(path).write_bytes(url.encode()))
    assert main(["dataset=digits", "model=hubert_base", f"model.sha256={'0' * 64}"]) == 2
    assert "these are other weights" in capsys.readouterr().err
    assert (hub / named("hubert_base").weights_path.name).read_text() == named("hubert_base").url


def test_the_sum_of_the_weights_is_recorded_and_the_configured_one_is_taken() -> None:
    path = named("digits").weights_path
    assert main([*listed([{"audio_filepath": str(WAV)}]), f"model.sha256={sha256_file(path)}"]) == 0
    recorded = json.loads(Path("out/run.json").read_text())
    assert recorded["identity"]["weights_sha256"] == recorded["weights"]["sha256"] == sha256_file(path)


def test_a_finished_run_is_refused_for_other_weights_than_configured(capsys: pytest.CaptureFixture[str]) -> None:
    given = listed([{"audio_filepath": str(WAV)}])
    assert main(given) == 0
    assert "these are other weights" in refused([*given, f"model.sha256={'0' * 64}"], capsys)


# --- no override, and no file of one's own, reaches code

OVERRIDES = [
    "_target_=os.system",
    "+_target_=os.system",
    "dataset._target_=os.system",
    "++dataset._target_=os.system",
    "model={_target_:os.system}",
    "dataset.columns={_target_:os.system,command:touch}",
    "hydra.run.dir=/tmp",
    "+hydra.run.dir=/tmp",
    "hydra/launcher=basic",
    "+hydra/launcher=basic",
    "hydra.searchpath=[pkg://antigravity]",
    "+hydra.searchpath=[pkg://antigravity]",
    "++hydra.searchpath=[file:///tmp]",
    "hydra.callbacks={x:{_target_:os.system}}",
    "+hydra.callbacks.x._target_=os.system",
    "hydra.job_logging.handlers={x:{class:os.system}}",
    "+hydra/job_logging=colorlog",
    "--config-path=pkg://antigravity",
    "--config-dir=pkg://antigravity",
    "-cp=/tmp",
    "--multirun=hydra/launcher=basic",
    "device=${hydra:runtime.cwd}",
    "device=${hydra:job.name}",
    "device=${eval:1}",
    "device=${oc.decode:'${oc.env:PATH}'}",
    "device=${oc.create:{_target_:os.system}}",
    "device=${device}",
    "device=${now:%Y}",
    "device=${python_version:major}",
    "run_dir=${run_dir}",
    "features.layers=!!python/object/apply:os.system",
    f"features.layers={'[' * 3000}1{']' * 3000}",
    "dataset.connector=os",
    "dataset.connector=../../x",
    "model.architecture=os.system",
    "model.name=__class__",
]


@pytest.mark.parametrize("typed", OVERRIDES, ids=[typed[:50] for typed in OVERRIDES])
def test_no_override_reaches_code(
    typed: str, elsewhere: Path, canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(["dataset=digits", typed], capsys)
    assert not canary.exists()
    assert "antigravity" not in sys.modules
    assert list(elsewhere.iterdir()) == []


def bomb(levels: int = 10, each: int = 9) -> str:
    """YAML of a few lines that stands for nine to the tenth values."""
    lines = [f"a0: &a0 [{', '.join(['x'] * each)}]"]
    return "\n".join([*lines, *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * each)}]" for n in range(1, levels))])


MINE = "connector: folder\nroot: .\n"
GLOBAL = "# @package _global_\ndataset: {connector: folder, root: .}\n"
FILES = {
    "python": "connector: folder\nroot: !!python/object/apply:pathlib.Path.touch [CANARY]\n",
    "a class": "connector: folder\nroot: !!python/object/new:pathlib.Path {args: [CANARY]}\n",
    "a tuple": "connector: folder\nroot: !!python/tuple [a, b]\n",
    "a name": "connector: folder\nroot: !!python/name:os.system\n",
    "a module": "connector: folder\nroot: !!python/module:antigravity\n",
    "a target": f"{MINE}_target_: pathlib.Path.touch\n",
    "a package of Hydra's": "# @package hydra\ncallbacks: {x: {_target_: os.system}}\n",
    "a package below Hydra's": "# @package hydra.callbacks\nx: {_target_: os.system}\n",
    "callbacks": f"{GLOBAL}hydra: {{callbacks: {{x: {{_target_: os.system}}}}}}\n",
    "a search path": f"{GLOBAL}hydra: {{searchpath: ['pkg://antigravity']}}\n",
    "a launcher": f"defaults: [override /hydra/launcher: basic]\n{MINE}",
    "a config of Hydra's": f"defaults: [/hydra/launcher/basic]\n{MINE}",
    "a package of Hydra's in defaults": f"defaults: [folder@hydra.callbacks]\n{MINE}",
    "a choice below Hydra's": f"{GLOBAL}defaults: [/model@hydra.callbacks: digits]\n",
    "a billion laughs": f"{MINE}{bomb()}\n",
    "laughs below a key": f"{MINE}x:\n  {bomb()}\n".replace("\na", "\n  a"),
    "itself": f"{MINE}x: &x [*x]\n",
    "depth": f"{MINE}x: {'[' * 1500}{']' * 1500}\n",  # Python's limit is 1000
    "size": f"{MINE}# {'x' * 2**20}\n",
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_no_file_of_ones_own_reaches_code_or_fills_the_memory(
    content: str, elsewhere: Path, canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = elsewhere.parent / "own" / "dataset"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text(content.replace("CANARY", str(canary)))
    said = refused([f"--config-dir={own.parent}", "dataset=mine"], capsys)
    assert f"{own / 'mine.yaml'}" in said
    assert not canary.exists()
    assert "antigravity" not in sys.modules
    assert list(elsewhere.iterdir()) == []


def test_anchors_in_a_file_of_ones_own_are_taken(elsewhere: Path) -> None:
    own = elsewhere.parent / "own" / "dataset"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("# @package _global_\nfeatures: {dtype: &d float32}\nemissions: {dtype: *d}\n"
                                   "dataset: {connector: digits}\n")  # fmt: skip
    assert main([f"--config-dir={own.parent}", "dataset=mine", "model=digits", "--cfg=job"]) == 0


# --- one run of a list with ids like paths, watched: what it opens to write, and whom it calls

WATCH = """\
import os, sys

_log = os.open(os.environ["WATCH_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def _note(kind, what):
    what = os.path.abspath(os.fsdecode(what)) if kind == "write" else repr(what)
    os.write(_log, f"{kind} {what}\\n".encode("utf-8", "replace"))


def _hook(event, arguments):
    if event == "open" and not isinstance(arguments[0], int) and arguments[2] and arguments[2] & _WRITES:
        _note("write", arguments[0])
    elif event == "os.mkdir":
        _note("write", arguments[0])
    elif event in ("os.symlink", "os.link", "os.rename"):
        _note("write", arguments[1])
    elif event == "socket.connect" and not isinstance(arguments[1], (str, bytes)):
        _note("network", arguments[1])
        raise OSError("no network in this test")
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        _note("network", arguments)
        raise OSError("no network in this test")
    elif event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "webbrowser.open"):
        _note("program", arguments[:2])


sys.addaudithook(_hook)
"""


def watched(
    *arguments: str, cwd: Path, folder: Path, **variables: str
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run the pipeline with every file it opens for writing, and every connection, noted; connections fail."""
    hook = folder / "hook"
    hook.mkdir(exist_ok=True)
    (hook / "sitecustomize.py").write_text(WATCH)
    log = folder / "watched.log"
    log.unlink(missing_ok=True)
    done = execute(
        *arguments,
        cwd=cwd,
        PYTHONPATH=f"{hook}{os.pathsep}{ROOT}",
        PYTHONDONTWRITEBYTECODE="1",
        WATCH_LOG=str(log),
        **variables,
    )
    return done, log.read_text().splitlines()


def watched_warm(
    *arguments: str, cwd: Path, folder: Path, **variables: str
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """The same in a warm process: what the libraries do while they are imported is in `watched` alone."""
    log = folder / "watched.log"
    log.unlink(missing_ok=True)
    done = run_prepared(WATCH, *arguments, cwd=cwd, WATCH_LOG=str(log), **variables)
    return done, log.read_text().splitlines()


def tree(*roots: Path, without: Path) -> dict[str, tuple[int, int]]:
    """Every file below some folders, its size and time, but for those below one."""
    return {
        str(path): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for root in roots
        for path in root.rglob("*")
        if without not in (path, *path.parents) and not path.is_dir()
    }


ODD_IDS = [
    "../../x",
    "/etc/passwd",
    "..",
    ".",
    "a/../../../b",
    "nul\0in it",
    "two\nlines",
    "x" * 5000,
    "~root/x",
    "shard-00000",
    "con.parquet",
    "<script>alert(1)</script>",
    "$(touch canary-file)",
    "%2e%2e%2f",
    "C:\\windows",
    " ",
]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], bool]:
    """A run whose list has odd ids: its folder, what was noted, and whether the rest of the tree is as before."""
    folder = tmp_path_factory.mktemp("odd")
    for name in ("cwd", "home", "tmp"):
        (folder / name).mkdir()
    cwd = folder / "cwd"
    rows = [{"audio_filepath": str(WAV), "id": id_} for id_ in ODD_IDS]
    (cwd / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"), "CANARY_FILE": str(folder / "canary")}
    arguments = ("dataset=manifest", "dataset.path=list.jsonl", "model=digits", "run_dir=out", "loader.workers=2")
    stages = "stages=[manifest,infer,score,report]"
    places = (folder / "cwd", folder / "home", folder / "tmp")
    before = tree(*places, without=cwd / "out")
    done, noted = watched_warm(*arguments, stages, cwd=cwd, folder=folder, **own)
    assert done.returncode == 0, done.stderr
    return cwd / "out", noted, tree(*places, without=cwd / "out") == before


def test_ids_are_values_in_tables_and_nothing_else(odd: tuple[Path, list[str], bool]) -> None:
    run_dir, _, untouched = odd
    assert untouched
    assert_accounting(run_dir)
    for table in ("transcripts", "emissions", "features"):
        assert set(ids(run_dir, table)) == set(ODD_IDS)
    names = {path.relative_to(run_dir).as_posix() for path in run_dir.rglob("*") if path.is_file()}
    assert names == {
        ".staging/lock", "commits/shard-00000.json", "config.yaml", "emissions/shard-00000.parquet",
        "failures/shard-00000.parquet", "features/shard-00000.parquet", "logs/metrics.jsonl", "logs/run.log",
        "manifest.parquet", "report/index.html", "run.json", "transcripts/shard-00000.parquet",
    }  # fmt: skip


def test_a_run_writes_in_its_directory_alone(odd: tuple[Path, list[str], bool]) -> None:
    run_dir, noted, _ = odd
    written = [Path(line.removeprefix("write ")) for line in noted if line.startswith("write ")]
    outside = {path for path in written if run_dir not in (path, *path.parents)}
    # matplotlib asks for its folder to be made, where it is already.
    assert outside <= {Path(os.devnull), run_dir.parents[1] / "fonts"}
    assert run_dir / "run.json" in written  # so the watching works


def test_a_run_calls_nobody_and_starts_no_program(odd: tuple[Path, list[str], bool]) -> None:
    assert [line for line in odd[1] if not line.startswith("write ")] == []


@pytest.mark.parametrize(
    "script", ["import socket; socket.create_connection(('192.0.2.1', 80), 1)", "import os; os.system('true')"]
)
def test_the_watching_finds_calls(script: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WATCH)
    env = environment(PYTHONPATH=str(tmp_path), WATCH_LOG=str(tmp_path / "log"))
    subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, check=False)
    assert any(line.startswith(("network", "program")) for line in (tmp_path / "log").read_text().splitlines())


def test_the_demo_and_the_same_command_again_need_no_network(tmp_path: Path, elsewhere: Path) -> None:
    fonts, temporary = tmp_path / "fonts", tmp_path / "temporary"
    temporary.mkdir()
    # The first report on a machine: matplotlib lists its fonts, and that is all.
    first = partial(watched, MPLCONFIGDIR=str(fonts))
    for watch, said in ((first, "60 of 60 utterances"), (watched_warm, "complete already")):
        given = (
            "dataset=digits",
            "outputs=[transcripts]",
            "report.utterances=1",
            "stages=[manifest,infer,score,report]",
        )
        done, noted = watch(*given, cwd=elsewhere, folder=tmp_path, TMPDIR=str(temporary))
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
        assert [line for line in noted if line.startswith("network")] == []
        assert {"'fc-list'" in line for line in noted if line.startswith("program")} <= {True}
        written = [Path(line.removeprefix("write ")) for line in noted if line.startswith("write ")]
        # torch imports dill where it is installed, and dill tries out the folder for temporary files.
        allowed = {elsewhere, fonts, temporary}
        assert {path for path in written if not allowed & {path, *path.parents}} <= {Path(os.devnull)}
        assert list(temporary.iterdir()) == []


@pytest.mark.usefixtures("undrawn")
def test_cached_weights_need_no_network_and_missing_ones_are_named_with_the_way_out(
    hub: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called = []

    def refuse(*arguments: object, **_: object) -> None:
        called.append(arguments)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    facts = MODELS["hubert_base"]
    path = hub / named(facts.name).weights_path.name
    assert main(["dataset=digits", "model=hubert_base"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""  # no recording has been looked for
    lines = printed.err.strip().splitlines()
    assert lines[0] == f"downloading {named(facts.name).url} to {path}"
    assert lines[1:] == [
        f"error: model=hubert_base: the weights could not be downloaded from {named(facts.name).url} "
        "([Errno -3] Temporary failure in name resolution); fetch that file elsewhere and put it at "
        f"{path}, or see everything work now with dataset=digits, whose model comes with the package"
    ]
    assert called
    assert list(hub.iterdir()) == []
    called.clear()
    torch.save(random_state_dict(facts, seed=3), path)
    load_model(named(facts.name))
    assert called == []


# --- names that nobody can foresee


def test_names_in_staging_cannot_be_foreseen_and_are_never_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = RunDirectory(tmp_path / "out")
    folder = directory.new_staging(3)
    assert str(os.getpid()) not in folder.name.split("-")
    assert len(folder.name.rpartition("-")[2]) == 32
    assert folder.stat().st_mode & 0o077 == 0
    known = uuid.UUID(int=7)
    monkeypatch.setattr(uuid, "uuid4", lambda: known)  # suppose that somebody did
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "folder").mkdir()
    ((directory.root / ".staging") / f"file-{known.hex}").symlink_to(victim)
    ((directory.root / ".staging") / f"shard-00003-{known.hex}").symlink_to(tmp_path / "folder")
    with pytest.raises(FileExistsError):
        directory.write("config.yaml", b"theirs")
    with pytest.raises(FileExistsError):
        directory.new_staging(3)
    (tmp_path / "folder" / "x.spool").symlink_to(victim)
    with pytest.raises(FileExistsError):
        StagedArrays(tmp_path / "folder" / "x.spool", "float32", 1)  # type: ignore[arg-type]
    assert victim.read_text() == "mine"
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["x.spool"]


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    directory = RunDirectory(tmp_path / "out")
    (directory.root / ".staging").mkdir(parents=True)
    ((directory.root / ".staging") / "lock").symlink_to(victim)
    assert "cannot be written" in refused(["dataset=digits", f"run_dir={directory.root}"], capsys)
    assert victim.read_text() == "mine"


def test_no_source_names_a_shared_folder_or_makes_a_name_of_process_or_time() -> None:
    # The files of a run in a store are staged in a folder that is refused if it is another user's; see `prepare` there.
    checked = ROOT / "pipeline" / "storage" / "object_files.py"
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not node.value.startswith(("/tmp", "/var/tmp", "/dev/shm/")), path
            if isinstance(node, ast.Call):
                named = ast.unparse(node.func)
                assert named not in ("tempfile.mktemp", "os.tempnam"), path
                assert named != "tempfile.gettempdir" or path == checked, path
