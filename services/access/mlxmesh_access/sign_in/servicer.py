"""The methods of AccessService that anyone may call: each calls and replies."""

from __future__ import annotations

from typing import Any

from grpc.aio import ServicerContext

from mlxmesh.access.v1 import access_pb2 as pb
from mlxmesh.access.v1 import access_pb2_grpc
from mlxmesh_access import convert
from mlxmesh_access.sign_in.convert import to_session_tokens
from mlxmesh_access.sign_in.sign_in import SignIn
from mlxmesh_shared.rpc.caller import forwarded_host

_Context = ServicerContext[Any, Any]


class SignInServicer(access_pb2_grpc.AccessServiceServicer):
    """Sign-up, sign-in and sessions over gRPC; the contract documents each method."""

    def __init__(self, sign_in: SignIn) -> None:
        self._sign_in = sign_in

    async def SignUp(self, request: pb.SignUpRequest, context: _Context) -> pb.SignUpResponse:
        host = forwarded_host(context)
        user = await self._sign_in.sign_up(request.name, request.password, host)
        return pb.SignUpResponse(user=convert.to_user(user))

    async def SignIn(self, request: pb.SignInRequest, context: _Context) -> pb.SignInResponse:
        host = forwarded_host(context)
        tokens = await self._sign_in.passwords.sign_in(request.name, request.password, host)
        return pb.SignInResponse(tokens=to_session_tokens(tokens))

    async def RefreshSession(
        self, request: pb.RefreshSessionRequest, context: _Context
    ) -> pb.RefreshSessionResponse:
        tokens = await self._sign_in.sessions.refresh(request.refresh_token)
        return pb.RefreshSessionResponse(tokens=to_session_tokens(tokens))

    async def SignOut(self, request: pb.SignOutRequest, context: _Context) -> pb.SignOutResponse:
        await self._sign_in.sessions.end(request.refresh_token)
        return pb.SignOutResponse()

    async def GetSignInOptions(
        self, request: pb.GetSignInOptionsRequest, context: _Context
    ) -> pb.GetSignInOptionsResponse:
        options = await self._sign_in.options()
        return pb.GetSignInOptionsResponse(
            sign_up=options.sign_up,
            oidc_issuer=options.oidc_issuer,
            jwks_json=options.jwks_json,
            has_users=options.has_users,
        )

    async def BeginOidcSignIn(
        self, request: pb.BeginOidcSignInRequest, context: _Context
    ) -> pb.BeginOidcSignInResponse:
        host = forwarded_host(context)
        begun = await self._sign_in.oidc().begin(request.redirect_uri, host)
        return pb.BeginOidcSignInResponse(authorization_url=begun.url, state=begun.state)

    async def CompleteOidcSignIn(
        self, request: pb.CompleteOidcSignInRequest, context: _Context
    ) -> pb.CompleteOidcSignInResponse:
        tokens = await self._sign_in.oidc().complete(request.state, request.code)
        return pb.CompleteOidcSignInResponse(tokens=to_session_tokens(tokens))
