"""Outputs with proposals in every step, right and wrong ones, equal those without."""

import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlxmesh_engine.forward.draft import DraftModel, DraftSpeculation
from mlxmesh_engine.forward.loader import LoadedModel
from mlxmesh_engine.forward.proposals import check_same_tokens, open_speculation, with_draft
from mlxmesh_engine.scheduling.request import (
    FinishReason,
    FreePrefix,
    GrammarKind,
    LogprobOptions,
    Sampling,
    SequenceRequest,
)
from mlxmesh_engine.speculation.speculation import NoSpeculation
from mlxmesh_shared.errors import InvalidArgument
from tests.fakes.constrained_rig import VOCAB_SIZE as TEXT_VOCAB_SIZE
from tests.fakes.constrained_rig import ConstrainedRig, constrained, write_text_model
from tests.fakes.engine_rig import STREAM, Rig, load_model
from tests.fakes.speculation import (
    CheapDraft,
    CheapNgrams,
    ForcedSpeculation,
    KnownSpeculation,
    RandomSpeculation,
)
from tests.fakes.tiny_model import VOCAB_SIZE, write_model
from tests.fakes.tokenizer_files import byte_level
from tests.integration.engine.test_step_loop import mixed, request

POCKET = Path(__file__).parents[3] / "deploy" / "demo-model" / "pocket-mini"
SCHEMA = '{"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "boolean"}}}'


@pytest.fixture(scope="module", params=[True, False], ids=["cpu", "mlx"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(write_model(tmp_path_factory.mktemp("plain")), cpu_forward=request.param)


@pytest.fixture(scope="module")
def text_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConstrainedRig]:
    rig = ConstrainedRig(write_text_model(tmp_path_factory.mktemp("text")))
    yield rig
    rig.close()


@pytest.fixture(scope="module", params=[True, False], ids=["cpu", "mlx"])
def pocket(request: pytest.FixtureRequest) -> LoadedModel:
    return load_model(POCKET, dtype="float32", cpu_forward=request.param)


def outputs_of(rig: Rig, requests: list[SequenceRequest]) -> dict[int, list[int]]:
    return {asked.key[1]: rig.tokens(asked.key[1]) for asked in requests}


def sources(known: dict[int, list[int]], vocab_size: int = VOCAB_SIZE) -> list[ForcedSpeculation]:
    return [
        RandomSpeculation(vocab_size),
        KnownSpeculation(known, vocab_size),
        KnownSpeculation(known, vocab_size, error_rate=0.0),
    ]


def copying(rows: int, *, max_tokens: int = 60) -> list[SequenceRequest]:
    """Prompts that repeat themselves, and a bias to their tokens: so does the output."""
    found: list[SequenceRequest] = []
    for number in range(1, rows + 1):
        words = [int(each) for each in np.random.default_rng(number).integers(3, VOCAB_SIZE, 6)]
        found.append(
            SequenceRequest(
                (STREAM, number),
                tuple(words * 8),
                max_tokens,
                sampling=Sampling(
                    temperature=0.3 if number % 2 else 0.0,
                    seed=number,
                    logit_bias=dict.fromkeys(words[:2], 60.0),
                ),
            )
        )
    return found


def test_right_and_wrong_proposals_change_no_output(loaded: LoadedModel) -> None:
    requests = mixed(24)
    plain = Rig(loaded, clock=time.monotonic).submit(*requests).run()
    known = outputs_of(plain, requests)
    *wrong, right = sources(known)
    for source in (*wrong, right):
        rig = Rig(loaded, speculation=source, clock=time.monotonic).submit(*requests).run()
        assert outputs_of(rig, requests) == known
        assert source.proposed > 100
        counted = rig.loop.proposed_tokens, rig.loop.accepted_tokens
        assert counted == (source.proposed, source.accepted)
    assert right.accepted == right.proposed


def test_rows_that_join_leave_and_are_cancelled_change_nothing(loaded: LoadedModel) -> None:
    requests = mixed(20)
    known = outputs_of(Rig(loaded).submit(*requests).run(), requests)
    rig = Rig(
        loaded,
        max_running=6,
        prefill_tokens_per_step=16,
        speculation=KnownSpeculation(known, VOCAB_SIZE),
    )
    for asked in requests:
        rig.submit(asked)
        rig.step(2)
    rig.loop.cancel(requests[19].key)
    rig.run()
    assert rig.last(20).finish_reason is FinishReason.CANCELLED
    assert rig.tokens(20) == known[20][: len(rig.tokens(20))]
    for asked in requests[:19]:
        assert rig.tokens(asked.key[1]) == known[asked.key[1]]


def test_a_sequence_cancelled_after_a_verified_step_gets_no_more_tokens(
    loaded: LoadedModel,
) -> None:
    asked = request(1, max_tokens=60)
    known = {1: Rig(loaded).submit(asked).run().tokens(1)}
    rig = Rig(loaded, speculation=KnownSpeculation(known, VOCAB_SIZE, error_rate=0.0)).submit(asked)
    while rig.loop.accepted_tokens == 0:
        rig.step()
    before = len(rig.tokens(1))
    rig.loop.cancel(asked.key)
    rig.step()
    assert len(rig.tokens(1)) == before
    assert rig.loop.kv_bytes == 0


def test_an_end_token_in_a_proposal_ends_the_sequence(loaded: LoadedModel) -> None:
    free = Rig(loaded).submit(request(1)).run().tokens(1)
    for at in range(3, 12):
        asked = request(1, ends=frozenset({free[at]}))
        rig = Rig(loaded, speculation=KnownSpeculation({1: free}, VOCAB_SIZE, error_rate=0.0))
        rig.submit(asked).run()
        assert rig.tokens(1) == free[: free.index(free[at]) + 1]
        assert rig.last(1).finish_reason is FinishReason.STOP
        assert rig.loop.kv_bytes == 0


def test_the_last_token_allowed_is_the_last(loaded: LoadedModel) -> None:
    free = Rig(loaded).submit(request(1)).run().tokens(1)
    for most in range(1, 12):
        rig = Rig(loaded, speculation=KnownSpeculation({1: free}, VOCAB_SIZE, error_rate=0.0))
        rig.submit(request(1, max_tokens=most)).run()
        assert rig.tokens(1) == free[:most]
        assert rig.last(1).finish_reason is FinishReason.LENGTH


def test_a_resumed_sequence_goes_on_as_it_would_have(loaded: LoadedModel) -> None:
    requests = mixed(16)
    known = outputs_of(Rig(loaded).submit(*requests).run(), requests)
    halves = [
        replace(asked, generated=tuple(known[asked.key[1]][: asked.max_tokens // 2]))
        for asked in requests
    ]
    for source in sources(known):
        rig = Rig(loaded, speculation=source).submit(*halves).run()
        for asked in halves:
            assert [*asked.generated, *rig.tokens(asked.key[1])] == known[asked.key[1]]


def test_log_probabilities_are_those_of_single_steps(loaded: LoadedModel) -> None:
    requests = [
        replace(asked, logprobs=LogprobOptions(top=asked.key[1] % 4, prompt=asked.key[1] % 2 == 0))
        if asked.key[1] % 3
        else asked
        for asked in mixed(12)
    ]
    plain = Rig(loaded).submit(*requests).run()
    known = outputs_of(plain, requests)
    for source in sources(known):
        rig = Rig(loaded, speculation=source).submit(*requests).run()
        for asked in requests:
            number = asked.key[1]
            for one, other in zip(rig.logprobs(number), plain.logprobs(number), strict=True):
                assert (one is None) == (other is None)
                if one is not None and other is not None:
                    assert one.chosen == pytest.approx(other.chosen, abs=1e-4)
                    assert one.top == pytest.approx(other.top, abs=1e-4)
                    assert one.top_token_ids == other.top_token_ids


def test_a_prefix_that_proposals_wrote_is_that_of_the_sequence(loaded: LoadedModel) -> None:
    asked = request(1, prompt_tokens=40, max_tokens=60)
    known = {1: Rig(loaded).submit(asked).run().tokens(1)}
    for source in sources(known):
        rig = Rig(loaded, speculation=source, prefix_cache_bytes=2**24).submit(asked).run()
        longer = SequenceRequest((STREAM, 2), (*asked.prompt, *known[1]), 12)
        expected = Rig(loaded).submit(longer).run().tokens(2)
        rig.submit(longer).run()
        # All but the last token of the output are in the cache.
        cached = [update.cached_tokens for update in rig.updates[2] if update.accepted]
        assert cached[0] is not None
        assert cached[0] >= 96
        assert rig.tokens(2) == expected


def test_several_outputs_of_one_prompt(loaded: LoadedModel) -> None:
    leader = request(1, prompt_tokens=30, sampling=Sampling(temperature=0.8, seed=1))
    requests = [leader] + [
        replace(
            leader,
            key=(STREAM, number),
            sampling=Sampling(temperature=0.8, seed=number),
            shares_prefill_of=leader.key,
        )
        for number in range(2, 6)
    ]
    known = outputs_of(Rig(loaded).submit(*requests).run(), requests)
    for source in sources(known):
        rig = Rig(loaded, speculation=source).submit(*requests).run()
        assert outputs_of(rig, requests) == known


def test_background_rows_and_rows_that_gave_up_their_memory(loaded: LoadedModel) -> None:
    requests = [
        replace(request(number, max_tokens=30), background=number > 2) for number in range(1, 7)
    ]
    known = outputs_of(Rig(loaded).submit(*requests).run(), requests)
    for source in sources(known):
        rig = Rig(loaded, speculation=source, kv_capacity_tokens=150, clock=time.monotonic)
        rig.submit(*requests[2:])
        rig.step(6)
        rig.submit(*requests[:2]).run()
        assert outputs_of(rig, requests) == known


def test_an_interrupted_verification_changes_nothing(tmp_path: Path) -> None:
    own = load_model(write_model(tmp_path))
    requests = [replace(request(number, max_tokens=30), background=True) for number in (1, 2)]
    known = outputs_of(Rig(own).submit(*requests).run(), requests)
    turns = itertools.cycle([False, False, True])
    rig = Rig(own, speculation=KnownSpeculation(known, VOCAB_SIZE), interrupted=lambda: next(turns))
    rig.submit(*requests).run()
    assert outputs_of(rig, requests) == known


def test_constraints_allow_the_same_tokens(text_rig: ConstrainedRig) -> None:
    requests = [
        constrained(1, GrammarKind.JSON_SCHEMA, SCHEMA, max_tokens=60),
        constrained(2, GrammarKind.REGEX, "(ab|cd){3,9}", temperature=0.9, seed=3, max_tokens=40),
        constrained(3, GrammarKind.CHOICES, '["yes", "no", "maybe"]', temperature=1.0, seed=7),
        constrained(4, max_tokens=40),
        constrained(
            5,
            GrammarKind.REGEX,
            "[0-9]{8}",
            prefix=FreePrefix((9, 10), max_tokens=6),
            max_tokens=40,
        ),
    ]
    known = outputs_of(text_rig.run(*requests), requests)
    for source in sources(known, TEXT_VOCAB_SIZE):
        rig = Rig(text_rig.loaded, speculation=source)
        rig.submit(*text_rig.compiled(*requests)).run()
        assert outputs_of(rig, requests) == known
        resumed = [
            replace(asked, generated=tuple(known[asked.key[1]][:2])) for asked in requests[:2]
        ]
        rig.submit(*text_rig.compiled(*resumed))
        rig.updates.clear()
        rig.run()
        for asked in resumed:
            assert [*asked.generated, *rig.tokens(asked.key[1])] == known[asked.key[1]]


def test_copied_text_is_found_and_accepted(loaded: LoadedModel) -> None:
    requests = copying(2)
    plain = Rig(loaded, clock=time.monotonic).submit(*requests).run()
    rig = Rig(loaded, speculation=CheapNgrams(), clock=time.monotonic).submit(*requests).run()
    assert outputs_of(rig, requests) == outputs_of(plain, requests)
    assert rig.loop.accepted_tokens > 40
    assert rig.loop.steps < plain.loop.steps


def test_a_model_that_drafts_for_itself_is_accepted(loaded: LoadedModel) -> None:
    """Also with sampling: it draws with the randomness of the sequence."""
    requests = mixed(12)
    plain = Rig(loaded, clock=time.monotonic).submit(*requests).run()
    source = CheapDraft(DraftModel(loaded.model, loaded.batching, loaded.context_tokens))
    rig = Rig(loaded, speculation=source, max_running=5, clock=time.monotonic)
    rig.submit(*requests).run()
    assert outputs_of(rig, requests) == outputs_of(plain, requests)
    assert rig.loop.accepted_tokens > 20
    assert rig.loop.accepted_tokens >= 0.95 * rig.loop.proposed_tokens


def test_a_smaller_model_drafts(pocket: LoadedModel) -> None:
    target = load_model(POCKET.parent / "pocket", dtype="float32")
    requests = [
        replace(asked, sampling=Sampling(temperature=0.7 * (asked.key[1] % 2), seed=asked.key[1]))
        for asked in (request(number, prompt_tokens=12, max_tokens=48) for number in range(1, 7))
    ]
    known = outputs_of(Rig(target).submit(*requests).run(), requests)
    source = CheapDraft(DraftModel(pocket.model, pocket.batching, pocket.context_tokens))
    rig = Rig(target, speculation=source, clock=time.monotonic).submit(*requests).run()
    assert outputs_of(rig, requests) == known
    assert 0 < rig.loop.accepted_tokens < rig.loop.proposed_tokens


def test_models_that_cannot_forget_do_not_speculate(tmp_path: Path) -> None:
    rotating = load_model(
        write_model(
            tmp_path, layer_types=["sliding_attention", "full_attention"], sliding_window=24
        ),
        cpu_forward=False,
    )
    assert isinstance(open_speculation("ngram", rotating), NoSpeculation)
    requests = mixed(6)
    known = outputs_of(Rig(rotating).submit(*requests).run(), requests)
    rig = Rig(rotating, speculation=KnownSpeculation(known, VOCAB_SIZE)).submit(*requests).run()
    assert outputs_of(rig, requests) == known
    assert rig.loop.proposed_tokens == 0


def test_a_draft_model_with_other_tokens_is_refused(tmp_path: Path) -> None:
    other = byte_level(write_model(tmp_path / "other"))
    with pytest.raises(InvalidArgument, match="another tokenizer") as caught:
        check_same_tokens(POCKET, other)
    assert caught.value.field == "draft_model_dir"
    check_same_tokens(POCKET.parent / "pocket", POCKET)


def test_the_memory_of_a_draft_model_counts(pocket: LoadedModel) -> None:
    target = load_model(POCKET.parent / "pocket", dtype="float32")
    both = with_draft(
        target,
        lambda: pocket,
        model_dir=POCKET.parent / "pocket",
        draft_model_dir=POCKET,
        available_bytes=lambda: 2**34,
        kv_cache_bytes=None,
    )
    assert both.weights_bytes == target.weights_bytes + pocket.weights_bytes
    assert both.kv.token_bytes == target.kv.token_bytes + pocket.kv.token_bytes
    assert isinstance(open_speculation("draft", both), DraftSpeculation)
    assert isinstance(open_speculation("off", both), NoSpeculation)
