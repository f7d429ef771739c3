"""A Hugging Face Hub on this machine: what huggingface_hub asks of one to fetch the files of a repository."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass
class Hub:
    """Repositories by name; each has its commits, and branches that name them.

    Attributes:
        address: The URL, for `HF_ENDPOINT`.
        asked: Method and path of every request, in order.
        authorizations: The header of the requests that have one.
    """

    address: str = ""
    commits: dict[str, dict[str, Path]] = field(default_factory=dict)
    branches: dict[str, dict[str, str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)

    def push(self, name: str, folder: Path, branch: str = "main") -> str:
        """Make a commit of a folder; returns its hash."""
        content = "".join(
            f"{path.name} {hashlib.sha1(path.read_bytes()).hexdigest()}" for path in sorted(folder.iterdir())
        )
        commit = hashlib.sha1(content.encode()).hexdigest()
        self.commits.setdefault(name, {})[commit] = folder
        self.branches.setdefault(name, {})[branch] = commit
        return commit

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and content for a path."""
        parts = unquote(urlsplit(path).path).strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        parts = parts[2:] if api else parts
        name, (kind, revision, *rest) = "/".join(parts[:2]), parts[2:] or ["revision", "main"]
        if name not in self.commits:
            return 401, {"X-Error-Code": "RepoNotFound"}, b'{"error": "Repository not found"}'
        commit = self.branches[name].get(revision, revision)
        folder = self.commits[name].get(commit)
        if folder is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b'{"error": "Invalid rev id"}'
        files = sorted(path.name for path in folder.iterdir())
        if api and kind == "revision":
            told = {"id": name, "sha": commit, "siblings": [{"rfilename": file} for file in files]}
            return 200, {}, json.dumps(told).encode()
        if api:
            tree = [
                {"type": "file", "path": file, "size": (folder / file).stat().st_size, "oid": file} for file in files
            ]
            return 200, {}, json.dumps(tree).encode()
        if rest[0] not in files:
            return 404, {"X-Error-Code": "EntryNotFound"}, b"Entry not found"
        content = (folder / rest[0]).read_bytes()
        return 200, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit}, content


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers until the end of the block."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            hub.asked.append(f"{self.command} {self.path}")
            if "Authorization" in self.headers:
                hub.authorizations.append(self.headers["Authorization"])
            status, headers, content = hub.answer(self.path)
            self.send_response(status)
            for key, value in (headers | {"Content-Length": str(len(content))}).items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *said: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield hub
        server.shutdown()
