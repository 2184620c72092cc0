"""Commands about who you are to the mesh: login, logout, whoami."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlxmesh_cli.commands.completion import complete_user
from mlxmesh_cli.commands.failures import fail, reported_errors
from mlxmesh_cli.commands.passwords import PasswordFile, read_password
from mlxmesh_cli.commands.session import (
    Address,
    DataDir,
    Json,
    connect,
    credential_file,
    gateway_address,
    run,
    tls_of,
)
from mlxmesh_cli.mesh.location import resolve_data_dir
from mlxmesh_cli.screen.output import print_json, say, to_dict

if TYPE_CHECKING:
    from mlxmesh.access.v1.access_pb2 import SessionTokens
    from mlxmesh_cli.mesh.credentials import Credential
    from mlxmesh_client import MeshClient


def login(
    name: Annotated[
        str, typer.Argument(help="Name of your user.", autocompletion=complete_user)
    ] = "",
    password_file: PasswordFile = None,
    browser: Annotated[
        bool,
        typer.Option("--browser", help="Sign in at the mesh's OpenID Connect issuer instead."),
    ] = False,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Sign in; further commands use the session until it ends or you log out.

    Its tokens are stored in credentials.json in the data directory, or with --address in
    ~/.config/mlxmesh, readable by you only, and renewed as needed. MLXMESH_API_KEY comes first.
    --browser needs http://127.0.0.1 among the settings' [access] oidc_redirect_uris.
    """
    if not name and not browser:
        fail("give your name, as in `mlxmesh login ada`, or --browser")
    password = "" if browser else read_password(password_file, f"Password of {name}")
    tokens = run(_login(name, password, address, data_dir))
    ends = tokens.refresh_expires.ToDatetime().isoformat(timespec="seconds") + "Z"
    user = tokens.user.name
    if json:
        print_json({"user": to_dict(tokens.user), "session_ends": ends})
    else:
        typer.echo(f"signed in as {user}; the session ends at {ends} unless a command renews it")


async def _login(
    name: str, password: str, address: str | None, data_dir: Path | None
) -> SessionTokens:
    """Signs in with a password, without one by the browser, and stores the session."""
    from mlxmesh_cli.mesh.browser_sign_in import sign_in
    from mlxmesh_cli.mesh.credentials import StoredKey
    from mlxmesh_cli.mesh.reaching import gateway_errors
    from mlxmesh_cli.mesh.sign_in import anonymous_client, session_of

    gateway = gateway_address(address, data_dir)
    tls = tls_of(resolve_data_dir(data_dir), gateway)
    async with gateway_errors(gateway, tls), anonymous_client(gateway, tls) as client:
        tokens = await (
            client.access.sign_in(name, password) if password else sign_in(client, _open_url)
        )
    file = credential_file(address, data_dir)
    replaced = file.read()
    file.write(session_of(tokens))
    if isinstance(replaced, StoredKey):
        say(
            f"the session replaces the stored key {replaced.key_id} of {replaced.user}, which stays"
            f" active; `mlxmesh keys revoke {replaced.key_id}` ends it",
            "yellow",
            err=True,
        )
    return tokens


def _open_url(url: str) -> None:
    import webbrowser

    say(f"open this address to sign in:\n{url}", err=True)
    webbrowser.open(url)


def logout(address: Address = None, data_dir: DataDir = None, json: Json = False) -> None:
    """End the stored session, or revoke the stored key, and forget it."""
    from mlxmesh_cli.mesh.credentials import StoredKey

    file = credential_file(address, data_dir)
    with reported_errors():
        found = file.read()
    if found is None:
        fail("not signed in: no session or key is stored for this mesh", reason="NOT_SIGNED_IN")

    async def work() -> str:
        from mlxmesh_client import MeshError

        try:
            async with connect(address, data_dir) as client:
                await _end(client, found)
            return ""
        except MeshError as error:
            return error.message
        finally:
            file.remove()

    problem = run(work())
    kind = f"key {found.key_id}" if isinstance(found, StoredKey) else "session"
    if json:
        print_json({"user": found.user, "ended": not problem})
    else:
        typer.echo(f"signed out: the {kind} of {found.user} is forgotten here")
    if problem:
        say(
            f"the mesh could not be told to end it, so it may still work: {problem}",
            "yellow",
            err=True,
        )


async def _end(client: MeshClient, credential: Credential) -> None:
    from mlxmesh_cli.mesh.credentials import StoredKey

    if isinstance(credential, StoredKey):
        await client.access.revoke_key(credential.key_id)
    else:
        await client.access.sign_out(credential.refresh_token)


def whoami(address: Address = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Show as whom commands call the mesh, and how they prove it."""

    async def work() -> dict[str, Any]:
        from mlxmesh_cli.mesh.identity import identity, proof_of

        gateway = gateway_address(address, data_dir)
        has_certificate = tls_of(resolve_data_dir(data_dir), gateway) is not None
        async with connect(address, data_dir) as client:
            proof = proof_of(credential_file(address, data_dir), has_certificate=has_certificate)
            return {"gateway": gateway, **await identity(client, proof)}

    facts = run(work())
    if json:
        print_json(facts)
        return
    from mlxmesh_cli.mesh.identity import identity_line

    typer.echo(f"{identity_line(facts)}, at {facts['gateway']}")
