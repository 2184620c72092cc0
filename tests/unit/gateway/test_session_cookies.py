"""Cookies of a browser's session, and what lets them count. Pure."""

from __future__ import annotations

from typing import Any

import pytest

from mlxmesh_gateway.http.endpoint import headers_of
from mlxmesh_gateway.sessions.browser import CSRF_HEADER, csrf_token, with_credential
from mlxmesh_gateway.sessions.cookies import ACCESS, REFRESH, is_secure, own_origin
from mlxmesh_shared.errors import CsrfTokenInvalid, PermissionDenied

TOKEN = "eyJ.a.b"
HOST = "mesh.example:8051"


def scope(scheme: str = "http", **headers: str) -> dict[str, Any]:
    named = {"host": HOST, **{name.replace("_", "-"): value for name, value in headers.items()}}
    pairs = [(name.encode(), value.encode()) for name, value in named.items()]
    return {"type": "http", "scheme": scheme, "headers": pairs}


def test_over_tls_names_keep_other_hosts_from_setting_them() -> None:
    assert ACCESS.set("v", 60, secure=True) == (
        "set-cookie",
        "__Host-mlxmesh-access=v; Path=/; Max-Age=60; HttpOnly; SameSite=Strict; Secure",
    )
    assert REFRESH.set("v", 60, secure=True)[1].startswith("__Secure-mlxmesh-refresh=v; Path=/ses")


@pytest.mark.parametrize(
    ("scheme", "cookie", "found"),
    [
        ("http", "mlxmesh-access=a", "a"),
        ("http", "__Host-mlxmesh-access=b", "b"),
        ("http", "mlxmesh-access=a; __Host-mlxmesh-access=b", "b"),
        ("http", "mlxmesh-access=a; mlxmesh-access=b", ""),
        ("http", "other=a", ""),
        ("http", "", ""),
        ("https", "__Host-mlxmesh-access=b", "b"),
        ("https", "mlxmesh-access=a", ""),
    ],
)
def test_which_cookie_counts(scheme: str, cookie: str, found: str) -> None:
    assert ACCESS.find(scope(scheme, cookie=cookie)) == found


def test_a_proxy_in_front_may_have_the_tls() -> None:
    assert is_secure(scope("https"))
    assert is_secure(scope(origin=f"https://{HOST}"))
    assert not is_secure(scope(origin=f"http://{HOST}"))
    assert own_origin(scope()) == f"http://{HOST}"
    assert own_origin(scope(origin=f"https://{HOST}")) == f"https://{HOST}"


@pytest.mark.parametrize(
    ("headers", "counts"),
    [
        ({}, True),
        ({"sec_fetch_site": "same-origin"}, True),
        ({"sec_fetch_site": "none"}, True),
        ({"origin": f"http://{HOST}"}, True),
        ({"origin": "http://mesh.example"}, False),
        ({"origin": "http://evil.example"}, False),
        ({"origin": f"http://{HOST}", "sec_fetch_site": "cross-site"}, False),
        ({"authorization": "Bearer other"}, False),
        ({"x_api_key": "other"}, False),
    ],
)
def test_when_a_cookie_is_the_credential(headers: dict[str, str], counts: bool) -> None:
    sent = scope(cookie=f"mlxmesh-access={TOKEN}", **headers)
    found = headers_of(with_credential(sent, safe=True))
    assert (found.get("authorization") == f"Bearer {TOKEN}") == counts
    assert "cookie" not in found


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_page_of_another_site_that_names_no_origin_is_refused(site: str) -> None:
    with pytest.raises(PermissionDenied):
        with_credential(scope(sec_fetch_site=site), safe=True)


@pytest.mark.parametrize("sent", ["", "x", csrf_token("another")])
def test_what_changes_something_needs_the_token(sent: str) -> None:
    request = scope(cookie=f"mlxmesh-access={TOKEN}", **{CSRF_HEADER: sent})
    with pytest.raises(CsrfTokenInvalid):
        with_credential(request, safe=False)


def test_the_token_of_a_session_depends_on_its_access_token_only() -> None:
    assert csrf_token(TOKEN) == csrf_token(TOKEN) != csrf_token("another")
    request = scope(cookie=f"mlxmesh-access={TOKEN}", **{CSRF_HEADER: csrf_token(TOKEN)})
    assert headers_of(with_credential(request, safe=False))["authorization"] == f"Bearer {TOKEN}"
