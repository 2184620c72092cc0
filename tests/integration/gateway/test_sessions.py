"""Sessions of browsers at gateways with the real access service."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from mlxmesh_access.assembly import SERVICE_NAMES, open_access
from mlxmesh_shared.rpc.server import MeshServer
from mlxmesh_shared.settings import AccessSettings
from tests.fakes.oidc_issuer import CLIENT_ID, CLIENT_SECRET, fake_issuer
from tests.fakes.sign_in_rig import CHEAP

from .conftest import Stand

PASSWORD = "correct horse battery"
ACCESS = "/mlxmesh.access.v1.AccessService"
MODEL = "/mlxmesh.model.v1.ModelService"
ADA = {"name": "ada", "password": PASSWORD}
SHORT_S = 60
"""The lifetime of access tokens in these tests."""


class Mesh:
    """A gateway with a real access service."""

    def __init__(self, stand: Stand, stack: AsyncExitStack) -> None:
        self.stand = stand
        self._stack = stack
        self.url = ""

    async def browser(self, url: str = "", **headers: str) -> httpx2.AsyncClient:
        """A client that keeps cookies, as a page of the console does."""
        base = url or self.url
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        own = {"origin": base, "sec-fetch-site": "same-origin", **named}
        client = httpx2.AsyncClient(base_url=base, headers=own, timeout=20)
        return await self._stack.enter_async_context(client)

    async def another_gateway(self) -> str:
        return (
            f"http://{await self.stand.http(await self.stand.gateway(http_listen='127.0.0.1:0'))}"
        )


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    async with running_mesh(tmp_path) as mesh:
        yield mesh


@asynccontextmanager
async def running_mesh(tmp_path: Path, **settings_: Any) -> AsyncGenerator[Mesh]:
    async with AsyncExitStack() as stack:
        stand = Stand(stack, tmp_path)
        settings = AccessSettings(data_dir=tmp_path, access_token_s=SHORT_S, **settings_)
        access = await open_access(stack, settings, password_cost=CHEAP)
        server = MeshServer(services=access.services(), service_names=SERVICE_NAMES)
        await stand.announce("access", "access-1", server)
        await stand.models()
        mesh = Mesh(stand, stack)
        mesh.url = await mesh.another_gateway()
        yield mesh


async def first_run(mesh: Mesh) -> httpx2.AsyncClient:
    """The admin's browser, signed in."""
    browser = await mesh.browser()
    user = {**ADA, "role": "ACCESS_ROLE_ADMIN"}
    answer = await browser.post(f"{ACCESS}/CreateUser", json=user)
    assert answer.status_code == 200, answer.text
    signed_in = await browser.post("/session", json=ADA)
    assert signed_in.status_code == 200, signed_in.text
    return browser


async def token_of(browser: httpx2.AsyncClient) -> dict[str, str]:
    session = (await browser.get("/session")).json()
    return {"x-csrf-token": session["csrf_token"]}


async def create_key(browser: httpx2.AsyncClient, **headers: str) -> Any:
    return await browser.post(f"{ACCESS}/CreateKey", json={"name": "k"}, headers=headers)


def cookies_of(answer: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in answer.headers.multi_items():
        if name == "set-cookie":
            found.update(SimpleCookie(value))
    return found


async def test_an_open_mesh_says_so(mesh: Mesh) -> None:
    session = (await (await mesh.browser()).get("/session")).json()
    assert session == {
        "authentication": False,
        "has_users": False,
        "sign_up": False,
        "oidc": "",
        "user": None,
        "role": "admin",
        "csrf_token": "",
    }


async def test_the_first_user_switches_authentication_on_and_signs_in(mesh: Mesh) -> None:
    browser = await first_run(mesh)
    session = (await browser.get("/session")).json()
    assert session["user"] == {"name": "ada", "role": "admin"}
    assert (session["authentication"], session["has_users"]) == (True, True)
    stranger = (await (await mesh.browser()).get("/session")).json()
    assert (stranger["user"], stranger["role"], stranger["authentication"]) == (None, "", True)
    assert (await browser.post(f"{ACCESS}/ListUsers", json={})).status_code == 200
    assert (await (await mesh.browser()).get(f"{ACCESS}/ListUsers")).status_code == 401


async def test_the_cookies_are_out_of_the_reach_of_scripts_and_other_sites(mesh: Mesh) -> None:
    await first_run(mesh)
    plain = cookies_of(await (await mesh.browser()).post("/session", json=ADA))
    https = mesh.url.replace("http:", "https:")  # as behind a proxy with TLS
    secure = cookies_of(await (await mesh.browser(origin=https)).post("/session", json=ADA))
    assert set(plain) == {"mlxmesh-access", "mlxmesh-refresh"}
    assert set(secure) == {"__Host-mlxmesh-access", "__Secure-mlxmesh-refresh"}
    for name, morsel in {**plain, **secure}.items():
        assert morsel["httponly"], name
        assert morsel["samesite"] == "Strict", name
        assert morsel["domain"] == "", name
        assert bool(morsel["secure"]) == name.startswith("__"), name
        assert morsel["path"] == ("/" if name.endswith("access") else "/session"), name
    assert 0 < int(plain["mlxmesh-access"]["max-age"]) <= SHORT_S


async def test_tokens_are_in_no_body(mesh: Mesh) -> None:
    await first_run(mesh)
    answer = await (await mesh.browser()).post("/session", json=ADA)
    for morsel in cookies_of(answer).values():
        assert morsel.value not in answer.text
    assert answer.headers["cache-control"] == "no-store"


async def test_wrong_passwords_are_refused_alike_and_bounded(mesh: Mesh) -> None:
    await first_run(mesh)
    browser = await mesh.browser()
    texts: set[str] = set()
    for name in ("ada", "nobody"):
        answer = await browser.post("/session", json={"name": name, "password": "wrong"})
        assert answer.status_code == 401
        assert not cookies_of(answer)
        texts.add(answer.json()["message"])
    assert len(texts) == 1
    statuses = [
        (await browser.post("/session", json={"name": "ada", "password": "wrong"})).status_code
        for _ in range(12)
    ]
    assert statuses[-1] == 429


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"x-csrf-token": ""}, 403),
        ({"x-csrf-token": "wrong"}, 403),
        ({"x-csrf-token": "é"}, 403),
        ({"x-csrf-token": "OWN"}, 200),
        ({"x-csrf-token": "OWN", "sec-fetch-site": "none"}, 200),
        ({"x-csrf-token": "OWN", "sec-fetch-site": "cross-site"}, 401),
        ({"x-csrf-token": "OWN", "sec-fetch-site": "same-site"}, 401),
        ({"x-csrf-token": "OWN", "origin": "http://evil.example"}, 403),
        ({"x-csrf-token": "OWN", "origin": "null"}, 403),
    ],
)
async def test_a_call_by_cookie_needs_the_token_of_its_session(
    mesh: Mesh, headers: dict[str, str], status: int
) -> None:
    browser = await first_run(mesh)
    own = await token_of(browser)
    sent = {name: own["x-csrf-token"] if v == "OWN" else v for name, v in headers.items()}
    encoded = [(name.encode(), value.encode()) for name, value in sent.items()]
    answer = await browser.post(f"{ACCESS}/CreateKey", json={"name": "k"}, headers=encoded)
    assert answer.status_code == status
    if status == 403 and "origin" not in headers:
        assert answer.json()["details"][0]["debug"]["reason"] == "CSRF_TOKEN_INVALID"


async def test_anothers_csrf_token_is_worth_nothing(mesh: Mesh) -> None:
    ada, other = await first_run(mesh), await mesh.browser()
    await other.post("/session", json=ADA)
    token = await token_of(other)
    assert (await create_key(ada, **token)).status_code == 403
    assert (await create_key(other, **token)).status_code == 200


async def test_a_page_of_another_site_cannot_read_either(mesh: Mesh) -> None:
    browser = await first_run(mesh)
    assert (await browser.get(f"{ACCESS}/ListUsers")).status_code == 200
    foreign = {"sec-fetch-site": "cross-site"}
    async with httpx2.AsyncClient(base_url=mesh.url, cookies=browser.cookies) as client:
        answer = await client.get(f"{ACCESS}/ListUsers", headers=foreign)
        assert answer.status_code == 403
        assert (await client.get("/session", headers=foreign)).json()["user"] is None


async def test_every_gateway_knows_the_session(mesh: Mesh) -> None:
    browser = await first_run(mesh)
    token = await token_of(browser)
    async with httpx2.AsyncClient(
        base_url=await mesh.another_gateway(), cookies=_bare(browser)
    ) as other:
        assert (await create_key(other, **token)).status_code == 200


def _bare(browser: httpx2.AsyncClient) -> dict[str, str]:
    return {cookie.name: cookie.value or "" for cookie in browser.cookies.jar}


@pytest.mark.parametrize("path", ["/v1/models", "/v2/models/pocket", "/metrics"])
async def test_cookies_count_on_no_other_edge(mesh: Mesh, path: str) -> None:
    browser = await first_run(mesh)
    token = await token_of(browser)
    answer = await browser.get(path, headers=token)
    assert answer.status_code == 401
    authorization = f"Bearer {_bare(browser)['mlxmesh-access']}"
    answer = await browser.get(path, headers={"authorization": authorization})
    assert answer.status_code != 401


async def test_a_header_wins_over_the_cookie(mesh: Mesh) -> None:
    browser = await first_run(mesh)
    answer = await browser.get(f"{ACCESS}/ListUsers", headers={"authorization": "Bearer mm_no"})
    assert answer.status_code == 401
    secret = (await create_key(browser, **await token_of(browser))).json()["secret"]
    by_key = await create_key(browser, **{"x-api-key": secret})
    assert by_key.status_code == 200  # a key needs no CSRF token: no browser sends it by itself


async def test_a_session_that_was_planted_is_replaced_at_sign_in(mesh: Mesh) -> None:
    attacker = await first_run(mesh)
    planted = _bare(attacker)
    victim = await mesh.browser()
    for name, value in planted.items():
        victim.cookies.set(name, value, domain="127.0.0.1")
    answer = await victim.post("/session", json=ADA)
    fresh = {name: morsel.value for name, morsel in cookies_of(answer).items()}
    assert not set(fresh.values()) & set(planted.values())


async def test_a_cookie_that_is_there_twice_is_none(mesh: Mesh) -> None:
    browser = await first_run(mesh)
    value = _bare(browser)["mlxmesh-access"]
    async with httpx2.AsyncClient(base_url=mesh.url) as client:
        once = {"cookie": f"mlxmesh-access={value}"}
        twice = {"cookie": f"mlxmesh-access=planted; mlxmesh-access={value}"}
        assert (await client.get(f"{ACCESS}/ListUsers", headers=once)).status_code == 200
        assert (await client.get(f"{ACCESS}/ListUsers", headers=twice)).status_code == 401


async def test_an_expired_session_is_refreshed_by_the_gateway_once_for_all_tabs(
    mesh: Mesh,
) -> None:
    browser = await first_run(mesh)
    refresh = {"cookie": f"mlxmesh-refresh={_bare(browser)['mlxmesh-refresh']}"}
    async with httpx2.AsyncClient(base_url=mesh.url, headers=refresh) as tabs:
        answers = await asyncio.gather(*(tabs.get("/session") for _ in range(8)))
        answers.append(await tabs.get("/session"))
    assert {answer.json()["user"]["name"] for answer in answers} == {"ada"}
    tokens = {cookies_of(answer)["mlxmesh-refresh"].value for answer in answers}
    assert len(tokens) == 1  # else the second use of the token would have ended the session
    again = {"cookie": f"mlxmesh-refresh={tokens.pop()}"}
    async with httpx2.AsyncClient(base_url=mesh.url, headers=again) as later:
        assert (await later.get("/session")).json()["user"] == {"name": "ada", "role": "admin"}


async def test_signing_out_ends_the_session(mesh: Mesh) -> None:
    browser = await first_run(mesh)
    kept = _bare(browser)
    assert (await browser.delete("/session")).status_code == 403
    answer = await browser.delete("/session", headers=await token_of(browser))
    assert answer.status_code == 200
    assert {m["max-age"] for m in cookies_of(answer).values()} == {"0"}
    assert (await browser.get("/session")).json()["user"] is None
    stolen = {"cookie": f"mlxmesh-refresh={kept['mlxmesh-refresh']}"}
    async with httpx2.AsyncClient(base_url=mesh.url, headers=stolen) as thief:
        answer = await thief.get("/session")
        assert answer.json()["user"] is None
        assert cookies_of(answer)["mlxmesh-refresh"]["max-age"] == "0"


async def test_a_member_may_do_what_its_role_may(mesh: Mesh) -> None:
    admin = await first_run(mesh)
    token = await token_of(admin)
    bob = {"name": "bob", "password": PASSWORD}
    created = await admin.post(f"{ACCESS}/CreateUser", json=bob, headers=token)
    assert created.status_code == 200
    browser = await mesh.browser()
    session = (await browser.post("/session", json=bob)).json()
    assert (session["user"], session["role"]) == ({"name": "bob", "role": "client"}, "client")
    own = {"x-csrf-token": session["csrf_token"]}
    assert (await browser.post(f"{ACCESS}/ListUsers", json={}, headers=own)).status_code == 403
    assert (await create_key(browser, **own)).status_code == 200
    assert (await browser.post(f"{MODEL}/ListModels", json={}, headers=own)).status_code == 200


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ({"name": "ada"}, {}, 400),
        ({"name": ["ada"], "password": "x"}, {}, 400),
        ({"name": "a" * 100, "password": "x"}, {}, 400),
        ({"name": "ada", "password": "x" * 300}, {}, 400),
        (ADA, {"origin": "http://evil.example"}, 403),
        (ADA, {"content-type": "text/plain"}, 400),
        ({"state": "s", "code": "c"}, {}, 403),
    ],
)
async def test_hostile_sign_ins_are_refused(
    mesh: Mesh, body: Any, headers: dict[str, str], status: int
) -> None:
    await first_run(mesh)
    browser = await mesh.browser()
    answer = await browser.post("/session", json=body, headers=headers)
    assert answer.status_code == status
    assert not [c for c in cookies_of(answer).values() if c["max-age"] != "0"]
    assert PASSWORD not in answer.text


async def test_without_an_issuer_there_is_no_sign_in_at_one(mesh: Mesh) -> None:
    await first_run(mesh)
    answer = await (await mesh.browser()).post("/session/oidc", json={})
    assert answer.status_code == 400
    assert re.search("issuer", answer.json()["message"])


async def test_only_the_browser_that_began_a_sign_in_at_the_issuer_ends_it(tmp_path: Path) -> None:
    secret_file = tmp_path / "client.secret"
    secret_file.write_text(CLIENT_SECRET)
    async with (
        fake_issuer() as issuer,
        running_mesh(
            tmp_path,
            oidc_issuer=issuer.url,
            oidc_client_id=CLIENT_ID,
            oidc_client_secret_file=secret_file,
            oidc_redirect_uris=("http://localhost",),
            oidc_approve=True,
        ) as mesh,
    ):
        await first_run(mesh)
        issuer.person = {"sub": "subject-2", "preferred_username": "grace"}
        local = mesh.url.replace("127.0.0.1", "localhost")
        browser, other = await mesh.browser(local), await mesh.browser(local)
        begun = await browser.post("/session/oidc", json={})
        url = begun.json()["authorization_url"]
        assert f"redirect_uri={quote(local + '/sign-in', safe='')}" in url
        (state,) = cookies_of(begun).values()
        assert (state["httponly"], state["samesite"], state["path"]) == (True, "Strict", "/session")
        back = issuer.browse(url)
        assert (await other.post("/session", json=back)).status_code == 403
        answer = await browser.post("/session", json=back)
        assert answer.json()["user"] == {"name": "grace", "role": "client"}
        assert cookies_of(answer)["mlxmesh-oidc"]["max-age"] == "0"
        assert (await browser.post("/session", json=back)).status_code == 403
