"""Sequences whose adapters have no slot: they wait, and delay nobody."""

from mlxmesh_engine.scheduling.request import AdapterSource, SequenceRequest
from mlxmesh_engine.scheduling.scheduler import Scheduler
from mlxmesh_engine.scheduling.sequence import ActiveSequence


class Gate:
    """Has `slots` slots for the adapters in `read`."""

    def __init__(self, slots: int = 1) -> None:
        self.slots = slots
        self.read: set[str] = set()
        self.users: dict[str, set[ActiveSequence]] = {}
        self.full = False
        self.version = 0
        self.asked = 0

    def acquire(self, active: ActiveSequence) -> bool:
        self.asked += 1
        source = active.request.adapter
        if source is None:
            return True
        if source.digest not in self.read:
            return False
        if source.digest not in self.users and len(self.users) >= self.slots:
            self.full = True
            return False
        self.users.setdefault(source.digest, set()).add(active)
        active.slot = 1
        return True

    def release(self, active: ActiveSequence) -> None:
        source = active.request.adapter
        if source is None or not active.slot:
            return
        active.slot = 0
        self.users[source.digest].discard(active)
        if not self.users[source.digest]:
            del self.users[source.digest]
            self.full = False
            self.version += 1

    def add(self, digest: str) -> None:
        self.read.add(digest)
        self.version += 1


def active(number: int, adapter: str = "", *, background: bool = False) -> ActiveSequence:
    source = AdapterSource(adapter, "/a") if adapter else None
    request = SequenceRequest(
        (1, number), (1, 2, 3), 5, adapter=source, background=background, submitted_s=number
    )
    return ActiveSequence(request)


def scheduler(gate: Gate, *, max_running: int = 4) -> Scheduler:
    return Scheduler(max_running=max_running, prefill_tokens_per_step=100, adapters=gate)


def test_who_waits_for_files_is_overtaken_and_keeps_its_place() -> None:
    gate = Gate()
    subject = scheduler(gate, max_running=2)
    for each in (active(1, "a"), active(2), active(3), active(4)):
        subject.add(each)
    subject.admit(0.0)
    assert (subject.running, subject.waiting, subject.oldest_waiting_s) == (2, 2, 1)
    assert {each.active.key[1] for each in subject.plan_prefill()} == {2, 3}
    assert not subject.blocked
    gate.add("a")
    subject.remove(next(each for each in subject if each.key[1] == 2))
    subject.admit(0.0)
    assert {each.active.key[1] for each in subject.plan_prefill()} == {1, 3}


def test_all_wait_for_files() -> None:
    gate = Gate()
    subject = scheduler(gate)
    subject.add(active(1, "a"))
    subject.add(active(2, "a", background=True))
    assert not subject.blocked
    subject.admit(0.0)
    assert subject.blocked
    assert (subject.waiting, subject.background_waiting, subject.running) == (1, 1, 0)
    gate.add("a")
    subject.admit(0.0)
    assert not subject.blocked
    assert subject.running == 1


def test_nothing_is_asked_again_before_something_changed() -> None:
    gate = Gate()
    subject = scheduler(gate)
    subject.add(active(1, "a"))
    subject.admit(0.0)
    asked = gate.asked
    for _ in range(10):
        subject.admit(0.0)
    assert gate.asked == asked


def test_removing_releases_the_slot_and_counts_its_tokens_once() -> None:
    gate = Gate()
    gate.add("a")
    gate.add("b")
    subject = scheduler(gate)
    one, two = active(1, "a"), active(2, "b")
    subject.add(one)
    subject.add(two)
    subject.admit(0.0)
    assert (subject.running, subject.waiting, gate.full) == (1, 1, True)
    assert subject.reserved_tokens == 16
    subject.remove(one)
    subject.admit(0.0)
    assert (subject.running, subject.waiting, subject.reserved_tokens) == (1, 0, 8)
    parked = active(3, "c")
    subject.add(parked)
    subject.admit(0.0)
    assert subject.reserved_tokens == 16
    subject.remove(parked)
    subject.remove(two)
    assert (subject.waiting, subject.reserved_tokens, gate.users) == (0, 0, {})
    assert list(subject) == []


def test_background_sequences_give_their_slots_to_others() -> None:
    gate = Gate()
    gate.add("a")
    gate.add("b")
    subject = scheduler(gate)
    behind, foreground = active(1, "a", background=True), active(2, "b")
    subject.add(behind)
    subject.admit(0.0)
    assert subject.background_running == 1
    subject.add(foreground)
    assert subject.admit(0.0) == []  # a step may still be running for the other one
    assert subject.must_requeue
    assert subject.admit(0.0) == [behind]
    assert (subject.running, subject.background_waiting) == (1, 1)
    assert set(gate.users) == {"b"}
    subject.remove(foreground)
    subject.admit(0.0)
    assert subject.background_running == 1
    assert set(gate.users) == {"a"}


def test_background_sequences_wait_behind_those_that_wait_for_adapters() -> None:
    gate = Gate()
    subject = scheduler(gate)
    subject.add(active(1, "a"))
    subject.add(active(2, background=True))
    subject.admit(0.0)
    assert subject.background_running == 0
    assert subject.blocked
    gate.add("a")
    subject.admit(0.0)
    assert subject.running == 1
