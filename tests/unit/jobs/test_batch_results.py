"""The lines of files of results and of errors."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_jobs.batches.results import RequestOutcome, line_of
from mlxmesh_jobs.domain.jobs import FailureFacts

TEXT = st.text(st.characters(codec="utf-8"))


@given(TEXT, TEXT, st.dictionaries(TEXT, TEXT), st.sampled_from([200, 400, 500]))
def test_a_response_is_one_line_with_the_body_as_it_is(
    custom_id: str, request_id: str, body: dict[str, str], status: int
) -> None:
    outcome = RequestOutcome(
        number=3,
        custom_id=custom_id,
        status_code=status,
        request_id=request_id,
        body_json=json.dumps(body, indent=1, ensure_ascii=False),
    )

    line = line_of("b", outcome)

    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    read = json.loads(line)
    assert read.pop("id").startswith("batch_req_")
    response = {"status_code": status, "request_id": request_id, "body": body}
    assert read == {"custom_id": custom_id, "response": response, "error": None}
    assert outcome.succeeded == (status == 200)


def test_a_request_without_a_response_has_an_error() -> None:
    failure = FailureFacts(code=4, reason="DEADLINE_EXCEEDED", message='it "ended"\nlate')
    outcome = RequestOutcome(number=1, custom_id="a", failure=failure)

    read = json.loads(line_of("b", outcome))

    assert read["response"] is None
    assert read["error"] == {"code": "deadline_exceeded", "message": 'it "ended"\nlate'}
    assert not outcome.succeeded


def test_the_line_of_a_request_is_always_the_same_and_its_id_its_own() -> None:
    one, other = (RequestOutcome(number=n, custom_id="a", status_code=200) for n in (1, 2))

    assert line_of("b", one) == line_of("b", one)
    ids = {json.loads(line_of(b, n))["id"] for b in ("b", "c") for n in (one, other)}
    assert len(ids) == 4
