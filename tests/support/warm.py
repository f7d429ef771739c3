"""Processes that begin where an interpreter has imported torch, pandas and the like, which is most of a short run.

A server imports them once and forks for every process that it is asked for. What begins there is a process of its
own, with its own command line, environment, working directory, signals and exit code, in which a module or a script
runs from its first line. Of the pipeline, modules that every run imports are there before the fork, as they are when
they have just been imported: none of them looks, while it is imported, at what a process is given. Whether torch is
imported at all, and memory, are for tests that start an interpreter.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

IMPORTED = (
    "faulthandler", "hydra", "jinja2", "jiwer", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg",
    "matplotlib.figure", "multiprocessing.popen_fork", "multiprocessing.queues", "multiprocessing.synchronize", "numpy",
    "omegaconf", "pandas", "PIL.Image", "pyarrow.dataset", "pyarrow.pandas_compat", "pyarrow.parquet", "rapidfuzz",
    "rich.console", "rich.live", "rich.progress", "rich.status", "s3fs", "safetensors.torch", "soundfile", "torch",
    "torchaudio.functional", "torchaudio.pipelines", "yaml",
)  # fmt: skip
PIPELINE = (
    "pipeline.datasets.digits", "pipeline.datasets.folder", "pipeline.datasets.manifest", "pipeline.decoding.greedy",
    "pipeline.executors.local", "pipeline.executors.processes.pool", "pipeline.inference.execute",
    "pipeline.models.digits", "pipeline.models.sources.digits", "pipeline.report.page", "pipeline.run",
    "pipeline.stages.infer", "pipeline.stages.manifest", "pipeline.stages.score",
)  # fmt: skip
HEADER_PROCESSES = 2
"""In place of many, which wait for slow disks: a fork of a process that has imported torch takes a while itself."""


def leave_syncing_out() -> None:
    """Let `os.fsync` do nothing: no test cuts the power, and a run of seven shards would wait 0.2 s for the disk."""
    os.fsync = lambda _: None


def share_what_clients_of_s3_read() -> None:
    """Let botocore read what it knows of S3 once, and not for each client, where that is most of the first request."""
    from botocore.loaders import Loader
    from botocore.session import get_session

    begin: Callable[..., None] = Loader.__init__
    known: dict[object, object] = {}

    def beginning(self: Loader, *given: object, **named: object) -> None:
        begin(self, *given, **named)
        self._cache = known

    Loader.__init__ = beginning
    get_session().create_client("s3", region_name="us-east-1")


_MADV_COLLAPSE = 25


def use_huge_pages() -> None:
    """Move what is in memory into huge pages, if the kernel can (Linux 6.1).

    A fork copies an entry for each page, and the end of the process takes each back: 50 ms where torch has been
    imported, and 15 ms with huge pages. A run forks two to four times.
    """
    madvise = ctypes.CDLL(None).madvise
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, mode, _, _, file, *_ = line.split(maxsplit=5)
        if mode == "rw-p" and file == "0":
            begin, end = (int(address, 16) for address in addresses.split("-"))
            madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _MADV_COLLAPSE)


READ_AT_START = ("PYTHON", "LC_", "LANG", "OMP_", "MKL_", "MPL", "LD_")
"""How variables begin that an interpreter, or a library that it loads, reads once."""
_LONGEST = 1 << 17
"""Bytes of what is asked for; most of it is the environment."""
_MOST_FILES = 32


def read_at_start(env: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in env.items() if key.startswith(READ_AT_START)}


class Server:
    """Where processes begin; it ends with the process that made it."""

    def __init__(self, env: Mapping[str, str], forked: bool = False) -> None:
        """Start it; it imports while others go on.

        Args:
            env: Environment of the server.
            forked: Fork it from this process, which began warm itself and has imported nothing more of the pipeline.
        """
        self.env = read_at_start(env)
        self._connection, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._connection, its):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LONGEST)
        if not forked:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(its.fileno())], env=env, pass_fds=[its.fileno()],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        elif not os.fork():
            self._connection.close()
            os.setsid()
            _serve(its)
            os._exit(_run() & 0xFF)
        its.close()

    @property
    def pid(self) -> int:
        """The parent of the processes that it starts."""
        return self._process.pid

    def start(
        self,
        program: str,
        arguments: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        new_session: bool = False,
        files: Sequence[int] = (),
        printing: Sequence[int] | None = None,
    ) -> Process:
        """`python -m program arguments`, or `python program arguments` where its name ends in `.py`.

        Args:
            program: A module or a script.
            arguments: Its arguments.
            cwd: Its working directory.
            env: Its environment.
            new_session: Whether it leads a session of its own.
            files: Descriptors that it has too, as those of `pass_fds`.
            printing: Its stdout and stderr, where `Process.communicate` is not to have them.

        Raises:
            ValueError: The environment differs from the server's in what an interpreter reads when it starts.
        """
        if read_at_start(env) != self.env:
            raise ValueError(f"{read_at_start(env)} is read when an interpreter starts; here that was {self.env}")
        if not Path(cwd).is_dir():
            raise NotADirectoryError(cwd)
        printed, said = map(os.dup, printing) if printing else map(os.memfd_create, ("stdout", "stderr"))
        told, status = os.pipe()
        asked = json.dumps([[*files], program, list(arguments), str(cwd), dict(env), new_session]).encode()
        socket.send_fds(self._connection, [asked], [printed, said, status, *files])
        os.close(status)
        return Process([program, *arguments], printed, said, told)

    def run(
        self, program: str, arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """`subprocess.run` of that, with what it printed as text."""
        process = self.start(program, arguments, cwd=cwd, env=env)
        try:
            out, err = process.communicate(timeout)
        except BaseException:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
            raise
        return subprocess.CompletedProcess(process.args, process.wait(), out, err)


class Process:
    """What the tests use of `subprocess.Popen`."""

    def __init__(self, args: Sequence[str], printed: int, said: int, told: int) -> None:
        self.args = args
        self.returncode: int | None = None
        self._files = (printed, said)
        self._told = told
        self.pid = int(self._line())

    def __del__(self) -> None:
        for descriptor in self._files if self.returncode is not None else (*self._files, self._told):
            os.close(descriptor)

    def poll(self) -> int | None:
        """The exit code, negative for a signal; `None` while it runs."""
        if self.returncode is None and select.select([self._told], [], [], 0)[0]:
            self.returncode = int(self._line())
            os.close(self._told)
        return self.returncode

    def send_signal(self, signum: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended.

        Raises:
            subprocess.TimeoutExpired: It goes on.
        """
        if self.returncode is None:
            select.select([self._told], [], [], timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it printed, and what it said on stderr, once it has ended."""
        self.wait(timeout)
        out, err = (os.pread(file, os.fstat(file).st_size, 0).decode() for file in self._files)
        return out, err

    def _line(self) -> bytes:
        """A number that the server tells of this process."""
        line = b""
        while not line.endswith(b"\n"):
            read = os.read(self._told, 1)
            if not read:
                raise RuntimeError("the server of warm processes has gone")
            line += read
        return line


# --- in the server


def _warm_up() -> None:
    gc.disable()  # it would search all that is imported again and again
    for name in (*IMPORTED, *PIPELINE):
        importlib.import_module(name)
    from pipeline.models.sources import named

    sys.modules["pipeline.audio.headers"].HEADER_PROCESSES = HEADER_PROCESSES  # type: ignore[attr-defined]
    named("digits").fetch()  # a process reads weights once, and those that are forked from it need not
    leave_syncing_out()
    share_what_clients_of_s3_read()
    del sys.modules["pipeline.run"]  # what runs as a program is imported by nobody
    _configure()
    gc.collect()
    gc.freeze()  # what is there stays where it is shared
    gc.enable()
    use_huge_pages()


def _serve(connection: socket.socket) -> None:
    """Fork for each that is asked for, tell its process and how it ended; returns in a process that was asked for."""
    woken, wake = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, int] = {}
    while True:
        ready = select.select([connection, woken], [], [])[0]
        if woken in ready:
            os.read(woken, 4096)
            _reap(running)
        if connection not in ready:
            continue
        asked, received, _, _ = socket.recv_fds(connection, _LONGEST, _MOST_FILES)
        if not asked:
            os._exit(0)
        out, err, told, *further = received
        with warnings.catch_warnings():  # of a thread of pyarrow's allocator, which forks as it should
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            for descriptor in (connection.detach(), woken, wake, *running.values()):
                os.close(descriptor)
            files, *given = json.loads(asked)
            _become(out, err, *given)
            os.write(told, f"{os.getpid()}\n".encode())
            os.close(told)
            _number(further, files)
            return
        running[pid] = told
        for descriptor in (out, err, *further):
            os.close(descriptor)


def _number(received: Sequence[int], wanted: Sequence[int]) -> None:
    """Give descriptors the numbers that they have in the process which passed them on."""
    aside = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 1 + max([*wanted, *received])) for descriptor in received]
    for descriptor in received:
        os.close(descriptor)
    for descriptor, number in zip(aside, wanted, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)


def _configure() -> None:
    """Let Hydra find its plugins and learn its grammar, and read what most runs choose. That takes as long as a run."""
    from pipeline.config.run_config import load

    data = Path(__file__).parents[1] / "data"
    for chosen in (
        ["dataset=digits"],
        ["dataset=folder", f"dataset.root={data}", "model=digits"],
        ["dataset=manifest", f"dataset.path={data / 'short_digits.csv'}", "model=digits"],
    ):
        load([*chosen, f"run_dir={data / 'none'}"])


def _reap(running: dict[int, int]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        told = running.pop(pid)
        with suppress(BrokenPipeError):  # nobody waits for it any more
            os.write(told, f"{os.waitstatus_to_exitcode(status)}\n".encode())
        os.close(told)


def _become(
    out: int, err: int, program: str, arguments: list[str], cwd: str, env: dict[str, str], new_session: bool
) -> None:
    """As an interpreter is that has just been started for a program."""
    signal.set_wakeup_fd(-1)
    for signum in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if new_session:
        os.setsid()
    for source, target in ((out, 1), (err, 2)):
        os.dup2(source, target)
        os.close(source)
    os.chdir(cwd)
    tempfile.tempdir = None  # the server's
    os.environ.clear()
    os.environ.update(env)
    sys.path[0] = os.path.dirname(program) if program.endswith(".py") else cwd
    sys.argv[:] = [program, *arguments]


def _run() -> int:
    """Run the program, and what it has registered for its end; returns the exit code.

    An exception other than `SystemExit` with a number is the interpreter's to report.
    """
    code = 0
    sys.modules.pop(sys.argv[0], None)  # as above
    try:
        if sys.argv[0].endswith(".py"):
            runpy.run_path(sys.argv[0], run_name="__main__")
        else:
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            raise
        code = end.code or 0
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    _warm_up()
    _serve(socket.socket(fileno=int(sys.argv[1])))
    # An interpreter that ends takes apart all that was imported, which here would have to be copied first: 0.4 s.
    os._exit(_run() & 0xFF)
