"""Google Cloud Storage on this machine, by gcp-storage-emulator, which fails as it is told.

The emulator ignores conditions. What Google documents of `ifGenerationMatch=0` is added here: where the object exists,
the answer is 412.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import ThreadingHTTPServer
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import s3
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers.buckets import create_bucket
from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage


class Store(s3.Store):
    """The server: where it is, what it was asked, and the faults that it has."""

    storage: Any

    def environment(self) -> dict[str, str]:
        """Variables by which any client finds the server."""
        return {"STORAGE_EMULATOR_HOST": self.url, "FSSPEC_GS_TOKEN": "anon"}

    def contents(self, bucket: str, prefix: str = "") -> dict[str, bytes]:
        """The objects of a bucket below a prefix, by name."""
        names = [each["name"] for each in self.storage.get_file_list(bucket, prefix)[0]]
        return {name: self.storage.get_file(bucket, name) for name in names}


def _kind_and_key(method: str, target: str, body: bytes) -> tuple[str, str]:
    """What a request asks, in the words of `s3.Fault.kind`, and its bucket and key."""
    url = urlsplit(target)
    query = {name: values[0] for name, values in parse_qs(url.query).items()}
    match = re.search(r"/b/([^/]+)(?:/o(?:/([^/]+))?)?", url.path)
    bucket, key = (match[1], unquote(match[2] or "")) if match else ("", "")
    if url.path.startswith("/upload/"):
        if "upload_id" in query:
            return "PART", bucket
        named = re.search(rb'"name": ("(?:[^"\\]|\\.)*")', body)
        key = query.get("name") or (json.loads(named[1]) if named else "")
        return ("CREATE" if query.get("ifGenerationMatch") == "0" else "PUT"), f"{bucket}/{key}"
    if method == "GET" and not key:
        return "LIST", f"{bucket}/{query.get('prefix', '')}"
    if method == "POST":
        return "COPY", f"{bucket}/{key}"
    return ("HEAD" if method == "GET" and url.path.startswith("/storage/") else method), f"{bucket}/{key}"


class _Handler(RequestHandler):  # type: ignore[misc]
    """Answers a request as a fault says, as a condition says, or as the emulator does."""

    lock = threading.Lock()  # the emulator answers one request at a time

    def __init__(self, store: Store, *given: Any) -> None:
        self._of = store
        super().__init__(store.storage, *given)

    def parse_request(self) -> bool:
        """Read the whole request, and answer it here if something is to go wrong."""
        if not super().parse_request():
            return False
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind, key = _kind_and_key(self.command, self.path, body)
        self._of.requests.append((kind, key))
        action = next((fault.action for fault in [*self._of.faults] if fault.applies(kind, key)), None)
        if action == "hang":
            self._of.hanging.wait(60)
        if action in ("hang", "cut"):
            return False
        self._asked, self.rfile = self.rfile, BytesIO(body)
        with self.lock:
            if action is None and kind == "CREATE" and self._exists(*key.split("/", 1)):
                action = "412"
            if action is not None:
                self._refuse(int(action))
            else:
                getattr(self, f"do_{self.command}")()
        return False

    def _exists(self, bucket: str, key: str) -> bool:
        try:
            self._of.storage.get_file_obj(bucket, key)
        except NotFound:
            return False
        return True

    def _refuse(self, code: int) -> None:
        content = json.dumps({"error": {"code": code, "message": f"refused with {code}, as a fault says"}}).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Say nothing of a client that did not wait for an answer."""


@contextmanager
def serving(bucket: str) -> Iterator[Store]:
    """A server with a bucket while the context lasts. Clients of servers that there were before are forgotten."""
    from gcsfs import GCSFileSystem

    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    store = Store()
    store.storage = Storage(use_memory_fs=True)
    create_bucket(bucket, store.storage)
    with _Server(("127.0.0.1", 0), partial(_Handler, store)) as server:
        store.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, name="gs", daemon=True)
        thread.start()
        GCSFileSystem.clear_instance_cache()
        try:
            yield store
        finally:
            server.shutdown()
            thread.join()
