"""Which arm a request belongs to: the same everywhere, for ever, and in proportion."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_generation.domain.catalogue import Catalogue, CatalogueChange, Model, ModelVersion
from mlxmesh_generation.domain.routing import (
    UNASSIGNED,
    Arm,
    Asker,
    Split,
    Subject,
    assign,
    subject_of,
)
from mlxmesh_shared.reference import ModelReference

ARMS = (Arm("old", 1, 60), Arm("new", 2, 30), Arm("other", 3, 10))
SPLIT = Split(ARMS, "e-1", Subject.SESSION, experiment_id="e-1")
EXPECTED = ["new", "new", "new", "old", "old", "other", "old", "old"]
EXPECTED_HASH = "bc09757646fb582cb6d45d2d04bf05a4"
NAMES = [f"session-{at}" for at in range(400)]


def _asker(name: str) -> Asker:
    return Asker("r-1", "#ada", session_id=name)


def _arm(split: Split, asker: Asker) -> str:
    assigned = assign(split, asker)
    assert assigned is not None
    return assigned[1].arm


_CHILD = """
import json, sys
from mlxmesh_generation.domain.routing import Arm, Asker, Split, Subject, assign
split = Split((Arm("old", 1, 60), Arm("new", 2, 30), Arm("other", 3, 10)), "e-1", Subject.SESSION)
names = json.load(sys.stdin)
print(json.dumps([assign(split, Asker("r", "#ada", session_id=name))[1].arm for name in names]))
"""


@pytest.mark.parametrize("hash_seed", ["0", "1", "4242"])
def test_another_process_assigns_the_same_arms(hash_seed: str) -> None:
    child = subprocess.run(
        [sys.executable, "-c", _CHILD],
        input=json.dumps(NAMES),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )
    assert json.loads(child.stdout) == [_arm(SPLIT, _asker(name)) for name in NAMES]


def test_arms_are_those_of_earlier_versions() -> None:
    """A change of these breaks the experiments that run while a mesh is upgraded."""
    assert [_arm(SPLIT, _asker(name)) for name in NAMES[:8]] == EXPECTED
    assigned = assign(SPLIT, _asker("session-0"))
    assert assigned is not None
    assert assigned[1].subject_hash.hex() == EXPECTED_HASH


@pytest.mark.parametrize("salt", ["e-1", "e-2", "another"])
def test_shares_are_within_the_binomial_bound(salt: str) -> None:
    split, number = replace(SPLIT, salt=salt), 20_000
    arms = [_arm(split, _asker(f"s{at}")) for at in range(number)]
    for arm in ARMS:
        share = arm.weight / 100
        # Five standard deviations: one in 1.7 million.
        bound = 5 * math.sqrt(number * share * (1 - share))
        assert abs(arms.count(arm.name) - number * share) < bound


def test_experiments_assign_independently_of_each_other() -> None:
    other = replace(SPLIT, salt="e-2")
    number = 20_000
    both = sum(
        _arm(SPLIT, _asker(f"s{at}")) == "old" and _arm(other, _asker(f"s{at}")) == "old"
        for at in range(number)
    )
    assert abs(both - number * 0.36) < 5 * math.sqrt(number * 0.36 * 0.64)


@given(st.text(min_size=1), st.integers(0, 100), st.integers(0, 100))
def test_a_growing_first_arm_keeps_its_subjects(name: str, one: int, another: int) -> None:
    small, large = sorted((one, another))

    def first(weight: int) -> bool:
        arms = (Arm("new", 2, weight), Arm("old", 1, 100 - weight))
        return _arm(replace(SPLIT, arms=arms), _asker(name)) == "new"

    assert first(large) or not first(small)
    assert not first(0)
    assert first(100)


@pytest.mark.parametrize(
    ("subject", "asker", "name"),
    [
        (Subject.SESSION, Asker("r", "#ada", session_id="s"), "#ada\0s"),
        (Subject.SESSION, Asker("r", "#ada", user="u"), ""),
        (Subject.USER, Asker("r", "#ada", user="u"), "#ada\0u"),
        (Subject.USER, Asker("r", "#ada", session_id="s"), ""),
        (Subject.PRINCIPAL, Asker("r", "#ada", session_id="s"), "#ada"),
        (Subject.PRINCIPAL, Asker("r", ""), ""),
        (Subject.REQUEST, Asker("r", "#ada"), "r"),
        (Subject.REQUEST, Asker("r", "#ada", session_id="s"), "#ada\0s"),
    ],
)
def test_what_is_assigned(subject: Subject, asker: Asker, name: str) -> None:
    assert subject_of(subject, asker) == name


def test_equal_sessions_of_two_principals_are_two_subjects() -> None:
    mine, theirs = (assign(SPLIT, Asker("r", who, session_id="s")) for who in ("#ada", "#eve"))
    assert mine is not None
    assert theirs is not None
    assert mine[1].subject_hash != theirs[1].subject_hash


def test_a_request_without_a_subject_is_unassigned_and_gets_the_alias_itself() -> None:
    catalogue = _catalogue()
    route = catalogue.route(ModelReference("pocket"), Asker("r", "#ada"))
    assert (route.version.version, route.assignment) == (1, UNASSIGNED)


def test_a_named_version_is_not_split() -> None:
    route = _catalogue().route(ModelReference.parse("pocket@1"), _asker("session-1"))
    assert route.assignment == UNASSIGNED


def test_the_version_is_that_of_the_arm() -> None:
    catalogue = _catalogue()
    routes = [catalogue.route(ModelReference("pocket"), _asker(name)) for name in NAMES]
    versions = {"old": 1, "new": 2, "other": 3}
    assert all(route.version.version == versions[route.assignment.arm] for route in routes)
    assert {route.assignment.arm for route in routes} == versions.keys()
    assert {route.assignment.experiment_id for route in routes} == {"e-1"}


def _catalogue() -> Catalogue:
    versions = {at: ModelVersion("pocket", at, "ab" * 32, 1024, 300, 1) for at in (1, 2, 3)}
    model = Model("pocket", versions, 1, {"default": 1}, {"default": SPLIT})
    catalogue = Catalogue()
    catalogue.apply(CatalogueChange(1, model=model))
    return catalogue
