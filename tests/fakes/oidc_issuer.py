"""An OpenID Connect issuer on loopback: real HTTP and real signatures; it can misbehave."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote_plus, urlencode, urlsplit

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

CLIENT_ID = "mlxmesh test"
CLIENT_SECRET = "issuer secret: 7+7=14%"


@dataclass
class IssuerKey:
    """A key that signs ID tokens."""

    key_id: str
    algorithm: str
    private: Any

    @classmethod
    def rs256(cls, key_id: str) -> IssuerKey:
        return cls(key_id, "RS256", rsa.generate_private_key(65537, 2048))

    @classmethod
    def es256(cls, key_id: str) -> IssuerKey:
        return cls(key_id, "ES256", ec.generate_private_key(ec.SECP256R1()))

    @property
    def jwk(self) -> dict[str, Any]:
        kind = RSAAlgorithm if self.algorithm.startswith(("RS", "PS")) else ECAlgorithm
        public = kind.to_jwk(self.private.public_key(), as_dict=True)
        return {**public, "kid": self.key_id, "alg": self.algorithm, "use": "sig"}


@dataclass
class Misbehaviour:
    """What the issuer does wrong."""

    claims: dict[str, Any] = field(default_factory=dict)
    """Claims that replace those of the ID token; None removes one."""
    header: dict[str, Any] = field(default_factory=dict)
    id_token: Callable[[dict[str, Any]], object] | None = None
    """Makes the ID token from its claims in another way."""
    token_answer: web.Response | None = None
    discovery: dict[str, Any] = field(default_factory=dict)
    keys_answer: object = None
    delay_s: float = 0
    status: int = 0
    redirect: bool = False
    padding_bytes: int = 0


@dataclass
class _Code:
    query: dict[str, str]
    subject: dict[str, Any]


class FakeIssuer:
    """Issues ID tokens for whoever `person` is."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.person: dict[str, Any] = {"sub": "subject-1", "preferred_username": "ada"}
        self.keys = [IssuerKey.rs256("r1")]
        """The last one signs; all are published."""
        self.wrong = Misbehaviour()
        self.requests: list[str] = []
        self.authorization: list[str] = []
        self.clock: Callable[[], float] = time.time
        self._codes: dict[str, _Code] = {}

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/.well-known/openid-configuration", self._discovery),
            web.get("/authorize", self._authorize),
            web.post("/token", self._token),
            web.get("/keys", self._keys),
        ]

    def browse(self, authorization_url: str) -> dict[str, str]:
        """Signs `person` in with a browser: what the redirect brings back."""
        parts = urlsplit(authorization_url)
        assert f"{parts.scheme}://{parts.netloc}{parts.path}" == f"{self.url}/authorize"
        return self._signed_in(_flat(parts.query))

    def _signed_in(self, query: dict[str, str]) -> dict[str, str]:
        assert query["response_type"] == "code"
        assert query["client_id"] == CLIENT_ID
        assert "openid" in query["scope"].split()
        assert query["code_challenge_method"] == "S256"
        code = f"code-{len(self._codes)}"
        self._codes[code] = _Code(query, dict(self.person))
        return {"code": code, "state": query["state"]}

    async def _authorize(self, request: web.Request) -> web.Response:
        query = dict(request.query)
        back = urlencode(self._signed_in(query))
        raise web.HTTPFound(f"{query['redirect_uri']}?{back}")

    async def _discovery(self, request: web.Request) -> web.StreamResponse:
        document = {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/keys",
            "padding": "x" * self.wrong.padding_bytes,
        }
        return await self._answer(request, document | self.wrong.discovery)

    async def _keys(self, request: web.Request) -> web.StreamResponse:
        published = {"keys": [key.jwk for key in self.keys]}
        return await self._answer(request, self.wrong.keys_answer or published)

    async def _token(self, request: web.Request) -> web.StreamResponse:
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.authorization.append(request.headers.get("Authorization", ""))
        if self.wrong.token_answer is not None:
            self.requests.append(request.path)
            return self.wrong.token_answer
        error = self._error_of(form, request.headers.get("Authorization", ""))
        if error:
            status = 401 if error == "invalid_client" else 400
            return web.json_response(
                {"error": error, "error_description": str(form)}, status=status
            )
        token = self._id_token(self._codes.pop(form["code"]))
        answer = {"access_token": "opaque", "token_type": "Bearer", "id_token": token}
        return await self._answer(request, {k: v for k, v in answer.items() if v is not None})

    def _error_of(self, form: dict[str, str], authorization: str) -> str:
        if not _is_client(form, authorization):
            return "invalid_client"
        code = self._codes.get(form["code"])
        if code is None or form["grant_type"] != "authorization_code":
            return "invalid_grant"
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        same_uri = form["redirect_uri"] == code.query["redirect_uri"]
        return "" if same_uri and challenge == code.query["code_challenge"] else "invalid_grant"

    def _id_token(self, code: _Code) -> object:
        now_s = round(self.clock())
        claims = {
            "iss": self.url,
            "aud": CLIENT_ID,
            "iat": now_s,
            "exp": now_s + 300,
            "nonce": code.query["nonce"],
            **code.subject,
            **self.wrong.claims,
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        if self.wrong.id_token is not None:
            return self.wrong.id_token(claims)
        key = self.keys[-1]
        headers = {"kid": key.key_id, **self.wrong.header}
        return jwt.encode(claims, key.private, key.algorithm, headers=headers)

    async def _answer(self, request: web.Request, content: object) -> web.StreamResponse:
        self.requests.append(request.path)
        await asyncio.sleep(self.wrong.delay_s)
        if self.wrong.redirect:
            raise web.HTTPFound(f"{self.url}/elsewhere")
        return web.json_response(content, status=self.wrong.status or 200)


def _is_client(form: dict[str, str], authorization: str) -> bool:
    kind, _, encoded = authorization.partition(" ")
    if kind == "Basic":
        name, _, secret = base64.b64decode(encoded).decode().partition(":")
        return (unquote_plus(name), unquote_plus(secret)) == (CLIENT_ID, CLIENT_SECRET)
    return (form.get("client_id"), form.get("client_secret")) == (CLIENT_ID, CLIENT_SECRET)


def _flat(query: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(query, strict_parsing=True).items()}


@asynccontextmanager
async def fake_issuer(
    path: str = "", tls: ssl.SSLContext | None = None
) -> AsyncIterator[FakeIssuer]:
    """A running issuer, which is gone afterwards."""
    issuer = FakeIssuer("")
    application = web.Application()
    application.add_routes(
        [web.RouteDef(r.method, path + r.path, r.handler, r.kwargs) for r in issuer.routes()]
    )
    runner = web.AppRunner(application, shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        host, port = runner.addresses[0][:2]
        issuer.url = f"{'https' if tls else 'http'}://{host}:{port}{path}"
        yield issuer
    finally:
        await runner.cleanup()


def unsigned(claims: dict[str, Any]) -> str:
    """An ID token with the algorithm none."""
    return jwt.encode(claims, "", algorithm="none")


def hmac_signed(claims: dict[str, Any]) -> str:
    """An ID token signed with the client's secret, which OpenID Connect would allow."""
    key = hashlib.sha256(CLIENT_SECRET.encode()).hexdigest()
    return jwt.encode(claims, key, algorithm="HS256", headers={"kid": "r1"})


def signed_by_another(claims: dict[str, Any]) -> str:
    """An ID token under a known key's id, signed with another key."""
    key = IssuerKey.rs256("r1")
    return jwt.encode(claims, key.private, key.algorithm, headers={"kid": "r1"})


def json_text(content: object) -> web.Response:
    """An answer of the token endpoint."""
    return web.Response(text=json.dumps(content), content_type="application/json")
