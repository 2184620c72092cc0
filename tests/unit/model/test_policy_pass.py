"""What the reconciler's last pass tells others about the use of versions."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mlxmesh_model.catalogue.lifecycle import State
from mlxmesh_model.catalogue.models import Model, Phase, Replica, Source, Version
from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.replicas.placement import Engine, Runtime
from mlxmesh_model.replicas.policy_pass import PolicyPass
from mlxmesh_shared.sql.sqlite import SqliteDatabase
from mlxmesh_shared.sql.urls import SqliteFile

REPLICAS = (Replica("e1", "r1", Phase.READY), Replica("e2", "r2", Phase.READY))
VERSION = Version(
    "m", 1, State.READY, Source("/m"), datetime.now(UTC), desired_replicas=2, replicas=REPLICAS
)


@pytest.fixture
def policies(tmp_path: Path) -> PolicyPass:
    path = tmp_path / "unused.db"
    return PolicyPass(store=Store(SqliteFile(path), SqliteDatabase(path)))


def runtime(number: int, *, running: int = 0, waiting: int = 0) -> Runtime:
    engine = Engine(f"e{number}", Phase.READY, running_sequences=running, waiting_sequences=waiting)
    return Runtime(f"r{number}", engines={engine.engine_id: engine})


@pytest.mark.parametrize(
    ("second", "in_use"),
    [
        (runtime(2), False),
        (runtime(2, running=1), True),
        (runtime(2, waiting=1), True),
        (Runtime("r2"), True),  # it does not respond
        (None, False),  # it is gone, and its engines with it
    ],
)
def test_a_version_is_in_use_while_one_of_its_engines_may_have_a_sequence(
    policies: PolicyPass, second: Runtime | None, in_use: bool
):
    runtimes = [runtime(1)] + ([second] if second is not None else [])
    policies.observe([Model("m", (VERSION,))], {each.runtime_id: each for each in runtimes})
    assert policies.in_use("m@1") is in_use
    assert not policies.in_use("m@2")


def test_a_version_may_be_in_use_until_something_was_observed(policies: PolicyPass):
    assert policies.in_use("m@1")
    unloaded = replace(VERSION, desired_replicas=0, replicas=())
    policies.observe([Model("m", (unloaded,))], {"r1": runtime(1, running=1)})
    assert not policies.in_use("m@1")
