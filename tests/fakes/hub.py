"""A model hub on loopback: enough of the Hugging Face HTTP protocol to search, find and pull.

Faults are attributes: a connection that breaks off, corrupted bytes, a hub without ranges, a pause,
a slow line, an answer that is an error.
"""

import hashlib
import json
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.fakes import hub_api

COMMIT = "c0ffee0000000000000000000000000000000001"
_CHUNK_BYTES = 64 * 1024


@dataclass
class FakeHub:
    """What the hub has (`models`: hub id to files), and how it misbehaves."""

    models: dict[str, dict[str, bytes]] = field(default_factory=dict)
    commit: str = COMMIT
    break_after_bytes: int | None = None  # of each answer, then the connection is closed
    breaks_left: int = 0  # how many answers break off so
    corrupt: set[str] = field(default_factory=set)  # files sent with a wrong first byte
    size_lies: dict[str, int] = field(default_factory=dict)  # added to the sizes that are told
    told_checksum: str | None = None  # told for every file
    ranges: bool = True
    ranges_seen: list[str] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)  # cleared: bodies stall halfway
    bytes_per_second: int = 0  # of each body; 0 for as fast as it goes
    api_status: int = 200  # of every answer of the API
    told: dict[str, dict[str, Any]] = field(default_factory=dict)  # told of models instead
    api_calls: list[str] = field(default_factory=list)  # paths with queries
    authorizations: list[str] = field(default_factory=list)  # of these calls
    endpoint: str = ""

    def add(self, repo_id: str, directory: Path) -> None:
        """Offers the files of a directory, and of the folders in it."""
        self.models[repo_id] = {
            path.relative_to(directory).as_posix(): path.read_bytes()
            for path in directory.rglob("*")
            if path.is_file()
        }

    def info(self, repo_id: str) -> dict[str, Any]:
        """What the API tells of a model."""
        siblings = [_sibling(name, data) for name, data in sorted(self.models[repo_id].items())]
        for sibling in siblings:
            sibling["size"] += self.size_lies.get(sibling["rfilename"], 0)
            if self.told_checksum is not None:
                sibling["blobId"] = self.told_checksum
                sibling.get("lfs", {})["sha256"] = self.told_checksum
        return {**self._details(repo_id), "siblings": siblings}

    def found(self) -> list[dict[str, Any]]:
        """What a search may find."""
        return [self._details(repo_id) for repo_id in self.models]

    def _details(self, repo_id: str) -> dict[str, Any]:
        details = hub_api.details(self.models[repo_id], self.told.get(repo_id, {}))
        return {"id": repo_id, "modelId": repo_id, "sha": self.commit, **details}


def _sibling(name: str, data: bytes) -> dict[str, Any]:
    """Large files are kept by SHA-256, small ones as git objects, as at the real hub."""
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    sibling: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": blob}
    if name.endswith((".safetensors", ".bin")):
        sha = hashlib.sha256(data).hexdigest()
        sibling["lfs"] = {"sha256": sha, "size": len(data), "pointerSize": 134}
    return sibling


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        if parts[0] == "api":
            self.hub.api_calls.append(self.path)
            self.hub.authorizations.append(self.headers.get("Authorization", ""))
        if parts[0] == "api" and self.hub.api_status != 200:
            self._error(self.hub.api_status, "")
        elif parts == ["api", "models"]:
            self._search(hub_api.parameters_of(url.query))
        elif parts[:2] == ["api", "models"]:
            self._info(f"{parts[2]}/{parts[3]}", parts[5] if len(parts) > 5 else "main")
        else:
            self._file(f"{parts[0]}/{parts[1]}", "/".join(parts[4:]))

    def do_HEAD(self) -> None:
        self.do_GET()

    def _info(self, repo_id: str, revision: str) -> None:
        if repo_id not in self.hub.models:
            self._error(404, "RepoNotFound")
        elif revision not in ("main", self.hub.commit):
            self._error(404, "RevisionNotFound")
        else:
            self._send(200, json.dumps(self.hub.info(repo_id)).encode(), {})

    def _search(self, parameters: hub_api.Parameters) -> None:
        items, link = hub_api.page(self.hub.found(), parameters, self.hub.endpoint)
        self._send(200, json.dumps(items).encode(), {"Link": link} if link else {})

    def _file(self, repo_id: str, name: str) -> None:
        data = self.hub.models.get(repo_id, {}).get(name)
        if data is None:
            self._error(404, "EntryNotFound")
            return
        if name in self.hub.corrupt:
            data = b"?" + data[1:]
        wanted = self.headers.get("Range", "")
        self.hub.ranges_seen.append(f"{name} {wanted}".strip())
        headers = {"ETag": '"fake"', "X-Repo-Commit": self.hub.commit}
        if wanted and self.hub.ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self._send(206, data[start:], headers)
        else:
            self._send(200, data, headers)

    def _error(self, status: int, code: str) -> None:
        self._send(status, b"{}", {"X-Error-Code": code})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self._send_body(body)

    def _send_body(self, body: bytes) -> None:
        limit = self.hub.break_after_bytes
        breaks = limit is not None and self.hub.breaks_left > 0 and len(body) > limit
        if breaks:
            self.hub.breaks_left -= 1
            body = body[:limit]
        for start in range(0, len(body), _CHUNK_BYTES):
            if start >= len(body) // 2:
                self.hub.gate.wait(30)
            self.wfile.write(body[start : start + _CHUNK_BYTES])
            if self.hub.bytes_per_second:
                time.sleep(_CHUNK_BYTES / self.hub.bytes_per_second)
        if breaks:
            self.close_connection = True

    def handle(self) -> None:
        try:
            super().handle()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client went away

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


@contextmanager
def serving_hub() -> Generator[FakeHub]:
    """A hub that listens on a free port of loopback until the end of the block."""
    hub = FakeHub()
    hub.gate.set()
    handler = type("_BoundHandler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.gate.set()
        server.shutdown()
        thread.join()
        server.server_close()
