"""Which failures mean that an instance is gone, and which are its answer."""

import grpc
import pytest
from grpc import aio

from mlxmesh_gateway.forwarding.statuses import is_gone, service_status
from mlxmesh_shared.errors import (
    Cancelled,
    DeadlineExceeded,
    Draining,
    MeshError,
    NoReplica,
    QueueFull,
    ServiceUnavailable,
)
from mlxmesh_shared.rpc.error_status import from_rpc_error, to_status


def as_received(status: grpc.Status | grpc.StatusCode) -> MeshError:
    """The error that a channel raises for a status of a service, or for one of gRPC's own."""
    if isinstance(status, grpc.StatusCode):
        cause = aio.AioRpcError(status, aio.Metadata(), aio.Metadata(), "connection refused")
    else:
        trailing = aio.Metadata(*(status.trailing_metadata or ()))
        cause = aio.AioRpcError(status.code, aio.Metadata(), trailing, status.details)
    error = from_rpc_error(cause)
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
def test_a_status_that_grpc_made_means_the_instance_broke_off(code: grpc.StatusCode) -> None:
    error = as_received(code)

    assert is_gone(error)
    assert service_status(error) is None


def test_an_instance_that_drains_is_gone_too() -> None:
    assert is_gone(as_received(to_status(Draining("leaving"))))


@pytest.mark.parametrize(
    "answer",
    [
        NoReplica("x"),
        ServiceUnavailable("x"),
        QueueFull("x"),
        Cancelled("x"),
        DeadlineExceeded("x"),
    ],
)
def test_what_a_service_says_itself_is_its_answer(answer: MeshError) -> None:
    error = as_received(to_status(answer))

    assert not is_gone(error)
    status = service_status(error)
    assert status is not None
    assert status[:2] == (answer.code, "x")


def test_a_deadline_is_no_reason_to_ask_another() -> None:
    assert not is_gone(as_received(grpc.StatusCode.DEADLINE_EXCEEDED))


def test_an_error_of_the_gateway_itself_has_no_status_of_a_service() -> None:
    assert service_status(ServiceUnavailable("no generation service is running")) is None
