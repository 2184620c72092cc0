"""Random JSON schemas and grammars on SmolLM2 at a high temperature: what ends satisfies them.

SCHEMA_BATCHES=50 runs a thousand of them, which takes half an hour on two cores.
"""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given

from mlxmesh_model.gguf.conversion import convert
from tests.fakes import random_grammars, random_schemas
from tests.fakes.constrained_rig import ConstrainedRig
from tests.fakes.random_languages import Language, check, suite

END = 2
"""<|im_end|>"""
TIMEOUT_S = 3600


@pytest.fixture(scope="module")
def smollm2(gguf_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConstrainedRig]:
    directory = tmp_path_factory.mktemp("smollm2") / "packed"
    convert(gguf_file, directory, None, lambda done, total: None)
    with closing(ConstrainedRig(directory, eos=END)) as rig:
        yield rig


@pytest.mark.timeout(TIMEOUT_S)
@suite(int(os.environ.get("SCHEMA_BATCHES", "2")))
@given(random_schemas.BATCHES)
def test_what_ends_validates(smollm2: ConstrainedRig, schemas: list[Language]) -> None:
    check(smollm2, schemas)


@pytest.mark.timeout(TIMEOUT_S)
@suite(int(os.environ.get("SCHEMA_BATCHES", "2")))
@given(random_grammars.BATCHES)
def test_what_ends_is_allowed(smollm2: ConstrainedRig, languages: list[Language]) -> None:
    check(smollm2, languages)
