"""Random JSON schemas at a high temperature: what ends validates, and nothing gets stuck."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from tests.fakes.constrained_rig import ConstrainedRig, write_text_model
from tests.fakes.random_schemas import BATCHES, check, suite

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
def test_what_ends_validates(rig: ConstrainedRig, schemas: list[Any]) -> None:
    check(rig, schemas)


@suite(1)
@given(BATCHES)
def test_what_pocket_ends_validates(pocket: ConstrainedRig, schemas: list[Any]) -> None:
    check(pocket, schemas)


@pytest.mark.schemas
@suite(50)
@given(BATCHES)
def test_what_ends_validates_for_a_thousand_schemas(
    rig: ConstrainedRig, schemas: list[Any]
) -> None:
    check(rig, schemas)


@pytest.mark.schemas
@suite(50)
@given(BATCHES)
def test_what_pocket_ends_validates_for_a_thousand_schemas(
    pocket: ConstrainedRig, schemas: list[Any]
) -> None:
    check(pocket, schemas)
