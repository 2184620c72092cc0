"""Sessions of browsers: sign in, go on, sign out."""

from __future__ import annotations

import hmac
import math
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from mlxmesh.access.v1 import access_pb2 as pb
from mlxmesh_gateway.door.principal import Kind, Principal
from mlxmesh_gateway.http.door import HttpCalls, HttpDoor
from mlxmesh_gateway.http.endpoint import CERTIFICATE, credential_of, headers_of, host_of
from mlxmesh_gateway.http.exchange import Exchange
from mlxmesh_gateway.sessions.browser import check_csrf, check_page, csrf_token
from mlxmesh_gateway.sessions.cookies import (
    ACCESS,
    OIDC_STATE,
    OIDC_STATE_S,
    REFRESH,
    is_same_origin,
    is_secure,
    own_origin,
)
from mlxmesh_gateway.sessions.refreshes import Refreshes
from mlxmesh_gateway.sessions.schema import SignInBody
from mlxmesh_shared.errors import PermissionDenied, ServiceUnavailable, Unauthenticated
from mlxmesh_shared.tls.identity import NOBODY, Role

_SERVICE = "/mlxmesh.access.v1.AccessService"
GET_USER = f"{_SERVICE}/GetUser"
OPTIONS = f"{_SERVICE}/GetSignInOptions"
SIGN_IN = f"{_SERVICE}/SignIn"
SIGN_OUT = f"{_SERVICE}/SignOut"
REFRESH_SESSION = f"{_SERVICE}/RefreshSession"
BEGIN_OIDC = f"{_SERVICE}/BeginOidcSignIn"
COMPLETE_OIDC = f"{_SERVICE}/CompleteOidcSignIn"
OIDC_PAGE = "/sign-in"
"""The page to which an issuer sends a browser back."""


class Caller(NamedTuple):
    """Who makes a request."""

    principal: Principal | None
    """None for a caller who must sign in."""
    access_token: str
    """Of the session; empty without one."""


class SessionHandlers:
    """Handlers of `/session`."""

    def __init__(self, door: HttpDoor, *, clock: Callable[[], float] = time.time) -> None:
        """clock: Unix time in seconds."""
        self._door = door
        self._clock = clock
        self._refreshes: Refreshes[pb.SessionTokens] = Refreshes()

    async def show(self, exchange: Exchange) -> None:
        """Says who is signed in and how one may sign in; refreshes a session that has expired."""
        caller = await self._caller(exchange)
        await exchange.respond(200, await self._described(exchange, caller), _NEVER_STORED)

    async def sign_in(self, exchange: Exchange) -> None:
        """Begins a session, always with new tokens."""
        check_page(exchange.scope)
        body = exchange.read(SignInBody)
        tokens = await (self._by_issuer if body.state else self._by_password)(exchange, body)
        self._set_cookies(exchange, tokens)
        caller = await self._admitted(exchange, tokens.access_token)
        await exchange.respond(200, await self._described(exchange, caller), _NEVER_STORED)

    async def sign_out(self, exchange: Exchange) -> None:
        """Ends the session, here and in the browser."""
        scope = exchange.scope
        check_page(scope)
        access_token, refresh_token = ACCESS.find(scope), REFRESH.find(scope)
        if access_token:
            check_csrf(scope, access_token)
        if refresh_token and is_same_origin(scope):
            request = pb.SignOutRequest(refresh_token=refresh_token)
            await exchange.calls.unary(SIGN_OUT, request, pb.SignOutResponse)
        _clear(exchange)
        await exchange.respond(200, {}, _NEVER_STORED)

    async def begin_oidc(self, exchange: Exchange) -> None:
        """Begins a sign-in at the issuer, which this browser alone can end."""
        scope = exchange.scope
        check_page(scope)
        request = pb.BeginOidcSignInRequest(redirect_uri=own_origin(scope) + OIDC_PAGE)
        begun = await exchange.calls.unary(BEGIN_OIDC, request, pb.BeginOidcSignInResponse)
        state = OIDC_STATE.set(begun.state, OIDC_STATE_S, secure=is_secure(scope))
        answer = {"authorization_url": begun.authorization_url}
        await exchange.respond(200, answer, [*_NEVER_STORED, state])

    async def _by_password(self, exchange: Exchange, body: SignInBody) -> pb.SessionTokens:
        request = pb.SignInRequest(name=body.name, password=body.password)
        return (await exchange.calls.unary(SIGN_IN, request, pb.SignInResponse)).tokens

    async def _by_issuer(self, exchange: Exchange, body: SignInBody) -> pb.SessionTokens:
        begun = OIDC_STATE.find(exchange.scope)
        if not begun or not hmac.compare_digest(begun.encode(), body.state.encode()):
            raise PermissionDenied("this sign-in was not begun in this browser: begin again")
        secure = is_secure(exchange.scope)
        exchange.response_headers.append(OIDC_STATE.set("", 0, secure=secure))
        request = pb.CompleteOidcSignInRequest(state=body.state, code=body.code)
        calls = exchange.calls
        return (await calls.unary(COMPLETE_OIDC, request, pb.CompleteOidcSignInResponse)).tokens

    async def _caller(self, exchange: Exchange) -> Caller:
        """By the credential of a header, else by the session, which is refreshed if it must be."""
        scope = exchange.scope
        if credential := credential_of(scope):
            return await self._admitted(exchange, credential)
        if not is_same_origin(scope):
            return await self._admitted(exchange, "")
        caller = await self._admitted(exchange, ACCESS.find(scope))
        refresh_token = REFRESH.find(scope)
        if caller.principal is not None or not refresh_token:
            if caller.principal is None and ACCESS.find(scope):
                _clear(exchange)
            return caller
        return await self._refreshed(exchange, refresh_token)

    async def _refreshed(self, exchange: Exchange, refresh_token: str) -> Caller:
        request = pb.RefreshSessionRequest(refresh_token=refresh_token)

        async def refresh() -> pb.SessionTokens:
            calls = exchange.calls
            response = await calls.unary(REFRESH_SESSION, request, pb.RefreshSessionResponse)
            return response.tokens

        try:
            tokens = await self._refreshes.once(refresh_token, refresh)
        except Unauthenticated:
            _clear(exchange)
            return Caller(None, "")
        self._set_cookies(exchange, tokens)
        return await self._admitted(exchange, tokens.access_token)

    async def _admitted(self, exchange: Exchange, credential: str) -> Caller:
        try:
            async with self._entered(exchange, credential) as calls:
                is_session = calls.principal.kind is Kind.USER
                return Caller(calls.principal, credential if is_session else "")
        except Unauthenticated:
            return Caller(None, "")

    @asynccontextmanager
    async def _entered(self, exchange: Exchange, credential: str) -> AsyncGenerator[HttpCalls]:
        scope = exchange.scope
        async with self._door.admitted(
            GET_USER,
            headers_of(scope),
            credential=credential,
            certificate=scope.get(CERTIFICATE, NOBODY),
            host=host_of(scope),
        ) as calls:
            yield calls

    async def _described(self, exchange: Exchange, caller: Caller) -> dict[str, Any]:
        options = await _options(exchange)
        principal = caller.principal
        role = _role(principal)
        is_user = principal is not None and principal.kind is Kind.USER
        return {
            "authentication": principal is None or principal.is_authenticated,
            "has_users": options.has_users,
            "sign_up": options.sign_up,
            "oidc": options.oidc_issuer,
            "user": {"name": principal.user, "role": role} if principal and is_user else None,
            "role": role,
            "csrf_token": csrf_token(caller.access_token) if caller.access_token else "",
        }

    def _set_cookies(self, exchange: Exchange, tokens: pb.SessionTokens) -> None:
        secure = is_secure(exchange.scope)
        ages_s = (
            (ACCESS, tokens.access_token, tokens.access_expires),
            (REFRESH, tokens.refresh_token, tokens.refresh_expires),
        )
        for cookie, token, expires in ages_s:
            age_s = max(1, math.floor(expires.seconds - self._clock()))
            exchange.response_headers.append(cookie.set(token, age_s, secure=secure))


_NEVER_STORED = (("cache-control", "no-store"),)


async def _options(exchange: Exchange) -> pb.GetSignInOptionsResponse:
    """How one may sign in; nothing on a mesh whose access service has never been started."""
    request = pb.GetSignInOptionsRequest()
    try:
        return await exchange.calls.unary(OPTIONS, request, pb.GetSignInOptionsResponse)
    except ServiceUnavailable:
        return pb.GetSignInOptionsResponse()


def _role(principal: Principal | None) -> str:
    if principal is None:
        return ""
    return "admin" if principal.role == Role.ROLE_ADMIN else "client"


def _clear(exchange: Exchange) -> None:
    secure = is_secure(exchange.scope)
    exchange.response_headers += [one.set("", 0, secure=secure) for one in (ACCESS, REFRESH)]
