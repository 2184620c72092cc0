"""Names are those of OpenTelemetry's conventions, and the list of metrics is whole."""

import re
from pathlib import Path

from opentelemetry.semconv._incubating.attributes import gen_ai_attributes, rpc_attributes
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics, http_metrics, rpc_metrics
from opentelemetry.semconv.attributes import error_attributes

from mlxmesh_shared.telemetry import attributes
from mlxmesh_shared.telemetry.instruments import Kind
from tests.instruments import ALL, OWNERS

ROOT = Path(__file__).parents[4]
OPERATIONS = ROOT / "docs" / "operations.md"


def texts(*modules: object) -> set[str]:
    return {value for module in modules for value in vars(module).values() if type(value) is str}


def test_attributes_are_of_the_conventions_or_the_meshs_own() -> None:
    known = texts(gen_ai_attributes, rpc_attributes, error_attributes)
    ours = {value for name, value in vars(attributes).items() if name.isupper()}
    assert len(ours) > 20
    assert {name for name in ours - known if not name.startswith("mlxmesh.")} == set()


def test_metrics_are_of_the_conventions_or_the_meshs_own() -> None:
    known = texts(gen_ai_metrics, http_metrics, rpc_metrics)
    names = {each.name for each in ALL}
    assert {name for name in names - known if not name.startswith("mlxmesh.")} == set()


def test_metrics_are_declared_in_their_owners_modules_only() -> None:
    declares = re.compile(r"^[A-Z_]+ = Instrument\(", re.MULTILINE)
    found = {
        path
        for folder in ("shared", "services", "gateway", "deploy")
        for path in (ROOT / folder).rglob("*.py")
        if declares.search(path.read_text())
    }
    assert found == {Path(owner.__file__ or "") for owner in OWNERS}


def test_every_metric_has_a_name_of_its_own_a_unit_and_rising_bounds() -> None:
    names = [each.name for each in ALL]
    assert sorted(set(names)) == sorted(names)
    for each in ALL:
        assert each.unit
        assert each.description
        is_histogram = each.kind in (Kind.HISTOGRAM, Kind.COUNTED_HISTOGRAM)
        assert bool(each.bounds) == is_histogram, each.name
        assert sorted(set(each.bounds)) == list(each.bounds), each.name


def test_the_operators_table_lists_every_metric() -> None:
    row = re.compile(
        r"^\| `((?:http|rpc|gen_ai|mlxmesh)\.[a-z0-9_.]+)` \| `([^|]+)` \|", re.MULTILINE
    )
    units = dict(row.findall(OPERATIONS.read_text()))
    assert units == {each.name: each.unit for each in ALL}
