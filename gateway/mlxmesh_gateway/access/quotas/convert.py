"""Converts slices to the messages of PolicyService, and back."""

from __future__ import annotations

from collections.abc import Iterable

from mlxmesh.access.v1 import policy_pb2 as pb
from mlxmesh_gateway.access.convert import subject_message
from mlxmesh_gateway.access.policies import Limit, Subject
from mlxmesh_gateway.access.quotas.account import Ask, Grant


def lease_request(
    gateway_id: str, asks: Iterable[tuple[Subject, Limit, Ask]]
) -> pb.LeaseQuotasRequest:
    """The request for these slices."""
    slices = [
        pb.SliceRequest(
            subject=subject_message(subject),
            limit=pb.QuotaLimit.ValueType(limit.value),
            spent=ask.spent,
            wanted=ask.wanted,
        )
        for subject, limit, ask in asks
    ]
    return pb.LeaseQuotasRequest(gateway_id=gateway_id, slices=slices)


def grants(response: pb.LeaseQuotasResponse) -> list[Grant]:
    """What was granted, in the order of the request."""
    return [
        Grant(one.granted, one.valid_ms / 1000, one.retry_after_ms / 1000)
        for one in response.grants
    ]
