import random
from collections import OrderedDict

import pytest

from mlxmesh_generation.placement.router import (
    ALWAYS_ALLOWED,
    BLOCK_TOKENS,
    MAX_OF_MEAN_LOAD,
    PrefixAffinity,
    Replica,
    pick,
    prefixes,
)


def prompt(name: int, blocks: int) -> list[int]:
    return [name * 100_000 + number for number in range(blocks * BLOCK_TOKENS)]


def test_a_number_for_each_whole_block_that_stands_for_all_before() -> None:
    tokens = prompt(1, 2) + prompt(2, 1)
    assert len(prefixes(tokens)) == 3
    assert prefixes(tokens[:-1]) == prefixes(tokens)[:2]
    assert prefixes(prompt(3, 2) + prompt(2, 1))[2] != prefixes(tokens)[2]
    assert prefixes(prompt(1, 1)[:-1]) == []
    assert prefixes([]) == []


def test_the_numbers_are_the_same_in_every_process() -> None:
    assert prefixes(range(BLOCK_TOKENS)) == [0x867CB2D73FB4E08]


def test_an_engine_is_warm_as_far_as_it_has_read() -> None:
    affinity = PrefixAffinity()
    affinity.note(prefixes(prompt(1, 4)), "a")
    affinity.note(prefixes(prompt(1, 2) + prompt(2, 5)), "b")
    asked = prefixes(prompt(1, 3) + prompt(9, 3))
    assert affinity.warm_tokens(asked) == {"a": 3 * BLOCK_TOKENS, "b": 2 * BLOCK_TOKENS}
    assert affinity.warm_tokens(prefixes(prompt(9, 3))) == {}
    assert affinity.warm_tokens([]) == {}


def test_a_later_block_counts_only_after_those_before_it() -> None:
    affinity = PrefixAffinity()
    affinity.note(prefixes(prompt(1, 4)), "a")
    affinity.note(prefixes(prompt(1, 4))[2:], "b")
    assert affinity.warm_tokens(prefixes(prompt(1, 4))) == {"a": 4 * BLOCK_TOKENS}


def test_a_lost_engine_is_cold() -> None:
    affinity = PrefixAffinity()
    for engine_id in ("a", "b"):
        affinity.note(prefixes(prompt(1, 2)), engine_id)
    affinity.note(prefixes(prompt(2, 2)), "a")
    affinity.forget(["a"])
    assert affinity.warm_tokens(prefixes(prompt(1, 2))) == {"b": 2 * BLOCK_TOKENS}
    assert len(affinity) == 2


def test_the_longest_unused_is_forgotten_and_of_a_prompt_its_end_first() -> None:
    affinity = PrefixAffinity(max_blocks=6)
    affinity.note(prefixes(prompt(1, 3)), "a")
    affinity.note(prefixes(prompt(2, 3)), "a")
    affinity.note(prefixes(prompt(3, 2)), "a")
    assert len(affinity) == 6
    warm = [affinity.warm_tokens(prefixes(prompt(name, 3))) for name in (1, 2, 3)]
    assert warm == [{"a": blocks * BLOCK_TOKENS} for blocks in (1, 3, 2)]


class SimulatedReplica:
    """Keeps the last blocks it read, as many as it can; a sequence takes a few steps to run."""

    def __init__(self, keeps_blocks: int) -> None:
        self._keeps_blocks = keeps_blocks
        self._kept: OrderedDict[int, None] = OrderedDict()
        self.running: list[int] = []
        self.served = self.asked_blocks = self.hit_blocks = 0

    def serve(self, beginnings: list[int], steps: int) -> None:
        known = 0
        while known < len(beginnings) and beginnings[known] in self._kept:
            known += 1
        self.served += 1
        self.asked_blocks += len(beginnings)
        self.hit_blocks += known
        self.running.append(steps)
        for each in reversed(beginnings):
            self._kept[each] = None
            self._kept.move_to_end(each)
        while len(self._kept) > self._keeps_blocks:
            self._kept.popitem(last=False)

    def step(self) -> None:
        self.running = [left - 1 for left in self.running if left > 1]


def conversations(rng: random.Random, system_prompts: int) -> list[list[int]]:
    """Prompts of 60 conversations of 8 turns, mixed; each begins with one of a few long prompts."""
    histories = {
        name: prompt(rng.randrange(system_prompts), 30) + prompt(1000 + name, 1)
        for name in range(60)
    }
    order = [name for name in histories for _ in range(8)]
    rng.shuffle(order)
    asked: list[list[int]] = []
    for turn, name in enumerate(order):
        histories[name] = histories[name] + prompt(10_000 + turn, 2)
        asked.append(histories[name])
    return asked


def simulate(replicas: int, asked: list[list[int]], at_once: int) -> tuple[float, float, float]:
    """Returns the hit rate, the most outstanding of the mean, and the most served of the mean."""
    engines = {f"engine-{n}": SimulatedReplica(6000) for n in range(replicas)}
    affinity, rng, worst = PrefixAffinity(), random.Random(2), 0.0
    for each in asked:
        while sum(len(engine.running) for engine in engines.values()) >= at_once:
            for engine in engines.values():
                engine.step()
        beginnings = prefixes(each)
        chosen = pick(
            [Replica(name, True, len(engine.running)) for name, engine in engines.items()],
            warm_tokens=affinity.warm_tokens(beginnings),
            spread_by=beginnings[0],
        )
        affinity.note(beginnings, chosen)
        loads = [len(engine.running) for engine in engines.values()]
        now = len(engines[chosen].running) + 1
        # One more on the least loaded, or a second one, is no choice of a warm one over a free one.
        if now > max(ALWAYS_ALLOWED, min(loads) + 1):
            worst = max(worst, now * replicas / (sum(loads) + 1))
        engines[chosen].serve(beginnings, rng.randrange(3, 20))
    hits = sum(engine.hit_blocks for engine in engines.values())
    served = [engine.served for engine in engines.values()]
    rate = hits / sum(engine.asked_blocks for engine in engines.values())
    return rate, worst, max(served) * replicas / sum(served)


@pytest.mark.parametrize("system_prompts", [1, 5])
@pytest.mark.parametrize(("replicas", "at_once"), [(2, 8), (2, 32), (4, 64)])
def test_nine_tenths_of_one_replicas_hits_and_no_overload(
    system_prompts: int, replicas: int, at_once: int
) -> None:
    asked = conversations(random.Random(1), system_prompts)
    alone, _, _ = simulate(1, asked, at_once)
    together, most_outstanding, most_served = simulate(replicas, asked, at_once)
    assert together >= 0.9 * alone
    assert most_outstanding <= MAX_OF_MEAN_LOAD
    assert most_served <= MAX_OF_MEAN_LOAD


def test_prefixes_are_those_of_one_adapter_which_counts_as_a_block() -> None:
    tokens = prompt(1, 3)
    plain, french, german = (prefixes(tokens, digest) for digest in ("", "a" * 64, "b" * 64))
    assert len(french) == len(plain) + 1
    assert not {*plain} & {*french}
    assert not {*french} & {*german}
    affinity = PrefixAffinity()
    affinity.note(french, "a")
    affinity.note(plain, "b")
    assert affinity.warm_tokens(prefixes(tokens, "a" * 64)) == {"a": 4 * BLOCK_TOKENS}
    assert affinity.warm_tokens(prefixes(prompt(2, 3), "a" * 64)) == {"a": BLOCK_TOKENS}
    assert affinity.warm_tokens(prefixes(tokens)) == {"b": 3 * BLOCK_TOKENS}
