"""Callers who authenticate: keys, access tokens and what stays open, by a fake access service."""

from __future__ import annotations

import asyncio
import stat
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest

from mlxmesh.access.v1 import access_pb2 as a
from mlxmesh.access.v1.access_pb2_grpc import AccessServiceStub
from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceStub
from mlxmesh.model.v1 import model_pb2 as m
from mlxmesh.model.v1.model_pb2_grpc import ModelServiceStub
from mlxmesh.telemetry.v1 import telemetry_pb2 as t
from mlxmesh.telemetry.v1.events_pb2 import PublishEventsRequest
from mlxmesh.telemetry.v1.telemetry_pb2_grpc import TelemetryServiceStub
from mlxmesh_shared.errors import DatabaseBusy, ServiceUnavailable
from tests.fakes.access_tokens import TokenSigner, claims
from tests.fakes.policy_service import FakePolicyService
from tests.fakes.waiting import until

from .conftest import Stand


@pytest.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    async with AsyncExitStack() as stack:
        yield Stand(stack, tmp_path)


SECRET = "mm_AbCdEfGh_0123456789"
OTHER = "mm_IjKlMnOp_0123456789"
COUNT = g.CountTokensRequest(model="pocket", prompt="a b")


def bearer(secret: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {secret}"),)


async def code_of(call: Awaitable[Any]) -> grpc.StatusCode:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def count(channel: Any, metadata: Any = ()) -> grpc.StatusCode:
    return await code_of(GenerationServiceStub(channel).CountTokens(COUNT, metadata=metadata))


async def with_users(stand: Any) -> Any:
    """An access service with the admin ada, who has a key."""
    access = await stand.access()
    await access.add_user("ada", admin=True, team="red")
    await access.add_key(SECRET)
    return access


OK = grpc.StatusCode.OK
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
PERMISSION_DENIED = grpc.StatusCode.PERMISSION_DENIED
INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT


async def test_without_users_everything_is_open_and_keys_mean_nothing(stand: Any) -> None:
    service = await stand.generation()
    channel = await stand.channel(await stand.gateway())
    assert await count(channel) is OK
    assert await count(channel, bearer("sk-anything")) is OK
    assert [seen["mlxmesh-role"] for seen in service.metadata] == ["admin", "admin"]
    assert not list(stand.data_dir.iterdir())


async def test_a_key_lets_its_user_in_and_services_are_told_who_it_is(stand: Any) -> None:
    service = await stand.generation()
    await with_users(stand)
    channel = await stand.channel(await stand.gateway())
    assert await count(channel) is UNAUTHENTICATED
    assert await count(channel, bearer("mm_wrong")) is UNAUTHENTICATED
    assert await count(channel, bearer(SECRET)) is OK
    assert await count(channel, (("x-api-key", SECRET),)) is OK
    assert len(service.metadata) == 2
    for seen in service.metadata:
        assert seen["mlxmesh-owner"] == "key:k_1#"
        assert seen["mlxmesh-caller"] == "key:k_1"
        assert (seen["mlxmesh-role"], seen["mlxmesh-user"]) == ("client", "ada")
        assert SECRET not in str(seen)


async def test_the_role_of_a_key_decides_what_it_may_call(stand: Any) -> None:
    await stand.models()
    access = await with_users(stand)
    await access.add_key(OTHER, admin=True)
    models = ModelServiceStub(await stand.channel(await stand.gateway()))
    request = m.RegisterModelRequest(name="new", directory="/models/new")
    member = models.RegisterModel(request, metadata=bearer(SECRET))
    assert await code_of(member) is PERMISSION_DENIED
    assert await code_of(models.RegisterModel(request, metadata=bearer(OTHER))) is OK


async def test_the_first_user_closes_the_mesh_for_those_without_a_key(stand: Any) -> None:
    await stand.generation()
    channel = await stand.channel(await stand.gateway())
    assert await count(channel) is OK
    access = await stand.access()
    assert await count(channel) is OK
    create = a.CreateUserRequest(name="ada", password="correct horse", role=a.ACCESS_ROLE_ADMIN)
    await AccessServiceStub(channel).CreateUser(create)
    await until(lambda: bool(list(stand.data_dir.glob("gateway-policies.json"))))
    assert await count(channel) is UNAUTHENTICATED
    (seen,) = access.metadata
    assert seen["mlxmesh-role"] == "admin"


async def test_a_new_key_works_at_once_however_late_the_watch_hears_of_it(stand: Any) -> None:
    await stand.generation()
    access = await with_users(stand)
    channel = await stand.channel(await stand.gateway())
    assert await count(channel, bearer(SECRET)) is OK
    access.hold_changes = True
    await access.add_key(OTHER)
    waiting = asyncio.create_task(count(channel, bearer(OTHER)))
    await until(lambda: access.calls["GetRevision"] == 1)
    assert not waiting.done()
    await access.release_changes()
    assert await waiting is OK


async def test_a_revoked_key_stops(stand: Any) -> None:
    await stand.generation()
    access = await with_users(stand)
    channel = await stand.channel(await stand.gateway())
    assert await count(channel, bearer(SECRET)) is OK
    await access.revoke("k_1")
    async with asyncio.timeout(30):
        while await count(channel, bearer(SECRET)) is OK:
            await asyncio.sleep(0.02)
    assert await count(channel, bearer(SECRET)) is UNAUTHENTICATED


async def test_an_expired_key_is_refused(stand: Any) -> None:
    await stand.generation()
    access = await with_users(stand)
    access.keys["k_1"].expires.FromSeconds(int(time.time()) - 1)
    channel = await stand.channel(await stand.gateway())
    assert await count(channel, bearer(SECRET)) is UNAUTHENTICATED


async def test_guesses_share_their_questions_and_do_not_repeat_them(stand: Any) -> None:
    await stand.generation()
    access = await with_users(stand)
    channel = await stand.channel(await stand.gateway())
    guesses = [count(channel, bearer(f"mm_{number}")) for number in range(200)]
    assert set(await asyncio.gather(*guesses)) == {UNAUTHENTICATED}
    assert access.calls["GetRevision"] < 20
    asked = access.calls["GetRevision"]
    again = [count(channel, bearer(f"mm_{number}")) for number in range(200)]
    assert set(await asyncio.gather(*again)) == {UNAUTHENTICATED}
    assert access.calls["GetRevision"] == asked


async def test_while_access_is_away_known_keys_work_and_unknown_ones_wait(stand: Any) -> None:
    await stand.generation()
    access = await with_users(stand)
    channel = await stand.channel(await stand.gateway())
    assert await count(channel, bearer(SECRET)) is OK
    access.errors = {"GetRevision": DatabaseBusy("the database is locked")}
    assert await count(channel, bearer(OTHER)) is UNAVAILABLE
    assert await count(channel, bearer(SECRET)) is OK
    access.errors = {}
    assert await count(channel, bearer(OTHER)) is UNAUTHENTICATED


async def test_a_gateway_that_starts_while_access_is_away_goes_on_with_its_copy(
    stand: Any,
) -> None:
    await stand.generation()
    access = await with_users(stand)
    async with stand.running_gateway() as (address, _):
        assert await count(await stand.channel(address), bearer(SECRET)) is OK
    (kept,) = stand.data_dir.glob("gateway-policies.json")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert SECRET not in kept.read_text()
    access.errors = dict.fromkeys(["WatchPolicies", "GetRevision"], ServiceUnavailable("away"))
    channel = await stand.channel(await stand.gateway())
    assert await count(channel, bearer(SECRET)) is OK
    assert await count(channel) is UNAUTHENTICATED
    assert await count(channel, bearer(OTHER)) is UNAVAILABLE


async def test_an_empty_answer_never_opens_the_mesh(stand: Any) -> None:
    await stand.generation()
    access = await with_users(stand)
    async with stand.running_gateway() as (address, _):
        assert await count(await stand.channel(address), bearer(SECRET)) is OK
    access.users.clear()
    access.keys.clear()
    access.required = False
    channel = await stand.channel(await stand.gateway())
    assert await count(channel) is UNAUTHENTICATED
    async with asyncio.timeout(30):  # until the watch has replaced what was on disk
        while await count(channel, bearer(SECRET)) is OK:
            assert await count(channel) is UNAUTHENTICATED
    assert await count(channel, bearer(SECRET)) is UNAUTHENTICATED


@pytest.mark.parametrize(
    ("authentication", "anonymous"), [("auto", UNAVAILABLE), ("required", UNAUTHENTICATED)]
)
async def test_without_policies_a_gateway_waits_for_a_registered_service(
    stand: Any, authentication: str, anonymous: grpc.StatusCode
) -> None:
    await stand.generation()
    access = await with_users(stand)
    access.errors = {"WatchPolicies": ServiceUnavailable("starting")}
    channel = await stand.channel(await stand.gateway(authentication=authentication))
    assert await count(channel) is anonymous
    assert await count(channel, bearer(SECRET)) is UNAVAILABLE
    access.errors = {}
    async with asyncio.timeout(30):
        while (code := await count(channel, bearer(SECRET))) is UNAVAILABLE:
            await asyncio.sleep(0.05)
    assert code is OK
    assert await count(channel) is UNAUTHENTICATED


async def test_an_access_token_lets_its_user_in(stand: Any) -> None:
    service = await stand.generation()
    access = await with_users(stand)
    signer = TokenSigner()
    access.jwks_json = signer.jwks_json
    now_s = time.time()
    times = {"iat": now_s, "nbf": now_s, "exp": now_s + 600}
    token = signer.token(claims(**times))
    channel = await stand.channel(await stand.gateway())
    assert await count(channel, bearer(token)) is OK
    assert service.metadata[0]["mlxmesh-owner"] == "user:ada#"
    assert service.metadata[0]["mlxmesh-role"] == "admin"  # the user's present role
    expired = signer.token(claims(**{**times, "exp": now_s - 60}))
    assert await count(channel, bearer(expired)) is UNAUTHENTICATED
    forged = TokenSigner().token(claims(**times))
    assert await count(channel, bearer(forged)) is UNAUTHENTICATED
    stranger = signer.token(claims(**times, sub="mallory"))
    assert await count(channel, bearer(stranger)) is UNAUTHENTICATED


async def test_a_session_of_a_new_user_works_before_the_watch_has_heard_of_it(stand: Any) -> None:
    await stand.generation()
    access = await with_users(stand)
    signer = TokenSigner()
    access.jwks_json = signer.jwks_json
    channel = await stand.channel(await stand.gateway())
    assert await count(channel, bearer(SECRET)) is OK
    access.hold_changes = True
    await access.add_user("bob")
    now_s = time.time()
    token = signer.token(claims(sub="bob", iat=now_s, nbf=now_s, exp=now_s + 600))
    waiting = asyncio.create_task(count(channel, bearer(token)))
    await until(lambda: access.calls["GetRevision"] == 1)
    await access.release_changes()
    assert await waiting is OK


async def test_signing_in_needs_no_credentials_even_beside_expired_ones(stand: Any) -> None:
    await with_users(stand)
    stub = AccessServiceStub(await stand.channel(await stand.gateway()))
    request = a.SignInRequest(name="ada", password="correct horse")
    assert await code_of(stub.SignIn(request)) is OK
    assert await code_of(stub.SignIn(request, metadata=bearer("expired"))) is OK
    assert await code_of(stub.ListUsers(a.ListUsersRequest())) is UNAUTHENTICATED


@pytest.mark.parametrize("name", ["authorization", "x-api-key"])
async def test_a_repeated_credential_is_refused(stand: Any, name: str) -> None:
    await with_users(stand)
    await stand.generation()
    address = await stand.gateway()
    pairs = ((name, f"Bearer {SECRET}"), (name, f"Bearer {SECRET}"))
    assert await count(await stand.channel(address), pairs) is INVALID_ARGUMENT
    async with httpx2.AsyncClient(base_url=f"http://{await stand.http(address)}") as client:
        for path in ("/v1/models", "/metrics"):
            answer = await client.get(path, headers=[*pairs])
            assert answer.status_code == 400
            assert f"the header {name} must not be repeated" in answer.text


async def test_without_an_access_service_its_methods_say_how_to_start_it(stand: Any) -> None:
    stub = AccessServiceStub(await stand.channel(await stand.gateway()))
    with pytest.raises(grpc.aio.AioRpcError, match="mlxmesh users create NAME --admin") as raised:
        await stub.ListUsers(a.ListUsersRequest())
    assert raised.value.code() is UNAVAILABLE


async def test_processes_of_this_host_report_without_credentials(stand: Any) -> None:
    await with_users(stand)
    telemetry = TelemetryServiceStub(await stand.channel(await stand.gateway()))
    assert await code_of(telemetry.PublishEvents(PublishEventsRequest())) is not UNAUTHENTICATED
    assert await code_of(telemetry.GetMeshStatus(t.GetMeshStatusRequest())) is UNAUTHENTICATED


async def test_authentication_can_be_switched_off_or_on_explicitly(stand: Any) -> None:
    service = await stand.generation()
    channel = await stand.channel(await stand.gateway(authentication="required"))
    assert await count(channel) is UNAUTHENTICATED
    await with_users(stand)
    channel = await stand.channel(await stand.gateway(authentication="off"))
    assert await count(channel) is OK
    assert await count(channel, bearer("wrong")) is OK
    assert [seen["mlxmesh-authentication"] for seen in service.metadata] == ["off", "off"]
    channel = await stand.channel(await stand.gateway())
    assert await count(channel, (*bearer(SECRET), ("mlxmesh-authentication", "off"))) is OK
    assert "mlxmesh-authentication" not in service.metadata[-1]


async def test_a_key_is_held_to_its_models(stand: Any) -> None:
    await stand.generation()
    models = await stand.models()
    for name in ("llama-3", "qwen-1", "qwen-2"):
        models.models[name] = m.Model(name=name)
    access = await with_users(stand)
    await access.add_key(OTHER, models=("qwen*",))
    channel = await stand.channel(await stand.gateway())
    catalogue, mine = ModelServiceStub(channel), bearer(OTHER)

    async def complete(model: str) -> grpc.StatusCode:
        generation = g.GenerateRequest(model=model, prompt="a")
        request = g.CompleteRequest(generation=generation)
        return await code_of(GenerationServiceStub(channel).Complete(request, metadata=mine))

    assert await complete("qwen-1") is OK
    assert await complete("qwen-1@2") is OK
    assert await complete("llama-3") is PERMISSION_DENIED
    assert await complete("llama-3:qwen") is PERMISSION_DENIED
    names: list[str] = []
    page = m.ListModelsResponse(next_page_token="0")
    while page.next_page_token:
        request = m.ListModelsRequest(page_token=page.next_page_token)
        page = await catalogue.ListModels(request, metadata=mine)
        names += [one.name for one in page.models]
    assert names == ["qwen-1", "qwen-2"]
    assert await code_of(catalogue.GetModel(m.GetModelRequest(model="qwen-1"), metadata=mine)) is OK
    hidden = catalogue.GetModel(m.GetModelRequest(model="llama-3"), metadata=mine)
    missing = catalogue.GetModel(m.GetModelRequest(model="llama-9"), metadata=mine)
    assert await code_of(hidden) is await code_of(missing) is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("ends", ["finished", "broken", "cancelled"])
async def test_what_a_call_used_is_reported_once(stand: Any, ends: str) -> None:
    service = await stand.generation()
    access = await with_users(stand)
    stub = GenerationServiceStub(await stand.channel(await stand.gateway()))
    request = g.GenerateRequest(model="pocket", prompt="a b c")
    if ends == "broken":
        service.break_after = 2
    if ends == "cancelled":
        service.go_on.clear()
    call = stub.Generate(request, metadata=bearer(SECRET))
    try:
        async for message in call:
            if ends == "cancelled" and message.HasField("delta"):
                call.cancel()
    except (grpc.aio.AioRpcError, asyncio.CancelledError):
        assert ends != "finished"
    await until(lambda: bool(access.batches))
    (record,) = access.usage()
    assert (record.principal, record.user, record.key_id) == ("key:k_1", "ada", "k_1")
    assert (record.team, record.model, record.model_version) == ("red", "pocket", 1)
    assert record.hour.seconds % 3600 == 0
    assert abs(record.last_used.seconds - time.time()) < 60
    assert record.amounts.requests == 1
    assert record.amounts.errors == (ends == "broken")
    relayed = {"finished": 0, "broken": 2, "cancelled": 1}  # the fake counts nothing at the end
    assert record.amounts.completion_tokens == relayed[ends]


async def test_what_is_read_by_attaching_counts_once(stand: Any) -> None:
    """Else a caller could begin a generation, leave, and read it for nothing."""
    service = await stand.generation()
    access = await with_users(stand)
    stub = GenerationServiceStub(await stand.channel(await stand.gateway()))
    service.go_on.clear()
    request = g.GenerateRequest(model="pocket", prompt="a b c d", request_id="id")
    call = stub.Generate(request, metadata=bearer(SECRET))
    read = [await call.read(), await call.read()]
    call.cancel()
    deltas = [g.Delta(text=word, token_ids=[number]) for number, word in enumerate("abcd")]
    service.kept["id"] = [
        read[0],
        *(g.GenerateResponse(sequence=number, delta=one) for number, one in enumerate(deltas, 2)),
        g.GenerateResponse(sequence=6, finished=g.Finished(total_usage=g.Usage())),
    ]
    await until(lambda: tokens_of(access) == 1)
    for _ in range(2):
        attach = g.AttachGenerationRequest(request_id="id")
        async for _message in stub.AttachGeneration(attach, metadata=bearer(SECRET)):
            pass
    await until(lambda: tokens_of(access) == 4)
    await asyncio.sleep(2.5)
    assert tokens_of(access) == 4
    assert requests_of(access) == 1
    assert {record.model for record in access.usage()} == {"pocket"}


async def test_what_is_read_of_a_generation_at_once_counts_once(stand: Any) -> None:
    service = await stand.generation()
    access = await with_users(stand)
    stub = GenerationServiceStub(await stand.channel(await stand.gateway()))
    started = g.Started(request_id="id", model="pocket", model_version=1, prompt_tokens=9)
    delta = g.Delta(text="a b c", token_ids=[1, 2, 3])
    service.kept["id"] = [
        g.GenerateResponse(sequence=1, started=started),
        g.GenerateResponse(sequence=2, delta=delta),
    ]
    for _ in range(2):
        await stub.GetGeneration(g.GetGenerationRequest(request_id="id"), metadata=bearer(SECRET))
    await until(lambda: tokens_of(access) == 3)
    await asyncio.sleep(2.5)
    assert tokens_of(access) == 3
    assert sum(record.amounts.prompt_tokens for record in access.usage()) == 9
    assert requests_of(access) == 0


async def test_a_background_response_counts_after_its_client_left_and_when_its_gateway_stops(
    stand: Any,
) -> None:
    service = await stand.generation()
    access = await with_users(stand)
    service.go_on.clear()
    asked = {"model": "pocket", "input": "a b c", "background": True, "stream": True}
    async with stand.running_gateway(http_listen="127.0.0.1:0") as (address, _stop):
        url = f"http://{await stand.http(address)}/v1/responses"
        headers = dict(bearer(SECRET))
        async with (
            httpx2.AsyncClient(headers=headers, timeout=10) as http,
            http.stream("POST", url, json=asked) as response,
        ):
            assert response.status_code == 200
            async for line in response.aiter_lines():
                if "output_text.delta" in line:
                    break
        await asyncio.sleep(0.2)  # the gateway reads on without the client
        assert service.interrupted == 0
        assert tokens_of(access) == 0
    assert (tokens_of(access), requests_of(access)) == (1, 1)


def tokens_of(access: FakePolicyService) -> int:
    return sum(record.amounts.completion_tokens for record in access.usage())


async def test_usage_outlives_gateways_and_an_access_service_that_is_away(stand: Any) -> None:
    await stand.generation()
    access = await with_users(stand)
    busy = DatabaseBusy("the database is locked")

    async def use(address: str) -> None:
        stub = GenerationServiceStub(await stand.channel(address))
        request = g.CompleteRequest(generation=g.GenerateRequest(model="pocket", prompt="a"))
        await stub.Complete(request, metadata=bearer(SECRET))

    access.errors = {"ReportUsage": busy}
    for _ in range(2):
        async with stand.running_gateway() as (address, _stop):
            await use(address)
    kept = list(stand.data_dir.glob("gateway-usage/*/*.binpb"))
    assert kept
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in kept)
    async with stand.running_gateway() as (address, _stop):
        await use(address)
        access.errors = {}
        await until(lambda: requests_of(access) == 3)
    assert not list(stand.data_dir.glob("gateway-usage/*/*.binpb"))


async def test_a_lost_answer_counts_nothing_twice(stand: Any) -> None:
    await stand.generation()
    access = await with_users(stand)
    access.lost_answers = 1
    stub = GenerationServiceStub(await stand.channel(await stand.gateway()))
    request = g.CompleteRequest(generation=g.GenerateRequest(model="pocket", prompt="a"))
    await stub.Complete(request, metadata=bearer(SECRET))
    await until(lambda: access.repeated >= 1, 20)
    assert requests_of(access) == 1


def requests_of(access: FakePolicyService) -> int:
    return sum(record.amounts.requests for record in access.usage())
