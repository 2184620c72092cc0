"""A Llama of about 4 M random parameters with a tokenizer: enough to measure what serving costs."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Literal

from tokenizers import Tokenizer

VOCAB = 4096
SPACE = "Ġ"
"""How a byte-level vocabulary spells a leading space."""
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "intermediate_size": 640,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-5,
    "vocab_size": VOCAB,
    "max_position_embeddings": 16384,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "eos_token_id": 0,
    "torch_dtype": "bfloat16",
}


def write_model(directory: Path, *, dtype: Literal["bfloat16", "float32"] = "bfloat16") -> None:
    """Write the model, the same on every run: bfloat16 weights, in float32 only held wider.

    Greedy decoding gives only tokens that begin with a space, and never the end: the embeddings,
    which are also the output rows, of all others are 0. So no detokenizer holds text back. (A
    prompt of only such others has nothing to go by, and gets the end token.)
    """
    import mlx.core as mx
    from mlx.utils import tree_flatten, tree_map
    from mlx_lm.models.llama import Model, ModelArgs

    directory.mkdir(parents=True, exist_ok=True)
    mx.random.seed(0)
    model = Model(ModelArgs.from_dict(CONFIG))
    weights = dict(
        tree_flatten(tree_map(lambda array: array.astype(mx.bfloat16), model.parameters()))
    )
    tokenizer = _tokenizer()
    silent = [number for token, number in tokenizer.get_vocab().items() if token[0] != SPACE]
    weights["model.embed_tokens.weight"][mx.array(silent)] = 0
    held = {name: array.astype(getattr(mx, dtype)) for name, array in weights.items()}
    mx.save_safetensors(str(directory / "model.safetensors"), held, metadata={"format": "mlx"})
    (directory / "config.json").write_text(json.dumps(CONFIG | {"torch_dtype": dtype}))
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))


def _tokenizer() -> Tokenizer:
    from tokenizers import decoders, models, pre_tokenizers, trainers

    generator = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(generator.choices(letters, k=generator.randint(2, 9))) for _ in range(20_000)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=["<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(words)], trainer)
    return tokenizer


def prompts(count: int, tokens: int, *, seed: int) -> list[list[int]]:
    """Random prompts of token ids, none of them special."""
    generator = random.Random(seed)
    return [[generator.randrange(1, VOCAB) for _ in range(tokens)] for _ in range(count)]


if __name__ == "__main__":
    write_model(Path(sys.argv[1]))
