"""Model references: what is one, what is not, and that writing one gives it back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh.generation.v1.generation_pb2 import GenerateRequest
from mlxmesh_shared.errors import InvalidArgument
from mlxmesh_shared.reference import ModelReference
from mlxmesh_shared.rules import Validator

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}", fullmatch=True)
aliases = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)


@given(names, st.one_of(st.none(), st.integers(1, 999_999_999)))
def test_version_round_trip(name: str, version: int | None) -> None:
    reference = ModelReference(name, version=version)

    assert ModelReference.parse(str(reference)) == reference


@given(names, aliases)
def test_alias_round_trip(name: str, alias: str) -> None:
    reference = ModelReference(name, alias=alias)

    assert ModelReference.parse(str(reference)) == reference


@given(st.text())
def test_any_text_is_a_reference_or_an_invalid_argument(text: str) -> None:
    try:
        written = str(ModelReference.parse(text))
    except InvalidArgument as error:
        written = text if error.field == "model" else error.field
    assert written == text


@pytest.mark.parametrize(
    "text",
    ["", "a@0", "a@-1", "a@01", "a@1:b", "a:", "a@", "../a", "a/b", "a b", ".a", "a\n", "é", "a@١"],
)
def test_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        ModelReference.parse(text)
    # The rule in the contract and this parser must agree, or one lets through what the other
    # cannot read.
    validator = Validator.from_files([GenerateRequest.DESCRIPTOR])
    with pytest.raises(InvalidArgument):
        validator.check(GenerateRequest(model=text, prompt="x"))
