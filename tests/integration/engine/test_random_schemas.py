"""Random JSON schemas at a high temperature: what ends validates, and nothing gets stuck."""

import pytest
from hypothesis import given

from tests.fakes.constrained_rig import ConstrainedRig
from tests.fakes.random_languages import Language, check, suite
from tests.fakes.random_schemas import BATCHES


@suite(3)
@given(BATCHES)
def test_what_ends_validates(text_rig: ConstrainedRig, schemas: list[Language]) -> None:
    check(text_rig, schemas)


@suite(1)
@given(BATCHES)
def test_what_pocket_ends_validates(pocket_rig: ConstrainedRig, schemas: list[Language]) -> None:
    check(pocket_rig, schemas)


@pytest.mark.schemas
@suite(50)
@given(BATCHES)
def test_what_ends_validates_for_a_thousand_schemas(
    text_rig: ConstrainedRig, schemas: list[Language]
) -> None:
    check(text_rig, schemas)


@pytest.mark.schemas
@suite(50)
@given(BATCHES)
def test_what_pocket_ends_validates_for_a_thousand_schemas(
    pocket_rig: ConstrainedRig, schemas: list[Language]
) -> None:
    check(pocket_rig, schemas)
