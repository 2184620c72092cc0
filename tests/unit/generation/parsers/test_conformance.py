"""The public suite canitoolcall: fixtures of model outputs, whole and split."""

from pathlib import Path

import pytest

from tests.conformance import tool_calls
from tests.conformance.deviations import DEVIATIONS
from tests.conformance.tool_calls import Case, cases, unknown

_DOCS = Path(__file__).parents[4] / "docs/tool_calls.md"


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.fixture.id)
def test_fixture(case: Case) -> None:
    expected = case.fixture.id not in DEVIATIONS
    assert case.passes == expected, "\n".join(case.problems) or "it passes: delete the deviation"


def test_every_deviation_is_of_a_fixture() -> None:
    assert set(DEVIATIONS) <= {case.fixture.id for case in cases()}


def test_only_one_format_is_unknown() -> None:
    assert all(fixture.startswith("kimi/k3-") for fixture in unknown())


def test_the_table_in_the_docs_is_current() -> None:
    message = "run `.venv/bin/python -m tests.conformance`"
    assert tool_calls.documented(_DOCS.read_text()) == _DOCS.read_text(), message
