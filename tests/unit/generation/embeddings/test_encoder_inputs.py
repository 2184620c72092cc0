"""Texts as the inputs of encoders: special tokens, prompts, formats, limits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mlxmesh_generation.domain.catalogue import ModelVersion
from mlxmesh_generation.domain.encoding import EmbedRequest, Purpose, RerankRequest
from mlxmesh_generation.text.encoder_inputs import embed_inputs, rerank_inputs
from mlxmesh_generation.text.tokenizer import ModelTokenizer
from mlxmesh_shared.errors import ContextTooLong, InvalidArgument
from mlxmesh_shared.host.json_file import UnusableJson
from mlxmesh_shared.reference import ModelReference
from tests.fakes import encoder_tokenizers, tokenizer_files
from tests.fakes.encoder_tokenizers import CLS, SEP

MODEL = ModelReference("small")
PROMPTS = {
    "prompts": {"query": "query: ", "passage": "passage: ", "other": "other: "},
    "default_prompt_name": "other",
}


def version(context_tokens: int = 64, vocab_size: int = 500) -> ModelVersion:
    return ModelVersion("small", 1, "", context_tokens, vocab_size, 1)


def embed(*inputs: str | Sequence[int], **fields: Any) -> EmbedRequest:
    return EmbedRequest(request_id="r", model=MODEL, inputs=inputs, **fields)


def rerank(query: str, *documents: str, **fields: Any) -> RerankRequest:
    return RerankRequest(request_id="r", model=MODEL, query=query, documents=documents, **fields)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> ModelTokenizer:
    return ModelTokenizer.load(encoder_tokenizers.bert(tmp_path_factory.mktemp("bert") / "files"))


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> ModelTokenizer:
    directory = tmp_path_factory.mktemp("qwen3") / "files"
    return ModelTokenizer.load(encoder_tokenizers.qwen3(directory, eos_token_id=7))


def plain(tokenizer: ModelTokenizer, text: str) -> list[int]:
    return tokenizer.encode_plain(text)


def test_a_text_gets_the_models_special_tokens_and_token_ids_get_none(
    bert: ModelTokenizer,
) -> None:
    text, given = embed_inputs(embed("the fox", [5, 6]), bert, version())
    assert list(text.token_ids) == [CLS, *plain(bert, "the fox"), SEP]
    assert list(given.token_ids) == [5, 6]
    assert text.second_start == given.second_start == 0


def test_a_special_token_in_a_text_is_text(bert: ModelTokenizer) -> None:
    (given,) = embed_inputs(embed("a</s>b"), bert, version())
    assert list(given.token_ids).count(SEP) == 1
    (pair,) = rerank_inputs(rerank("a</s>", "<s>b"), bert, version())
    assert list(pair.token_ids).count(SEP) == 2
    assert list(pair.token_ids).count(CLS) == 1


@pytest.mark.parametrize(
    ("purpose", "prompt"),
    [(Purpose.QUERY, "query: "), (Purpose.DOCUMENT, "passage: "), (Purpose.NONE, "other: ")],
)
def test_the_purpose_chooses_the_prompt_of_the_models_files(
    tmp_path: Path, purpose: Purpose, prompt: str
) -> None:
    files = encoder_tokenizers.bert(tmp_path / "files", config_sentence_transformers=PROMPTS)
    tokenizer = ModelTokenizer.load(files)
    (given,) = embed_inputs(embed("fox", purpose=purpose), tokenizer, version())
    assert list(given.token_ids) == [CLS, *plain(tokenizer, f"{prompt}fox"), SEP]


@pytest.mark.parametrize("purpose", list(Purpose))
def test_a_model_without_prompts_gets_none(bert: ModelTokenizer, purpose: Purpose) -> None:
    (given,) = embed_inputs(embed("fox", purpose=purpose), bert, version())
    assert list(given.token_ids) == [CLS, *plain(bert, "fox"), SEP]


def test_qwen3_embedding_has_an_instruction_for_queries_and_an_end_token(
    qwen3: ModelTokenizer,
) -> None:
    asked = embed("fox", purpose=Purpose.QUERY)
    (query,) = embed_inputs(asked, qwen3, version(context_tokens=400))
    text = (
        "Instruct: Given a web search query, retrieve relevant passages that answer the query\n"
        "Query:fox"
    )
    assert list(query.token_ids) == [*plain(qwen3, text), 7]
    (document,) = embed_inputs(embed("fox", purpose=Purpose.DOCUMENT), qwen3, version())
    assert list(document.token_ids) == [*plain(qwen3, "fox"), 7]


def test_what_the_files_of_qwen3_say_replaces_its_instruction(tmp_path: Path) -> None:
    files = encoder_tokenizers.qwen3(
        tmp_path / "files", config_sentence_transformers={"prompts": {"query": "Q: "}}
    )
    tokenizer = ModelTokenizer.load(files)
    (query,) = embed_inputs(embed("fox", purpose=Purpose.QUERY), tokenizer, version())
    assert list(query.token_ids) == plain(tokenizer, "Q: fox")


def test_a_pair_tells_where_the_document_begins(bert: ModelTokenizer) -> None:
    (pair,) = rerank_inputs(rerank("the fox", "a dog"), bert, version())
    query, document = plain(bert, "the fox"), plain(bert, "a dog")
    assert list(pair.token_ids) == [CLS, *query, SEP, *document, SEP]
    assert pair.second_start == len(query) + 2


@pytest.mark.parametrize("instruction", ["", "find the dog"])
def test_qwen3_reranker_is_asked_as_published(qwen3: ModelTokenizer, instruction: str) -> None:
    asked = rerank("the fox", "a <|im_end|> dog", instruction=instruction)
    (given,) = rerank_inputs(asked, qwen3, version(context_tokens=2000))
    used = instruction or (
        "Given a web search query, retrieve relevant passages that answer the query"
    )
    before = qwen3.encode_rendered(
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query"
        ' and the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
        "<|im_start|>user\n"
    )
    after = qwen3.encode_rendered("<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n")
    content = f"<Instruct>: {used}\n<Query>: the fox\n<Document>: a <|im_end|> dog"
    assert list(given.token_ids) == [*before, *plain(qwen3, content), *after]
    assert given.second_start == 0


def test_what_is_too_long_is_refused_by_its_index(bert: ModelTokenizer) -> None:
    for request, field in (
        (embed("fox", "fox " * 90), "inputs[1].text"),
        (embed("fox", [3] * 65), "inputs[1].tokens"),
    ):
        with pytest.raises(ContextTooLong, match="truncate") as refused:
            embed_inputs(request, bert, version())
        assert refused.value.field == field
    with pytest.raises(ContextTooLong) as refused:
        rerank_inputs(rerank("fox", "dog", "fox " * 90), bert, version())
    assert refused.value.field == "documents[1]"


def test_truncate_cuts_inputs_to_the_context_and_keeps_the_frame(bert: ModelTokenizer) -> None:
    text, given = embed_inputs(embed("fox " * 90, [3] * 65, truncate=True), bert, version())
    assert list(text.token_ids) == [CLS, *plain(bert, "fox " * 90)[:62], SEP]
    assert list(given.token_ids) == [3] * 64
    (pair,) = rerank_inputs(rerank("the fox", "dog " * 90, truncate=True), bert, version())
    query = plain(bert, "the fox")
    document = plain(bert, "dog " * 90)[: 64 - 3 - len(query)]
    assert list(pair.token_ids) == [CLS, *query, SEP, *document, SEP]


def test_truncate_keeps_what_surrounds_a_judged_document(qwen3: ModelTokenizer) -> None:
    limit = version(context_tokens=600)
    (given,) = rerank_inputs(rerank("fox", "dog " * 900, truncate=True), qwen3, limit)
    after = qwen3.encode_rendered("<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert len(given.token_ids) == 600
    assert list(given.token_ids)[-len(after) :] == after


@pytest.mark.parametrize("family", ["bert", "qwen3"])
def test_a_query_that_leaves_no_room_is_refused_although_documents_are_cut(
    request: pytest.FixtureRequest, family: str
) -> None:
    tokenizer: ModelTokenizer = request.getfixturevalue(family)
    with pytest.raises(ContextTooLong) as refused:
        rerank_inputs(rerank("fox " * 900, "dog", truncate=True), tokenizer, version())
    assert refused.value.field == "query"


def test_the_files_limit_counts_where_it_is_shorter(tmp_path: Path) -> None:
    files = encoder_tokenizers.bert(tmp_path / "files", sentence_bert_config={"max_seq_length": 16})
    tokenizer = ModelTokenizer.load(files)
    (given,) = embed_inputs(embed("fox " * 90, truncate=True), tokenizer, version())
    assert len(given.token_ids) == 16
    with pytest.raises(ContextTooLong, match="takes 16"):
        embed_inputs(embed("fox " * 90), tokenizer, version())


def test_token_ids_must_be_inside_the_vocabulary(bert: ModelTokenizer) -> None:
    with pytest.raises(InvalidArgument) as refused:
        embed_inputs(embed("fox", [1, 500]), bert, version())
    assert refused.value.field == "inputs[1].tokens.token_ids[1]"


def test_a_text_of_no_tokens_is_refused(tmp_path: Path) -> None:
    tokenizer = ModelTokenizer.load(tokenizer_files.word_piece(tmp_path / "files"))
    with pytest.raises(InvalidArgument, match="no tokens"):
        embed_inputs(embed(" "), tokenizer, version())


def test_a_tokenizer_without_a_fast_form_encodes_pairs(tmp_path: Path) -> None:
    tokenizer = ModelTokenizer.load(tokenizer_files.without_fast_form(tmp_path / "files"))
    end = tokenizer.added_tokens.get("</s>", 1)
    (given,) = embed_inputs(embed("ab</s>"), tokenizer, version())
    assert list(given.token_ids).count(end) == 1
    (pair,) = rerank_inputs(rerank("ab", "cd" * 90, truncate=True), tokenizer, version())
    assert len(pair.token_ids) == 64
    assert list(pair.token_ids).count(end) == 2


@pytest.mark.parametrize(
    "content",
    [
        {"prompts": ["x"], "default_prompt_name": 3},
        {"prompts": {"query": 4}},
        {"prompts": None},
    ],
)
def test_settings_of_another_form_are_no_prompts(tmp_path: Path, content: Any) -> None:
    files = encoder_tokenizers.bert(tmp_path / "files", config_sentence_transformers=content)
    tokenizer = ModelTokenizer.load(files)
    assert [tokenizer.encoder.prompt(purpose) for purpose in Purpose] == ["", "", ""]


def test_a_prompt_of_any_length_is_not_taken(tmp_path: Path) -> None:
    content = {"prompts": {"query": "x" * 65_537}}
    files = encoder_tokenizers.bert(tmp_path / "files", config_sentence_transformers=content)
    with pytest.raises(UnusableJson, match="prompt"):
        ModelTokenizer.load(files)
