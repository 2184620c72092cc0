from mlxmesh_engine.scheduling.request import FinishReason, Sampling, Timings, Update
from mlxmesh_shared.errors import EngineFailed


def test_merging_two_updates_loses_nothing() -> None:
    first = Update(1, accepted=True, prefilled_tokens=4, token_ids=(1, 2))
    timings = Timings(1, 2, 3)
    second = Update(1, token_ids=(3,), finish_reason=FinishReason.LENGTH, timings=timings)
    assert first.followed_by(second) == Update(
        1,
        accepted=True,
        prefilled_tokens=4,
        token_ids=(1, 2, 3),
        finish_reason=FinishReason.LENGTH,
        timings=timings,
    )


def test_the_later_progress_counts() -> None:
    both = Update(1, prefilled_tokens=4).followed_by(Update(1, prefilled_tokens=9))
    assert both.prefilled_tokens == 9


def test_an_end_is_a_finish_or_an_error() -> None:
    assert not Update(1, token_ids=(1,)).last
    assert Update(1, finish_reason=FinishReason.CANCELLED).last
    assert Update(1, error=EngineFailed("it failed")).last


def test_which_options_need_the_output() -> None:
    assert not Sampling(temperature=1, top_p=0.5, logit_bias={1: 2.0}).depends_on_output
    assert Sampling(repetition_penalty=1.1).depends_on_output
    assert Sampling(presence_penalty=-0.1).depends_on_output
    assert Sampling(frequency_penalty=0.1).depends_on_output
