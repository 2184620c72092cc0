"""Dashboards and alerts name metrics that exist, and each alert has its page."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlxmesh_gateway.otlp.exposition import prometheus_name
from mlxmesh_gateway.otlp.own_metrics import INSTRUMENTS as OF_THE_GATEWAY
from mlxmesh_shared.telemetry.instruments import Kind
from tests.instruments import ALL

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "deploy" / "observability"
DASHBOARDS = sorted((FOLDER / "dashboards").glob("*.json"))
ALERTS = (FOLDER / "alerts.yml").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
_HISTOGRAM = ("_bucket", "_count", "_sum")


def _series() -> Iterator[str]:
    """Every name that a scrape can hold."""
    for each in ALL:
        name = prometheus_name(each.name, each.unit)
        endings = {Kind.GAUGE: ("",), Kind.COUNTER: ("_total",)}.get(each.kind, _HISTOGRAM)
        yield from (f"{name}{ending}" for ending in endings)
    for own in OF_THE_GATEWAY:
        yield prometheus_name(own.name, own.unit) + ("_total" if own.counter else "")


SERIES = frozenset(_series())


def _named(query: str) -> set[str]:
    """Names of metrics in a query: labels, in braces or after `by`, are none."""
    without_labels = re.sub(r"\{[^}]*\}|\b(by|on)\s*\([^)]*\)", "", query)
    return set(re.findall(r"\b(?:mlxmesh|gen_ai|http|rpc)_\w+", without_labels))


def _queries(dashboard: Path) -> Iterator[str]:
    content: dict[str, Any] = json.loads(dashboard.read_text())
    for panel in content["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    for variable in content["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"].removeprefix("label_values(").split(",")[0]


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_every_query_of_a_dashboard_names_metrics_that_exist(dashboard: Path) -> None:
    for query in _queries(dashboard):
        assert _named(query), query
        assert _named(query) <= SERIES, query


def test_dashboards_are_there_and_explain_each_panel() -> None:
    assert [path.stem for path in DASHBOARDS] == ["engines", "jobs", "overview", "requests"]
    for path in DASHBOARDS:
        content = json.loads(path.read_text())
        assert content["uid"] == f"mlxmesh-{path.stem}"
        assert all(panel["description"] for panel in content["panels"])


def test_every_metric_is_on_a_dashboard_or_explained_all_the_same() -> None:
    for each in (*ALL, *OF_THE_GATEWAY):
        assert f"`{each.name}`" in OPERATIONS, f"docs/operations.md does not explain {each.name}"


def test_alerts_name_metrics_that_exist() -> None:
    expressions = re.findall(r"expr: (\|\n(?: {10}.*\n)+|.*\n)", ALERTS)
    assert len(expressions) == ALERTS.count("- alert: ")
    for expression in expressions:
        assert _named(expression) <= SERIES, expression


def test_every_alert_leads_to_its_section() -> None:
    alerts = re.findall(r"- alert: (\w+)", ALERTS)
    runbooks = re.findall(r"runbook: docs/operations\.md#(\w+)", ALERTS)
    assert runbooks == [alert.lower() for alert in alerts]
    for alert in alerts:
        assert f"\n### {alert}\n" in OPERATIONS


def test_every_alert_is_tested_to_fire_and_not_to_fire() -> None:
    tests = (FOLDER / "alerts_test.yml").read_text()
    for alert in re.findall(r"- alert: (\w+)", ALERTS):
        assert f"alertname: {alert} }}" in tests
        assert f"alertname: {alert}\n        exp_alerts" in tests
