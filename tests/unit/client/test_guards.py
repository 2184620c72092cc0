"""Guards as people write them."""

import pytest

from mlxmesh.model.v1 import rollout_pb2 as pb
from mlxmesh_client.guards import METRICS, guard_text, parse_guard
from mlxmesh_shared.errors import InvalidArgument


@pytest.mark.parametrize(
    ("text", "guard"),
    [
        ("error_rate<1%", pb.Guard(metric=pb.GUARD_METRIC_ERROR_RATE, bound=0.01)),
        (" error_rate < 0.01 ", pb.Guard(metric=pb.GUARD_METRIC_ERROR_RATE, bound=0.01)),
        ("invalid_rate<5%", pb.Guard(metric=pb.GUARD_METRIC_INVALID_RATE, bound=0.05)),
        ("ttft_p95<1.2x", pb.Guard(metric=pb.GUARD_METRIC_TTFT_P95, bound=1.2, relative=True)),
        ("ttft_p99<300ms", pb.Guard(metric=pb.GUARD_METRIC_TTFT_P99, bound=300)),
        ("tpot_p50<.5s", pb.Guard(metric=pb.GUARD_METRIC_TPOT_P50, bound=500)),
        (
            "tokens_per_request>0.5x",
            pb.Guard(
                metric=pb.GUARD_METRIC_TOKENS_PER_REQUEST, bound=0.5, above=True, relative=True
            ),
        ),
        (
            "tokens_per_request>10",
            pb.Guard(metric=pb.GUARD_METRIC_TOKENS_PER_REQUEST, bound=10, above=True),
        ),
    ],
)
def test_texts_that_mean_a_guard(text: str, guard: pb.Guard) -> None:
    assert parse_guard(text) == guard
    assert parse_guard(guard_text(guard)) == guard


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "write METRIC<BOUND"),
        ("error_rate", "write METRIC<BOUND"),
        ("error_rate=1%", "write METRIC<BOUND"),
        ("error_rate<-1%", "write METRIC<BOUND"),
        ("ttft<1x", "ttft is no metric; there are error_rate, ttft_p50"),
        ("error_rate<10ms", "give a percentage, as in error_rate<1%"),
        ("error_rate<1", "1 is 100% of requests; write 1% or 0.01"),
        ("error_rate<150%", "1.5 is 150% of requests"),
        ("ttft_p95<300", "ttft_p95 is a time: give ms or s"),
        ("ttft_p95<20%", "ttft_p95 is a time: give ms or s"),
        ("tokens_per_request<10ms", "has no unit: give a number"),
    ],
)
def test_other_texts_are_refused_with_what_to_write(text: str, why: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse_guard(text)
    assert why in refused.value.message
    assert refused.value.field == "guards"


def test_every_metric_of_the_contract_has_a_name() -> None:
    assert set(METRICS.values()) == set(pb.GuardMetric.values()) - {0}
