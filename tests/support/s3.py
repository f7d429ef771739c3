"""An S3 server on this machine, moto's, which fails as it is told.

The faults are between the server's socket and its application, so a client sees what a proxy in front would do.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import pytest
import warm

ACCESS_KEY, SECRET_KEY, TOKEN = (
    "AKIAOVERNIGHTSPEECH1",
    "s3cr3t/Of+The/Overnight+Speech/Tests0001",
    "sessiontokenofthetests",
)
_BODY = (
    "<?xml version='1.0' encoding='UTF-8'?><Error><Code>{}</Code><Message>{}</Message><RequestId>1</RequestId></Error>"
)
ANSWERS = {
    "409": ("409 Conflict", "ConditionalRequestConflict", "The conditional request cannot succeed"),
    "412": ("412 Precondition Failed", "PreconditionFailed", "At least one of the pre-conditions did not hold"),
    "403": ("403 Forbidden", "AccessDenied", "Access Denied"),
    "500": ("500 Internal Server Error", "InternalError", "We encountered an internal error. Please try again."),
    "503": ("503 Slow Down", "SlowDown", "Please reduce your request rate."),
}  # fmt: skip
"""What the server says in place of doing what it is asked: status, code and message, as S3 documents them."""


@dataclass
class Fault:
    """A rule for requests that fail.

    Attributes:
        kind: Pattern for `PUT`, `CREATE` (a put with `If-None-Match`), `GET`, `LIST`, `HEAD`, `DELETE`, `COPY`, or for
            the requests of a multipart upload: `BEGIN`, `PART`, `COMPLETE`, `ABORT`.
        key: Pattern that the key has, or the prefix of a list.
        action: A key of `ANSWERS`; `cut`: nothing is done, and the connection ends; `lost`: it is done, and the
            connection ends before the answer; `stale`: a list lacks what was written in the last second;
            `twice`: `If-None-Match` is ignored; `hang`: nothing is done until the fault ends; `half`: the first half of
            the answer comes, and the rest does not.
        times: How often; `None` for always.
        after: How many such requests pass before.
    """

    kind: str
    key: str
    action: str
    times: int | None = 1
    after: int = 0
    met: int = 0

    def applies(self, kind: str, key: str) -> bool:
        """Whether it applies to this request; counts it."""
        if not re.fullmatch(self.kind, kind) or not re.search(self.key, key):
            return False
        self.met += 1
        return self.met > self.after and (self.times is None or self.met <= self.after + self.times)


@dataclass
class Store:
    """The server: where it is, what it was asked, and the faults that it has."""

    url: str = ""
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    written: dict[str, float] = field(default_factory=dict)
    hanging: threading.Event = field(default_factory=threading.Event)

    def environment(self) -> dict[str, str]:
        """Variables by which any client finds the server."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.url, "AWS_EC2_METADATA_DISABLED": "true",
        }  # fmt: skip

    @contextmanager
    def failing(self, *faults: Fault) -> Iterator[None]:
        """Fail as these rules say while the context lasts."""
        self.faults, self.hanging = [*faults], threading.Event()
        try:
            yield
        finally:
            self.faults = []
            self.hanging.set()

    @contextmanager
    def counting(self) -> Iterator[Counter[str]]:
        """Count requests by their kind while the context lasts."""
        found: Counter[str] = Counter()
        before = len(self.requests)
        yield found
        found.update(kind for kind, _ in self.requests[before:])


def _kind_and_key(environ: dict[str, Any]) -> tuple[str, str]:
    """What a request asks, in the words of `Fault.kind`, and its bucket and key."""
    method, query = environ["REQUEST_METHOD"], parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
    path = unquote(environ.get("PATH_INFO", "")).strip("/")
    if method == "GET" and ("list-type" in query or "prefix" in query):
        return "LIST", f"{path}/{query.get('prefix', [''])[0]}"
    if method == "POST":
        return ("BEGIN" if "uploads" in query else "COMPLETE" if "uploadId" in query else "POST"), path
    if "uploadId" in query:
        return ("PART" if method == "PUT" else "ABORT"), path
    if method == "PUT" and "HTTP_X_AMZ_COPY_SOURCE" in environ:
        return "COPY", path
    if method == "PUT" and "HTTP_IF_NONE_MATCH" in environ:
        return "CREATE", path
    return method, path


class _Faulty:
    """The application of the server, with the faults."""

    def __init__(self, application: Callable[..., Iterable[bytes]], store: Store) -> None:
        self._application, self._store = application, store
        self._lock = threading.Lock()  # moto checks `If-None-Match` and writes in two steps

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        store = self._store
        kind, key = _kind_and_key(environ)
        store.requests.append((kind, key))
        action = next((fault.action for fault in [*store.faults] if fault.applies(kind, key)), None)
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = BytesIO(body)
        if action == "hang":
            store.hanging.wait(60)
            action = "cut"
        if action == "cut":
            return _cut(environ)
        if action in ANSWERS:
            status, code, message = ANSWERS[action]
            content = b"" if kind == "HEAD" else _BODY.format(code, message).encode()
            start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(content)))])
            return [content]
        if action == "twice":
            environ.pop("HTTP_IF_NONE_MATCH", None)
        with self._lock:
            answer = (
                [*self._application(environ, start_response)]
                if action != "stale"
                else self._stale(environ, start_response)
            )
        if kind in ("PUT", "CREATE", "COMPLETE", "COPY"):
            store.written[key] = time.monotonic()
        if action == "half":
            return self._half(environ, answer)
        return _cut(environ) if action == "lost" else answer

    def _half(self, environ: dict[str, Any], answer: list[bytes]) -> Iterator[bytes]:
        """The first half of an answer; the rest does not come while the fault lasts."""
        body = b"".join(answer)
        yield body[: len(body) // 2]
        self._store.hanging.wait(60)
        _cut(environ)

    def _stale(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        """A list without what is new, as stores answer that become consistent later."""
        started: list[Any] = []
        listed = b"".join(self._application(environ, lambda *given, **_: started.extend(given))).decode()
        new = [key.partition("/")[2] for key, at in self._store.written.items() if at > time.monotonic() - 1]
        for key in new:
            listed = re.sub(rf"<Contents>\s*<Key>{re.escape(key)}</Key>.*?</Contents>", "", listed, flags=re.DOTALL)
        headers = [(name, value) for name, value in started[1] if name.lower() != "content-length"]
        start_response(started[0], [*headers, ("Content-Length", str(len(listed.encode())))])
        return [listed.encode()]


def _cut(environ: dict[str, Any]) -> list[bytes]:
    """End the connection without an answer."""
    with suppress(OSError):
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    raise ConnectionAbortedError("the connection is cut, as a fault says")


@cache
def _begin() -> None:
    warm.share_what_clients_of_s3_read()


@contextmanager
def serving() -> Iterator[Store]:
    """A server while the context lasts. Clients of servers that there were before are forgotten."""
    from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
    from s3fs import S3FileSystem
    from werkzeug.serving import make_server

    class Handler(MotoRequestHandler):  # type: ignore[misc]
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def run_wsgi(self) -> None:
            """Answer, and keep the connection for the next request, as a store does. werkzeug ends it after each."""
            began: list[Any] = []
            answer = application(self.make_environ(), lambda *given, **_: began.extend(given))
            code, _, message = began[0].partition(" ")
            self.send_response(int(code), message)
            for name, value in began[1]:
                self.send_header(name, value)
            self.end_headers()
            for part in answer:
                self.wfile.write(part)

        def log(self, *_: Any) -> None:
            """Say nothing of requests."""

    _begin()
    store = Store()
    application = _Faulty(create_backend_app("s3"), store)
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Handler)
    store.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, name="s3", daemon=True)
    thread.start()
    S3FileSystem.clear_instance_cache()
    try:
        yield store
    finally:
        server.shutdown()
        thread.join()


@contextmanager
def bucket(name: str, scratch: Path | None = None) -> Iterator[Store]:
    """A server with a bucket, which the environment names while the context lasts. `scratch` takes unfinished files."""
    with pytest.MonkeyPatch.context() as patch, serving() as store:
        for variable, value in store.environment().items():
            patch.setenv(variable, value)
        if scratch is not None:
            patch.setenv("TMPDIR", str(scratch))
            patch.setattr("tempfile.tempdir", None)
        client(store).create_bucket(Bucket=name)
        yield store


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Store]:
    """One server for all tests of a process; a module makes a bucket of its own."""
    with serving() as store:
        yield store


def client(store: Store) -> Any:
    """What asks the server without the pipeline and fsspec."""
    return _client(store.url)


@cache
def _client(url: str) -> Any:
    import boto3

    return boto3.client(
        "s3", endpoint_url=url, aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY,
        region_name="us-east-1",
    )  # fmt: skip


def keys(store: Store, bucket: str, prefix: str = "") -> list[str]:
    """The keys of a bucket below a prefix."""
    pages = client(store).get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return [each["Key"] for page in pages for each in page.get("Contents", [])]


def download(store: Store, bucket: str, prefix: str, folder: Any) -> Any:
    """Copy a run to a folder, so that it can be compared with a local one."""
    its = client(store)
    for key in keys(store, bucket, f"{prefix}/"):
        path = folder / key.removeprefix(f"{prefix}/")
        path.parent.mkdir(parents=True, exist_ok=True)
        its.download_file(bucket, key, str(path))
    return folder
