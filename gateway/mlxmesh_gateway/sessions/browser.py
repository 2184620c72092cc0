"""Lets a session's cookie stand for a credential, where no other page can have sent it. Pure.

Source: the OWASP Cross-Site Request Forgery Prevention Cheat Sheet.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping, MutableMapping
from hashlib import sha256
from typing import Any

from mlxmesh_gateway.http.endpoint import headers_of
from mlxmesh_gateway.sessions.cookies import ACCESS, is_same_origin, without_cookies
from mlxmesh_shared.errors import CsrfTokenInvalid, PermissionDenied

CSRF_HEADER = "x-csrf-token"
_PURPOSE = b"mlxmesh csrf token 1\0"


def csrf_token(access_token: str) -> str:
    """The token of a session, which every gateway derives alike and no other page can know."""
    digest = hmac.digest(access_token.encode(), _PURPOSE, sha256)
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def check_csrf(scope: Mapping[str, Any], access_token: str) -> None:
    """Raises: CsrfTokenInvalid unless the request has the token of its session."""
    sent = headers_of(scope).get(CSRF_HEADER, "")
    if not hmac.compare_digest(sent.encode("utf-8"), csrf_token(access_token).encode()):
        raise CsrfTokenInvalid(
            f"the header {CSRF_HEADER} must have the csrf_token that GET /session returns",
            field=CSRF_HEADER,
        )


def check_page(scope: Mapping[str, Any]) -> None:
    """Raises: PermissionDenied for the request of a page of another site that names no origin."""
    headers = headers_of(scope)
    if "origin" not in headers and not is_same_origin(scope):
        raise PermissionDenied("this port does not answer requests of pages of other sites")


def with_credential(scope: MutableMapping[str, Any], *, safe: bool) -> MutableMapping[str, Any]:
    """The request with the access token of its session's cookie as its credential.

    safe: whether it changes nothing; else it must have a CSRF token.
    Raises: CsrfTokenInvalid, PermissionDenied.
    """
    check_page(scope)
    bare = without_cookies(scope)
    headers = headers_of(scope)
    if "authorization" in headers or "x-api-key" in headers or not is_same_origin(scope):
        return bare
    access_token = ACCESS.find(scope)
    if not access_token:
        return bare
    if not safe:
        check_csrf(scope, access_token)
    bearer = (b"authorization", f"Bearer {access_token}".encode("latin-1"))
    return {**bare, "headers": [*bare["headers"], bearer]}
