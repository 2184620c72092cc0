"""Constraints in the batch: on a real model, whatever the sampling and the neighbours."""

import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from mlxmesh_engine.scheduling.request import FinishReason, FreePrefix, GrammarKind
from mlxmesh_shared.errors import ConstraintFailed, EngineFailed
from tests.fakes.constrained_rig import VOCAB_SIZE, ConstrainedRig, constrained, write_text_model
from tests.fakes.engine_rig import Rig, load_model
from tests.fakes.tiny_model import EOS

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "sizes": {"type": "array", "items": {"type": "integer"}, "maxItems": 3},
        "kind": {"enum": ["small", "large"]},
    },
    "required": ["name", "sizes", "kind"],
    "additionalProperties": False,
}
JSON = (GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA))
REGEX = (GrammarKind.REGEX, r"[a-f]{3,8}-[0-9]{2,4}")
LARK = (GrammarKind.LARK, 'start: "(" start ")" | NUMBER\nNUMBER: /[0-9]{1,3}/')
CHOICES = (GrammarKind.CHOICES, json.dumps(["yes", 'say "no"\n', "日本語", "yes, but"]))
HOT: dict[str, Any] = {"temperature": 1.5}


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConstrainedRig]:
    with closing(ConstrainedRig(write_text_model(tmp_path_factory.mktemp("text")))) as rig:
        yield rig


@pytest.fixture(scope="module")
def asynchronous(rig: ConstrainedRig) -> Iterator[ConstrainedRig]:
    """The same model by mlx-lm's pass, which is launched before the tokens are read."""
    loaded = load_model(rig.model_dir, cpu_forward=False)
    with closing(ConstrainedRig(rig.model_dir, loaded)) as opened:
        yield opened


@pytest.fixture(params=["rig", "asynchronous"])
def each_rig(request: pytest.FixtureRequest) -> ConstrainedRig:
    return request.getfixturevalue(request.param)


def is_valid(kind: GrammarKind, text: str) -> bool:
    if kind is GrammarKind.JSON_SCHEMA:
        jsonschema.validate(json.loads(text), SCHEMA)
        return True
    if kind is GrammarKind.REGEX:
        return re.fullmatch(REGEX[1], text) is not None
    if kind is GrammarKind.LARK:
        return re.fullmatch(r"(\()*[0-9]{1,3}(\))*", text) is not None and (
            text.count("(") == text.count(")")
        )
    return text in json.loads(CHOICES[1])


@pytest.mark.parametrize("grammar", [JSON, REGEX, LARK, CHOICES], ids=lambda each: each[0].value)
def test_hot_output_always_follows_its_grammar(
    each_rig: ConstrainedRig, grammar: tuple[GrammarKind, str]
) -> None:
    ran = each_rig.run(*(constrained(at, *grammar, seed=at, **HOT) for at in range(12)))
    texts = {each_rig.text(ran.tokens(at)) for at in range(12) if _stopped(ran, at)}
    assert len(texts) > 1
    assert all(is_valid(grammar[0], text) for text in texts)


def _stopped(rig: Rig, number: int) -> bool:
    return rig.last(number).finish_reason is FinishReason.STOP


def test_unconstrained_neighbours_are_unchanged(each_rig: ConstrainedRig) -> None:
    plain = [
        constrained(1),
        constrained(2, seed=3, **HOT),
        constrained(3, seed=4, top_p=0.8, top_k=40, presence_penalty=1.0, **HOT),
    ]
    alone = each_rig.run(*plain)
    mixed = each_rig.run(
        constrained(11, *JSON, seed=1, **HOT),
        plain[0],
        constrained(12, *REGEX),
        *plain[1:],
        constrained(13, *CHOICES, seed=2, top_k=5, **HOT),
    )
    for number in (1, 2, 3):
        assert mixed.tokens(number) == alone.tokens(number)


@pytest.mark.parametrize("sampling", [{}, {"seed": 7, **HOT}], ids=["greedy", "seeded"])
@pytest.mark.parametrize("grammar", [JSON, LARK], ids=lambda each: each[0].value)
def test_a_resumed_sequence_goes_on_in_the_middle(
    rig: ConstrainedRig, grammar: tuple[GrammarKind, str], sampling: dict[str, Any]
) -> None:
    whole = rig.run(constrained(1, *grammar, max_tokens=60, **sampling)).tokens(1)
    for at in range(1, len(whole), 5):
        head = tuple(whole[:at])
        request = constrained(1, *grammar, max_tokens=60, generated=head, **sampling)
        assert rig.run(request).tokens(1) == whole[at:]


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 5.0},
        {"presence_penalty": 2.0, "frequency_penalty": 2.0},
        {"top_p": 0.01},
        {"top_k": 1},
        {"min_p": 1.0},
        {"logit_bias": dict.fromkeys(range(VOCAB_SIZE), -100.0)},
        {"logit_bias": {3: 100.0, VOCAB_SIZE - 1: 100.0}},
    ],
)
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_no_option_makes_an_illegal_token_legal(
    rig: ConstrainedRig, options: dict[str, Any], temperature: float
) -> None:
    requests = [
        constrained(at, *REGEX, seed=at, temperature=temperature, **options) for at in range(4)
    ]
    ran = rig.run(*requests)
    for at in range(4):
        assert _stopped(ran, at)
        assert is_valid(GrammarKind.REGEX, rig.text(ran.tokens(at)))


def test_infinite_scores_of_all_legal_tokens_still_choose_a_legal_one() -> None:
    import mlx.core as mx
    import numpy as np

    from mlxmesh_engine.sampling.row_masks import RowMasks
    from mlxmesh_engine.sampling.sampler import BatchSampler
    from mlxmesh_engine.scheduling.sequence import ActiveSequence

    for temperature in (0.0, 1.5):
        sampler = BatchSampler(8)
        sampler.join([ActiveSequence(constrained(1, temperature=temperature))])
        allowed = np.zeros((1, 8), np.bool_)
        allowed[0, [3, 5]] = True
        for score in (-mx.inf, mx.nan):
            scores = mx.array([[9.0, 9.0, 9.0, score, 9.0, score, 9.0, 9.0]])
            [token] = sampler.sample(scores, [0], RowMasks([0], 1, allowed)).tolist()  # pyright: ignore[reportGeneralTypeIssues]
            assert token in (3, 5)


def test_max_tokens_cuts_an_object_short(rig: ConstrainedRig) -> None:
    ran = rig.run(constrained(1, *JSON, max_tokens=4))
    assert ran.last(1).finish_reason is FinishReason.LENGTH
    with pytest.raises(json.JSONDecodeError):
        json.loads(rig.text(ran.tokens(1)))


def test_a_stop_token_that_the_grammar_does_not_allow_is_not_generated(
    rig: ConstrainedRig,
) -> None:
    stop: int = rig.tokenizer.token_to_id("z")  # pyright: ignore[reportAssignmentType]
    bias = {stop: 100.0}
    ran = rig.run(constrained(1, *REGEX, stops=[stop], logit_bias=bias))
    assert is_valid(GrammarKind.REGEX, rig.text(ran.tokens(1)))
    assert ran.tokens(1)[-1] == EOS


def test_a_stop_token_that_the_grammar_allows_ends_the_sequence(rig: ConstrainedRig) -> None:
    stop: int = rig.tokenizer.token_to_id("a")  # pyright: ignore[reportAssignmentType]
    ran = rig.run(constrained(1, *REGEX, stops=[stop], logit_bias={stop: 100.0}))
    assert ran.tokens(1) == [stop]
    assert _stopped(ran, 1)


def test_a_free_prefix_is_free_but_does_not_end_the_sequence(each_rig: ConstrainedRig) -> None:
    prefix = FreePrefix((10, 11))
    bias = {EOS: 100.0}
    ran = each_rig.run(
        constrained(1, *JSON, prefix=prefix, max_tokens=40, seed=1, logit_bias=bias, **HOT)
    )
    assert ran.last(1).finish_reason is FinishReason.LENGTH
    assert EOS not in ran.tokens(1)


def test_the_end_of_a_prefix_is_forced_and_the_grammar_follows(each_rig: ConstrainedRig) -> None:
    prefix = FreePrefix((10, 11, 12), max_tokens=6)
    ran = each_rig.run(
        *(constrained(at, *CHOICES, prefix=prefix, seed=at, **HOT) for at in range(6))
    )
    for at in range(6):
        tokens = ran.tokens(at)
        ends = [i for i in range(len(tokens)) if tuple(tokens[i : i + 3]) == (10, 11, 12)]
        assert ends[0] == 6
        assert is_valid(GrammarKind.CHOICES, each_rig.text(tokens[9:]))


def test_a_forced_prefix_without_a_grammar_is_free_afterwards(rig: ConstrainedRig) -> None:
    prefix = FreePrefix((10, 11), max_tokens=3)
    whole = rig.run(constrained(1, prefix=prefix, max_tokens=20)).tokens(1)
    assert whole[3:5] == [10, 11]
    head = tuple(whole[:5])
    rest = rig.run(constrained(1, max_tokens=20, generated=head)).tokens(1)
    assert whole[5:] == rest


@pytest.mark.parametrize("at", range(1, 8))
def test_a_sequence_resumes_anywhere_in_a_forced_prefix(rig: ConstrainedRig, at: int) -> None:
    prefix = FreePrefix((10, 11), max_tokens=4)
    request = constrained(1, *REGEX, prefix=prefix)
    whole = rig.run(request).tokens(1)
    resumed = constrained(1, *REGEX, prefix=prefix, generated=tuple(whole[:at]))
    assert rig.run(resumed).tokens(1) == whole[at:]


def test_rows_join_and_leave_a_mixed_batch(each_rig: ConstrainedRig) -> None:
    requests = each_rig.compiled(
        *(constrained(at, *CHOICES, seed=at, **HOT) for at in range(4)),
        *(constrained(4 + at, *JSON, seed=at, **HOT) for at in range(4)),
    )
    rig = Rig(each_rig.loaded)
    for request in requests:
        rig.submit(request).step()
    rig.submit(constrained(20, max_tokens=5))
    rig.step()
    rig.loop.cancel(requests[5].key)
    rig.run()
    assert rig.last(5).finish_reason is FinishReason.CANCELLED
    for at in (0, 1, 2, 3, 4, 6, 7):
        if _stopped(rig, at):
            kind = GrammarKind.CHOICES if at < 4 else GrammarKind.JSON_SCHEMA
            assert is_valid(kind, each_rig.text(rig.tokens(at)))


def test_a_stuck_grammar_ends_with_an_error_and_not_with_text(each_rig: ConstrainedRig) -> None:
    # Each "x" may be any of 2^40 in the grammar, so the parser has ever more to follow.
    rules = "\n".join(f"a{at}: a{at + 1} a{at + 1}" for at in range(40))
    grammar = (GrammarKind.LARK, f'start: a0\n{rules}\na40: "x"?')
    ran = each_rig.run(
        constrained(1, *grammar, max_tokens=400, logit_bias={EOS: -100.0}),
        constrained(2, max_tokens=30),
    )
    assert isinstance(ran.last(1).error, ConstraintFailed)
    assert set(each_rig.text(ran.tokens(1))) <= {"x"}
    assert ran.last(2).error is None


def test_a_failed_batch_goes_on_with_the_state_of_its_constraints(
    rig: ConstrainedRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = constrained(1, *JSON, seed=5, **HOT)
    other = constrained(2, *REGEX, seed=6, **HOT)
    expected = rig.run(request, other)
    stepped = Rig(rig.loaded).submit(*rig.compiled(request, other))
    stepped.step(5)
    decode, calls = rig.loaded.model.decode, iter([EngineFailed("as the test wants")])

    def fail_once(inputs: Any, cache: Any) -> Any:
        if (error := next(calls, None)) is not None:
            raise error
        return decode(inputs, cache)

    monkeypatch.setattr(rig.loaded.model, "decode", fail_once)
    stepped.run()
    assert stepped.tokens(1) == expected.tokens(1)
    assert stepped.tokens(2) == expected.tokens(2)


def test_ids_beyond_the_tokenizer_are_never_generated(rig: ConstrainedRig) -> None:
    known = rig.tokenizer.get_vocab_size()
    bias = dict.fromkeys(range(known, VOCAB_SIZE), 100.0)
    ran = rig.run(constrained(1, GrammarKind.REGEX, r"(.|\n)*", max_tokens=30, logit_bias=bias))
    assert max(ran.tokens(1)) < known


def test_models_with_a_larger_vocabulary_than_the_tokenizer_are_usual(tmp_path: Path) -> None:
    with closing(ConstrainedRig(write_text_model(tmp_path, seed=3, model_type="qwen2"))) as other:
        ran = other.run(constrained(1, *REGEX, seed=1, **HOT))
        assert is_valid(GrammarKind.REGEX, other.text(ran.tokens(1)))
