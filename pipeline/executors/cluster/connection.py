"""Connects to a Ray cluster, or starts a private one.

A private cluster is for this process only: it listens on the loopback address, asks for a token that only this process
and its children know, and has no dashboard. Its files lie in a temporary folder, which is removed.
"""

from __future__ import annotations

import importlib
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pipeline
from pipeline.runtime.cores import available_cores
from pipeline.runtime.errors import UserError
from pipeline.runtime.signals import SIGNALS, deferring_stop

LOG = logging.getLogger("pipeline")
PACKAGE = Path(pipeline.__file__).resolve().parent

CONNECT_S = 10.0
"""Seconds in which a cluster must accept a connection. Ray itself waits for more than ten minutes."""
_MOST_CHARACTERS = 200
_TOKEN = secrets.token_hex(32)
"""The token of private clusters. A process keeps the first token that it uses, so this does not change."""
QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}  # no network at the start, and no question
PRIVATE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on every system: all services listen on the loopback address
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": _TOKEN,
}


class Connection:
    """A connection to a Ray cluster. A process has one at a time."""

    def __init__(self, address: str) -> None:
        """Connect.

        Args:
            address: `auto`, `local`, `HOST:6379` or `ray://HOST:10001`.

        Raises:
            UserError: The cluster cannot be reached, or it refuses.
        """
        self._folder: str | None = None
        try:
            with deferring_stop():
                if address == "local":
                    self._start()
                else:
                    self._join(address)
        except BaseException:
            self.close()
            raise

    def nodes(self) -> list[Mapping[str, Any]]:
        """Return what Ray says of each node that is alive: `Resources`, `NodeManagerHostname` and others."""
        import ray

        return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Leave the cluster. Its actors of this process end; a private cluster ends as a whole."""
        import ray

        with deferring_stop():
            ray.shutdown()
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self) -> None:
        import torch

        # The paths of sockets in it may have 107 characters.
        self._folder = tempfile.mkdtemp(prefix="ray-")
        path = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)
        given = {**PRIVATE, "PYTHONPATH": path}
        if "RAY_AUTH_MODE" in os.environ:  # the person has decided, or this process has a token already
            del given["RAY_AUTH_MODE"], given["RAY_AUTH_TOKEN"]
        _init(
            "local",
            given,
            address="local",
            num_cpus=available_cores(),
            num_gpus=torch.cuda.device_count(),
            include_dashboard=False,
            _temp_dir=self._folder,
        )

    def _join(self, address: str) -> None:
        # The nodes need the packages that this project imports; the project itself travels.
        _init(address, {}, address=_reachable(address), runtime_env={"py_modules": [str(PACKAGE)]})


def _init(said: str, environment: Mapping[str, str], **given: Any) -> None:
    """Call `ray.init`, with one line for what goes wrong. The signals are handled as before.

    Args:
        said: The value of `executor.address`.
        environment: Further variables of the environment for Ray.
        given: Arguments of `ray.init`.
    """
    with _environment({**QUIET, **environment}):
        import ray
        from ray._private import worker

        worker.print_to_stdstream = _log  # what Ray tells a driver goes to the log
        handlers = {signum: signal.getsignal(signum) for signum in SIGNALS}
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **given)
        except (OSError, RuntimeError, ValueError, ImportError, ray.exceptions.RayError) as error:
            raise UserError(
                f"executor.address={said}: Ray cannot be used ({_first_line(error)}); see whether the cluster has the "
                "same versions of Ray and Python, and whether RAY_AUTH_TOKEN is the cluster's"
            ) from None
        except SystemExit:  # Ray's own answer to SIGTERM; ours follows
            _restore(handlers)
            signal.raise_signal(signal.SIGTERM)
        finally:
            _restore(handlers)


def _restore(handlers: Mapping[signal.Signals, Any]) -> None:
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


def _reachable(address: str) -> str:
    """Return the address that Ray connects to.

    Raises:
        UserError: There is no cluster, or nobody listens there.
    """
    target = (os.environ.get("RAY_ADDRESS") or _running()) if address == "auto" else address
    if target.startswith("ray://"):
        _require_client(address)
    host, _, port = target.removeprefix("ray://").rpartition(":")
    host, port = (host, port) if host else (port, "10001")  # `ray://HOST` has Ray's default port
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"executor.address={address}: no Ray cluster answers at {host}:{port} ({error}); see whether it runs, or "
            "write executor.address=local"
        ) from None
    return target


def _running() -> str:
    """Return the address of the cluster of this machine.

    Raises:
        UserError: There is none, or there are several.
    """
    with _environment(QUIET):
        from ray._private.services import canonicalize_bootstrap_address

        try:
            found = canonicalize_bootstrap_address("auto")
            reason = "none runs on this machine"
        except ConnectionError as error:
            found, reason = None, _first_line(error).partition(". ")[0]
    if found is None:
        raise UserError(
            f"executor.address=auto: no Ray cluster to connect to ({reason}); start one with ray start --head, name "
            "one by RAY_ADDRESS=HOST:6379, or write executor.address=local"
        )
    return str(found)


def _require_client(address: str) -> None:
    try:
        importlib.import_module("grpc")
    except ImportError:
        raise UserError(
            f"executor.address={address}: needs the package grpcio; run pip install 'ray[client]', or start the "
            "command on a node of the cluster with executor.address=auto"
        ) from None


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment while the context lasts."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _first_line(error: BaseException) -> str:
    """Return the first line of an error; with the last one, if the first one announces more."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join([lines[0], lines[-1]]) if lines[0].endswith(":") and len(lines) > 1 else lines[0]


def _log(data: Mapping[str, Any], ignore_prefix: bool) -> None:
    """Write what Ray prints for a driver to the log: the beginning of each text, which may have many lines."""
    for text in data["lines"]:
        LOG.warning("ray: %s", " ".join(text.split())[:_MOST_CHARACTERS])
