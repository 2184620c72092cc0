"""HTTP requests whose answers are JSON objects, in bounded time and memory."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, cast

import aiohttp

from mlxmesh_shared.errors import IssuerUnavailable

MAX_ANSWER_BYTES = 1024 * 1024


class HttpJson:
    """Requests to one issuer. Every failure raises IssuerUnavailable, which quotes nothing."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Closes its connections."""
        if self._session is not None:
            await self._session.close()

    async def get(self, url: str) -> Mapping[str, Any]:
        """The object at a URL."""
        status, content = await self._request("GET", url)
        if status != 200:
            raise IssuerUnavailable(f"the OpenID Connect issuer answered with status {status}")
        return content

    async def post(
        self, url: str, form: Mapping[str, str], credentials: tuple[str, str] | None
    ) -> tuple[int, Mapping[str, Any]]:
        """The answer to a form, with status 200 or of kind 4xx."""
        headers = {"Authorization": _basic(*credentials)} if credentials else {}
        status, content = await self._request("POST", url, data=dict(form), headers=headers)
        if status != 200 and not 400 <= status < 500:
            raise IssuerUnavailable(f"the OpenID Connect issuer answered with status {status}")
        return status, content

    async def _request(
        self,
        method: str,
        url: str,
        data: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Mapping[str, Any]]:
        headers = {"Accept": "application/json", **(headers or {})}
        try:
            async with self._opened().request(
                method, url, data=data, headers=headers, allow_redirects=False
            ) as response:
                return response.status, _object(await _limited(response))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            # Only its type: its text may contain what was sent.
            raise IssuerUnavailable(
                f"the OpenID Connect issuer cannot be reached ({type(error).__name__})"
            ) from None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=self._timeout, cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._session


def _basic(name: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()


async def _limited(response: aiohttp.ClientResponse) -> bytes:
    content = b""
    async for chunk in response.content.iter_chunked(64 * 1024):
        content += chunk
        if len(content) > MAX_ANSWER_BYTES:
            raise ValueError("too large")
    return content


def _object(content: bytes) -> Mapping[str, Any]:
    """The JSON object; an empty one for anything else."""
    try:
        parsed: object = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return cast("Mapping[str, Any]", parsed) if isinstance(parsed, dict) else {}
