"""Calls of one upstream, in bounded time and memory. Ending a call closes its connection."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from mlxmesh_shared.errors import DeadlineExceeded, MeshError, UpstreamUnavailable
from mlxmesh_shared.openai_upstream.address import NO_KEY, KeyReference, checked_url
from mlxmesh_shared.openai_upstream.failures import (
    error_of_event,
    error_of_status,
    parsed_object,
)
from mlxmesh_shared.openai_upstream.sse import EventReader, EventTooLarge

if TYPE_CHECKING:
    import aiohttp

_DONE = "[DONE]"
_ERROR_BYTES = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """An OpenAI-compatible server, as far as its client needs it."""

    name: str
    """For messages."""
    base_url: str
    key: KeyReference = NO_KEY


@dataclass(frozen=True, kw_only=True)
class UpstreamLimits:
    """What one call may take."""

    connect_timeout_s: float = 5.0
    idle_timeout_s: float = 300.0
    """Between two pieces of a response; the first one waits for the prompt."""
    list_timeout_s: float = 10.0
    """For the list of models."""
    max_stream_bytes: int = 256 * 1024 * 1024
    max_body_bytes: int = 64 * 1024 * 1024
    """Of a response that is not a stream."""


class UpstreamClient:
    """Calls one upstream. Its library is imported by the first call.

    Every method raises UpstreamUnavailable when the upstream cannot be reached, fails, or answers
    what nobody can read; UpstreamRefused when it will not serve the mesh; TooManyRequests with its
    retry delay; InvalidArgument for a request that it refuses; DeadlineExceeded; IllegalState when
    its key is not there.
    """

    def __init__(self, upstream: Upstream, limits: UpstreamLimits = UpstreamLimits()) -> None:
        self._name = upstream.name
        self._url = checked_url(upstream.base_url)
        self._key = upstream.key
        self._limits = limits
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Closes its connections, and so ends its calls."""
        if self._session is not None:
            await self._session.close()

    def chat(
        self, body: Mapping[str, Any], timeout_s: float | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[Mapping[str, Any]]]:
        """The chunks of a chat completion; entering returns once the upstream has accepted it."""
        return self._stream("chat/completions", body, timeout_s)

    def completion(
        self, body: Mapping[str, Any], timeout_s: float | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[Mapping[str, Any]]]:
        """The chunks of a completion of a text; entering returns once it has been accepted."""
        return self._stream("completions", body, timeout_s)

    async def embeddings(
        self, body: Mapping[str, Any], timeout_s: float | None = None
    ) -> Mapping[str, Any]:
        """The response to a request for embeddings."""
        async with self._request("POST", "embeddings", timeout_s, body) as (response, _):
            return await self._whole(response)

    async def images(
        self, body: Mapping[str, Any], timeout_s: float | None = None
    ) -> Mapping[str, Any]:
        """The response to a request for images."""
        async with self._request("POST", "images/generations", timeout_s, body) as (response, _):
            return await self._whole(response)

    async def models(self) -> Sequence[str]:
        """The ids of the models that it lists."""
        async with self._request("GET", "models", self._limits.list_timeout_s) as (response, _):
            listed = (await self._whole(response)).get("data")
        entries = cast("list[object]", listed) if isinstance(listed, list) else []
        found = [cast("dict[str, Any]", one) for one in entries if isinstance(one, dict)]
        return [each["id"] for each in found if isinstance(each.get("id"), str)]

    async def check(self, model: str) -> None:
        """Checks its health: it answers, takes the key, and has the model.

        Raises: UpstreamRefused when it has no such model.
        """
        listed = await self.models()
        if model not in listed:
            # Some list only a part of what they have.
            path = f"models/{model}"
            async with self._request("GET", path, self._limits.list_timeout_s) as (response, _):
                await self._whole(response)

    @asynccontextmanager
    async def _stream(
        self, path: str, body: Mapping[str, Any], timeout_s: float | None
    ) -> AsyncGenerator[AsyncIterator[Mapping[str, Any]]]:
        async with self._request("POST", path, timeout_s, {**body, "stream": True}) as answered:
            response, key = answered
            if response.content_type == "application/json":
                chunks = self._only(response)  # it does not stream
            else:
                chunks = self._events(response, key)
            async with aclosing(chunks):
                yield chunks

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        timeout_s: float | None,
        body: Mapping[str, Any] | None = None,
    ) -> AsyncGenerator[tuple[aiohttp.ClientResponse, str]]:
        """The response with status 200, and the key."""
        key = await self._key.read()
        headers = {"Content-Type": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        content = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        deadline = asyncio.timeout(timeout_s)
        try:
            async with deadline:
                with self._failures():
                    response = await self._opened().request(
                        method,
                        f"{self._url}/{path}",
                        data=content,
                        headers=headers,
                        allow_redirects=False,
                    )
                # Leaving it closes its connection, unless it was read to its end.
                async with response:
                    await self._check_status(response, key)
                    yield response, key
        except TimeoutError:
            if not deadline.expired():
                raise
            raise DeadlineExceeded(
                f"the upstream of {self._name} did not answer within the deadline"
            ) from None

    async def _check_status(self, response: aiohttp.ClientResponse, key: str) -> None:
        if response.status != 200:
            retry_after = response.headers.get("Retry-After", "")
            with self._failures():
                content = await response.content.read(_ERROR_BYTES)
            raise error_of_status(
                response.status, retry_after, content, name=self._name, secret=key
            )

    @contextmanager
    def _failures(self) -> Generator[None]:
        """Raises what the library's errors mean; never their text, which may have what was sent."""
        import aiohttp

        try:
            yield
        except aiohttp.ConnectionTimeoutError:
            raise self._unavailable("it cannot be reached in time") from None
        except aiohttp.ServerTimeoutError:
            raise self._unavailable("it sent nothing for too long") from None
        except (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError):
            raise self._unavailable("the connection was lost") from None
        except (aiohttp.ClientError, ConnectionError) as error:
            raise self._unavailable(f"the connection failed ({type(error).__name__})") from None

    async def _events(
        self, response: aiohttp.ClientResponse, key: str
    ) -> AsyncGenerator[Mapping[str, Any]]:
        reader, received = EventReader(), 0
        while chunk := await self._read(response):
            received += len(chunk)
            if received > self._limits.max_stream_bytes:
                raise self._unavailable("its answer is too large")
            try:
                events = reader.feed(chunk)
            except EventTooLarge:
                raise self._unavailable("a piece of its answer is too large") from None
            for data in events:
                if data.strip() == _DONE:
                    return
                event = parsed_object(data)
                if not event:
                    raise self._unavailable("its answer is not of the protocol")
                if error := error_of_event(event, name=self._name, secret=key):
                    raise error
                yield event
        raise self._unavailable("it ended its answer before the end")

    async def _only(self, response: aiohttp.ClientResponse) -> AsyncGenerator[Mapping[str, Any]]:
        yield await self._whole(response)

    async def _whole(self, response: aiohttp.ClientResponse) -> Mapping[str, Any]:
        content = bytearray()
        while chunk := await self._read(response):
            content += chunk
            if len(content) > self._limits.max_body_bytes:
                raise self._unavailable("its answer is too large")
        parsed = parsed_object(bytes(content))
        if not parsed:
            raise self._unavailable("its answer is not of the protocol")
        return parsed

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """What has come; empty at the end."""
        with self._failures():
            return await response.content.readany()

    def _unavailable(self, why: str) -> MeshError:
        return UpstreamUnavailable(f"the upstream of {self._name} is not usable: {why}")

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            import aiohttp

            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    sock_connect=self._limits.connect_timeout_s,
                    sock_read=self._limits.idle_timeout_s,
                ),
                # Its callers limit how many calls there are.
                connector=aiohttp.TCPConnector(limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return self._session
