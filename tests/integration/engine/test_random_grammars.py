"""Random regular expressions, grammars and choices at a high temperature."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given

from tests.fakes.constrained_rig import ConstrainedRig, write_text_model
from tests.fakes.random_grammars import BATCHES, Language, check
from tests.fakes.random_schemas import suite

POCKET = Path(__file__).parents[3] / "deploy/demo-model/pocket"
POCKET_EOS = 1


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConstrainedRig]:
    with closing(ConstrainedRig(write_text_model(tmp_path_factory.mktemp("text")))) as rig:
        yield rig


@pytest.fixture(scope="module")
def pocket() -> Iterator[ConstrainedRig]:
    with closing(ConstrainedRig(POCKET, eos=POCKET_EOS)) as rig:
        yield rig


@suite(3)
@given(BATCHES)
def test_what_ends_is_allowed(rig: ConstrainedRig, languages: list[Language]) -> None:
    check(rig, languages)


@suite(1)
@given(BATCHES)
def test_what_pocket_ends_is_allowed(pocket: ConstrainedRig, languages: list[Language]) -> None:
    check(pocket, languages)


@pytest.mark.schemas
@pytest.mark.timeout(1200)
@suite(50)
@given(BATCHES)
def test_what_ends_is_allowed_by_a_thousand(rig: ConstrainedRig, languages: list[Language]) -> None:
    check(rig, languages)


@pytest.mark.schemas
@pytest.mark.timeout(1200)
@suite(50)
@given(BATCHES)
def test_what_pocket_ends_is_allowed_by_a_thousand(
    pocket: ConstrainedRig, languages: list[Language]
) -> None:
    check(pocket, languages)
