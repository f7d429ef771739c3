"""`-m`: the runs of a sweep, one after the other, each in a run directory of its own."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest
import running

from pipeline.config.compose import read
from pipeline.config.run_config import load, load_sweep
from pipeline.runtime.errors import UserError

QUICK = (
    "dataset=folder",
    "dataset.root=audio",
    "model=digits",
    "outputs=[transcripts]",
    "stages=[manifest,infer,score]",
)


@pytest.fixture
def audio(elsewhere: Path) -> Path:
    """The working directory, with a folder of one recording."""
    (elsewhere / "audio").mkdir()
    name = "lucas-1digits-02.flac"
    (elsewhere / "audio" / name).write_bytes((running.SHIPPED / "digits" / name).read_bytes())
    return elsewhere


def rows(stdout: str) -> list[list[str]]:
    """The rows of the summary."""
    lines = stdout.splitlines()
    (heading,) = [index for index, line in enumerate(lines) if line.split()[:3] == ["run", "exit", "code"]]
    return [line.split() for line in lines[heading + 1 :]]


@pytest.mark.parametrize(
    ("typed", "values"),
    [
        ("a=1", [1]),
        ("a=1,2", [1, 2]),
        ("a=x,'y, z'", ["x", "y, z"]),
        ("a=choice(x,'y z')", ["x", "y z"]),
        ("a=range(1,4)", [1, 2, 3]),
        ("a=[1],[1,2]", [[1], [1, 2]]),
        ("run_dir=a,b", ["a,b"]),
        ("dataset.root=choice(/a,'/my b')", ["/a", "/my b"]),
    ],
)
def test_values_are_swept_as_hydra_sweeps_them(typed: str, values: list[object]) -> None:
    assert [item.value for item in read(typed, sweep=True)] == values


@pytest.mark.usefixtures("elsewhere")
def test_every_combination_is_a_run_and_the_last_key_changes_first() -> None:
    typed = ["dataset=digits", "model=digits,hubert_base", "channels=mix,first", "run_dir=${model.name}/${channels}"]
    runs = [str(config.run_dir) for config in load_sweep(typed)]
    assert runs == ["digits/mix", "digits/first", "hubert_base/mix", "hubert_base/first"]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["model=glob(*)"], r"model=glob\(\*\): not allowed"),
        (["model=digits,digit"], r"model=digit: not allowed"),
        (
            ["features.dtype=float16,float32"],
            r"two runs of the sweep would write to it; .*run_dir='out/\$\{model.name\}'",
        ),
        (["model=digits,hubert_base", "run_dir=out"], r"run_dir=out: two runs of the sweep"),
    ],
)
def test_a_sweep_that_cannot_be_done_is_refused_before_the_first_run(
    typed: list[str], said: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert running.main(["-m", "dataset=digits", *typed]) == 2
    error = capsys.readouterr().err
    assert re.search(said, error)
    assert error.count("\n") == 1
    assert list(elsewhere.iterdir()) == []


@pytest.mark.usefixtures("elsewhere")
def test_run_dir_may_hold_the_swept_value() -> None:
    configs = load_sweep(["dataset=digits", "model=digits,hubert_base", "run_dir=out/${model.name}"])
    assert [config.run_dir for config in configs] == [Path("out/digits"), Path("out/hubert_base")]
    configs = load_sweep(
        ["dataset=digits", "features.dtype=float16,float32", "run_dir=x/${features.dtype} ${channels}"]
    )
    assert [config.run_dir for config in configs] == [Path("x/float16 mix"), Path("x/float32 mix")]
    with pytest.raises(UserError, match=r"Interpolation key 'model.nam' not found"):
        load_sweep(["dataset=digits", "run_dir=out/${model.nam}"])


@pytest.mark.usefixtures("elsewhere")
def test_the_arguments_of_a_run_of_a_sweep_give_its_configuration_again() -> None:
    for folder in ("my b", "a"):
        Path(folder).mkdir()
    typed = ["dataset=folder", "dataset.root=choice(a,'my b')", "model=digits", "score.by=[dir1],[dir1,'a b']"]
    typed += ["executor=slurm", "executor.tasks=range(1,3)", "executor.setup='a \"b\"','it\\'s $x, y'"]
    configs = load_sweep([*typed, "run_dir=${executor.tasks} ${dataset.root}/${executor.setup}/${score.by}"])
    assert len({config.run_dir for config in configs}) == 16
    for config in configs:
        assert not any("," in argument for argument in config.arguments if argument.startswith("executor.tasks"))
        assert load(config.arguments).yaml == config.yaml
    assert configs[-1].settings.executor.setup == ["it's $x, y"]


def test_the_runs_are_done_in_order_and_the_worst_code_is_returned(audio: Path) -> None:
    (audio / "bad").mkdir()
    (audio / "bad" / "x.wav").write_bytes(b"no recording")
    typed = [*QUICK[:1], "dataset.root=choice(audio,bad)", *QUICK[2:]]
    ended = running.run("-m", *typed, cwd=audio)
    assert (ended.returncode, ended.stderr) == (3, "")
    table = rows(ended.stdout)
    assert [row[:4] for row in table] == [["1", "0", "1", "0"], ["2", "3", "0", "1"]]
    assert [row[-1] for row in table] == ["runs/folder-audio/digits", "runs/folder-bad/digits"]
    assert {path.name for path in audio.iterdir()} == {"audio", "bad", "runs"}
    again = running.run("-m", *typed, cwd=audio)
    assert again.returncode == 3
    assert again.stdout.count("complete already") == 2


def test_a_run_that_is_refused_does_not_keep_the_others_from_being_done(audio: Path) -> None:
    typed = [*QUICK, "run_dir=out/${channels}"]
    assert running.run(*typed, "channels=mix", "chunk.seconds=30", cwd=audio).returncode == 0
    ended = running.run("-m", *typed, "channels=mix,first", cwd=audio)
    assert ended.returncode == 2
    assert [row[1] for row in rows(ended.stdout)] == ["2", "0"]
    assert "was made with other settings" in ended.stderr


def test_a_signal_ends_the_sweep_and_names_what_was_not_started(audio: Path) -> None:
    process = running.start("-m", *QUICK, "channels=mix,first", "run_dir=out/${channels}", cwd=audio)
    deadline = time.monotonic() + 120
    while not (audio / "out" / "mix" / "manifest.parquet").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 143
    table = rows(stdout)
    assert table[0][:2] == ["1", "143"]
    assert table[1][1:3] == ["not", "started"]
    assert "stopped by SIGTERM" in stderr


@pytest.mark.usefixtures("elsewhere")
def test_several_values_without_the_option_are_refused_with_the_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert running.main(["dataset=digits", "model=digits,hubert_base"]) == 2
    assert "model=digits,hubert_base: several values, and so several runs; add -m" in capsys.readouterr().err
