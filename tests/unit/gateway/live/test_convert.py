"""Pages of recent requests, and what their records say."""

from typing import Any

import pytest

from mlxmesh.telemetry.v1 import live_pb2 as pb
from mlxmesh_gateway.forwarding.request_log import RequestLog
from mlxmesh_gateway.forwarding.used import Used
from mlxmesh_gateway.live.convert import Owned, newest_first, owned_requests, page
from mlxmesh_shared.errors import EngineLost, InvalidArgument


def requests() -> list[Owned]:
    """Four requests of two principals; the last one failed."""
    times = iter(range(1_000, 9_000, 1_000))
    log = RequestLog(10, time_ns=lambda: next(times))
    for owner, model in (("user:ada#", "a"), ("user:eve#", "b"), ("user:ada#x", "a")):
        used = Used(request_id=f"gen-{model}", prompt_tokens=3, messages=2, finish_reason=2)
        with log.recorded(used, owner=owner, protocol="openai", method="/s/M", model=model):
            pass
    try:
        with log.recorded(Used(), owner="#", protocol="grpc", method="/s/M", model="c"):
            raise EngineLost("lost")
    except EngineLost:
        pass
    return owned_requests(log, "gateway-1", 0)


def listed(owner: str = "", **fields: Any) -> pb.ListRequestsResponse:
    return page(requests(), pb.ListRequestsRequest(**fields), owner=owner)


def models(response: pb.ListRequestsResponse) -> list[str]:
    return [one.model for one in response.requests]


def test_the_newest_comes_first() -> None:
    assert models(listed()) == ["c", "a", "b", "a"]


def test_a_record_says_who_and_how_it_ended() -> None:
    failed, newest, *_ = listed().requests
    assert (failed.principal, failed.failure.reason) == ("anonymous", "ENGINE_LOST")
    assert failed.finish_reason == ""
    assert (newest.principal, newest.protocol, newest.finish_reason) == (
        "user:ada",
        "openai",
        "length",
    )
    assert (newest.state, newest.completion_tokens) == (pb.REQUEST_STATE_ENDED, 2)
    assert newest.id.startswith("gateway-1:")


def test_an_owner_sees_its_own_only() -> None:
    assert models(listed("user:eve#")) == ["b"]
    assert models(listed("user:ada#")) == ["a"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"model": "a"}, ["a", "a"]),
        ({"principal": "user:ada"}, ["a", "a"]),
        ({"failed_only": True}, ["c"]),
        ({"request_id": "gen-b"}, ["b"]),
        ({"state": pb.REQUEST_STATE_RUNNING}, []),
    ],
)
def test_filters(fields: dict[str, Any], expected: list[str]) -> None:
    assert models(listed(**fields)) == expected


def test_pages_follow_each_other() -> None:
    found, all_requests, token = list[str](), requests(), ""
    while True:
        request = pb.ListRequestsRequest(page_size=1, page_token=token)
        response = page(all_requests, request, owner="")
        found += models(response)
        token = response.next_page_token
        if not token:
            break
    assert found == ["c", "a", "b", "a"]


def test_a_token_of_nobody_is_refused() -> None:
    with pytest.raises(InvalidArgument) as caught:
        listed(page_token="eA==")
    assert caught.value.field == "page_token"


def test_requests_of_several_gateways_are_ordered_together() -> None:
    one, two = requests(), requests()
    starts = [record.start_time.ToNanoseconds() for _, record in newest_first([*one, *two])]
    assert starts == sorted(starts, reverse=True)
