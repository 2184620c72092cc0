"""The two-way mapping between errors and what travels: for every class, nothing is lost."""

from collections.abc import Iterator

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

from mlxmesh.common.v1.failure_pb2 import Failure
from mlxmesh_shared import errors
from mlxmesh_shared.errors import (
    EngineLost,
    Internal,
    InvalidArgument,
    MeshError,
    MessageTooLarge,
    QueueFull,
    ServiceUnavailable,
)
from mlxmesh_shared.rpc.error_status import from_failure, from_rpc_error, to_failure, to_status


def every_class(cls: type[MeshError] = MeshError) -> Iterator[type[MeshError]]:
    """Those of the module; the command has more, which never travel."""
    for subclass in cls.__subclasses__():
        if subclass.__module__ == cls.__module__:
            yield subclass
        yield from every_class(subclass)


def as_rpc_error(status: grpc.Status) -> aio.AioRpcError:
    trailing = aio.Metadata(*status.trailing_metadata)
    return aio.AioRpcError(status.code, aio.Metadata(), trailing, status.details)


def details(status: grpc.Status) -> status_pb2.Status:
    encoded = dict(status.trailing_metadata)["grpc-status-details-bin"]
    assert isinstance(encoded, bytes)
    return status_pb2.Status.FromString(encoded)


@pytest.mark.parametrize("cls", list(every_class()))
def test_status_and_back(cls: type[MeshError]) -> None:
    error = cls("do this instead", field="sampling.top_p", retry_delay_s=1.25)

    back = from_rpc_error(as_rpc_error(to_status(error)))

    assert type(back) is cls
    assert (back.message, back.field, back.retry_delay_s) == (
        "do this instead",
        "sampling.top_p",
        1.25,
    )


@pytest.mark.parametrize("cls", list(every_class()))
def test_failure_and_back(cls: type[MeshError]) -> None:
    back = from_failure(to_failure(cls("do this instead", field="x", retry_delay_s=0.5)))

    assert type(back) is cls
    assert (back.message, back.field, back.retry_delay_s) == ("do this instead", "x", 0.5)


def test_reasons_are_unique() -> None:
    reasons = [cls.reason for cls in every_class() if cls.__module__ == MeshError.__module__]

    assert len(reasons) == len(set(reasons))
    assert all(reason == reason.upper() for reason in reasons)


def test_reason_is_the_name_of_the_class() -> None:
    assert EngineLost.reason == "ENGINE_LOST"
    assert InvalidArgument.reason == "INVALID_FIELD"


def test_status_has_exactly_one_error_info() -> None:
    status = details(to_status(QueueFull("full")))

    info = error_details_pb2.ErrorInfo()
    assert len(status.details) == 1
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain) == ("QUEUE_FULL", "mlxmesh")


def test_status_names_the_field_and_the_retry_delay() -> None:
    status = details(to_status(InvalidArgument("too big", field="n", retry_delay_s=2)))

    kinds = [packed.TypeName() for packed in status.details]
    assert kinds == ["google.rpc.ErrorInfo", "google.rpc.BadRequest", "google.rpc.RetryInfo"]


def test_long_message_fits_into_metadata() -> None:
    status = to_status(InvalidArgument("x" * 100_000, field="n"))

    assert sum(len(value) for _, value in status.trailing_metadata) < 8192


@pytest.mark.parametrize("code", list(grpc.StatusCode))
def test_without_details_the_code_decides_and_foreign_text_is_dropped(
    code: grpc.StatusCode,
) -> None:
    error = aio.AioRpcError(code, aio.Metadata(), aio.Metadata(), "Traceback: secret prompt")

    back = from_rpc_error(error)

    assert "secret" not in back.message
    assert back.code is code or isinstance(back, Internal)


def test_without_details_what_grpc_itself_answers() -> None:
    def back(code: grpc.StatusCode) -> MeshError:
        return from_rpc_error(aio.AioRpcError(code, aio.Metadata(), aio.Metadata()))

    assert isinstance(back(grpc.StatusCode.UNAVAILABLE), ServiceUnavailable)
    assert back(grpc.StatusCode.UNAVAILABLE).retryable
    assert isinstance(back(grpc.StatusCode.RESOURCE_EXHAUSTED), MessageTooLarge)
    assert not back(grpc.StatusCode.RESOURCE_EXHAUSTED).retryable


def test_torn_details_are_as_good_as_none() -> None:
    trailing = aio.Metadata(("grpc-status-details-bin", b"\xff\xff\xff"))

    back = from_rpc_error(aio.AioRpcError(grpc.StatusCode.NOT_FOUND, aio.Metadata(), trailing))

    assert back.code is grpc.StatusCode.NOT_FOUND


def test_reason_of_a_newer_peer_keeps_code_and_text() -> None:
    failure = Failure(code=grpc.StatusCode.UNAVAILABLE.value[0], reason="SOLAR_FLARE", message="m")

    back = from_failure(failure)

    assert isinstance(back, ServiceUnavailable)
    assert back.message == "m"


def test_failure_with_an_unknown_code_is_internal() -> None:
    assert isinstance(from_failure(Failure(code=999, reason="X", message="m")), Internal)


def test_text_is_the_message() -> None:
    assert str(errors.ModelNotFound("no model x")) == "no model x"
