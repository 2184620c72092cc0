"""The two model sizes, and how weights become an mlx-lm model directory."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
from chat import END, PAD, TEMPLATE_PATH
from mlx.utils import tree_flatten
from mlx_lm.models.llama import Model, ModelArgs
from tokenizers import Tokenizer

HERE = Path(__file__).parent
CHECKPOINTS = Path(tempfile.gettempdir()) / "demo-model"  # Large and short-lived.
TOKENIZER_PATH = HERE / "tokenizer.json"
# hidden size, layers, feed-forward size, attention heads
SIZES = {"pocket": (160, 4, 432, 5), "pocket-mini": (160, 2, 432, 5)}


def config(size: str, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the config.json of a size."""
    hidden, layers, feed_forward, heads = SIZES[size]
    end = tokenizer.token_to_id(END)
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "intermediate_size": feed_forward,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": hidden // heads,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "vocab_size": tokenizer.get_vocab_size(),
        "max_position_embeddings": 16384,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "eos_token_id": end,
        "pad_token_id": tokenizer.token_to_id(PAD),
        "torch_dtype": "bfloat16",
    }


def new_model(size: str, tokenizer: Tokenizer) -> Model:
    """Return a model of the size with small random weights, in float32."""
    model = Model(ModelArgs.from_dict(config(size, tokenizer)))
    embedding = model.model.embed_tokens
    embedding.weight = mx.random.normal(embedding.weight.shape) * 0.05
    return model


def export(size: str, weights: dict[str, Any], folder: Path) -> None:
    """Write the complete model directory, its weights in bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(str(TOKENIZER_PATH))
    shutil.copyfile(TOKENIZER_PATH, folder / "tokenizer.json")
    shutil.copyfile(TEMPLATE_PATH, folder / "chat_template.jinja")
    settings = config(size, tokenizer)
    _write(folder / "config.json", settings)
    ends = {name: settings[name] for name in ("eos_token_id", "pad_token_id")}
    _write(folder / "generation_config.json", ends)
    _write(folder / "tokenizer_config.json", _tokenizer_config())
    flat = cast(list[tuple[str, mx.array]], tree_flatten(weights))
    half = {name: value.astype(mx.bfloat16) for name, value in flat}
    mx.save_safetensors(str(folder / "model.safetensors"), half, metadata={"format": "mlx"})


def _tokenizer_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 16384,
        "chat_template": TEMPLATE_PATH.read_text(),
    }


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
