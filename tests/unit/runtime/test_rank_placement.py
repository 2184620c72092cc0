"""Which runtimes run the ranks of a group, by links and memory, and their shares of the layers."""

import math
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_runtime.memory_guard import ENGINE_OVERHEAD_BYTES, GIB
from mlxmesh_runtime.rank_placement import (
    PPM,
    Candidate,
    Placement,
    link_classes,
    ordered,
    second_share_ppm,
)


def ids(candidates: Sequence[Candidate], ranks: dict[str, int], least_bytes: int = 0) -> list[str]:
    found = ordered(candidates, Counter(ranks), least_bytes=least_bytes)
    return [each.runtime_id for each in found]


def test_ranks_spread_over_hosts_before_memory_counts() -> None:
    found = ids([Candidate("a", 100), Candidate("b", 10), Candidate("c", 20)], {"a": 1})
    assert found == ["c", "b", "a"]


def test_a_faster_link_is_preferred_to_memory_and_about_equal_links_are_not() -> None:
    near, similar = Candidate("near", 10, 0.2), Candidate("similar", 40, 0.25)
    far = Candidate("far", 1000, 9.0)
    assert ids([far, near, similar], {}) == ["similar", "near", "far"]


def test_ranks_spread_over_hosts_before_links_count() -> None:
    assert ids([Candidate("own", 100), Candidate("far", 10, 50.0)], {"own": 1}) == ["far", "own"]


def test_a_fast_link_to_a_host_without_room_comes_last() -> None:
    found = ids([Candidate("near", 10, 0.2), Candidate("far", 1000, 9.0)], {}, least_bytes=11)
    assert found == ["far", "near"]


def test_a_link_that_was_not_measured_in_time_comes_last() -> None:
    assert ids([Candidate("slow", 99, math.inf), Candidate("far", 1, 400.0)], {}) == ["far", "slow"]


@pytest.mark.parametrize(
    ("round_trips_ms", "classes"),
    [
        ([0.0, 0.2, 0.9, 1.3], [0, 0, 0, 1]),
        # The host of rank 0 is no link: they are compared with the fastest one.
        ([0.0, 0.9, 1.1, 2.0], [0, 0, 0, 1]),
        ([0.0, 5.0, 9.9, 10.1], [0, 1, 1, 2]),
        ([5.0, 9.9, 10.1], [0, 0, 1]),
        ([0.3, math.inf, math.inf], [0, 1, 1]),
    ],
)
def test_links_of_about_the_same_speed_are_one_class(
    round_trips_ms: list[float], classes: list[int]
) -> None:
    candidates = [Candidate(str(at), 0, each) for at, each in enumerate(round_trips_ms)]
    assert [*link_classes(candidates).values()] == classes


def shares(candidates: Sequence[Candidate], size: int) -> list[tuple[str, int]]:
    """Of the ranks above 0; rank 0 runs on `own`, and needs no memory beside the process."""
    placement = Placement(
        candidates,
        own_id="own",
        size=size,
        needed_bytes=ENGINE_OVERHEAD_BYTES,
        by_memory=True,
    )
    found: list[tuple[str, int]] = []
    for _ in range(1, size):
        proposal = placement.propose()
        assert proposal is not None
        placement.accept(proposal)
        found.append((proposal.candidate.runtime_id, proposal.share_ppm))
    return found


def host(name: str, gib: float) -> Candidate:
    """With so much memory beside the process of a rank, of which `own` has one already."""
    overhead_bytes = 0 if name == "own" else ENGINE_OVERHEAD_BYTES
    return Candidate(name, round(gib * GIB) + overhead_bytes)


def test_layers_are_shared_by_memory() -> None:
    assert shares([host("own", 30), host("a", 10)], 2) == [("a", 250_000)]
    three = shares([host("own", 20), host("a", 10), host("b", 50)], 3)
    assert three == [("b", 625_000), ("a", 125_000)]


def test_hosts_of_about_the_same_memory_get_equal_shares() -> None:
    assert shares([host("own", 10), host("a", 12)], 2) == [("a", 500_000)]
    assert shares([host("own", 10), host("a", 13)], 2) == [("a", 565_217)]


def test_hosts_of_about_the_same_memory_share_by_it_where_an_equal_part_does_not_fit() -> None:
    part_bytes = 10 * GIB
    placement = Placement(
        # What rank 0 needs is reserved.
        [Candidate("own", 1 * GIB), host("a", 9)],
        own_id="own",
        size=2,
        needed_bytes=part_bytes + ENGINE_OVERHEAD_BYTES,
        by_memory=True,
    )
    assert (proposal := placement.propose()) is not None
    assert proposal.share_ppm == 450_000


def test_ranks_of_one_host_share_its_memory() -> None:
    found = shares([host("own", 16)], 4)
    assert [share for _, share in found] == [250_000] * 3
    # Two ranks on `own`: half of its memory for each.
    assert shares([Candidate("own", 8 * GIB), host("a", 16)], 3)[0][0] == "a"


def test_the_memory_of_rank_0_counts_where_no_other_rank_may_run() -> None:
    own = host("own", 30)
    placement = Placement(
        [own, host("a", 10)],
        own_id="own",
        size=2,
        needed_bytes=ENGINE_OVERHEAD_BYTES,
        by_memory=True,
    )
    placement.refuse(own, "it drains")
    assert (proposal := placement.propose()) is not None
    assert (proposal.candidate.runtime_id, proposal.share_ppm) == ("a", 250_000)


def test_without_the_memory_of_rank_0_shares_are_equal() -> None:
    assert shares([host("a", 16), host("b", 100)], 3) == [("b", 333_333), ("a", 333_333)]


@given(st.integers(3, PPM), st.lists(st.integers(-5, 2**50), min_size=2, max_size=16))
def test_a_share_is_positive_and_leaves_something(total_ppm: int, rooms: list[int]) -> None:
    share = second_share_ppm(total_ppm, rooms)
    assert share > 0 or total_ppm < len(rooms)
    assert share < total_ppm
