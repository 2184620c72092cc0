"""Which redirect URIs are allowed, and a table of attacks on the comparison."""

from __future__ import annotations

import pytest

from mlxmesh_access.sign_in.oidc.redirects import is_allowed, is_legal

ALLOWED = (
    "https://mesh.example/console",
    "https://mesh.example:8443/app/",
    "http://localhost",
    "http://127.0.0.1:9000/back",
    "https://q.example/cb?tenant=1",
)


@pytest.mark.parametrize(
    "uri",
    [
        "https://mesh.example/console",
        "https://mesh.example/console/",
        "https://mesh.example/console/signed-in?next=/models",
        "https://mesh.example/console?next=/models",
        "https://MESH.example:443/console",
        "https://mesh.example:8443/app/x",
        "http://localhost:51234/callback",
        "http://localhost/",
        "http://localhost",
        "http://127.0.0.1:9000/back",
        "https://q.example/cb?tenant=1",
    ],
)
def test_allowed_uris_and_what_is_below_them(uri: str) -> None:
    assert is_allowed(uri, ALLOWED)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "https://",
        "https://mesh.example",
        "https://mesh.example/",
        "https://mesh.example/consoles",
        "https://mesh.example/console.evil",
        "https://mesh.example/console/../admin",
        "https://mesh.example/console/%2e%2e/admin",
        "https://mesh.example/console/%2E./admin",
        "https://mesh.example/console/./x",
        "https://mesh.example.evil.example/console",
        "https://mesh.example@evil.example/console",
        "https://evil.example/https://mesh.example/console",
        "https://evil.example?https://mesh.example/console",
        "https://user:pass@mesh.example/console",
        "https://mesh.example:8444/console",
        "https://mesh.example:0/console",
        "https://mesh.example:99999/console",
        "https://mesh.example:x/console",
        "http://mesh.example/console",
        "javascript://mesh.example/console",
        "data:text/html,x",
        "//mesh.example/console",
        "/console",
        "https:/mesh.example/console",
        "https:\\\\mesh.example/console",
        "https://mesh.example\\@evil.example/console",
        "https://mesh.example/console#fragment",
        "https://mesh.example/console\n",
        "https://mesh.example/con\tsole",
        " https://mesh.example/console",
        "https://mesh.example/console\u2028",
        "https://mesh\uff0eexample/console",
        "https://localhost:51234/callback",
        "http://localhost.evil.example/callback",
        "http://127.0.0.1:9001/back",
        "http://127.0.0.2:9000/back",
        "https://[::1/console",
        "https://q.example/cb?tenant=2",
        "https://q.example/cb",
        "https://q.example/cb/x?tenant=1",
    ],
)
def test_any_other_uri_is_refused(uri: str) -> None:
    assert not is_allowed(uri, ALLOWED)


def test_nothing_is_allowed_by_default() -> None:
    assert not is_allowed("http://localhost", ())


@pytest.mark.parametrize(
    ("uri", "legal"),
    [
        ("https://mesh.example", True),
        ("http://[::1]:80/x", True),
        ("http://mesh.example", False),
        ("mesh.example", False),
        ("https://mesh.example/#x", False),
    ],
)
def test_settings_allow_https_and_loopback(uri: str, legal: bool) -> None:
    assert is_legal(uri) is legal
