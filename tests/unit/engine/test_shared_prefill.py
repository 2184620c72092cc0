"""Sequences with one prompt: the first is prefilled, the others wait for copies of its row."""

from mlxmesh_engine.scheduling.prefill_plan import PrefillSlice
from mlxmesh_engine.scheduling.request import LogprobOptions, SequenceRequest
from mlxmesh_engine.scheduling.scheduler import Scheduler
from mlxmesh_engine.scheduling.sequence import ActiveSequence
from mlxmesh_engine.scheduling.sequence_table import SequenceTable

PROMPT = tuple(range(40))


class Loop:
    """A scheduler, and the sequences that were submitted to it."""

    def __init__(
        self, *, max_running: int = 8, budget: int = 100, kv_capacity_tokens: int | None = None
    ) -> None:
        self.scheduler = Scheduler(
            max_running=max_running,
            prefill_tokens_per_step=budget,
            kv_capacity_tokens=kv_capacity_tokens,
        )
        self.table = SequenceTable(on_remove=self.scheduler.remove)

    def submit(
        self,
        number: int,
        shares: int | None = None,
        *,
        prompt: tuple[int, ...] = PROMPT,
        generated: tuple[int, ...] = (),
        max_tokens: int = 10,
        priority: int = 0,
        isolated: bool = False,
        logprobs: LogprobOptions | None = None,
        namespace: bytes = b"",
    ) -> ActiveSequence:
        request = SequenceRequest(
            (1, number),
            prompt,
            max_tokens,
            generated,
            priority=priority,
            isolated=isolated,
            logprobs=logprobs,
            shares_prefill_of=None if shares is None else (1, shares),
            prefix_namespace=namespace,
        )
        active = self.table.add(request)
        self.scheduler.add(active)
        return active

    def plan(self) -> dict[int, int]:
        self.scheduler.admit(0.0)
        return {each.active.key[1]: each.count for each in self.scheduler.plan_prefill()}

    def step(self) -> dict[int, list[int]]:
        """Prefills; returns the followers of each sequence that is ready to decode."""
        self.scheduler.admit(0.0)
        ready: dict[int, list[int]] = {}
        for slice_ in self.scheduler.plan_prefill():
            if self.scheduler.advance(slice_):
                followers = self.scheduler.followers(slice_.active)
                for follower in followers:
                    self.scheduler.copy_prefill(follower)
                ready[slice_.active.key[1]] = [each.key[1] for each in followers]
        return ready


def test_one_prefill_serves_32_sequences() -> None:
    loop = Loop(max_running=32, budget=16)
    loop.submit(1)
    followers = [loop.submit(number, 1) for number in range(2, 33)]
    assert loop.plan() == {1: 16}
    assert loop.scheduler.running == 32
    assert [loop.step() for _ in range(3)] == [{}, {}, {1: list(range(2, 33))}]
    assert all(each.remaining_prefill == 0 for each in followers)
    assert {each.cached_prompt_tokens for each in followers} == {39}
    assert not loop.scheduler.prefilling
    assert loop.plan() == {}


def test_sequences_of_different_namespaces_share_no_prefill() -> None:
    loop = Loop()
    loop.submit(1, namespace=b"one")
    loop.submit(2, 1, namespace=b"other")
    loop.submit(3, 1, namespace=b"one")
    assert loop.plan() == {1: 39, 2: 39}


def test_a_leader_without_a_slot_delays_nobody() -> None:
    loop = Loop(max_running=1)
    loop.submit(1)
    loop.submit(2, 1, priority=1)
    assert loop.plan() == {2: 39}
    assert loop.step() == {2: []}


def test_a_leader_without_memory_delays_nobody() -> None:
    loop = Loop(kv_capacity_tokens=100)
    loop.submit(1, max_tokens=60)
    loop.submit(2, 1, max_tokens=20, priority=1)
    assert loop.plan() == {2: 39}
    assert loop.scheduler.waiting == 1


def test_a_follower_that_began_by_itself_goes_on_by_itself() -> None:
    loop = Loop(max_running=2, budget=20)
    loop.submit(9, prompt=(1,), priority=2)
    loop.submit(1)
    follower = loop.submit(2, 1, priority=1)
    assert loop.step() == {9: []}
    assert follower.prefilled == 20
    loop.table.cancel((1, 9), 0.0)
    assert loop.plan() == {2: 19}
    assert [loop.step() for _ in range(3)] == [{2: []}, {}, {1: []}]


def test_followers_of_a_cancelled_leader_are_prefilled() -> None:
    loop = Loop(budget=20)
    loop.submit(1)
    loop.submit(2, 1)
    loop.submit(3, 1)
    assert loop.step() == {}
    loop.table.cancel((1, 1), 0.0)
    assert sum(loop.plan().values()) == 20
    while loop.scheduler.prefilling:
        loop.step()
    assert loop.scheduler.running == 2


def test_a_cancelled_follower_gets_no_copy() -> None:
    loop = Loop()
    loop.submit(1)
    loop.submit(2, 1)
    loop.submit(3, 1)
    loop.plan()
    loop.table.cancel((1, 2), 0.0)
    assert loop.step() == {1: [3]}


def test_a_leader_that_decodes_has_no_followers() -> None:
    loop = Loop()
    loop.submit(1)
    assert loop.step() == {1: []}
    loop.submit(2, 1)
    assert loop.plan() == {2: 39}


def test_a_follower_may_come_while_its_leader_is_in_prefill() -> None:
    loop = Loop(budget=20)
    loop.submit(1)
    assert loop.step() == {}
    loop.submit(2, 1)
    assert loop.step() == {1: [2]}


def test_only_sequences_with_the_same_tokens_share() -> None:
    loop = Loop(budget=500)
    loop.submit(1)
    loop.submit(2, 1, prompt=PROMPT[:-1])
    loop.submit(3, 1, generated=(5,))
    loop.submit(4, 99)
    loop.submit(5, 5)
    assert loop.plan() == {1: 39, 2: 38, 3: 40, 4: 39, 5: 39}
    assert loop.step() == {number: [] for number in range(1, 6)}


def test_a_resumed_leader_is_followed_by_no_new_sequence() -> None:
    loop = Loop()
    loop.submit(1, generated=(5, 6))
    loop.submit(2, 1)
    assert loop.plan() == {1: 41, 2: 39}


def test_isolated_sequences_neither_follow_nor_lead() -> None:
    loop = Loop(budget=200)
    loop.submit(1)
    loop.submit(2, 1, isolated=True)
    loop.submit(3, isolated=True)
    loop.submit(4, 3)
    assert loop.step() == {1: [], 2: [], 3: [], 4: []}


def test_a_leader_that_failed_and_runs_alone_loses_its_followers() -> None:
    loop = Loop(budget=20)
    leader = loop.submit(1)
    loop.submit(2, 1)
    assert loop.step() == {}
    leader.isolate()
    assert [each.key[1] for each in loop.scheduler.awaiting_prefill()] == [1, 2]
    assert [loop.step() for _ in range(4)] == [{}, {1: []}, {}, {2: []}]


def test_a_follower_of_a_follower_follows_the_first() -> None:
    loop = Loop()
    loop.submit(1)
    loop.submit(2, 1)
    loop.submit(3, 2)
    assert loop.step() == {1: [2, 3]}


def test_a_prompt_of_one_token_needs_no_copy() -> None:
    loop = Loop()
    loop.submit(1, prompt=(7,))
    loop.submit(2, 1, prompt=(7,))
    assert loop.step() == {1: [], 2: []}


def test_a_cached_prompt_needs_no_copy() -> None:
    loop = Loop()
    for number in (1, 2):
        loop.submit(number, 1 if number > 1 else None).skip_cached(39)
    assert loop.plan() == {1: 0, 2: 0}


def test_a_sequence_that_needs_the_logprobs_of_its_prompt_is_prefilled() -> None:
    loop = Loop()
    loop.submit(1, logprobs=LogprobOptions(2, prompt=True))
    loop.submit(2, 1, logprobs=LogprobOptions(2, prompt=True))
    loop.submit(3, 1, logprobs=LogprobOptions(2))
    assert loop.step() == {1: [3], 2: []}


def test_the_next_short_prompt_does_not_wait_behind_followers() -> None:
    loop = Loop(budget=60)
    loop.submit(1)
    for number in range(2, 8):
        loop.submit(number, 1)
    loop.submit(9, prompt=(1, 2, 3, 4, 5))
    assert loop.plan() == {1: 39, 9: 4}


def test_reserved_tokens_count_followers_in_every_state() -> None:
    loop = Loop(max_running=2, kv_capacity_tokens=1000)
    for number in (1, 2, 3):
        loop.submit(number, 1 if number > 1 else None)
    assert loop.step() == {1: [2]}
    assert loop.scheduler.reserved_tokens == 150
    for left, number in zip((100, 50, 0), (2, 1, 3), strict=True):
        loop.table.cancel((1, number), 0.0)
        assert loop.scheduler.reserved_tokens == left


def test_slices_say_after_which_tokens_scores_are_needed() -> None:
    loop = Loop()
    with_all = loop.submit(1, generated=(5, 6), logprobs=LogprobOptions(prompt=True))
    assert PrefillSlice(with_all, 0, 10).scored == range(10)
    assert PrefillSlice(with_all, 30, 11).scored == range(30, 39)
    assert not PrefillSlice(with_all, 39, 2).scored
    with_all.scored_tokens = 7
    assert PrefillSlice(with_all, 0, 10).scored == range(7, 10)
    assert not PrefillSlice(loop.submit(2, logprobs=LogprobOptions()), 0, 10).scored
