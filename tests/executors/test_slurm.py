"""`executor=slurm`: what is submitted, with a Slurm of scripts; what a job does when its time is up; other clusters."""

from __future__ import annotations

import errno
import fcntl
import importlib.util
import os
import pickle
import re
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import running
import submitit

from pipeline.config import commandline
from pipeline.config.run_config import RunConfig, load
from pipeline.executors.jobs.task import Task

SHORT = (*running.SHORT, "shard.hours=0.0007", "loader.workers=0", "outputs=[transcripts]")
RUN = (*SHORT, "executor=slurm", "executor.tasks=1")
PARTS = (*SHORT, "executor=slurm", "executor.tasks=3")

TOOLS = {
    "sbatch": """
number=$((1000 + $(ls $SLURM/*.sh 2>/dev/null | wc -l) + 1))
cp "$1" $SLURM/$number.sh
echo Submitted batch job $number
""",
    "squeue": 'echo "$@" >> $SLURM/asked; cat $SLURM/queue 2>/dev/null',
    "scontrol": 'echo "$@" >> $SLURM/controlled',
    # Runs a task as a step, whose process has the id that it writes.
    "srun": """
file() { echo "$1" | sed "s/%A/$SLURM_ARRAY_JOB_ID/;s/%a/$SLURM_ARRAY_TASK_ID/;s/%j/$SLURM_JOB_ID/;s/%t/0/"; }
while case $1 in --*) true;; *) false;; esac; do
    case $1 in
        --output) exec >> "$(file "$2")"; shift;;
        --error) exec 2>> "$(file "$2")"; shift;;
    esac
    shift
done
echo $$ > $SLURM/step
exec "$@"
""",
}


class Slurm:
    """A Slurm of scripts, which keeps what is submitted until a test runs it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, script in TOOLS.items():
            self.tool(name, script)

    def tool(self, name: str, script: str) -> None:
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    @property
    def jobs(self) -> list[int]:
        return sorted(int(path.stem) for path in self.folder.glob("*.sh"))

    def options(self, job: int) -> dict[str, str]:
        found = re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", (self.folder / f"{job}.sh").read_text(), re.MULTILINE)
        return dict(found)

    def controlled(self) -> list[str]:
        path = self.folder / "controlled"
        return path.read_text().splitlines() if path.exists() else []

    def start(self, job: int, cwd: Path, **variables: str) -> subprocess.Popen[bytes]:
        """Run the script of a job, as Slurm does on a node."""
        (self.folder / "step").unlink(missing_ok=True)
        env = running.environment(SLURM_JOB_ID=str(job), **variables)
        return subprocess.Popen(["bash", self.folder / f"{job}.sh"], cwd=cwd, env=env, start_new_session=True)

    def run(self, job: int, cwd: Path, **variables: str) -> int:
        return self.start(job, cwd, **variables).wait(120)

    def place(self, job: int, index: int) -> dict[str, str]:
        """The variables of a job in an array."""
        return {"SLURM_ARRAY_JOB_ID": str(job), "SLURM_ARRAY_TASK_ID": str(index), "SLURM_ARRAY_TASK_COUNT": "2"}

    def step(self) -> list[int]:
        """The processes of the running step, the task first. Slurm sends its signals to all of them."""
        assert running.wait_until(lambda: (self.folder / "step").exists() and (self.folder / "step").read_text() != "")
        found = [int((self.folder / "step").read_text())]
        for process in found:
            found += sorted(running.children_of(process))
        return found


@pytest.fixture
def slurm(elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    folder = tmp_path / "slurm"
    folder.mkdir()
    monkeypatch.setenv("SLURM", str(folder))
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    return Slurm(folder)


def task_of(run_dir: Path, job: str) -> Task:
    """What a job runs."""
    function = pickle.loads((run_dir / "logs" / "slurm" / f"{job}_submitted.pkl").read_bytes()).function
    assert isinstance(function, Task)
    return function


def config_of(task: Task) -> RunConfig:
    """The configuration of the command that a task runs."""
    command = commandline.parse(task.arguments)
    assert not command.multirun
    return load(command.overrides, command.own)


def said_by(run_dir: Path, job: str) -> str:
    return "".join(path.read_text() for path in sorted((run_dir / "logs" / "slurm").glob(f"{job}_0_log.*")))


def num_committed(run_dir: Path) -> int:
    return len(list((run_dir / "commits").glob("shard-*.json")))


def test_an_array_of_parts_and_a_job_that_closes_the_run_are_submitted_without_torch(
    slurm: Slurm, elsewhere: Path
) -> None:
    typed = [*PARTS, "executor.partition=gpu", "executor.account=lab", "executor.time_hours=2", "executor.cpus=4"]
    typed += ["executor.memory_gb=64", "executor.setup=[module load cuda,date]", "executor.sbatch=--qos=high --nice"]
    program = "import sys; sys.modules['torch'] = None; from pipeline.run import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, *typed, "run_dir=out"]
    ended = subprocess.run(command, env=running.environment(), capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert pq.read_metadata("out/manifest.parquet").num_rows == 24
    assert {path.name for path in Path("out").iterdir()} == {"manifest.parquet", "logs", ".staging"}
    assert slurm.jobs == [1001, 1002]
    array, closing = map(slurm.options, slurm.jobs)
    expected = {
        "array": "0-2%3", "signal": "USR2@300", "requeue": "", "partition": "gpu", "account": "lab", "time": "120",
        "gpus-per-node": "1", "cpus-per-task": "4", "mem": "64GB", "qos": "high", "nice": "", "job-name": "speech-out",
        "open-mode": "append",
    }  # fmt: skip
    assert array.items() >= expected.items()
    assert "dependency" not in array
    del expected["array"]
    assert closing.items() >= (expected | {"dependency": "afterok:1001", "kill-on-invalid-dep": "yes"}).items()
    script = (slurm.folder / "1001.sh").read_text()
    assert "\n# setup\nmodule load cuda\ndate\n" in script
    assert "srun --unbuffered" in script
    assert "--cpus-per-task=4 " in script
    for part in range(3):
        config = config_of(task_of(Path("out"), f"1001_{part}"))
        assert config.settings.executor.part == f"{part + 1}/3"
        assert (config.settings.stages, config.run_dir) == (["infer"], elsewhere / "out")
        assert config.settings.shard.hours == 0.0007
    config = config_of(task_of(Path("out"), "1002"))
    assert (config.settings.stages, config.run_dir) == (["score", "report"], elsewhere / "out")
    assert config.settings.executor.part == "1/1"
    printed = ended.stdout.splitlines()
    assert "submitted job 1001: 3 tasks, each of which computes a part of the shards" in printed
    assert "submitted job 1002: score and report, when all tasks have ended well" in printed
    assert "squeue --jobs=1001,1002" in ended.stdout
    assert "python -m pipeline.status out says how far the run is" in printed
    assert "submitted job 1001" in Path("out/logs/run.log").read_text()


@pytest.mark.usefixtures("elsewhere")
def test_no_job_is_without_a_shard_and_nothing_closes_a_run_that_only_infers(slurm: Slurm) -> None:
    assert (
        running.main([*PARTS, "executor.tasks=100", "executor.gpus=0", "stages=[manifest,infer]", "run_dir=out"]) == 0
    )
    assert slurm.jobs == [1001]
    assert slurm.options(1001)["array"] == "0-6%7"
    assert "gpus-per-node" not in slurm.options(1001)


@pytest.mark.usefixtures("slurm", "elsewhere")
def test_each_run_of_a_sweep_submits_its_own_jobs(tmp_path: Path) -> None:
    Path("my own").mkdir()
    Path("my own/mine.yaml").write_text("defaults: [config, _self_]\nexecutor: {tasks: 2}\n")
    typed = ["-cd", "my own", "-cn", "mine", *SHORT, "executor=slurm", "channels=mix,first", "stages=[manifest,infer]"]
    assert running.main(["-m", *typed, "run_dir=choice('o ut/${channels}')"]) == 0
    for number, channels in enumerate(("mix", "first"), start=1001):
        for part in (1, 2):
            config = config_of(task_of(Path("o ut", channels), f"{number}_{part - 1}"))
            assert (config.settings.channels, config.settings.executor.part) == (channels, f"{part}/2")
            assert config.run_dir == Path.cwd() / "o ut" / channels


def test_a_run_whose_jobs_are_waiting_or_running_is_refused(
    slurm: Slurm, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [*PARTS, "run_dir=out"]
    assert running.main(given) == 0
    (slurm.folder / "queue").write_text("999\n1001\n1001\n")
    assert "scancel 1001, and" in running.refused(given, capsys)
    assert f"--user={os.getuid()} --jobs=1001,1002" in (slurm.folder / "asked").read_text()
    assert slurm.jobs == [1001, 1002]
    (slurm.folder / "queue").write_text("")
    assert running.main(given) == 0
    slurm.tool("squeue", "echo slurm_load_jobs error: Invalid job id specified >&2; exit 1")
    assert running.main(given) == 0
    (slurm.folder / "bin" / "squeue").unlink()
    assert running.main(given) == 0
    assert len(slurm.jobs) == 8


def test_what_is_missing_is_said_before_anything_is_written(
    slurm: Slurm, elsewhere: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (slurm.folder / "bin" / "sbatch").unlink()
    assert "no sbatch here; give this command on a login node" in running.refused([*RUN], capsys)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "the extra slurm has; run pip install submitit" in running.refused([*RUN], capsys)
    assert list(elsewhere.iterdir()) == []


def test_weights_that_cannot_be_used_are_refused_on_the_login_node_before_anything_is_written(
    slurm: Slurm, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "these are other weights" in running.refused([*RUN, f"model.sha256={'0' * 64}"], capsys)
    assert (slurm.jobs, list(elsewhere.iterdir())) == ([], [])


@pytest.mark.usefixtures("slurm", "elsewhere")
def test_a_folder_whose_name_slurm_would_not_take_as_it_stands_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Slurm gives % a meaning in paths" in running.refused([*RUN, "run_dir=50%"], capsys)


def test_what_sbatch_says_against_the_jobs_is_repeated_in_one_line(
    slurm: Slurm, capsys: pytest.CaptureFixture[str]
) -> None:
    slurm.tool("sbatch", "echo sbatch: error: invalid partition specified: gpux >&2; exit 1")
    assert running.main([*RUN, "executor.partition=gpux"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: executor=slurm: sbatch refuses the jobs (sbatch: error: invalid partition")


@pytest.mark.usefixtures("default_signals", "elsewhere")
def test_ctrl_c_while_jobs_are_submitted_leaves_all_jobs_or_none(slurm: Slurm) -> None:
    slurm.tool("sbatch", TOOLS["sbatch"] + "[ $number -ne 1001 ] || kill -INT $PPID")
    assert running.main([*PARTS, "run_dir=out", "stages=[manifest,infer,score]"]) == 130
    assert slurm.jobs == [1001, 1002]
    assert "submitted job 1002: score" in Path("out/logs/run.log").read_text()


def test_a_folder_in_which_others_could_place_jobs_is_refused(
    slurm: Slurm, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = Path("runs/manifest/digits/logs/slurm")
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    assert "must be a folder that only you can write to" in running.refused([*RUN], capsys)
    folder.rmdir()
    folder.symlink_to(tmp_path)
    assert "must be a folder that only you can write to" in running.refused([*RUN], capsys)
    assert slurm.jobs == []


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("executor.tasks=0", "executor.tasks=0: must be a number from 1 to 1000"),
        ("executor.time_hours=0", "executor.time_hours=0.0: must be a number from 0.1"),
        ("executor.gpus=-1", "executor.gpus=-1: must be a number from 0"),
        ("executor.cluster=pbs", "executor.cluster=pbs: not allowed; there are slurm, local, debug"),
        ("executor.sbatch=qos", "'qos' is no option; write --name=value or --name"),
        ("executor.sbatch=--signal=USR1@60", "--signal cannot be set; use executor.time_hours="),
        ('executor.sbatch="--comment=\'a"', "cannot be read (No closing quotation)"),
        ("executor.workers=0", "executor.workers=0: must be"),
    ],
)
def test_settings_that_cannot_be_are_refused(typed: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in running.refused([*RUN, typed], capsys)


def test_a_job_whose_time_is_up_commits_and_is_requeued_and_ends_well_although_an_utterance_failed(
    slurm: Slurm, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("audio").mkdir()
    for path in sorted((running.SHIPPED / "digits").glob("*6digits*.flac")):
        Path("audio", path.name).write_bytes(path.read_bytes())
        Path("audio", path.name).with_suffix(".txt").write_text("one two three four five six")
    Path("audio/bad.wav").write_bytes(b"no recording")
    corpus = ["dataset=folder", "dataset.root=audio", "model=digits", "shard.hours=0.0005", "outputs=[transcripts]"]
    given = ["executor=slurm", "executor.tasks=2", "run_dir=out", "loader.workers=0"]
    assert running.main([*corpus, *given, "stages=[manifest,infer,score]"]) == 0
    one = slurm.place(1001, 0)
    job = slurm.start(1001, elsewhere, PIPELINE_FAILPOINT="committed@2=stop", **one)
    time_is_up(slurm, job, all_of_them=True)
    assert job.returncode == 255
    assert slurm.controlled() == ["requeue 1001_0"]
    assert "stopped by SIGTERM" in said_by(Path("out"), "1001_0")
    before = running.mtimes(Path("out"))
    assert num_committed(Path("out")) >= 2
    assert slurm.run(1001, elsewhere, **one) == 0
    assert running.main(task_of(Path("out"), "1001_1").arguments) == 0  # the other part, in this process
    num_shards = 1 + max(pq.read_table("out/manifest.parquet")["shard"].to_pylist())
    assert num_committed(Path("out")) == num_shards > 4
    assert running.mtimes(Path("out")).items() >= before.items()
    capsys.readouterr()
    assert running.main(task_of(Path("out"), "1002").arguments) == 0
    assert "all parts are done: " in capsys.readouterr().out
    assert Path("out/scores.parquet").exists()
    running.assert_accounting(Path("out"), ["transcripts"])
    assert running.ids(Path("out"), "failures") == ["bad.wav"]
    assert "Traceback" not in said_by(Path("out"), "*")


def test_a_run_on_a_file_system_without_locks_is_submitted_computed_and_closed(
    slurm: Slurm, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    given = [*RUN, "run_dir=out", "stages=[manifest,infer,score]"]
    assert running.main(given) == 0
    assert [running.main(task_of(Path("out"), str(job)).arguments) for job in slurm.jobs] == [0, 0]
    assert Path("out/scores.parquet").exists()
    running.assert_accounting(Path("out"), ["transcripts"])
    assert running.main(given) == 0
    assert "complete already; " in capsys.readouterr().out


def test_the_script_of_the_guide_stops_cleanly_and_requeues_its_job(slurm: Slurm, elsewhere: Path) -> None:
    (script,) = re.findall(r"^```bash\n(.*?)^```$", (running.ROOT / "docs/slurm.md").read_text(), re.M | re.DOTALL)
    for written, here in (
        ("python -m", f"{sys.executable} -m"),
        ("dataset=folder dataset.root=/data/calls run_dir=/data/out", "dataset=digits run_dir=out"),
        ("stages=[infer,score,report]", "stages=[manifest]"),
    ):
        assert written in script
        script = script.replace(written, here)
    (slurm.folder / "1001.sh").write_text(script)
    job = slurm.start(1001, elsewhere, PIPELINE_FAILPOINT="manifest=stop", **slurm.place(1001, 2))
    assert running.wait_until(lambda: [state(process) for process in running.children_of(job.pid)] == ["T"])
    (command,) = running.children_of(job.pid)
    os.kill(job.pid, signal.SIGTERM)
    assert running.wait_until(lambda: is_pending(command, signal.SIGTERM))
    os.kill(command, signal.SIGCONT)
    assert job.wait(60) == 1
    assert slurm.controlled() == ["requeue 1001_2"]
    assert slurm.run(1001, elsewhere, **slurm.place(1001, 2)) == 0
    assert Path("out/logs/run-2-of-2.log").exists()


def time_is_up(slurm: Slurm, job: subprocess.Popen[bytes], all_of_them: bool = False) -> None:
    """Send the signal to a job whose command a failpoint has stopped, and let the command go on when asked to end."""
    assert running.wait_until(lambda: any(state(process) == "T" for process in slurm.step()))
    task, *others = slurm.step()
    (command,) = [process for process in others if state(process) == "T"]
    for process in (task, *(others if all_of_them else ())):
        os.kill(process, signal.SIGUSR2)
    assert running.wait_until(lambda: is_pending(command, signal.SIGTERM))
    os.kill(command, signal.SIGCONT)
    job.wait(60)
    assert running.group_members(job.pid) == []


def state(process: int) -> str:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def is_pending(process: int, signum: int) -> bool:
    status = Path(f"/proc/{process}/status").read_text()
    return any(int(mask, 16) >> (signum - 1) & 1 for mask in re.findall(r"^S\w+Pnd:\s*(\w+)", status, re.MULTILINE))


def waiting(slurm: Slurm, requeues: int = 3, stop_s: float = 60) -> subprocess.Popen[bytes]:
    """Start a job whose command is stopped by a failpoint before it writes anything, and whose time is up."""
    executor = submitit.AutoExecutor("jobs", cluster="slurm", slurm_max_num_timeout=requeues)
    executor.update_parameters(timeout_min=0)
    executor.submit(Task(["dataset=digits", "stages=[manifest]", "run_dir=out"], stop_s))
    return slurm.start(1001, Path.cwd(), PIPELINE_FAILPOINT="manifest=stop")


@pytest.mark.parametrize(
    ("scontrol", "requeues", "reason"),
    [
        (False, 3, "No such file or directory: 'scontrol'"),
        (True, 0, "timed-out too many times"),
    ],
    ids=["no scontrol", "too often"],
)
def test_a_job_that_cannot_be_requeued_says_in_one_line_what_to_do(
    scontrol: bool, requeues: int, reason: str, slurm: Slurm
) -> None:
    if not scontrol:
        (slurm.folder / "bin" / "scontrol").unlink()
    job = waiting(slurm, requeues)
    time_is_up(slurm, job)
    assert job.returncode == 1
    error = Path("jobs/1001_0_log.err").read_text()
    (line,) = [line for line in error.splitlines() if line.startswith("error: ")]
    assert reason in line
    assert line.endswith("what was committed stays, and the same command continues the run")
    assert "Traceback" not in error


def test_a_job_that_got_sigterm_waits_for_slurm_to_requeue_it(slurm: Slurm) -> None:
    job = waiting(slurm)
    assert running.wait_until(lambda: any(state(process) == "T" for process in slurm.step()))
    task, command = slurm.step()[:2]
    os.kill(task, signal.SIGTERM)
    assert running.wait_until(lambda: is_pending(command, signal.SIGTERM))
    os.kill(command, signal.SIGCONT)
    assert running.wait_until(lambda: slurm.step() == [task])
    os.kill(task, signal.SIGUSR2)
    assert job.wait(60) == 255
    assert slurm.controlled() == ["requeue 1001"]


def test_a_command_that_does_not_stop_in_time_is_killed(slurm: Slurm) -> None:
    job = waiting(slurm, stop_s=0.2)
    assert running.wait_until(lambda: any(state(process) == "T" for process in slurm.step()))
    os.kill(slurm.step()[0], signal.SIGUSR2)
    assert job.wait(60) == 255
    assert slurm.controlled() == ["requeue 1001"]
    assert running.group_members(job.pid) == []


def test_a_job_fails_with_the_exit_code_of_its_command(slurm: Slurm) -> None:
    submitit.AutoExecutor("jobs", cluster="slurm").submit(Task(["dataset=digits", "stages=[score]"], 60))
    assert slurm.run(1001, Path.cwd()) == 2
    error = Path("jobs/1001_0_log.err").read_text()
    assert "there is no manifest" in error
    assert "Traceback" not in error


@pytest.mark.usefixtures("default_signals")
@pytest.mark.usefixtures("elsewhere")
def test_without_slurm_the_tasks_are_processes_of_this_machine_which_end_with_the_command(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = [*running.SHORT, "shard.hours=0.0015", "loader.workers=0", "threads=1"]
    given = [*corpus, "executor=slurm", "executor.cluster=local", "executor.tasks=2", "run_dir=out"]
    process = running.start(*given, "executor.tasks=1", cwd=elsewhere, PIPELINE_FAILPOINT="run-json-written=hang")
    assert running.wait_until(Path("out/run.json").exists)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.startswith("stopped by SIGINT; ")
    assert error.count("\n") == 1
    assert running.group_members(process.pid) == []
    assert "stopped by SIGTERM; " in said_by(Path("out"), "*")
    assert running.main(given) == 0
    assert "all tasks have ended well; results in out" in capsys.readouterr().out
    assert Path("out/scores.parquet").exists()
    running.assert_accounting(Path("out"))
    assert "Traceback" not in said_by(Path("out"), "*")
    assert running.main([*corpus, "run_dir=alone"]) == 0
    running.assert_same_tables(Path("alone"), Path("out"))


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(("program", "code"), [("/bin/true", 0), ("/bin/false", 1)])
def test_the_cluster_debug_runs_one_task_after_the_other(
    program: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "executable", program)
    assert running.main([*PARTS, "executor.cluster=debug", "run_dir=out"]) == code
    printed = capsys.readouterr()
    assert ("all tasks have ended well" in printed.out) == (code == 0)
    assert ("3 of 3 tasks failed" in printed.err) == (code == 1)
