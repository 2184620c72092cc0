"""The delays before replicas whose files could not be fetched are started again."""

from dataclasses import replace

import pytest

from mlxmesh_model.catalogue.models import FailureRecord, Phase, Replica
from mlxmesh_model.replicas.fetch_retries import FetchRetries

FAILED = Replica(
    "e1", "r1", Phase.FAILED, FailureRecord(14, "FETCH_FAILED", "no process sent any of it")
)


class Rig:
    def __init__(self) -> None:
        self.now_s = 0.0
        self.retries = FetchRetries(first_s=5, clock=lambda: self.now_s)

    def phase(self, replica: Replica = FAILED) -> Phase:
        [found] = self.retries.apply((replica,))
        return found.phase

    def delay_s(self) -> float:
        began_s = self.now_s
        while self.phase() is Phase.FAILED:
            self.now_s += 1
        return self.now_s - began_s


def test_delays_grow_up_to_a_minute() -> None:
    rig = Rig()
    assert [rig.delay_s() for _ in range(6)] == [5, 10, 20, 40, 60, 60]


def test_a_replica_that_was_ready_begins_anew() -> None:
    rig = Rig()
    rig.delay_s()
    rig.phase(replace(FAILED, phase=Phase.READY, failure=None))
    assert rig.delay_s() == 5


def test_a_replica_that_is_gone_is_forgotten() -> None:
    rig = Rig()
    rig.delay_s()
    rig.retries.retain({"e1"})
    assert rig.delay_s() == 10
    rig.retries.retain(set())
    assert rig.delay_s() == 5


def test_what_is_started_again_has_no_failure() -> None:
    rig = Rig()
    rig.phase()
    rig.now_s = 5
    assert rig.retries.apply((FAILED,)) == (Replica("e1", "r1"),)


@pytest.mark.parametrize("reason", ["MODEL_FILES_DAMAGED", "MODEL_REFUSED", "ENGINE_CRASHED"])
def test_what_somebody_has_to_mend_waits_for_a_load(reason: str) -> None:
    rig = Rig()
    other = replace(FAILED, failure=FailureRecord(9, reason, "it cannot"))
    assert rig.phase(other) is Phase.FAILED
    rig.now_s = 3600
    assert rig.phase(other) is Phase.FAILED
