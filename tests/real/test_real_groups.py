"""SmolLM2 in two ranks: the tokens of one process."""

from pathlib import Path

from tokenizers import Tokenizer

from mlxmesh_engine.scheduling.request import Sampling
from mlxmesh_model.gguf.conversion import convert
from tests.fakes.group_engines import group, submit
from tests.fakes.group_outputs import assert_same

TEXTS = ("The capital of France is", "Once upon a time there was a fox who")


async def test_two_ranks_generate_the_tokens_of_one_process(
    gguf_file: Path, tmp_path: Path
) -> None:
    # 4-bit, which engines on CPUs expand to float32.
    model = tmp_path / "packed"
    convert(gguf_file, model, None, lambda done, total: None)
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    prompts = [tuple(tokenizer.encode(text).ids) for text in TEXTS]
    async with group(model, 2, "--group-split", "pipeline") as ranks:
        tokens = await ranks.run(*(submit(at, each) for at, each in enumerate(prompts, 1)))
    assert_same(model, prompts, Sampling(), [*tokens.values()])
