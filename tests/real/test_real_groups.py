"""SmolLM2 in two and three ranks: the tokens of one process."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from mlxmesh_engine.scheduling.request import Sampling
from mlxmesh_model.gguf.conversion import convert
from tests.fakes.group_engines import group, submit
from tests.fakes.group_outputs import assert_same

TEXTS = ("The capital of France is", "Once upon a time there was a fox who")


@pytest.fixture(scope="module")
def model(gguf_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4-bit, which engines on CPUs expand to float32."""
    path = tmp_path_factory.mktemp("groups") / "packed"
    convert(gguf_file, path, None, lambda done, total: None)
    return path


@pytest.mark.parametrize("size", [2, 3])
async def test_ranks_generate_the_tokens_of_one_process(model: Path, size: int) -> None:
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    prompts = [tuple(tokenizer.encode(text).ids) for text in TEXTS]
    async with group(model, size, "--group-split", "pipeline") as ranks:
        tokens = await ranks.run(*(submit(at, each) for at, each in enumerate(prompts, 1)))
    assert_same(model, prompts, Sampling(), [*tokens.values()])
