"""Which runtime is chosen for a replica."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_model.replicas.placement import OVERHEAD_BYTES, NoCapacity, Reserved, Runtime, place

GIB = 2**30


def runtime(runtime_id: str, available_bytes: int = 8 * GIB) -> Runtime:
    return Runtime(runtime_id, available_bytes, {})


def chosen_id(*args, **kwargs) -> str:
    answer = choose(*args, **kwargs)
    assert isinstance(answer, Runtime)
    return answer.runtime_id


def choose(runtimes, *, weights_bytes=GIB, replicas_on=None, reserved=None, rejected=()):
    return place(
        runtimes,
        weights_bytes=weights_bytes,
        replicas_on=replicas_on or {},
        reserved=Reserved(Counter(reserved or {})),
        rejected_by=frozenset(rejected),
    )


def test_the_most_free_memory_wins():
    assert chosen_id([runtime("a", 4 * GIB), runtime("b", 8 * GIB)]) == "b"


def test_spreading_has_priority_over_memory():
    runtimes = [runtime("a", 4 * GIB), runtime("b")]
    assert chosen_id(runtimes, replicas_on={"b": 1}) == "a"


def test_the_first_id_breaks_ties():
    assert chosen_id([runtime("b"), runtime("a")]) == "a"


def test_reserved_memory_is_not_free():
    reserved = {"b": 6 * GIB}
    assert chosen_id([runtime("a", 4 * GIB), runtime("b")], reserved=reserved) == "a"


def test_unresponsive_and_rejecting_runtimes_are_skipped():
    runtimes = [runtime("a"), Runtime("b", 64 * GIB, None), runtime("c", 2 * GIB)]
    assert chosen_id(runtimes, rejected=["a"]) == "c"


def test_no_runtime():
    assert choose([]) == NoCapacity(0, GIB + OVERHEAD_BYTES, 0)


def test_amounts_when_no_runtime_fits():
    runtimes = [runtime("a", GIB), runtime("b", 2 * GIB)]
    answer = choose(runtimes, weights_bytes=4 * GIB)
    assert answer == NoCapacity(2, 4 * GIB + OVERHEAD_BYTES, 2 * GIB)


@given(
    st.dictionaries(st.text("abcdef", min_size=1), st.integers(0, 16 * GIB), max_size=6),
    st.integers(0, 8 * GIB),
    st.dictionaries(st.text("abcdef", min_size=1), st.integers(0, 4), max_size=6),
)
def test_the_choice_fits_and_has_the_fewest_replicas(memory, weights, replicas_on):
    runtimes = [runtime(runtime_id, free) for runtime_id, free in memory.items()]
    chosen = choose(runtimes, weights_bytes=weights, replicas_on=replicas_on)
    fitting = [name for name, free in memory.items() if free >= weights + OVERHEAD_BYTES]
    if isinstance(chosen, NoCapacity):
        assert not fitting
        return
    assert chosen.runtime_id in fitting
    fewest = min(replicas_on.get(name, 0) for name in fitting)
    assert replicas_on.get(chosen.runtime_id, 0) == fewest


def test_a_draining_runtime_gets_no_replica():
    draining = Runtime("a", 8 * GIB, {}, draining=True)
    assert chosen_id([draining, runtime("b", 2 * GIB)]) == "b"
    assert choose([draining]) == NoCapacity(0, GIB + OVERHEAD_BYTES, 0)
