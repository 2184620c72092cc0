"""Runs in separate processes, because imports are permanent."""

import subprocess
import sys
from pathlib import Path

from tests.fakes.tiny_model import write_model

IMPORT = (
    "import sys; from mlxmesh_engine.forward.mlx_lm_import import import_mlx_lm; import_mlx_lm()\n"
)


def run(script: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-c", IMPORT + script, *arguments], check=True, timeout=60)


def test_neither_a_tokenizer_nor_a_hub_client_is_imported() -> None:
    run("assert not {'transformers', 'huggingface_hub', 'tokenizers'} & set(sys.modules)")


def test_a_model_can_still_be_loaded(tmp_path: Path) -> None:
    write_model(tmp_path)
    run(
        "from pathlib import Path; from mlx_lm.utils import load_model\n"
        "model, config = load_model(Path(sys.argv[1]))\n"
        "assert config['model_type'] == 'llama'",
        str(tmp_path),
    )


def test_later_imports_get_the_real_libraries() -> None:
    run(
        "from transformers import PreTrainedTokenizerFast\n"
        "from huggingface_hub import snapshot_download\n"
        "assert PreTrainedTokenizerFast.__module__.startswith('transformers')\n"
        "assert snapshot_download.__module__.startswith('huggingface_hub')"
    )
