"""Small tokenizers of encoders: BERT's frame with token types, and Qwen3's formats."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from tests.fakes import tokenizer_files

CLS, SEP = 1, 2
"""The ids of <s> and </s>, which stand for BERT's [CLS] and [SEP]."""
_FRAME = processors.TemplateProcessing(
    single="<s> $A </s>",
    pair="<s> $A </s> $B:1 </s>:1",
    special_tokens=[("<s>", CLS), ("</s>", SEP)],
)
QWEN3_TOKENS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "</think>")


def bert(directory: Path, **files: Any) -> Path:
    """Pairs have token types. files: further JSON files by their names without the ending."""
    tokenizer_files.byte_level(directory, chat_template=None)
    path = str(directory / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.post_processor = _FRAME
    tokenizer.save(path)
    return _with_files(directory, {"config": {"model_type": "bert"}, **files})


def bert_words(directory: Path, vocab_size: int) -> None:
    """Adds the tokenizer of a small BERT to a model's directory."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=tokenizer_files.SPECIAL_TOKENS,
        limit_alphabet=40,
        show_progress=False,
    )
    tokenizer.train_from_iterator(tokenizer_files.CORPUS, trainer)
    tokenizer.post_processor = _FRAME
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def qwen3(directory: Path, *, eos_token_id: int | None = None, **files: Any) -> Path:
    """A tokenizer that adds no special tokens of its own."""
    tokenizer_files.with_special_tokens(
        lambda folder: tokenizer_files.byte_level(folder, chat_template=None),
        directory,
        QWEN3_TOKENS,
        "{{ messages }}",
    )
    config = {"model_type": "qwen3", "eos_token_id": eos_token_id}
    return _with_files(directory, {"config": config, **files})


def _with_files(directory: Path, files: dict[str, Any]) -> Path:
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return directory
