from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_generation.domain.catalogue import ModelVersion
from mlxmesh_generation.domain.request import (
    Chat,
    ChatTurn,
    GenerationRequest,
    PromptInput,
    PromptText,
    PromptTokens,
    SamplingOptions,
)
from mlxmesh_generation.text import prompts
from mlxmesh_generation.text.prompts import Prompts
from mlxmesh_generation.text.rendering import Renderers
from mlxmesh_generation.text.tokenizer import ModelTokenizer
from mlxmesh_generation.text.worker_threads import FairThreadPool
from mlxmesh_shared.errors import ContextTooLong, InvalidArgument
from mlxmesh_shared.reference import ModelReference

VERSION = ModelVersion("pocket", 1, "ab" * 32, 1000, 300, 1)
LARGE = ModelVersion("pocket", 1, "ab" * 32, 100_000, 300, 1)
TEXT = PromptText("x")
HELLO = Chat((ChatTurn("user", "hello"),))


def asking(
    source: PromptInput = TEXT,
    *,
    max_tokens: int | None = None,
    stop_token_ids: tuple[int, ...] = (),
    logit_bias: dict[int, float] | None = None,
) -> GenerationRequest:
    return GenerationRequest(
        request_id="r",
        model=ModelReference("pocket"),
        input=source,
        max_tokens=max_tokens,
        sampling=SamplingOptions(biased_token_ids=tuple(logit_bias or {})),
        stop_token_ids=stop_token_ids,
    )


@pytest.fixture
def subject() -> Iterator[Prompts]:
    turns, renderers = FairThreadPool(), Renderers()
    yield Prompts(turns, renderers)
    turns.close()
    renderers.close()


@pytest.mark.parametrize("repeats", [1, 2000])
async def test_a_prompt_is_tokenized_as_it_is(
    subject: Prompts, byte_level: ModelTokenizer, repeats: int
) -> None:
    text = "hello there " * repeats
    token_ids = await subject.token_ids(PromptText(text), byte_level, LARGE, caller="a")
    assert byte_level.decode(token_ids) == text


async def test_a_conversation_goes_through_the_template(
    subject: Prompts, byte_level: ModelTokenizer
) -> None:
    token_ids = await subject.token_ids(HELLO, byte_level, VERSION, caller="a")
    assert byte_level.decode(token_ids) == "<|user|>hello<|assistant|>"
    assert 2 in token_ids  # the template's end of turn became the special token


async def test_token_ids_are_used_as_they_are(subject: Prompts, byte_level: ModelTokenizer) -> None:
    source = PromptTokens((7, 8))
    assert await subject.token_ids(source, byte_level, VERSION, caller="a") == (7, 8)


async def test_a_model_without_a_template_takes_no_conversation(
    subject: Prompts, metaspace: ModelTokenizer
) -> None:
    with pytest.raises(InvalidArgument, match="no chat template") as caught:
        await subject.token_ids(HELLO, metaspace, VERSION, caller="a")
    assert caught.value.field == "chat"


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (asking(PromptTokens((1, 300, 2))), "tokens.token_ids[1]"),
        (asking(stop_token_ids=(299, 4_000_000_000)), "stop_token_ids[1]"),
        (asking(logit_bias={5: 1.0, 301: 1.0}), "sampling.logit_bias[301]"),
    ],
)
def test_ids_outside_the_vocabulary_are_named(request_: GenerationRequest, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        prompts.check_vocabulary(request_, VERSION)
    assert caught.value.field == field


def test_ids_inside_the_vocabulary_pass() -> None:
    request = asking(PromptTokens((0, 299)), stop_token_ids=(299,), logit_bias={299: 1.0})
    prompts.check_vocabulary(request, VERSION)


@pytest.mark.parametrize(
    ("wanted", "prompt_tokens", "given"),
    [(None, 10, 512), (None, 900, 100), (1, 999, 1), (990, 10, 990)],
)
def test_max_tokens_within_the_context(wanted: int | None, prompt_tokens: int, given: int) -> None:
    assert prompts.max_tokens(asking(max_tokens=wanted), VERSION, prompt_tokens) == given


@pytest.mark.parametrize(
    ("source", "wanted", "prompt_tokens", "field"),
    [
        (PromptText("x"), None, 1000, "prompt"),
        (HELLO, 5, 5000, "chat"),
        (PromptTokens((1,)), None, 1000, "tokens"),
        (PromptText("x"), 991, 10, "max_tokens"),
    ],
)
def test_beyond_the_context(
    source: PromptInput, wanted: int | None, prompt_tokens: int, field: str
) -> None:
    with pytest.raises(ContextTooLong) as caught:
        prompts.max_tokens(asking(source, max_tokens=wanted), VERSION, prompt_tokens)
    assert caught.value.field == field


def test_an_input_of_no_tokens_is_refused() -> None:
    with pytest.raises(InvalidArgument) as caught:
        prompts.max_tokens(asking(), VERSION, 0)
    assert caught.value.field == "prompt"


@pytest.mark.parametrize(
    ("context_tokens", "max_token_bytes", "limit"),
    [
        (1000, 16, 16_000),
        (1000, None, 2**20),
        (131_072, 128, 2**21),
        (131_072, None, 2**21),
        (131_072, 8, 2**20),
    ],
)
def test_how_long_a_text_may_be(
    context_tokens: int, max_token_bytes: int | None, limit: int
) -> None:
    assert prompts.max_text_bytes(context_tokens, max_token_bytes) == limit


@pytest.mark.parametrize("character", ["a", "ä", "\U0001f642"])
def test_what_has_more_bytes_than_the_context_can_hold_is_refused_by_its_length(
    byte_level: ModelTokenizer, character: str
) -> None:
    longest = byte_level.max_token_bytes
    assert longest is not None
    fits = longest * VERSION.context_tokens // len(character.encode())
    prompts.check_length(character * fits, byte_level, VERSION, "prompt")
    with pytest.raises(ContextTooLong) as caught:
        prompts.check_length(character * (fits + 1), byte_level, VERSION, "prompt")
    assert caught.value.field == "prompt"


@given(text=st.text())
def test_no_token_has_more_bytes_than_the_longest(byte_level: ModelTokenizer, text: str) -> None:
    assert byte_level.max_token_bytes is not None
    tokens = len(byte_level.encode_rendered(text))
    assert len(text.encode()) <= tokens * byte_level.max_token_bytes


def test_where_bytes_may_be_dropped_no_length_proves_anything(
    metaspace: ModelTokenizer, word_piece: ModelTokenizer, plain: ModelTokenizer
) -> None:
    assert metaspace.max_token_bytes is word_piece.max_token_bytes is plain.max_token_bytes is None
