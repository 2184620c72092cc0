"""OpenAI's own client at two gateways, with one real generation service and a fake engine."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from mlxmesh_shared.errors import EngineFailed
from mlxmesh_shared.registry import OFFERS_RELAY, Instance
from tests.fakes import tokenizer_files
from tests.fakes.engine import FakeEngineOptions
from tests.fakes.waiting import until
from tests.integration.gateway.conftest import Stand
from tests.integration.generation.harness import Mesh, running_mesh

ASKED: dict[str, Any] = {"model": "pocket", "input": "hello", "extra_body": {"seed": 1}}
LONG: dict[str, Any] = {**ASKED, "max_output_tokens": 400}
KEYED = {"extra_headers": {"Idempotency-Key": "k"}}


@dataclass
class Served:
    """Two gateways of one generation service."""

    mesh: Mesh
    urls: list[str]

    @asynccontextmanager
    async def client(self, gateway: int = 0, **options: Any) -> AsyncGenerator[Any]:
        own = {"base_url": f"{self.urls[gateway]}/v1", "api_key": "any", "max_retries": 0}
        async with AsyncOpenAI(**{**own, **options}) as client:
            yield client

    def is_idle(self) -> bool:
        return self.mesh.engine.sequences == 0


@asynccontextmanager
async def serving(folder: Path, **settings: Any) -> AsyncGenerator[Served]:
    tokenizer_dir = tokenizer_files.byte_level(folder / "tokenizer")
    options = FakeEngineOptions(step_s=0.002)
    async with AsyncExitStack() as stack:
        mesh = await stack.enter_async_context(
            running_mesh(folder, tokenizer_dir, options, settings=settings)
        )
        stand = Stand(stack, folder / "gateways")
        address, metadata = mesh.server.address, {OFFERS_RELAY: "1"}
        await stand.registry.register(
            Instance("generation", "generation-1", address, pid=1, metadata=metadata)
        )
        addresses = [await stand.gateway(), await stand.gateway()]
        gateways = await stand.registry.resolve("gateway")
        http = {one.address: one.metadata["http"] for one in gateways}
        yield Served(mesh, [f"http://{http[address]}" for address in addresses])


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as running:
        yield running


async def started(client: Any, **options: Any) -> Any:
    """A response in the background that has some output."""
    response = await client.responses.create(**LONG, background=True, **options)
    async with asyncio.timeout(20):
        while not (await client.responses.retrieve(response.id)).output_text:
            await asyncio.sleep(0.01)
    return response


async def ended(client: Any, response_id: str) -> Any:
    async with asyncio.timeout(30):
        while True:
            response = await client.responses.retrieve(response_id)
            if response.status not in ("queued", "in_progress"):
                return response
            await asyncio.sleep(0.02)


async def all_events(stream: Any) -> list[Any]:
    return [event async for event in stream]


async def not_found(call: Any, field: str = "response_id") -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await call
    assert caught.value.param == field
    assert "retained" in caught.value.message


# Whole responses.


async def test_a_whole_response(served: Served) -> None:
    async with served.client() as client:
        response = await client.responses.create(
            **ASKED, instructions="Be brief.", max_output_tokens=5, metadata={"k": "v"}, top_p=0.5
        )
        again = await client.responses.retrieve(response.id)
    assert response == again
    assert (response.status, response.model) == ("incomplete", "pocket")
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage is not None
    assert response.usage.output_tokens == 5
    assert response.usage.input_tokens_details.cached_tokens == 0
    assert (response.instructions, response.metadata) == ("Be brief.", {"k": "v"})
    assert (response.temperature, response.top_p, response.max_output_tokens) == (1, 0.5, 5)
    assert response.created_at > 1_700_000_000


async def test_the_synchronous_client(served: Served) -> None:
    def ask() -> tuple[Any, list[Any]]:
        with OpenAI(base_url=f"{served.urls[0]}/v1", api_key="any", max_retries=0) as client:
            whole = client.responses.create(**ASKED, max_output_tokens=5)
            with client.responses.stream(**ASKED, max_output_tokens=5) as stream:
                return whole, list(stream)

    whole, events = await asyncio.to_thread(ask)
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.output_text == whole.output_text


async def test_the_streaming_helper(served: Served) -> None:
    served.mesh.engine.options.eos_token_id = 7
    served.mesh.script([100, 101, 102, 7])
    async with served.client() as client, client.responses.stream(**ASKED) as stream:
        texts = [
            event.delta async for event in stream if event.type == "response.output_text.delta"
        ]
        final = await stream.get_final_response()
    assert final.status == "completed"
    assert "".join(texts) == final.output_text != ""


async def test_a_stream_equals_the_whole_response(served: Served) -> None:
    async with served.client() as client:
        whole = await client.responses.create(**LONG)
        events = await all_events(await client.responses.create(**LONG, stream=True))
    assert [event.sequence_number for event in events] == [*range(len(events))]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text
    assert len(deltas) > 20
    last = events[-1].response
    assert (last.output_text, last.usage) == (whole.output_text, whole.usage)


async def test_each_event_has_a_name_and_an_id(served: Served) -> None:
    body = {**ASKED, "max_output_tokens": 3, "stream": True}
    async with httpx2.AsyncClient() as client:
        response = await client.post(f"{served.urls[0]}/v1/responses", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = response.text.strip().split("\n\n")
    for number, block in enumerate(blocks):
        name, data, event_id = block.split("\n")
        assert re.fullmatch(rf"id: {number}\.[1-9][0-9]*@[1-9a-f][0-9a-f]*", event_id)
        parsed = json.loads(data.removeprefix("data: "))
        assert (name, parsed["sequence_number"]) == (f"event: {parsed['type']}", number)


async def test_extra_options_reach_the_engine(served: Served) -> None:
    extra = {"top_k": 3, "min_p": 0.1, "repetition_penalty": 1.2, "seed": 5, "priority": 2}
    async with served.client() as client:
        await client.responses.create(**{**ASKED, "extra_body": extra}, max_output_tokens=2)
    (submit,) = served.mesh.engine.submits
    assert (submit.sampling.top_k, submit.sampling.seed) == (3, 5)
    assert submit.sampling.repetition_penalty == pytest.approx(1.2)


async def test_unknown_fields_are_told(served: Served) -> None:
    async with served.client() as client:
        raw = await client.responses.with_raw_response.create(
            **{**ASKED, "extra_body": {"frob": 1}}, max_output_tokens=1
        )
    assert raw.headers["mlxmesh-ignored-fields"] == "frob"


async def test_what_is_not_included_is_told(served: Served) -> None:
    async with served.client() as client:
        raw = await client.responses.with_raw_response.create(
            **ASKED,
            max_output_tokens=1,
            include=["message.output_text.logprobs", "reasoning.encrypted_content"],
        )
    assert raw.headers["mlxmesh-ignored-fields"] == "include.1"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"input": [{"type": "item_reference", "id": "i"}]}, "input.0.type"),
        ({"input": []}, "input"),
        ({"input": "x" * 5_000}, "input"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": 5_000}, "max_output_tokens"),
        ({"temperature": 11}, "temperature"),
        ({"extra_body": {"adapter": "../a"}}, "adapter"),
        ({"background": True, "store": False}, "store"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options"),
        ({"extra_headers": {"Last-Event-ID": "3"}, "stream": True}, "last-event-id"),
        ({"extra_headers": {"Idempotency-Key": ""}}, "idempotency-key"),
    ],
)
async def test_illegal_requests_name_the_field(
    served: Served, fields: dict[str, Any], field: str
) -> None:
    async with served.client() as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.responses.create(**{**ASKED, **fields})
        with pytest.raises(openai.BadRequestError) as again:
            await client.responses.create(**{**ASKED, "background": True, **fields})
    assert caught.value.param == field
    assert again.value.param == field
    assert caught.value.message.find(field) >= 0


async def test_an_unknown_model_is_not_found(served: Served) -> None:
    async with served.client() as client:
        for options in ({}, {"stream": True}, {"background": True}):
            with pytest.raises(openai.NotFoundError) as caught:
                await client.responses.create(**{**ASKED, "model": "nobody", **options})
            assert caught.value.param == "model"


# Clients that leave.


async def read(client: Any, stream: bool) -> None:
    response = await client.responses.create(**LONG, stream=stream)
    await all_events(response)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_ends_with_its_client(served: Served, stream: bool) -> None:
    async with served.client() as client:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(read(client, stream), 0.3)
        await until(served.is_idle)
    assert served.mesh.engine.steps < 400


async def test_with_an_idempotency_key_it_goes_on(served: Served) -> None:
    async with served.client() as client:
        stream = await client.responses.create(**LONG, stream=True, **KEYED)
        first = [await anext(aiter(stream)) for _ in range(6)]
        await stream.close()
        headers = {"extra_headers": {"Idempotency-Key": "k", "Last-Event-ID": "3"}}
        rest = await all_events(await client.responses.create(**LONG, stream=True, **headers))
        whole = await all_events(await client.responses.create(**LONG, stream=True, **KEYED))
    assert whole[:6] == first
    assert whole[4:] == rest
    assert len(served.mesh.engine.submits) == 1


async def test_what_is_gone_is_not_resumed_with_another_text(served: Served) -> None:
    headers = {"extra_headers": {"Idempotency-Key": "k", "Last-Event-ID": "3"}}
    async with served.client() as client:
        await not_found(client.responses.create(**LONG, stream=True, **headers))
        await client.responses.create(**ASKED, max_output_tokens=2, **KEYED)
        with pytest.raises(openai.ConflictError):
            await client.responses.create(**LONG, stream=True, **headers)
    assert len(served.mesh.engine.submits) == 1


async def test_another_request_with_the_same_key_is_a_conflict(served: Served) -> None:
    async with served.client() as client:
        await client.responses.create(**ASKED, max_output_tokens=2, **KEYED)
        with pytest.raises(openai.ConflictError):
            await client.responses.create(**ASKED, max_output_tokens=3, **KEYED)


# In the background.


async def test_in_the_background_it_ends_without_a_reader(tmp_path: Path) -> None:
    async with serving(tmp_path, detached_timeout_s=0.05) as served, served.client() as client:
        response = await client.responses.create(**LONG, background=True)
        assert response.status in ("queued", "in_progress")
        assert response.background
        found = await ended(client, response.id)
        expected = await client.responses.create(**LONG)
        assert found.output_text == expected.output_text
        assert found.created_at == response.created_at


async def test_the_status_and_the_output_so_far(served: Served) -> None:
    async with served.client(0) as client, served.client(1) as other:
        response = await started(client)
        found = await other.responses.retrieve(response.id)
        assert found.status == "in_progress"
        assert found.output[0].status == "in_progress"
        last = await ended(other, response.id)
        assert last.output_text.startswith(found.output_text)


async def test_a_stream_is_resumed_after_any_event_through_any_gateway(served: Served) -> None:
    async with served.client(0) as client, served.client(1) as other:
        response = await started(client, stream=False)
        whole = await all_events(await other.responses.retrieve(response.id, stream=True))
        assert [event.sequence_number for event in whole] == [*range(len(whole))]
        assert whole[1].type == "response.queued"
        for after in (0, 3, len(whole) // 2, len(whole) - 1):
            stream = await client.responses.retrieve(response.id, stream=True, starting_after=after)
            assert await all_events(stream) == whole[after + 1 :]
        with pytest.raises(openai.BadRequestError) as caught:
            await client.responses.retrieve(response.id, stream=True, starting_after=len(whole))
        assert caught.value.param == "starting_after"


async def test_background_and_stream(served: Served) -> None:
    async with served.client() as client:
        stream = await client.responses.create(**LONG, background=True, stream=True)
        first = [await anext(aiter(stream)) for _ in range(8)]
        await stream.close()
        response_id = first[0].response.id
        assert (await ended(client, response_id)).usage.output_tokens == 400
        rest = await client.responses.retrieve(response_id, stream=True, starting_after=7)
        assert (await all_events(rest))[0].sequence_number == 8


async def test_a_new_reader_ends_the_stream_of_the_one_before(served: Served) -> None:
    async with served.client() as client:
        response = await started(client)
        first = await client.responses.retrieve(response.id, stream=True)
        await anext(aiter(first))
        second = await client.responses.retrieve(response.id, stream=True)
        await anext(aiter(second))
        last = (await all_events(first))[-1]
        assert (last.type, last.code) == ("error", "reader_replaced")
        assert (await all_events(second))[-1].type == "response.incomplete"


async def test_a_stream_that_broke_off_resumes_after_its_last_event(served: Served) -> None:
    async with served.client() as client:
        response = await started(client)
        first = await client.responses.retrieve(response.id, stream=True)
        begun = [await anext(aiter(first)) for _ in range(4)]
        second = await client.responses.retrieve(response.id, stream=True)
        await anext(aiter(second))
        *more, error = await all_events(first)
        assert error.type == "error"
        assert error.sequence_number == [*begun, *more][-1].sequence_number
        rest = await client.responses.retrieve(
            response.id, stream=True, starting_after=error.sequence_number
        )
        whole = [*begun, *more, *await all_events(rest)]
        assert [event.sequence_number for event in whole] == [*range(len(whole))]


async def test_a_response_is_cancelled(served: Served) -> None:
    async with served.client(0) as client, served.client(1) as other:
        response = await started(client)
        cancelled = await other.responses.cancel(response.id)
        assert cancelled.status == "cancelled"
        assert cancelled.output_text
        assert served.is_idle()
        assert await other.responses.cancel(response.id) == cancelled
        events = await all_events(await client.responses.retrieve(response.id, stream=True))
        assert events[-1].type == "response.incomplete"
        assert events[-1].response == cancelled


async def test_only_background_responses_are_cancelled(served: Served) -> None:
    async with served.client() as client:
        response = await client.responses.create(**ASKED, max_output_tokens=2)
        with pytest.raises(openai.BadRequestError):
            await client.responses.cancel(response.id)


async def test_a_response_that_fails(served: Served) -> None:
    async with served.client() as client:
        response = await started(client)
        served.mesh.engine.fail_running = EngineFailed("the model is broken")
        failed = await ended(client, response.id)
        assert failed.status == "failed"
        assert (failed.error.code, failed.error.message) == ("server_error", "the model is broken")
        events = await all_events(await client.responses.retrieve(response.id, stream=True))
        assert events[-1].type == "response.failed"
        assert events[-1].response == failed
        with pytest.raises(openai.BadRequestError) as caught:
            await client.responses.create(**ASKED, previous_response_id=response.id)
        assert caught.value.param == "previous_response_id"


async def test_a_stream_that_fails(served: Served) -> None:
    async with served.client() as client:
        for store in (True, False):
            stream = await client.responses.create(**LONG, stream=True, store=store)
            await anext(aiter(stream))
            served.mesh.engine.fail_running = EngineFailed("the model is broken")
            last = (await all_events(stream))[-1]
            assert last.type == "response.failed"
            assert last.response.error.message == "the model is broken"


# What is retained.


async def test_a_conversation_goes_on(served: Served) -> None:
    async with served.client(0) as client, served.client(1) as other:
        first = await client.responses.create(**ASKED, max_output_tokens=4, instructions="One.")
        asked = {**ASKED, "input": "And?", "max_output_tokens": 4}
        second = await other.responses.create(**asked, previous_response_id=first.id)
        third = await client.responses.create(
            **asked, previous_response_id=second.id, instructions="Two."
        )
        items = await client.responses.input_items.list(third.id, order="asc")
        texts = [(item.role, item.content[0].text) for item in items.data]
        assert texts == [
            ("user", "hello"),
            ("assistant", first.output_text),
            ("user", "And?"),
            ("assistant", second.output_text),
            ("user", "And?"),
        ]
        # The instructions of an earlier response are not those of the next.
        whole = [{"role": role, "content": text} for role, text in texts]
        same = await client.responses.create(**{**asked, "input": whole}, instructions="Two.")
        assert same.output_text == third.output_text


async def test_input_items_have_pages(served: Served) -> None:
    turns = [{"role": "user", "content": str(number)} for number in range(5)]
    async with served.client() as client:
        response = await client.responses.create(**{**ASKED, "input": turns}, max_output_tokens=1)
        listed = client.responses.input_items.list(response.id, limit=2)
        newest_first = [item.content[0].text async for item in listed]
        assert newest_first == ["4", "3", "2", "1", "0"]
        page = await client.responses.input_items.list(response.id, limit=2, order="asc")
        assert [item.content[0].text for item in page.data] == ["0", "1"]
        assert page.has_more
        for illegal in ({"limit": 0}, {"limit": 101}, {"after": "nobody"}, {"order": "up"}):
            with pytest.raises(openai.BadRequestError) as caught:
                await client.responses.input_items.list(response.id, **illegal)
            assert caught.value.param == next(iter(illegal))


async def test_a_deleted_response_is_gone(served: Served) -> None:
    async with served.client(0) as client, served.client(1) as other:
        response = await started(client)
        await other.responses.delete(response.id)
        await until(served.is_idle)
        await not_found(client.responses.retrieve(response.id))
        await not_found(client.responses.delete(response.id))


async def test_what_is_not_retained_is_not_found(served: Served) -> None:
    async with served.client() as client:
        unstored = await client.responses.create(**ASKED, max_output_tokens=2, store=False)
        for wrong in (unstored.id, "resp_1", "mine", f"resp_{'0' * 48}", "x" * 300):
            await not_found(client.responses.retrieve(wrong))
            await not_found(client.responses.retrieve(wrong, stream=True))
            await not_found(client.responses.cancel(wrong))
            await not_found(client.responses.delete(wrong))
            await not_found(client.responses.input_items.list(wrong))
            await not_found(
                client.responses.create(**ASKED, previous_response_id=wrong),
                "previous_response_id",
            )


async def test_responses_expire(tmp_path: Path) -> None:
    async with serving(tmp_path, retention_s=0.05) as served, served.client() as client:
        response = await client.responses.create(**ASKED, max_output_tokens=2)
        await asyncio.sleep(0.1)
        await not_found(client.responses.retrieve(response.id))


async def test_responses_of_others_are_not_found(served: Served) -> None:
    async with (
        served.client(default_headers={"mlxmesh-caller": "ada"}) as ada,
        served.client(default_headers={"mlxmesh-caller": "bob"}) as bob,
    ):
        response = await started(ada)
        await not_found(bob.responses.retrieve(response.id))
        await not_found(bob.responses.cancel(response.id))
        await not_found(bob.responses.delete(response.id))
        assert (await ada.responses.cancel(response.id)).status == "cancelled"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("stream=1", "stream"),
        ("stream=true&starting_after=-1", "starting_after"),
        ("stream=true&starting_after=x", "starting_after"),
        ("starting_after=3", "starting_after"),
    ],
)
async def test_illegal_queries(served: Served, query: str, field: str) -> None:
    async with served.client() as client:
        response = await client.responses.create(**ASKED, max_output_tokens=2)
        async with httpx2.AsyncClient() as plain:
            url = f"{served.urls[0]}/v1/responses/{response.id}?{query}"
            answer = await plain.get(url)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field
