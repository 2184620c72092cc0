"""SentencePiece vocabularies from a GGUF file's metadata, against SentencePiece itself."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxmesh_model.gguf.metadata import BadFile, Metadata
from mlxmesh_model.gguf.tokenizer import GgufTokenizer

RECORDED = json.loads((Path(__file__).parents[2] / "data/llama_cpp_tokens.json").read_text())
TEXTS = [text for text in RECORDED["texts"] if text.strip() and "<|" not in text]


@pytest.fixture(scope="module")
def processor() -> Any:
    """A BPE vocabulary with byte fallback, trained on this project's own words."""
    import sentencepiece

    root = Path(__file__).parents[3]
    lines = [line for path in sorted(root.glob("*.md")) for line in path.read_text().splitlines()]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for line in lines if line] + TEXTS),
        model_writer=model,
        vocab_size=1500,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=0.99,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def metadata(processor: Any, **changes: Any) -> Metadata:
    ids = range(processor.get_piece_size())
    types = [
        2 if processor.is_unknown(i) else 3 if processor.is_control(i)
        else 6 if processor.is_byte(i) else 1
        for i in ids
    ]  # fmt: skip
    values = {
        "model": "llama",
        "tokens": [processor.id_to_piece(i) for i in ids],
        "scores": np.array([processor.get_score(i) for i in ids], np.float32),
        "token_type": np.array(types, np.int32),
        "unknown_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return Metadata({f"tokenizer.ggml.{k}": v for k, v in (values | changes).items()})


def test_its_tokens_equal_those_of_sentencepiece(processor):
    tokenizer = GgufTokenizer(metadata(processor)).build()
    for text in TEXTS:
        assert tokenizer.encode(text, add_special_tokens=False).ids == processor.encode(text), text
        assert tokenizer.encode(text).ids[0] == 1
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_without_a_prefix_space(processor):
    tokenizer = GgufTokenizer(metadata(processor, add_space_prefix=False)).build()
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.encode("the", add_special_tokens=False).tokens[0] != "\u2581the"


def test_special_tokens_are_matched_as_a_whole(processor):
    tokenizer = GgufTokenizer(metadata(processor, add_bos_token=False)).build()
    assert tokenizer.encode("a</s>b").ids.count(2) == 1
    assert GgufTokenizer(metadata(processor)).end_token_ids() == [2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": np.zeros(3, np.float32)}, "scores"),
        ({"scores": np.full(1500, np.nan, np.float32)}, "scores"),
        ({"tokens": ["a", "a"]}, "twice"),
        ({"tokens": ["x" * 2000]}, "1024 characters"),
        ({"add_bos_token": 1}, "neither true nor false"),
        ({"bos_token_id": -1}, "bos_token_id"),
    ],
)
def test_inconsistent_metadata_is_rejected_by_its_key(processor, changes, message):
    with pytest.raises(BadFile, match=message):
        GgufTokenizer(metadata(processor, **changes)).build()
