"""HTTP with one back end: bounded in time and size, errors as MeshErrors, no redirects."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import aiohttp

from mlxmesh_shared.errors import (
    BackEndFailed,
    InvalidArgument,
    MeshError,
    OutputTooLarge,
    ServiceUnavailable,
)
from mlxmesh_worker.connectors.address import Address

CONNECT_TIMEOUT_S = 5.0
TIMEOUT_S = 30.0
PROBE_TIMEOUT_S = 5.0
MAX_JSON_BYTES = 64 * 1024 * 1024
MAX_QUOTED_CHARACTERS = 500
_MAX_ERROR_BYTES = 64 * 1024
_CHUNK_BYTES = 64 * 1024
READ_TRIES = 3
_FIRST_DELAY_S = 0.1
_TRANSPORT_ERRORS = (aiohttp.ClientError, OSError, TimeoutError)
_FULL = frozenset({408, 425, 429, 502, 503, 504})
_REFUSED = frozenset({401, 403, 407})


@dataclass(frozen=True, kw_only=True)
class Response:
    """A response whose body is not read yet."""

    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes]
    """At most as many bytes as were asked for; more raise OutputTooLarge."""


class HttpClient:
    """Requests to one back end. Paths are appended to the path of its address.

    Raises, from every method: ServiceUnavailable if it cannot be reached, does not answer in time,
        is full or refuses its key; InvalidArgument if it refuses the request; BackEndFailed if it
        fails or redirects; OutputTooLarge.
    """

    def __init__(
        self,
        address: Address,
        *,
        authorization: str = "Bearer",
        explained: Callable[[object], str] | None = None,
    ) -> None:
        """explained: makes a sentence of the JSON of an error."""
        self.address = address
        self._explained = explained or text_of
        self._scheme = authorization
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Closes its connections."""
        if self._session is not None:
            await self._session.close()

    async def probe(self, path: str) -> None:
        """Checks that a path answers with JSON. Raises: ServiceUnavailable, whatever is wrong."""
        try:
            await self.json("GET", path, timeout_s=PROBE_TIMEOUT_S)
        except (InvalidArgument, BackEndFailed, OutputTooLarge) as error:
            raise ServiceUnavailable(f"{error.message}; check its address") from None

    async def read_json(
        self, path: str, query: Mapping[str, str] | None = None, *, timeout_s: float = TIMEOUT_S
    ) -> Any:
        """The JSON at a path. A back end that cannot be reached is tried again shortly."""
        return await self.json("GET", path, query=query, timeout_s=timeout_s, tries=READ_TRIES)

    async def json(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        timeout_s: float | None = TIMEOUT_S,
        max_bytes: int = MAX_JSON_BYTES,
        tries: int = 1,
    ) -> Any:
        """The JSON of an answer; None of an empty one. No timeout waits for a slow answer."""
        async with self.stream(
            method,
            path,
            query=query,
            body=body,
            timeout_s=timeout_s,
            max_bytes=max_bytes,
            tries=tries,
        ) as response:
            content = b"".join([chunk async for chunk in response.chunks])
        try:
            return json.loads(content) if content.strip() else None
        except (ValueError, RecursionError):
            raise BackEndFailed(f"{self.address.described} answered {path} without JSON") from None

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        form: aiohttp.FormData | None = None,
        timeout_s: float | None = TIMEOUT_S,
        max_bytes: int = MAX_JSON_BYTES,
        tries: int = 1,
    ) -> AsyncGenerator[Response]:
        """A response of status 2xx, read by whoever opens it.

        tries: how often a back end that cannot be reached is asked; only for what may be repeated.
        """
        timeout = aiohttp.ClientTimeout(total=timeout_s, connect=CONNECT_TIMEOUT_S)

        def begin() -> Awaitable[aiohttp.ClientResponse]:
            content = body if form is None else None
            return self.session().request(
                method,
                self.url(path),
                params=query,
                json=content,
                data=form,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
            )

        headers = await self.authorized()
        async with await self._opened(begin, path, tries) as response:
            yield Response(
                status=response.status,
                headers=response.headers,
                chunks=self._limited(response, max_bytes),
            )

    async def _opened(
        self, begin: Callable[[], Awaitable[aiohttp.ClientResponse]], path: str, tries: int
    ) -> aiohttp.ClientResponse:
        """A response of status 2xx."""
        for failures in range(tries):
            try:
                return await self._accepted(await begin(), path)
            except _TRANSPORT_ERRORS as error:
                found = self.unreachable(error)
            except ServiceUnavailable as error:
                found = error
            if failures + 1 == tries:
                raise found
            await asyncio.sleep(_FIRST_DELAY_S * 2**failures)
        raise AssertionError(tries)

    async def _accepted(
        self, response: aiohttp.ClientResponse, path: str
    ) -> aiohttp.ClientResponse:
        if 200 <= response.status < 300:
            return response
        async with response:
            raise await self._refusal(response, path)

    def session(self) -> aiohttp.ClientSession:
        """Its connections, for the protocols that begin with HTTP."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=True,
            )
        return self._session

    def url(self, path: str) -> str:
        """The URL of a path."""
        return self.address.url + path

    async def authorized(self) -> Mapping[str, str]:
        """The headers that carry the key, if there is one."""
        key = await self.address.read_key()
        if not key:
            return {}
        if self._scheme == "Basic":
            key = base64.b64encode(key.encode()).decode()
        return {"Authorization": f"{self._scheme} {key}"}

    def unreachable(self, error: BaseException) -> ServiceUnavailable:
        """The error of a transport. Only its type: its text may contain what was sent."""
        what = "did not answer in time" if isinstance(error, TimeoutError) else "cannot be reached"
        return ServiceUnavailable(f"{self.address.described} {what} ({type(error).__name__})")

    async def _limited(
        self, response: aiohttp.ClientResponse, max_bytes: int
    ) -> AsyncIterator[bytes]:
        size = 0
        try:
            async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                size += len(chunk)
                if size > max_bytes:
                    raise OutputTooLarge(
                        f"an answer of {self.address.described} is above {max_bytes:,} bytes"
                    )
                yield chunk
        except _TRANSPORT_ERRORS as error:
            raise self.unreachable(error) from None

    async def _refusal(self, response: aiohttp.ClientResponse, path: str) -> MeshError:
        status, who = response.status, self.address.described
        if status in _REFUSED:
            # Not its text: it may quote the key.
            return ServiceUnavailable(
                f"{who} refuses the key (status {status}); "
                "its address names the key by #key=env:NAME or #key=file:/PATH"
            )
        if 300 <= status < 400:
            return BackEndFailed(f"{who} redirects {path}; set the address that it redirects to")
        try:
            content = await response.content.read(_MAX_ERROR_BYTES)
        except _TRANSPORT_ERRORS:
            content = b""
        # First the key: of one that the end cuts, a part would be left.
        text = (await self._without_key(self._said(content)))[:MAX_QUOTED_CHARACTERS]
        said = (
            f"{who} answered {path} with status {status}: {text}"
            if text
            else (f"{who} answered {path} with status {status}")
        )
        if status in _FULL:
            return ServiceUnavailable(said, retry_delay_s=_retry_delay_s(response.headers))
        if 400 <= status < 500:
            return InvalidArgument(said, field="arguments")
        return BackEndFailed(said)

    def _said(self, content: bytes) -> str:
        """What a body says about an error, in the forms that servers have."""
        try:
            text = self._explained(json.loads(content))
        except (ValueError, RecursionError):
            text = content.decode("utf-8", "replace")
        return " ".join(text.split())

    async def _without_key(self, text: str) -> str:
        key = await self.address.read_key()
        if not key:
            return text
        encoded = base64.b64encode(key.encode()).decode()
        return text.replace(key, "***").replace(encoded, "***")


def _retry_delay_s(headers: Mapping[str, str]) -> float | None:
    """Of Retry-After in seconds; its other form, a date, would compare two clocks."""
    value = headers.get("Retry-After", "")
    return min(float(value), 3_600.0) if value.isdecimal() else None


def text_of(said: object) -> str:
    """The text of an error in the JSON forms that most servers have; empty of another form."""
    if isinstance(said, dict):
        fields = cast("dict[str, object]", said)
        for name in ("error", "detail", "errors", "message", "msg"):
            if text := text_of(fields.get(name)):
                where = fields.get("loc")
                return f"{_where(where)}: {text}" if name == "msg" and where else text
        return ""
    if isinstance(said, list):
        return "; ".join(filter(None, map(text_of, cast("list[object]", said))))
    return said if isinstance(said, str) else ""


def _where(location: object) -> str:
    if isinstance(location, list):
        return ".".join(str(part) for part in cast("list[object]", location))
    return str(location)
