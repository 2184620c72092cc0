"""The console's files over HTTP: pages, caching, compression and protection."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import os
from collections.abc import AsyncIterator, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx2
import pytest
from starlette.routing import BaseRoute

from mlxmesh_gateway.console.files import ConsoleFiles
from mlxmesh_gateway.console.pages import PAGES
from mlxmesh_gateway.console.routes import console_routes
from mlxmesh_gateway.http.app import create_app

SOURCES = Path(__file__).resolve().parents[3] / "gateway" / "console" / "src" / "routes"
SCRIPT = "start('page')"
INDEX = f"<!doctype html><title>console</title><script>{SCRIPT}</script>"
HASHED = "_app/immutable/start.abc123.js"
CODE = "console.log('hello');" * 100


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """A folder as `make console` leaves it."""
    static = tmp_path / "static"
    (static / "_app" / "immutable").mkdir(parents=True)
    _write(static / "index.html", INDEX)
    _write(static / "favicon.svg", "<svg/>")
    _write(static / HASHED, CODE)
    (static / "_app" / "version.json").write_text("{}")
    (static / "sources.sha256").write_text("secret")
    (tmp_path / "outside.txt").write_text("outside")
    return static


def _write(path: Path, text: str) -> None:
    path.write_text(text)
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(text.encode()))
    path.with_name(f"{path.name}.br").write_bytes(b"brotli of " + path.name.encode())


def routes(build: Path) -> list[BaseRoute]:
    return console_routes(ConsoleFiles(build))


@pytest.fixture
async def client(build: Path) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(create_app(None, routes(build)))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


async def get(client: httpx2.AsyncClient, path: str, encoding: str = "identity") -> httpx2.Response:
    return await client.get(path, headers={"accept-encoding": encoding})


@pytest.mark.parametrize("path", ["/", *(f"/{page}" for page in PAGES), "/chat/abc", "/mesh/a/b"])
async def test_every_page_is_the_one_page(client: httpx2.AsyncClient, path: str):
    response = await get(client, path)
    assert (response.status_code, response.text) == (200, INDEX)
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["content-type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize(
    "path",
    [
        *("/v1", "/v1/models", "/v2/health", "/session", "/metricsx", "/mlxmesh.x.v1.Y/Z", "/mcp"),
        *(
            "/nothing",
            "/chatty",
            "/index.html",
            "/sources.sha256",
            "/static/index.html",
            "/chat.js",
        ),
    ],
)
async def test_other_paths_are_left_alone(client: httpx2.AsyncClient, path: str):
    response = await get(client, path)
    assert response.status_code == 404
    assert "console" not in response.text


async def test_paths_of_the_api_keep_their_answers(client: httpx2.AsyncClient):
    for path in ("/healthz", "/health"):
        assert (await get(client, path)).text == "ok\n"
    assert "telemetry_sinks" in (await get(client, "/metrics")).text


def test_every_folder_of_pages_is_answered():
    folders = {path.parent.relative_to(SOURCES).parts[0] for path in SOURCES.glob("*/**/+page.*")}
    assert folders == set(PAGES)


@pytest.mark.parametrize("path", [f"/{HASHED}", "/favicon.svg", "/", "/_app/nothing.js"])
async def test_every_answer_is_protected(client: httpx2.AsyncClient, path: str):
    headers = (await get(client, path)).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers


async def test_the_policy_allows_the_scripts_of_the_build_only(client: httpx2.AsyncClient):
    policy = (await get(client, "/chat")).headers["content-security-policy"]
    allowed = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives["default-src"] == "'none'"
    assert directives["script-src"] == f"'self' 'sha256-{allowed}'"
    assert directives["style-src"] == "'self'"
    assert directives["connect-src"] == "'self'"
    assert directives["frame-ancestors"] == "'none'"
    assert not {"unsafe-inline", "unsafe-eval", "http:", "https:", "*"} & set(policy.split())


async def test_the_policy_follows_a_new_build(client: httpx2.AsyncClient, build: Path):
    before = (await get(client, "/")).headers["content-security-policy"]
    (build / "index.html").write_text(INDEX.replace(SCRIPT, "other()"))
    os.utime(build / "index.html", (1, 1))
    assert (await get(client, "/")).headers["content-security-policy"] != before


async def test_files_with_a_hash_in_their_name_are_kept_for_ever(client: httpx2.AsyncClient):
    assert "immutable" in (await get(client, f"/{HASHED}")).headers["cache-control"]
    assert (await get(client, "/_app/version.json")).headers["cache-control"] == "no-cache"
    assert (await get(client, "/favicon.svg")).headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("br, gzip", "br"),
        ("gzip", "gzip"),
        ("gzip;q=1.0, br;q=0", "gzip"),
        ("BR", "br"),
        ("identity", None),
        ("deflate, zstd", None),
        ("gzip; q=0, br; q=0.0", None),
    ],
)
async def test_the_best_accepted_encoding_is_sent(build: Path, accepted: str, encoding: str | None):
    messages: list[dict[str, Any]] = []
    await _asgi(build, f"/{HASHED}", accepted, messages)
    headers = dict(messages[0]["headers"])
    ending = {"br": ".br", "gzip": ".gz", None: ""}[encoding]
    assert headers.get(b"content-encoding", b"").decode() == (encoding or "")
    assert int(headers[b"content-length"]) == (build / f"{HASHED}{ending}").stat().st_size
    assert headers[b"content-type"].startswith(b"text/javascript")
    assert headers[b"vary"] == b"accept-encoding"


async def _asgi(build: Path, path: str, accepted: str, messages: list[dict[str, Any]]) -> None:
    """Asks without a client that decodes."""
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "http_version": "1.1",
        "headers": [(b"host", b"localhost"), (b"accept-encoding", accepted.encode())],
    }

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: MutableMapping[str, Any]) -> None:
        messages.append(dict(message))

    await create_app(None, routes(build))(scope, receive, send)


async def test_what_has_not_changed_is_not_sent_again(client: httpx2.AsyncClient):
    for path in ("/", f"/{HASHED}"):
        first = await get(client, path)
        again = await client.get(
            path, headers={"if-none-match": first.headers["etag"], "accept-encoding": "identity"}
        )
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["x-content-type-options"] == "nosniff"


async def test_head_has_the_headers_alone(client: httpx2.AsyncClient):
    response = await client.head("/chat", headers={"accept-encoding": "identity"})
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-length"] == str(len(INDEX))


@pytest.mark.parametrize("verb", ["POST", "PUT", "DELETE"])
async def test_pages_are_read_only(client: httpx2.AsyncClient, verb: str):
    assert (await client.request(verb, "/chat")).status_code == 405


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/_app/../../outside.txt",
            "/_app/..%2f..%2foutside.txt",
            "/_app/%2e%2e/%2e%2e/outside.txt",
        ),
        *("/_app//etc/passwd", "/_app/%00", "/_app/" + "a" * 5000, "/_app/", "/_app/immutable"),
        *("/_app/..\\..\\outside.txt", "/_app/../sources.sha256"),
    ],
)
async def test_nothing_outside_is_served(build: Path, path: str):
    messages: list[dict[str, Any]] = []
    await _asgi(build, unquote(path), "identity", messages)
    assert messages[0]["status"] == 404


async def test_before_the_first_build_it_says_how_to_build(tmp_path: Path):
    transport = httpx2.ASGITransport(create_app(None, routes(tmp_path / "static")))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        response = await get(client, "/chat")
        assert response.status_code == 503
        assert "make console" in response.text
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["retry-after"] == "5"
        assert (await get(client, f"/{HASHED}")).status_code == 404
        (tmp_path / "static").mkdir()
        _write(tmp_path / "static" / "index.html", INDEX)
        assert (await get(client, "/chat")).text == INDEX
