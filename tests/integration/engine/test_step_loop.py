"""The step loop on a real model, token for token."""

from pathlib import Path

import numpy as np
import pytest

from mlxmesh_engine.forward.loader import LoadedModel
from mlxmesh_engine.scheduling.request import FinishReason, Sampling, SequenceRequest
from mlxmesh_shared.errors import DeadlineExceeded
from tests.fakes.engine_rig import STREAM, Rig, load_model, scores_after
from tests.fakes.reference_sampling import contest
from tests.fakes.tiny_model import VOCAB_SIZE, write_model

# Rounding alone may swap two scores that are closer than this.
_ROUNDING = 1e-4
GREEDY = Sampling()


@pytest.fixture(scope="module", params=[True, False], ids=["cpu", "mlx"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(write_model(tmp_path_factory.mktemp("plain")), cpu_forward=request.param)


@pytest.fixture(scope="module")
def sliding(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A model whose first layer sees only the last 24 tokens."""
    folder = tmp_path_factory.mktemp("sliding")
    types = ["sliding_attention", "full_attention"]
    return load_model(write_model(folder, layer_types=types, sliding_window=24))


def request(
    number: int,
    *,
    prompt_tokens: int = 20,
    max_tokens: int = 24,
    sampling: Sampling = GREEDY,
    generated: tuple[int, ...] = (),
    ends: frozenset[int] = frozenset(),
    deadline_s: float | None = None,
) -> SequenceRequest:
    draw = np.random.default_rng(number).integers(3, VOCAB_SIZE, prompt_tokens)
    return SequenceRequest(
        (STREAM, number),
        tuple(int(token) for token in draw),
        max_tokens,
        generated,
        sampling,
        ends,
        deadline_s=deadline_s,
    )


def mixed(count: int) -> list[SequenceRequest]:
    """Requests of different lengths with as many different sampling settings."""
    rng = np.random.default_rng(11)
    return [
        request(
            number,
            prompt_tokens=int(rng.integers(1, 90)),
            max_tokens=int(rng.integers(8, 40)),
            sampling=Sampling(
                temperature=0.0 if number % 5 == 0 else float(rng.uniform(0.2, 2)),
                top_p=float(rng.uniform(0.3, 1)) if number % 2 else 1.0,
                top_k=int(rng.integers(1, 400)) if number % 3 == 0 else 0,
                min_p=float(rng.uniform(0, 0.2)) if number % 4 == 1 else 0.0,
                repetition_penalty=float(rng.uniform(1, 1.6)) if number % 4 == 2 else 1.0,
                presence_penalty=float(rng.uniform(-1, 2)) if number % 3 == 1 else 0.0,
                frequency_penalty=float(rng.uniform(-1, 2)) if number % 6 == 1 else 0.0,
                seed=number * 2**33,
                logit_bias={int(rng.integers(0, VOCAB_SIZE)): 3.0} if number % 7 == 0 else {},
            ),
        )
        for number in range(1, count + 1)
    ]


def assert_chosen_as_agreed(loaded: LoadedModel, asked: SequenceRequest, tokens: list[int]) -> None:
    """Each token is the one that the contract defines, given the tokens before it."""
    everything = [*asked.prompt, *asked.generated, *tokens]
    scores = scores_after(loaded, everything[:-1])
    for index, token in enumerate(tokens):
        output = [*asked.generated, *tokens[:index]]
        before = len(asked.prompt) + len(output) - 1
        race = contest(scores[before], asked.sampling, prompt=asked.prompt, output=output)
        assert race.max() - race[token] < _ROUNDING, f"token {index} of {asked.key}"


def assert_equal_but_for_rounding(
    loaded: LoadedModel, asked: SequenceRequest, one: list[int], other: list[int]
) -> None:
    """Equal, or different only after a position where the two best were within rounding."""
    if one == other:
        return
    index = next(i for i, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1])
    scores = scores_after(loaded, [*asked.prompt, *asked.generated, *one[:index]])[-1]
    output = [*asked.generated, *one[:index]]
    race = contest(scores, asked.sampling, prompt=asked.prompt, output=output)
    assert abs(race[one[index]] - race[other[index]]) < _ROUNDING, f"token {index} of {asked.key}"


def test_32_settings_in_one_batch_equal_each_alone(loaded: LoadedModel) -> None:
    requests = mixed(32)
    together = Rig(loaded).submit(*requests).run()
    for asked in requests:
        alone = Rig(loaded).submit(asked).run()
        tokens = together.tokens(asked.key[1])
        assert len(tokens) == asked.max_tokens
        assert_chosen_as_agreed(loaded, asked, tokens)
        assert_equal_but_for_rounding(loaded, asked, tokens, alone.tokens(asked.key[1]))


def test_prompts_of_one_token_start_beside_longer_ones(loaded: LoadedModel) -> None:
    """All but the last token of a prompt are prefilled: of some here nothing is."""
    requests = [
        request(at, prompt_tokens=tokens) for at, tokens in enumerate([1, 3, 1, 9], start=1)
    ]
    rig = Rig(loaded).submit(*requests).run()
    for asked in requests:
        assert_chosen_as_agreed(loaded, asked, rig.tokens(asked.key[1]))


def test_rows_that_join_or_leave_change_nothing(loaded: LoadedModel) -> None:
    requests = mixed(20)
    rig = Rig(loaded, max_running=6, prefill_tokens_per_step=16)
    for asked in requests:
        rig.submit(asked)
        rig.step(2)
    rig.loop.cancel(requests[3].key)
    rig.run()
    for asked in requests[:3] + requests[4:]:
        assert_chosen_as_agreed(loaded, asked, rig.tokens(asked.key[1]))


def test_a_resumed_sequence_generates_the_same_tokens(loaded: LoadedModel) -> None:
    requests = mixed(24)
    whole = Rig(loaded).submit(*requests).run()
    resumed = Rig(loaded)
    for asked in requests:
        half = asked.max_tokens // 2
        head = tuple(whole.tokens(asked.key[1])[:half])
        resumed.submit(
            SequenceRequest(
                asked.key, asked.prompt, asked.max_tokens, head, sampling=asked.sampling
            )
        )
    resumed.run()
    for asked in requests:
        number, half = asked.key[1], asked.max_tokens // 2
        rest = resumed.tokens(number)
        assert len(rest) == asked.max_tokens - half
        assert_equal_but_for_rounding(
            loaded, asked, whole.tokens(number), [*whole.tokens(number)[:half], *rest]
        )


@pytest.mark.parametrize("budget", [1, 7, 64])
def test_prefill_in_slices_gives_the_same_tokens(loaded: LoadedModel, budget: int) -> None:
    asked = request(5, prompt_tokens=100, max_tokens=12)
    rig = Rig(loaded, prefill_tokens_per_step=budget).submit(asked).run()
    assert_chosen_as_agreed(loaded, asked, rig.tokens(5))


@pytest.mark.parametrize("budget", [10, 512])
def test_a_sliding_window_is_respected(sliding: LoadedModel, budget: int) -> None:
    requests = [
        request(number, prompt_tokens=tokens, max_tokens=40)
        for number, tokens in enumerate([1, 5, 23, 24, 25, 60, 90], start=1)
    ]
    rig = Rig(sliding, prefill_tokens_per_step=budget).submit(*requests).run()
    for asked in requests:
        assert_chosen_as_agreed(sliding, asked, rig.tokens(asked.key[1]))


def test_decoding_sequences_get_a_token_each_step_during_a_long_prefill(
    loaded: LoadedModel,
) -> None:
    rig = Rig(loaded, prefill_tokens_per_step=50)
    rig.submit(request(1, prompt_tokens=10, max_tokens=100))
    rig.step(3)
    rig.submit(request(2, prompt_tokens=1501, max_tokens=5))
    # While prefill follows, no token waits for the next step: the first one collects two.
    rig.step()
    read = [0]
    for _ in range(30):
        (updates,) = rig.step().values()
        assert [len(update.token_ids) for update in updates if update.sequence_id == 1] == [1]
        read += [update.prefilled_tokens or 0 for update in updates if update.sequence_id == 2]
    assert 16 <= read[-1] <= 1500
    assert read == sorted(read)
    rig.run()
    assert len(rig.tokens(2)) == 5


def test_short_and_long_sequences_decode_together_as_alone(loaded: LoadedModel) -> None:
    requests = [
        request(1, prompt_tokens=10, max_tokens=60),
        request(2, prompt_tokens=1400, max_tokens=12),
        request(3, prompt_tokens=1300, max_tokens=30),
        request(4, prompt_tokens=30, max_tokens=40),
    ]
    together = Rig(loaded).submit(*requests).run()
    for asked in requests:
        alone = Rig(loaded).submit(asked).run()
        tokens = together.tokens(asked.key[1])
        assert_equal_but_for_rounding(loaded, asked, tokens, alone.tokens(asked.key[1]))


def test_updates_of_one_sequence_are_in_order(loaded: LoadedModel) -> None:
    rig = Rig(loaded, prefill_tokens_per_step=8)
    rig.submit(request(1, prompt_tokens=20, max_tokens=3)).run()
    first, *reading, one, two, last = rig.updates[1]
    assert first.accepted
    assert [update.prefilled_tokens for update in reading] == [8, 16, 20]
    assert [len(update.token_ids) for update in (one, two, last)] == [1, 1, 1]
    assert last.finish_reason is FinishReason.LENGTH
    assert last.timings is not None


def test_an_end_token_ends_the_sequence_and_is_its_last(loaded: LoadedModel) -> None:
    free = Rig(loaded).submit(request(1)).run().tokens(1)
    end = free[5]
    rig = Rig(loaded).submit(request(1, ends=frozenset({end}))).run()
    assert rig.tokens(1) == free[: free.index(end) + 1]
    assert rig.last(1).finish_reason is FinishReason.STOP


def test_an_end_token_as_the_very_last_is_a_stop(loaded: LoadedModel) -> None:
    free = Rig(loaded).submit(request(1, max_tokens=1)).run().tokens(1)
    rig = Rig(loaded).submit(request(1, max_tokens=1, ends=frozenset(free))).run()
    assert rig.last(1).finish_reason is FinishReason.STOP


def test_cancel_releases_the_slot_within_one_step(loaded: LoadedModel) -> None:
    rig = Rig(loaded, max_running=1).submit(request(1), request(2, max_tokens=2))
    rig.step(4)
    rig.loop.cancel((STREAM, 1))
    before = len(rig.tokens(1))
    rig.step()
    assert rig.last(1).finish_reason is FinishReason.CANCELLED
    assert len(rig.tokens(1)) == before
    assert rig.scheduler.waiting == 0
    rig.run()
    assert len(rig.tokens(2)) == 2
    assert rig.loop.kv_bytes == 0


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_dropped_stream_goes_silent(loaded: LoadedModel, steps: int) -> None:
    rig = Rig(loaded, max_running=2, prefill_tokens_per_step=8)
    rig.submit(request(1), request(2, prompt_tokens=200), request(3))
    rig.step(steps)
    rig.loop.drop_stream(STREAM)
    assert rig.loop.idle
    emitted = {number: len(updates) for number, updates in rig.updates.items()}
    rig.step(2)
    later = {number: len(updates) for number, updates in rig.updates.items()}
    # Updates emitted before the drop may still come; they have no receiver.
    assert all(later[number] - emitted.get(number, 0) <= 1 for number in later)
    assert rig.loop.kv_bytes == 0


def test_a_deadline_ends_waiting_prefilling_and_decoding_sequences(loaded: LoadedModel) -> None:
    now_s = [0.0]
    rig = Rig(loaded, max_running=2, prefill_tokens_per_step=8, clock=lambda: now_s[0])
    rig.submit(
        request(1, prompt_tokens=3, deadline_s=5.0),
        request(2, prompt_tokens=500, deadline_s=5.0),
        request(3, deadline_s=5.0),
        request(4, max_tokens=2),
    )
    rig.step(6)
    assert rig.tokens(1)
    now_s[0] = 5.0
    rig.step()
    for number in (1, 2, 3):
        assert isinstance(rig.last(number).error, DeadlineExceeded)
    rig.run()
    assert rig.last(4).finish_reason is FinishReason.LENGTH


def test_slow_prefill_steps_become_shorter(loaded: LoadedModel) -> None:
    now_s = [0.0]
    rig = Rig(loaded, prefill_tokens_per_step=64, clock=lambda: now_s[0])
    rig.submit(request(1, prompt_tokens=200, max_tokens=2))
    rig.step()
    now_s[0] = 20.0
    rig.step()
    read = [update.prefilled_tokens for update in rig.updates[1] if update.prefilled_tokens]
    assert read == [64, 64 + 16]
    rig.run()
    assert rig.last(1).finish_reason is FinishReason.LENGTH


def test_cache_bytes_are_counted_and_freed(loaded: LoadedModel) -> None:
    rig = Rig(loaded).submit(request(1, prompt_tokens=600, max_tokens=2))
    rig.step()
    assert rig.loop.kv_bytes > 0
    rig.run()
    assert rig.loop.kv_bytes == 0


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1, top_k=VOCAB_SIZE),
        Sampling(temperature=1, top_k=VOCAB_SIZE + 1),
        Sampling(temperature=1, top_p=1e-9),
        Sampling(temperature=1e-30),
        Sampling(temperature=10, min_p=1),
        Sampling(repetition_penalty=10, frequency_penalty=2, presence_penalty=2),
        Sampling(logit_bias=dict.fromkeys(range(VOCAB_SIZE), -100.0)),
    ],
)
def test_extreme_but_legal_options_are_served(loaded: LoadedModel, sampling: Sampling) -> None:
    asked = request(1, prompt_tokens=2, sampling=sampling)
    tokens = Rig(loaded).submit(asked).run().tokens(1)
    assert_chosen_as_agreed(loaded, asked, tokens)


def test_the_same_prompt_again_and_an_earlier_output_as_prompt(loaded: LoadedModel) -> None:
    asked = request(1, max_tokens=6)
    rig = Rig(loaded).submit(asked).run()
    again = SequenceRequest((STREAM, 2), asked.prompt, 6)
    longer = SequenceRequest((STREAM, 3), (*asked.prompt, *rig.tokens(1)), 6)
    rig.submit(again, longer).run()
    assert rig.tokens(2) == rig.tokens(1)
    assert len(rig.tokens(3)) == 6


def test_the_bundled_model_runs() -> None:
    pocket = load_model(Path(__file__).parents[3] / "deploy" / "demo-model" / "pocket-mini")
    requests = [request(number, max_tokens=16) for number in range(1, 9)]
    rig = Rig(pocket).submit(*requests).run()
    for asked in requests:
        assert_chosen_as_agreed(pocket, asked, rig.tokens(asked.key[1]))
