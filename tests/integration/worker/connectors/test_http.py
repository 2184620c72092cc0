"""The HTTP layer over real sockets: limits, and what errors say and do not say."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from mlxmesh_shared.errors import BackEndFailed, InvalidArgument, OutputTooLarge, ServiceUnavailable
from mlxmesh_worker.connectors.address import parse_address
from mlxmesh_worker.connectors.http import HttpClient
from mlxmesh_worker.connectors.port import Target
from tests.fakes.http_faults import Faults

KEY = "key-of-the-back-end"


class Server:
    def __init__(self) -> None:
        self.url = ""
        self.faults = Faults()
        self.seen: list[str] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request.raw_path)
        if request.path.endswith("/bomb"):
            body = gzip.compress(bytes(80 * 1024 * 1024))
            return web.Response(body=body, headers={"Content-Encoding": "gzip"})
        if request.path.endswith("/empty"):
            return web.Response()
        if request.path.endswith("/cut"):
            response = web.StreamResponse(headers={"Content-Length": "1000"})
            await response.prepare(request)
            await response.write(b"{")
            assert request.transport is not None
            request.transport.abort()
            return response
        if request.path.endswith("/quotes"):
            said = f"your key is {request.headers.get('Authorization')}"
            return web.json_response({"error": {"message": said}}, status=400)
        return web.json_response({"path": request.path})


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    app = web.Application(middlewares=[made.faults.middleware])
    app.router.add_route("*", "/{path:.*}", made.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


@pytest.fixture
async def client(server: Server, tmp_path: Path) -> AsyncIterator[HttpClient]:
    (tmp_path / "key").write_text(KEY)
    address = f"{server.url}/base/#key=file:{tmp_path / 'key'}"
    made = HttpClient(parse_address(Target(name="there", address=address)))
    yield made
    await made.close()


async def test_paths_are_below_that_of_the_address(client: HttpClient, server: Server) -> None:
    assert await client.read_json("/a/b", {"q": "x y"}) == {"path": "/base/a/b"}
    assert server.seen in (["/base/a/b?q=x+y"], ["/base/a/b?q=x%20y"])


async def test_an_empty_answer(client: HttpClient) -> None:
    assert await client.json("POST", "/empty") is None


async def test_redirects_are_not_followed(client: HttpClient, server: Server) -> None:
    elsewhere = {"Location": "http://169.254.169.254/latest"}
    server.faults.add("/base/a", status=302, headers=elsewhere)
    with pytest.raises(BackEndFailed, match="redirects"):
        await client.read_json("/a")
    assert not server.seen


async def test_compressed_answers_are_limited_by_what_they_expand_to(client: HttpClient) -> None:
    with pytest.raises(OutputTooLarge, match="bytes"):
        await client.read_json("/bomb")


async def test_an_answer_that_is_cut(client: HttpClient) -> None:
    with pytest.raises(ServiceUnavailable, match="cannot be reached"):
        await client.json("GET", "/cut")


async def test_an_answer_that_hangs(client: HttpClient, server: Server) -> None:
    server.faults.add("/base/a", delay_s=30)
    with pytest.raises(ServiceUnavailable, match="did not answer in time"):
        await client.json("GET", "/a", timeout_s=0.1)


async def test_reads_are_tried_again_and_writes_are_not(client: HttpClient, server: Server) -> None:
    server.faults.add("/base/a", status=503, times=2)
    assert await client.read_json("/a")
    server.faults.add("/base/a", drop=True)
    with pytest.raises(ServiceUnavailable):
        await client.json("POST", "/a")
    assert len(server.seen) == 1


async def test_the_key_is_in_no_error(client: HttpClient) -> None:
    with pytest.raises(InvalidArgument, match=r"your key is Bearer \*\*\*") as raised:
        await client.json("GET", "/quotes")
    assert KEY not in raised.value.message


@pytest.mark.parametrize("before", range(500 - len(KEY), 501, 4))
async def test_no_part_of_the_key_is_left_where_an_error_is_cut(
    client: HttpClient, server: Server, before: int
) -> None:
    server.faults.add("/base/a", status=400, text="x" * before + KEY)
    with pytest.raises(InvalidArgument) as raised:
        await client.json("GET", "/a")
    assert KEY[:3] not in raised.value.message


async def test_a_refused_key_is_not_quoted(client: HttpClient, server: Server) -> None:
    server.faults.add("/base/a", status=401, text=f"wrong key: {KEY[:12]}...")
    with pytest.raises(ServiceUnavailable, match="refuses the key") as raised:
        await client.json("GET", "/a")
    assert KEY[:12] not in raised.value.message


async def test_long_errors_are_cut(client: HttpClient, server: Server) -> None:
    server.faults.add("/base/a", status=500, text="x" * 100_000)
    with pytest.raises(BackEndFailed) as raised:
        await client.json("GET", "/a")
    assert len(raised.value.message) < 1_000


@pytest.mark.parametrize(
    ("value", "delay_s"), [("5", 5), ("999999", 3_600), ("soon", None), ("-1", None)]
)
async def test_retry_after(
    client: HttpClient, server: Server, value: str, delay_s: float | None
) -> None:
    server.faults.add("/base/a", status=429, headers={"Retry-After": value})
    with pytest.raises(ServiceUnavailable) as raised:
        await client.json("GET", "/a")
    assert raised.value.retry_delay_s == delay_s


@pytest.mark.parametrize("text", ["{", "nonsense", "[" * 100_000])
async def test_answers_that_are_no_json(client: HttpClient, server: Server, text: str) -> None:
    server.faults.add("/base/a", status=200, text=text)
    with pytest.raises(BackEndFailed, match="without JSON"):
        await client.json("GET", "/a")


async def test_errors_of_the_reader_stay_its_own(client: HttpClient) -> None:
    """A full disk of the worker must not look like a back end that is away."""
    with pytest.raises(OSError, match="disk full"):
        async with client.stream("GET", "/a"):
            raise OSError("disk full")


async def test_a_key_that_was_replaced_counts_at_once(client: HttpClient, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("another")
    with pytest.raises(InvalidArgument, match=r"\*\*\*"):
        await client.json("GET", "/quotes")
    (tmp_path / "key").unlink()
    with pytest.raises(ServiceUnavailable, match="key is not there"):
        await client.json("GET", "/a")


async def test_a_server_that_accepts_and_says_nothing() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()
        gone.set()

    gone = asyncio.Event()
    listener = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    client = HttpClient(parse_address(Target(name="silent", address=f"127.0.0.1:{port}")))
    with pytest.raises(ServiceUnavailable, match="silent"):
        await client.json("GET", "/", timeout_s=0.1)
    await client.close()
    await gone.wait()
    listener.close()
    await listener.wait_closed()
