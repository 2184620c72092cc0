from mlxmesh_engine.cache.kv_cache import Batching
from mlxmesh_engine.forward.prefill import group_slices
from mlxmesh_engine.scheduling.prefill_plan import PrefillSlice
from mlxmesh_engine.scheduling.request import SequenceRequest
from mlxmesh_engine.scheduling.sequence import ActiveSequence


def whole(number: int, tokens: int) -> PrefillSlice:
    active = ActiveSequence(SequenceRequest((1, number), tuple(range(tokens + 1)), 10))
    return PrefillSlice(active, 0, tokens)


def part(number: int, count: int) -> PrefillSlice:
    active = ActiveSequence(SequenceRequest((1, number), tuple(range(1000)), 10))
    return PrefillSlice(active, 100, count)


def numbers(slices: list[PrefillSlice], batching: Batching = Batching.TOGETHER) -> list[list[int]]:
    return [[each.active.key[1] for each in group] for group in group_slices(slices, batching)]


def test_whole_prompts_of_similar_length_are_prefilled_together() -> None:
    assert numbers([whole(1, 60), whole(2, 64), whole(3, 40)]) == [[3, 1, 2]]


def test_padding_never_doubles_the_work() -> None:
    assert numbers([whole(1, 10), whole(2, 21), whole(3, 300)]) == [[1], [2], [3]]


def test_a_part_of_a_prompt_is_prefilled_alone() -> None:
    assert numbers([whole(1, 60), part(2, 60), whole(3, 60)]) == [[1, 3], [2]]


def test_prompts_of_one_token_form_a_group() -> None:
    assert numbers([whole(1, 0), whole(2, 0), whole(3, 5)]) == [[1, 2], [3]]


def rest(number: int, tokens: int, *, cached: int) -> PrefillSlice:
    """The rest of a prompt with a cached prefix."""
    active = ActiveSequence(SequenceRequest((1, number), tuple(range(cached + tokens + 1)), 10))
    active.skip_cached(cached)
    return PrefillSlice(active, cached, tokens)


def test_rests_after_similar_prefixes_are_prefilled_together() -> None:
    slices = [rest(1, 20, cached=96), rest(2, 25, cached=128), whole(3, 22)]
    assert numbers(slices) == [[3], [1, 2]]


def test_no_slices_make_no_group() -> None:
    assert numbers([]) == []


def test_where_padding_enters_the_state_only_equal_lengths_are_prefilled_together() -> None:
    slices = [whole(1, 60), whole(2, 61), whole(3, 60), rest(4, 60, cached=32)]
    assert numbers(slices, Batching.EQUAL_LENGTHS) == [[1, 3], [2], [4]]


def test_a_model_that_cannot_be_batched_is_prefilled_row_by_row() -> None:
    assert numbers([whole(1, 60), whole(2, 60)], Batching.ALONE) == [[1], [2]]


def test_an_isolated_sequence_is_prefilled_alone() -> None:
    slices = [whole(1, 60), whole(2, 60), whole(3, 60)]
    slices[1].active.isolate()
    assert [2] in numbers(slices)
