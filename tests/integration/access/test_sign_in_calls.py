"""Sign-up, sign-in and sessions over gRPC, as a gateway calls for anyone."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from mlxmesh.access.v1 import access_pb2 as pb
from mlxmesh.access.v1 import policy_pb2
from mlxmesh_access.sign_in.throttle import BY_NAME_AND_HOST, OLD_PASSWORDS, SIGN_UPS_BY_HOST
from mlxmesh_shared.access_tokens import AccessTokenVerifier
from mlxmesh_shared.errors import (
    IllegalState,
    PermissionDenied,
    TooManyRequests,
    Unauthenticated,
)
from tests.integration.access.conftest import PASSWORD, Service, Services

WRONG = "wrong canary password"


async def sign_in(
    service: Service, name: str, password: str, host: str = "10.0.0.1"
) -> pb.SessionTokens:
    """Signs in through a gateway that was called from a host."""
    request = pb.SignInRequest(name=name, password=password)
    return (await service.stub.SignIn(request, metadata=(("mlxmesh-host", host),))).tokens


class WatchingGateway:
    """What a gateway knows, and what it makes of an access token."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._jwks_json = ""
        self._valid_from_s: dict[str, float] = {}
        self._changed = asyncio.Event()

    async def watch(self) -> None:
        async for change in self._service.policies.WatchPolicies(policy_pb2.WatchPoliciesRequest()):
            self._jwks_json = change.jwks_json or self._jwks_json
            for user in change.users:
                self._valid_from_s[user.name] = user.tokens_valid_from.ToMilliseconds() / 1000
            for name in change.removed_users:
                self._valid_from_s.pop(name, None)
            self._changed.set()

    async def verify(self, token: str) -> str:
        verifier = AccessTokenVerifier(self._jwks_json)
        now_s = self._service.clock.now_ms / 1000
        claims = verifier.verify(token, now_s, tokens_valid_from=self._valid_from_s.get)
        return f"{claims.user} {claims.role}"

    async def verify_when_it_knows(self, token: str) -> str:
        """Waits for the key of the token first, as gateways do."""
        async with asyncio.timeout(20):
            while not AccessTokenVerifier(self._jwks_json).knows_key(token):
                self._changed.clear()
                await self._changed.wait()
        return await self.verify(token)

    async def refuses(self, token: str) -> bool:
        async with asyncio.timeout(20):
            while True:
                self._changed.clear()
                try:
                    await self.verify(token)
                except Unauthenticated:
                    return True
                await self._changed.wait()


async def test_a_session_from_its_beginning_to_its_end(service: Service) -> None:
    await service.add_users("ada")
    tokens = await sign_in(service, "ada", PASSWORD)
    assert tokens.user.last_sign_in.ToMilliseconds() == service.clock.now_ms
    assert tokens.access_expires.ToMilliseconds() == service.clock.now_ms + 600_000
    assert tokens.refresh_expires.ToMilliseconds() == service.clock.now_ms + 1_209_600_000
    renewed = await service.nobody.RefreshSession(refresh_token=tokens.refresh_token)
    assert renewed.tokens.refresh_token != tokens.refresh_token
    await service.nobody.SignOut(refresh_token=renewed.tokens.refresh_token)
    with pytest.raises(Unauthenticated):
        await service.nobody.RefreshSession(refresh_token=renewed.tokens.refresh_token)
    await service.nobody.SignOut(refresh_token="unknown")


async def test_gateways_accept_a_token_as_long_as_they_should(service: Service) -> None:
    await service.add_users("ada")
    gateway = WatchingGateway(service)
    watching = asyncio.create_task(gateway.watch())
    tokens = await sign_in(service, "ada", PASSWORD)
    assert await gateway.verify_when_it_knows(tokens.access_token) == "ada member"
    service.clock.advance(1)
    await service.user("ada").UpdateUser(
        name="ada", password="another password", old_password=PASSWORD
    )
    assert await gateway.refuses(tokens.access_token)
    tokens = await sign_in(service, "ada", "another password")
    assert await gateway.verify(tokens.access_token) == "ada member"
    await service.admin.UpdateUser(name="ada", state=pb.USER_STATE_DISABLED)
    assert await gateway.refuses(tokens.access_token)
    watching.cancel()


async def test_a_disabled_users_tokens_stay_refused_when_it_is_enabled(service: Service) -> None:
    await service.add_users("ada")
    gateway = WatchingGateway(service)
    tokens = await sign_in(service, "ada", PASSWORD)
    service.clock.advance(1)
    for state in (pb.USER_STATE_DISABLED, pb.USER_STATE_ACTIVE):
        await service.admin.UpdateUser(name="ada", state=state)
    watching = asyncio.create_task(gateway.watch())
    with pytest.raises(Unauthenticated, match="session has ended"):
        await gateway.verify_when_it_knows(tokens.access_token)
    tokens = await sign_in(service, "ada", PASSWORD)
    assert await gateway.verify(tokens.access_token) == "ada member"
    watching.cancel()


async def test_the_options_have_the_keys_that_gateways_watch(services: Services) -> None:
    service, _ = await services.start(sign_up=True)
    assert await service.nobody.GetSignInOptions() == pb.GetSignInOptionsResponse(
        sign_up=True, jwks_json='{"keys":[]}'
    )
    await service.add_users()
    await sign_in(service, "root", PASSWORD)
    options = await service.nobody.GetSignInOptions()
    assert options.has_users
    async for change in service.policies.WatchPolicies(policy_pb2.WatchPoliciesRequest()):
        assert change.jwks_json == options.jwks_json
        assert '"crv":"Ed25519"' in change.jwks_json
        break


async def test_wrong_passwords_are_delayed_where_they_come_from(service: Service) -> None:
    await service.add_users("ada")
    for _ in range(BY_NAME_AND_HOST.free):
        with pytest.raises(Unauthenticated, match="wrong name or password"):
            await sign_in(service, "ada", WRONG)
    with pytest.raises(TooManyRequests) as refused:
        await sign_in(service, "ada", PASSWORD)
    assert 0 < (refused.value.retry_delay_s or 0) <= 1
    assert (await sign_in(service, "ada", PASSWORD, host="10.0.0.2")).user.name == "ada"
    assert (await sign_in(service, "root", PASSWORD)).user.name == "root"


async def test_wrong_old_passwords_are_delayed(service: Service) -> None:
    """Who has stolen an access token cannot guess the password with it."""
    await service.add_users("ada", "bob")
    ada = service.user("ada")
    for _ in range(OLD_PASSWORDS.free):
        with pytest.raises(Unauthenticated, match="old_password is wrong"):
            await ada.UpdateUser(name="ada", password=PASSWORD, old_password=WRONG)
    with pytest.raises(TooManyRequests):
        await ada.UpdateUser(name="ada", password=PASSWORD, old_password=PASSWORD)
    bob = service.user("bob")
    await bob.UpdateUser(name="bob", password="another password", old_password=PASSWORD)
    assert (await sign_in(service, "ada", PASSWORD)).user.name == "ada"


async def test_sign_up_is_allowed_by_a_setting_and_limited_by_host(services: Services) -> None:
    service, stop = await services.start()
    await service.add_users()
    with pytest.raises(PermissionDenied, match="ask an admin"):
        await service.nobody.SignUp(name="ada", password=PASSWORD)
    await stop()
    service, _ = await services.start(sign_up=True)
    for number in range(SIGN_UPS_BY_HOST.free):
        user = (await service.nobody.SignUp(name=f"ada{number}", password=PASSWORD)).user
        assert user.state == pb.USER_STATE_PENDING
    with pytest.raises(TooManyRequests) as refused:
        await service.nobody.SignUp(name="eve", password=PASSWORD)
    assert refused.value.retry_delay_s
    with pytest.raises(Unauthenticated, match="approval"):
        await sign_in(service, "ada0", PASSWORD)
    await service.admin.UpdateUser(name="ada0", state=pb.USER_STATE_ACTIVE)
    assert (await sign_in(service, "ada0", PASSWORD)).user.name == "ada0"


@pytest.mark.parametrize(
    ("mode", "content"), [(0o644, "00" * 32), (0o600, "damaged")], ids=["readable", "damaged"]
)
async def test_an_unusable_secret_file_is_named_and_nothing_else_fails(
    sqlite_service: Service, tmp_path: Path, mode: int, content: str
) -> None:
    service = sqlite_service
    await service.add_users("ada")
    path = tmp_path / "access.secret"
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(IllegalState, match=r"access\.secret"):
        await sign_in(service, "ada", PASSWORD)
    assert (await service.admin.GetUser(name="ada")).user.name == "ada"
    path.unlink()
    assert (await sign_in(service, "ada", PASSWORD)).user.name == "ada"


async def test_a_laptop_without_users_has_neither_secret_nor_keys(
    sqlite_service: Service, tmp_path: Path
) -> None:
    await sqlite_service.nobody.GetSignInOptions()
    assert not (tmp_path / "access.secret").exists()


async def test_a_password_of_the_longest_legal_length_signs_in(service: Service) -> None:
    await service.add_users()
    longest = "\U0001f511" * 256
    await service.admin.CreateUser(name="ada", password=longest)
    assert (await sign_in(service, "ada", longest)).user.name == "ada"


async def test_nothing_secret_is_logged_or_told(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await service.add_users("ada")
    tokens = await sign_in(service, "ada", PASSWORD)
    renewed = (await service.nobody.RefreshSession(refresh_token=tokens.refresh_token)).tokens
    told = caplog.text
    for calling in (
        sign_in(service, "ada", WRONG),
        sign_in(service, WRONG, PASSWORD),
        service.nobody.RefreshSession(refresh_token=tokens.refresh_token),
        service.nobody.RefreshSession(refresh_token=renewed.access_token),
    ):
        with pytest.raises(Unauthenticated) as refused:
            await calling
        told += str(refused.value) + repr(refused.value.__cause__)
    told += str(await service.admin.ListAuditEntries()) + caplog.text
    secrets = [PASSWORD, WRONG]
    for each in (tokens, renewed):
        secrets += [each.access_token, each.access_token.rpartition(".")[2], each.refresh_token]
        secrets += each.refresh_token.split(".")[1:]
    assert "sign_in.refused" in told
    assert [secret for secret in secrets if secret in told] == []
