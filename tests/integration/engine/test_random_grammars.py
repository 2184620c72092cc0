"""Random regular expressions, grammars and choices at a high temperature."""

import pytest
from hypothesis import given

from tests.fakes.constrained_rig import ConstrainedRig
from tests.fakes.random_grammars import BATCHES
from tests.fakes.random_languages import Language, check, suite


@suite(3)
@given(BATCHES)
def test_what_ends_is_allowed(text_rig: ConstrainedRig, languages: list[Language]) -> None:
    check(text_rig, languages)


@suite(1)
@given(BATCHES)
def test_what_pocket_ends_is_allowed(pocket_rig: ConstrainedRig, languages: list[Language]) -> None:
    check(pocket_rig, languages)


@pytest.mark.schemas
@pytest.mark.timeout(1200)
@suite(50)
@given(BATCHES)
def test_what_ends_is_allowed_by_a_thousand(
    text_rig: ConstrainedRig, languages: list[Language]
) -> None:
    check(text_rig, languages)


@pytest.mark.schemas
@pytest.mark.timeout(1200)
@suite(50)
@given(BATCHES)
def test_what_pocket_ends_is_allowed_by_a_thousand(
    pocket_rig: ConstrainedRig, languages: list[Language]
) -> None:
    check(pocket_rig, languages)
