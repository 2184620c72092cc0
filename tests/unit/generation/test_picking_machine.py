"""The router while replicas come, go, fail and fill up in any order."""

from dataclasses import replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from mlxmesh_generation.placement.router import Replica, most_outstanding, pick
from mlxmesh_shared.errors import NoReplica, QueueFull

IDS = [f"engine-{number}" for number in range(4)]
CAPACITY = 5


class Picking(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.replicas: dict[str, Replica] = {}

    @rule(engine_id=st.sampled_from(IDS))
    def come(self, engine_id: str) -> None:
        self.replicas.setdefault(engine_id, Replica(engine_id, True, 0, CAPACITY))

    @rule(engine_id=st.sampled_from(IDS))
    def go(self, engine_id: str) -> None:
        self.replicas.pop(engine_id, None)

    @precondition(lambda self: self.replicas)
    @rule(data=st.data(), connected=st.booleans(), ejected=st.booleans())
    def change(self, data: st.DataObject, connected: bool, ejected: bool) -> None:
        engine_id = data.draw(st.sampled_from(sorted(self.replicas)))
        one = self.replicas[engine_id]
        self.replicas[engine_id] = replace(one, connected=connected, ejected=ejected)

    @precondition(lambda self: self.replicas)
    @rule(data=st.data())
    def end_one(self, data: st.DataObject) -> None:
        engine_id = data.draw(st.sampled_from(sorted(self.replicas)))
        one = self.replicas[engine_id]
        self.replicas[engine_id] = replace(one, outstanding=max(0, one.outstanding - 1))

    @rule(
        avoid=st.sets(st.sampled_from(IDS), max_size=2),
        warm=st.dictionaries(st.sampled_from(IDS), st.integers(1, 900)),
        spread_by=st.integers(0, 3),
    )
    def place(self, avoid: set[str], warm: dict[str, int], spread_by: int) -> None:
        usable = [
            one for one in self.replicas.values() if one.connected and one.engine_id not in avoid
        ]
        sound = [one for one in usable if not one.ejected] or usable
        free = [one for one in sound if not one.full]
        if not free:
            with pytest.raises(QueueFull if usable else NoReplica):
                self._pick(avoid, warm, spread_by)
            return
        chosen = self.replicas[self._pick(avoid, warm, spread_by)]
        assert chosen in free
        least = min(one.outstanding for one in free)
        assert chosen.outstanding == least or chosen.outstanding < most_outstanding(sound)
        self.replicas[chosen.engine_id] = replace(chosen, outstanding=chosen.outstanding + 1)

    def _pick(self, avoid: set[str], warm: dict[str, int], spread_by: int) -> str:
        return pick(self.replicas.values(), avoid=avoid, warm_tokens=warm, spread_by=spread_by)


TestPicking = Picking.TestCase
