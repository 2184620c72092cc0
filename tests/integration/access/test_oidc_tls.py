"""The issuer's certificate is checked, by an access service in a process of its own."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from mlxmesh.access.v1 import access_pb2 as pb
from mlxmesh.access.v1 import access_pb2_grpc
from mlxmesh_launcher.authority import Authority
from mlxmesh_shared.errors import IssuerUnavailable
from mlxmesh_shared.rpc.channels import open_channel
from tests.fakes.oidc_issuer import CLIENT_ID, CLIENT_SECRET, fake_issuer
from tests.integration.access.test_process import registered, registry_of, running

REDIRECT = "http://localhost:51234/callback"
ADMIN = (("mlxmesh-role", "admin"), ("mlxmesh-owner", "spiffe://mlxmesh/admin"))


def server_tls(folder: Path) -> ssl.SSLContext:
    """TLS with a certificate of an authority that no system trusts."""
    Authority.create(folder).issue("gateway")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "gateway.crt", folder / "gateway.key")
    return context


@pytest.mark.parametrize("trusted", [True, False])
async def test_only_an_issuer_with_a_trusted_certificate_signs_in(
    tmp_path: Path, trusted: bool
) -> None:
    secret_file = tmp_path / "client.secret"
    secret_file.write_text(CLIENT_SECRET)
    async with fake_issuer("/realms/main", server_tls(tmp_path / "tls")) as issuer:
        assert issuer.url.startswith("https://127.0.0.1:")
        env = {
            "MLXMESH_ACCESS_OIDC_ISSUER": issuer.url,
            "MLXMESH_ACCESS_OIDC_CLIENT_ID": CLIENT_ID,
            "MLXMESH_ACCESS_OIDC_CLIENT_SECRET_FILE": str(secret_file),
            "MLXMESH_ACCESS_OIDC_REDIRECT_URIS": "https://mesh.example/console, http://localhost",
            "MLXMESH_ACCESS_OIDC_APPROVE": "true",
            **({"SSL_CERT_FILE": str(tmp_path / "tls" / "ca.crt")} if trusted else {}),
        }
        async with registry_of(tmp_path) as registry, running(tmp_path, **env) as process:
            instance = await registered(registry, process)
            async with open_channel(instance.address) as channel:
                stub = access_pb2_grpc.AccessServiceStub(channel)
                await stub.CreateUser(
                    pb.CreateUserRequest(name="root", role=pb.ACCESS_ROLE_ADMIN), metadata=ADMIN
                )
                begin = pb.BeginOidcSignInRequest(redirect_uri=REDIRECT)
                if not trusted:
                    with pytest.raises(IssuerUnavailable, match="Certificate"):
                        await stub.BeginOidcSignIn(begin)
                    return
                back = issuer.browse((await stub.BeginOidcSignIn(begin)).authorization_url)
                done = await stub.CompleteOidcSignIn(pb.CompleteOidcSignInRequest(**back))
                assert done.tokens.user.name == "ada"
