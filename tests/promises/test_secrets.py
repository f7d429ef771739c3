"""What is secret is neither said nor recorded: in no log, message, dump or report."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from running import DATA, environment, listed, refused, run, server
from safetensors.torch import save_file
from small_models import digits_model

from pipeline.config import help as usage
from pipeline.models.sources import named
from pipeline.runtime.errors import AudioError, UserError
from pipeline.runtime.redaction import MaskingFormatter, mask, mask_assignment, mask_marked
from pipeline.stages import identity

WAV = DATA / "fsdd" / "7_theo_1.wav"
CANARY = "c4n4ry"
ARCHITECTURE = "model.architecture=digits"
"""Part of every secret that a test plants."""

pytestmark = pytest.mark.usefixtures("elsewhere")


MASKED = {
    "https://user:c4n4ry@host/x?a=1": "https://***@host/x?a=1",
    "s3://c4n4ry@bucket": "s3://***@bucket",
    "https://u:c4n4ry/c4n4ry@host/x": "https://***@host/x",
    "it begins with 'https://u:c4n4ry'": "it begins with 'https://u:***'",
    "/cwd/https:/u:c4n4ry@host/list.csv: no": "/cwd/https:/***@host/list.csv: no",
    "https://h/x?token=c4n4ry&a=1": "https://h/x?token=***&a=1",
    "https://h/x?X-Amz-Credential=c4n4ry%2Fs3&X-Amz-Signature=c4n4ry)": "https://h/x?X-Amz-Credential=***"
    "&X-Amz-Signature=***)",
    "https://h/x?sv=1&sig=c4n4ry%3D&se=2": "https://h/x?sv=1&sig=***&se=2",
    "https://h/x#access_token=c4n4ry": "https://h/x#access_token=***",
    "dataset.token=c4n4ry: no such key": "dataset.token=***: no such key",
    "AccountName=me;AccountKey=c4n4ry==": "AccountName=me;AccountKey=***",
    "password = 'c4n4ry c4n4ry', then": "password = '***', then",
    "{'api_key': 'c4n4ry c4n4ry', 'a': 'b'}": "{'api_key': '***', 'a': 'b'}",
    "dataset={secret:c4n4ry,a:b}": "dataset={secret:***,a:b}",
    "curl -H 'Authorization: Bearer c4n4ry.c4n4ry'": "curl -H 'Authorization: Bearer ***'",
    "Authorization: Basic c4n4ry==": "Authorization: Basic ***",
}
PLAIN = [
    "/data/a=b/key=5.wav",
    "/home/me@corp/calls: no such folder; write key=value, quoted if needed",
    "https://download.pytorch.org/torchaudio/models/hubert.pth",
    "http://host:8080/a@b",
    "12:30:01 INFO run_dir runs/digits, tokens and keys",
    'pandas.read_parquet("runs/voices/wav2vec2_asr_base_960h/transcripts")',
    f"model.sha256={'0' * 64}: w.safetensors has {'1' * 64}",
]


@pytest.mark.parametrize(("text", "masked"), MASKED.items(), ids=MASKED)
def test_a_secret_is_masked_wherever_it_is_said(text: str, masked: str) -> None:
    assert mask(text) == masked
    assert mask(masked) == masked
    assert str(UserError(text)) == masked
    assert AudioError("unreadable", text).message == masked


@pytest.mark.parametrize("text", [*PLAIN, usage.page()])
def test_what_is_no_secret_is_said_as_it_is(text: str) -> None:
    assert mask(text) == text


def test_values_of_environment_variables_that_are_named_like_a_secret_are_masked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "c4n4ry-longer")
    monkeypatch.setenv("MY_API_KEY", "c4n4ry-longer-still")
    monkeypatch.setenv("SHORT_TOKEN", "false")
    monkeypatch.setenv("SSH_KEY", str(tmp_path))  # where it lies, not what it is
    monkeypatch.setenv("CALLS", "c4lls-of-november")
    said = f"c4n4ry-longer-still of c4n4ry-longer, false, {tmp_path}, c4lls-of-november"
    assert mask(said) == f"*** of ***, false, {tmp_path}, c4lls-of-november"


def test_records_that_are_compared_tell_secrets_apart_without_holding_them() -> None:
    one, other = (mask_marked(f"https://u:{CANARY}{n}@h/x") for n in "12")
    assert one != other
    assert one == mask_marked(f"https://u:{CANARY}1@h/x")
    assert CANARY not in one
    assert mask_marked("/data/a=b") == "/data/a=b"


def test_a_secret_is_masked_whole_where_its_key_is_typed() -> None:
    assert mask_assignment("dataset.password=c4n4ry and, 'c4n4ry") == "dataset.password=***"


def test_masking_takes_no_square_of_the_length() -> None:
    for text in ("a." * 50_000, "token" * 20_000, "ab:/" * 20_000, "x=" * 50_000, "key" * 30_000):
        mask(text)  # the time limit of the tests is the assertion


SAID = [
    [f"dataset.root=https://user:{CANARY}@host/x"],
    ["dataset=manifest", f"dataset.path=https://h/list.jsonl?X-Amz-Signature={CANARY}"],
    ["dataset=manifest", f"dataset.path={WAV}", f"dataset.audio_root=s3://u:{CANARY}@b"],
    [f"dataset.token={CANARY} with spaces and {CANARY}"],
    [f"+dataset.password={CANARY}"],
    [f"dataset.password={CANARY},{CANARY}"],
    [f"dataset.secret={CANARY}'{CANARY}"],
    [f"dataset={{token:{CANARY}}}"],
    [f"api_key={CANARY}"],
    [f"--password={CANARY}"],
    [f"--config-dir=/no/such?token={CANARY}"],
    [f"run_dir=/dev/null/x?token={CANARY}"],
    ["model=checkpoint", f"model.checkpoint=s3://key:{CANARY}@bucket/w.pt", ARCHITECTURE],
    ["model=checkpoint", f"model.checkpoint=/no/w.pt?X-Goog-Signature={CANARY}", ARCHITECTURE],
    ["device=${oc.env:HF_TOKEN}"],
    ["features.dtype=${oc.env:HF_TOKEN}"],
    ["outputs=['${oc.env:HF_TOKEN}']"],
    ["dataset=folder", "dataset.root=/no/${oc.env:HF_TOKEN}"],
]


@pytest.mark.parametrize("typed", SAID, ids=[" ".join(typed)[:60] for typed in SAID])
def test_no_refusal_repeats_a_secret(
    typed: list[str], elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", f"hf_{CANARY}{CANARY}")
    said = refused(typed, capsys)
    assert CANARY not in said
    assert "***" in said
    assert list(elsewhere.iterdir()) == []


ROWS: list[dict[str, object]] = [
    {"audio_filepath": f"https://u:{CANARY}@h/x.wav"},
    {"audio_filepath": "x.wav", "duration": f"https://h/x?token={CANARY}"},
    {"audio_filepath": ["x"], "password": CANARY, "id": {"token": CANARY}},
]


@pytest.mark.parametrize("row", ROWS, ids=["a URL", "a value", "a nested value"])
def test_a_list_that_is_refused_is_not_quoted_with_its_secrets(
    row: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    assert CANARY not in refused(listed([row]), capsys)


@pytest.fixture
def secretive(tmp_path: Path) -> tuple[list[str], dict[str, str], Path]:
    """A run that is right, and has a secret in every place that a person can put one: its command, its directory."""
    cwd = tmp_path / "cwd"
    root = cwd / f"calls?token={CANARY}1"
    root.mkdir(parents=True)
    shutil.copy(WAV, root / f"password={CANARY}2.wav")
    (root / "bad.wav").write_text(f"https://u:{CANARY}3@h")
    save_file(digits_model().state_dict(), cwd / f"w?X-Amz-Signature={CANARY}4.safetensors")
    own = tmp_path / "own" / "dataset"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text(
        f"# @package _global_\n# of https://u:{CANARY}5@h\ndefaults: [override /model: checkpoint]\n"
        f"dataset: {{connector: folder, root: '${{oc.env:CALLS_URL}}'}}\nrun_dir: 'out-${{oc.env:HF_TOKEN}}'\n"
    )
    secrets = {"HF_TOKEN": f"hf_{CANARY}6", "CALLS_URL": str(root), "AWS_SECRET_ACCESS_KEY": f"{CANARY}7/x+y"}
    typed = [
        f"--config-dir={own.parent}",
        "dataset=mine",
        f"model.checkpoint=w?X-Amz-Signature={CANARY}4.safetensors",
        "model.architecture=digits",
    ]
    return typed, secrets, cwd / f"out-hf_{CANARY}6"


def recorded_text(run_dir: Path) -> dict[str, str]:
    """What a run wrote, as text, but for what a table holds as data: ids and paths of recordings."""
    found = {}
    for path in run_dir.rglob("*"):
        name = path.relative_to(run_dir).as_posix()
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            rest = table.drop_columns([column for column in ("id", "path") if column in table.column_names])
            found[name] = f"{table.schema.metadata} {rest.to_pylist()}"
        elif path.is_file():
            found[name] = path.read_bytes().decode("utf-8", "replace")
    return found


def test_a_secret_in_every_place_is_in_nothing_that_a_run_says_or_records(
    secretive: tuple[list[str], dict[str, str], Path],
) -> None:
    typed, secrets, run_dir = secretive
    cwd = run_dir.parent
    for more, code in (([], 3), ([], 3), (["chunk.seconds=30"], 2), (["--cfg=job"], 0), (["--help"], 0)):
        done = run(*typed, *more, cwd=cwd, **secrets)
        assert done.returncode == code, done.stderr
        assert CANARY not in done.stdout + done.stderr
    found = recorded_text(run_dir)
    assert {"run.json", "config.yaml", "logs/run.log", "manifest.parquet", "failures/shard-00000.parquet"} <= {*found}
    assert [name for name, text in found.items() if CANARY in text] == []
    assert "***" in found["config.yaml"]
    assert "***" in found["logs/run.log"]
    # Tables are data: a path in them is that of the file.
    paths = set(pq.read_table(run_dir / "manifest.parquet")["path"].to_pylist())
    assert f"{cwd}/calls?token={CANARY}1/password={CANARY}2.wav" in paths
    # Another secret is another root, whose recordings are looked at again; that they are the same is what counts.
    moved = (cwd / f"calls?token={CANARY}1").rename(cwd / f"calls?token={CANARY}8")
    again = run(*typed, cwd=cwd, **(secrets | {"CALLS_URL": str(moved)}))
    assert again.returncode == 3
    assert CANARY not in again.stdout + again.stderr
    assert str(moved) in pq.read_table(run_dir / "manifest.parquet")["path"][0].as_py()


@pytest.mark.parametrize("where", ["main", "thread"])
def test_a_bug_of_ours_is_shown_and_logged_without_secrets(where: str, tmp_path: Path, elsewhere: Path) -> None:
    script = tmp_path / "buggy.py"
    script.write_text(
        "import runpy, sys, threading\n"
        "from pipeline.stages import listing\n"
        "def buggy(*_, **__):\n"
        f"    raise ValueError('https://u:{CANARY}@h/?token={CANARY}')\n"
        "def build(*_, **__):\n"
        "    if sys.argv.pop() == 'thread':\n"
        "        thread = threading.Thread(target=buggy)\n"
        "        thread.start()\n"
        "        thread.join()\n"
        "    buggy()\n"
        "where = sys.argv[-1]\n"
        "sys.argv = ['run', 'dataset=digits', 'outputs=[transcripts]', 'run_dir=out']\n"
        "listing.list_utterances = lambda *a, **k: (sys.argv.append(where), build())\n"
        "runpy.run_module('pipeline.run', run_name='__main__')\n"
    )
    (elsewhere / "out").mkdir()  # one that was there stays, with its log
    done = server().run(str(script), [where], cwd=elsewhere, env=environment(), timeout=120)
    assert done.returncode == 1
    assert done.stderr.count("ValueError: https://***@h/?token=***") == (2 if where == "thread" else 1)
    assert "Traceback" in done.stderr
    assert CANARY not in done.stderr
    logged = (elsewhere / "out" / "logs" / "run.log").read_text()
    assert "ValueError: https://***@h" in logged
    assert CANARY not in logged


def test_every_line_of_a_log_is_masked() -> None:
    try:
        raise OSError(f"https://u:{CANARY}@h")
    except OSError:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "of %s", (f"token={CANARY}",), sys.exc_info())
    text = MaskingFormatter("%(message)s").format(record)
    assert text.startswith("of token=***\nTraceback")
    assert text.endswith("OSError: https://***@h")


def test_the_record_of_weights_finds_them_again_without_the_secret_in_their_name(elsewhere: Path) -> None:
    one, other = (elsewhere / f"w?token={CANARY}{number}" for number in "12")
    for path in (one, other):
        path.write_bytes(b"x")
        os.utime(path, ns=(1, 1))
    records = [
        identity.weights_file(named("checkpoint", checkpoint=str(path), architecture="digits"), "0")
        for path in (one, other, one)
    ]
    assert CANARY not in str(records)
    assert records[0] == records[2] != records[1]
