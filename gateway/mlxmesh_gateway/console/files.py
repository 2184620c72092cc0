"""Serves the files of a build, compressed as the client accepts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from mimetypes import guess_type
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, Response
from starlette.staticfiles import NotModifiedResponse, StaticFiles

from mlxmesh_gateway.console.headers import SECURITY_HEADERS, content_security_policy
from mlxmesh_gateway.console.pages import NOT_BUILT

STATIC = Path(__file__).parent / "static"
"""Where `make console` puts the build, and where a wheel has it."""
HASHED = "_app/immutable/"
"""Files whose names change with their contents."""
_ENCODINGS = (("br", ".br"), ("gzip", ".gz"))
"""Best first."""
_REFUSED = frozenset({"q=0", "q=0.0", "q=0.00", "q=0.000"})
_FOREVER = "public, max-age=31536000, immutable"
_ASK = "no-cache"
_RETRY_S = "5"


class ConsoleFiles(StaticFiles):
    """The files below a folder, which may appear later."""

    def __init__(self, folder: Path = STATIC) -> None:
        super().__init__(directory=folder, check_dir=False)
        self.folder = folder

    async def response(self, request: Request) -> Response:
        """The file at the path of a request."""
        return await self.get_response(request.scope["path"].lstrip("/"), request.scope)

    async def get_response(self, path: str, scope: Any) -> Response:
        try:
            if ".." in path.split("/"):
                raise HTTPException(404)
            response = await super().get_response(path, scope)
        except HTTPException as error:
            response = PlainTextResponse("there is no such file\n", error.status_code)
        response.headers.update(SECURITY_HEADERS)
        return response

    def file_response(
        self,
        full_path: str | os.PathLike[str],
        stat_result: os.stat_result,
        scope: Any,
        status_code: int = 200,
    ) -> Response:
        """The file, or its compressed twin."""
        path, encoding = _best(str(full_path), Headers(scope=scope).get("accept-encoding", ""))
        media_type = guess_type(str(full_path))[0] or "application/octet-stream"
        response = FileResponse(
            path, status_code, media_type=media_type, stat_result=Path(path).stat()
        )
        response.headers["vary"] = "accept-encoding"
        response.headers["cache-control"] = _FOREVER if HASHED in str(full_path) else _ASK
        if encoding:
            response.headers["content-encoding"] = encoding
        if self.is_not_modified(response.headers, Headers(scope=scope)):
            return NotModifiedResponse(response.headers)
        return response


class ConsolePage:
    """The console's one page, which is answered at the path of every page."""

    def __init__(self, files: ConsoleFiles) -> None:
        self._files = files
        self._policy: tuple[float, str] = (-1, "")

    async def response(self, request: Request) -> Response:
        index = self._files.folder / "index.html"
        try:
            policy = self._policy_of(index)
        except OSError:
            return _not_built()
        response = await self._files.get_response("index.html", request.scope)
        response.headers["content-security-policy"] = policy
        return response

    def _policy_of(self, index: Path) -> str:
        """The page's policy, computed once for each build."""
        changed = index.stat().st_mtime
        if changed != self._policy[0]:
            self._policy = (changed, content_security_policy(index.read_text()))
        return self._policy[1]


def _not_built() -> Response:
    headers = {
        **SECURITY_HEADERS,
        "content-security-policy": content_security_policy(NOT_BUILT),
        "cache-control": "no-store",
        "retry-after": _RETRY_S,
    }
    return HTMLResponse(NOT_BUILT, 503, headers)


def _best(path: str, accepted: str) -> tuple[str, str]:
    """The smallest twin of a file that a client accepts, and its encoding."""
    wanted = _accepted(accepted)
    for encoding, ending in _ENCODINGS:
        if encoding in wanted and Path(path + ending).is_file():
            return path + ending, encoding
    return path, ""


def _accepted(header: str) -> Sequence[str]:
    """The encodings of an Accept-Encoding header, without those of quality 0."""
    parts = (part.strip().lower().partition(";") for part in header.split(","))
    return [name.strip() for name, _, quality in parts if quality.replace(" ", "") not in _REFUSED]
