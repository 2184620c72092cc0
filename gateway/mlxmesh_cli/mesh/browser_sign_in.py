"""Signs in at the mesh's OpenID Connect issuer, in a browser on this machine.

Source: RFC 8252, section 7.3 (the issuer sends the browser back to a port of the loopback address).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from mlxmesh_client import MeshClient, Unauthenticated

if TYPE_CHECKING:
    from mlxmesh.access.v1.access_pb2 import SessionTokens

PATH = "/callback"
TIMEOUT_S = 300.0
MAX_REQUEST_BYTES = 16 * 1024
_PAGE = "<!doctype html><title>mlxmesh</title><p>You may close this window.</p>"


async def sign_in(client: MeshClient, show: Callable[[str], None]) -> SessionTokens:
    """Begins a session; `show` receives the URL to open. Raises: MeshError."""
    answers: asyncio.Queue[dict[str, str]] = asyncio.Queue(maxsize=8)
    async with _callback_server(answers) as redirect_uri:
        begun = await client.access.begin_oidc_sign_in(redirect_uri)
        show(begun.authorization_url)
        answer = await _answer_to(begun.state, answers)
    if "code" not in answer:
        reason = answer.get("error", "no code")[:100]
        raise Unauthenticated(f"the issuer refused the sign-in ({reason}); try again")
    return await client.access.complete_oidc_sign_in(state=begun.state, code=answer["code"])


async def _answer_to(state: str, answers: asyncio.Queue[dict[str, str]]) -> dict[str, str]:
    """The issuer's answer; what others send to the port is ignored."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            while (answer := await answers.get()).get("state") != state:
                pass
            return answer
    except TimeoutError:
        minutes = TIMEOUT_S / 60
        raise Unauthenticated(f"nobody signed in within {minutes:.0f} minutes; try again") from None


@asynccontextmanager
async def _callback_server(answers: asyncio.Queue[dict[str, str]]) -> AsyncGenerator[str]:
    """The URI of a server that puts the parameters of each callback into the queue."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(10):
                request = await reader.readuntil(b"\r\n\r\n")
            found = callback_parameters(request)
            status = "404 Not Found" if found is None else "200 OK"
            writer.write(
                f"HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: {len(_PAGE)}\r\n"
                f"Connection: close\r\n\r\n{_PAGE}".encode()
            )
            await writer.drain()
            if found is not None and not answers.full():
                answers.put_nowait(found)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever it was, it was no browser that comes back
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, limit=MAX_REQUEST_BYTES)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}{PATH}"


def callback_parameters(request: bytes) -> dict[str, str] | None:
    """The parameters of a callback's HTTP request; None for any other request."""
    words = request.partition(b"\r\n")[0].decode(errors="replace").split(" ")
    if len(words) != 3 or words[0] != "GET":
        return None
    url = urlsplit(words[1])
    if url.path != PATH:
        return None
    return {name: values[0] for name, values in parse_qs(url.query).items()}
