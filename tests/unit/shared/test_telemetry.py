"""Log records: one line each, for machines or for people."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
from opentelemetry.trace import TraceState

from mlxmesh_shared.telemetry import new_instance_id, setup_logging, wants_json
from mlxmesh_shared.telemetry.tracing import context_of


@pytest.fixture(autouse=True)
def _keep_root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def lines(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


def test_json_records() -> None:
    stream = io.StringIO()
    setup_logging(service="model", instance_id="model-1", level="info", json=True, stream=stream)

    log = logging.getLogger("mlxmesh_model.replicas.reconciler")
    log.info("placed %d replicas", 2, extra={"operation": "place", "fields": {"model": "pocket"}})
    log.debug("not this")

    (line,) = lines(stream)
    record = json.loads(line)
    assert record.pop("time").endswith("+00:00")
    assert record == {
        "level": "info",
        "service": "model",
        "instance": "model-1",
        "component": "mlxmesh_model.replicas.reconciler",
        "operation": "place",
        "message": "placed 2 replicas",
        "fields": {"model": "pocket"},
    }


def test_an_exception_stays_on_its_line() -> None:
    stream = io.StringIO()
    setup_logging(service="model", instance_id="model-1", json=True, stream=stream)
    try:
        raise ValueError("with\nnewlines")
    except ValueError:
        logging.getLogger("x").exception("failed")

    (line,) = lines(stream)
    assert "with\nnewlines" in json.loads(line)["error"]


def test_text_records() -> None:
    stream = io.StringIO()
    setup_logging(service="model", instance_id="m", level="DEBUG", json=False, stream=stream)

    logging.getLogger("x").warning("low on %s", "memory", extra={"fields": {"free_bytes": 5}})

    (line,) = lines(stream)
    assert line.endswith("WARNING model low on memory free_bytes=5")


def test_an_illegal_trace_state_is_not_quoted() -> None:
    stream = io.StringIO()
    setup_logging(service="gateway", instance_id="g", json=True, stream=stream)
    traceparent = ("traceparent", f"00-{1:032x}-{1:016x}-01")
    context_of([traceparent, ("tracestate", "secret words,a=1,a=2")])
    TraceState([("secret words", "b")])
    assert lines(stream) == []


def test_setting_up_again_replaces() -> None:
    first, second = io.StringIO(), io.StringIO()
    setup_logging(service="a", instance_id="a", json=True, stream=first)
    setup_logging(service="a", instance_id="a", json=True, stream=second)

    logging.getLogger("x").info("once")

    assert (len(lines(first)), len(lines(second))) == (0, 1)


def test_auto_is_json_where_nobody_looks() -> None:
    stream = io.StringIO()

    assert wants_json("auto", stream)
    assert wants_json("json", stream)
    assert not wants_json("text", stream)
    stream.isatty = lambda: True
    assert not wants_json("auto", stream)


def test_instance_ids() -> None:
    ids = {new_instance_id("model") for _ in range(100)}

    assert len(ids) == 100
    assert all(name.startswith("model-") and len(name) == len("model-") + 8 for name in ids)
