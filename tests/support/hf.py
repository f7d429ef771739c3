"""The hub of Hugging Face on this machine: what its client asks for to list and read the files of a dataset."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

TOKEN = "hf_tokenOfTheTests"
_REVISION = "0" * 40


@dataclass
class Hub:
    """The server: where it is, and the dataset that it has.

    Attributes:
        files: The content of each file, by name.
        private: Whether only a request with `TOKEN` is answered.
        stalls: Files of which only the first half is sent.
        asked: The requests, as method and path.
    """

    repository: str
    files: Mapping[str, bytes]
    private: bool = False
    stalls: set[str] = field(default_factory=set)
    asked: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""
    ended: threading.Event = field(default_factory=threading.Event)

    def entries(self, folder: str, recursive: bool) -> list[dict[str, Any]]:
        """The files and folders below a folder, as the hub describes them."""
        prefix = f"{folder}/" if folder else ""
        below = [PurePosixPath(name) for name in self.files if name.startswith(prefix)]
        folders = {parent for name in below for parent in name.parents} - {PurePosixPath("."), PurePosixPath(folder)}
        found = {path: self.entry(str(path)) for path in [*below, *folders] if str(path).startswith(prefix)}
        return [entry for path, entry in sorted(found.items()) if recursive or str(path.parent) == (folder or ".")]

    def entry(self, name: str) -> dict[str, Any] | None:
        """A file or a folder, as the hub describes it; `None` if there is none."""
        if name in self.files:
            content = self.files[name]
            return {"type": "file", "path": name, "size": len(content), "oid": sha1(content).hexdigest()}
        if any(each.startswith(f"{name}/") for each in self.files):
            return {"type": "directory", "path": name, "oid": sha1(name.encode()).hexdigest()}
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: Hub, *given: Any) -> None:
        self._hub = hub
        super().__init__(*given)

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_GET

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self) -> None:
        hub, url = self._hub, urlsplit(self.path)
        path = unquote(url.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        hub.asked.append((self.command, path))
        known = re.fullmatch(rf"/(?:api/)?datasets/{hub.repository}(/.*)?", path)
        if hub.private and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._send(401, b"{}", {"X-Error-Message": "Invalid username or password."})
        elif known is None:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif match := re.fullmatch(r"/resolve/[^/]+/(.+)", known[1] or ""):
            self._send_file(match[1])
        elif match := re.fullmatch(r"/tree/[^/]+(?:/(.*))?", known[1] or ""):
            folder = (match[1] or "").strip("/")
            recursive = parse_qs(url.query).get("recursive", [""])[0].lower() == "true"
            if folder and (hub.entry(folder) or {}).get("type") != "directory":
                self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            else:
                self._send_json(hub.entries(folder, recursive))
        elif re.fullmatch(r"/paths-info/[^/]+", known[1] or ""):
            is_json = "json" in self.headers.get("Content-Type", "")
            paths = json.loads(body)["paths"] if is_json else parse_qs(body)["paths"]
            self._send_json([found for each in paths if (found := hub.entry(each)) is not None])
        else:
            self._send_json({"id": hub.repository, "sha": _REVISION, "private": hub.private, "siblings": []})

    def _send_json(self, content: object) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send_file(self, name: str) -> None:
        content = self._hub.files.get(name)
        if content is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        first, last = 0, len(content) - 1
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(match[1]), min(last, int(match[2] or last))
        given = {"ETag": f'"{sha1(content).hexdigest()}"', "X-Repo-Commit": _REVISION, "Accept-Ranges": "bytes"}
        given["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        self._send(206, content[first : last + 1], given, stalls=name in self._hub.stalls)

    def _send(self, status: int, content: bytes, headers: Mapping[str, str], stalls: bool = False) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if stalls else content)
        if stalls:
            self.wfile.flush()
            self._hub.ended.wait(60)


@contextmanager
def serving(hub: Hub, patch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Serve a dataset while the context lasts. Clients of hubs that there were before are forgotten."""
    from huggingface_hub import HfFileSystem, constants

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, hub)) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        patch.setattr(constants, "ENDPOINT", hub.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
        HfFileSystem.clear_instance_cache()
        thread = threading.Thread(target=server.serve_forever, name="hf", daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.ended.set()
            server.shutdown()
            thread.join()
            HfFileSystem.clear_instance_cache()
