"""What a worker's result means for its job."""

from typing import Any

import pytest

from mlxmesh.job.v1 import job_pb2, worker_pb2
from mlxmesh_jobs.domain.jobs import Completed, Failed
from mlxmesh_jobs.domain.recovery import Fault
from mlxmesh_jobs.workers.convert import from_update


def news_of(**result: Any) -> object:
    used = worker_pb2.UsedAmounts(prompt_tokens=7)
    told = worker_pb2.AttemptResult(**result, used=used)
    return from_update(worker_pb2.AttemptUpdate(result=told), "updates[0]").news


@pytest.mark.parametrize("status", [200, 299])
def test_a_request_with_a_good_response_completes(status: int):
    assert isinstance(news_of(request={"status_code": status}), Completed)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (0, "INTERNAL"),
        (199, "INTERNAL"),
        (300, "INTERNAL"),
        (400, "INVALID_FIELD"),
        (499, "INVALID_FIELD"),
        (500, "INTERNAL"),
    ],
)
def test_a_request_with_another_response_fails_and_keeps_it(status: int, reason: str):
    news = news_of(request={"status_code": status, "body_json": "{}"})
    assert isinstance(news, Failed)
    assert (news.fault, news.failure.reason) == (Fault.JOB, reason)
    assert str(status) in news.failure.message
    assert news.used is not None
    assert news.used.prompt_tokens == 7
    kept = worker_pb2.AttemptResult.FromString(news.result).request
    assert kept == job_pb2.RequestResult(status_code=status, body_json="{}")


def test_other_kinds_of_results_complete():
    assert isinstance(news_of(generation={"messages": 3}), Completed)
