"""One model over several ranks: the tokens of one process, and no rank outlives another."""

import asyncio
import contextlib
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxmesh.engine.v1 import engine_pb2
from mlxmesh_engine.forward.loader import read_model
from mlxmesh_engine.groups.sharding import choose_split, divide, possible_sizes
from mlxmesh_engine.scheduling.request import Sampling
from mlxmesh_shared.errors import FeatureNotSupported, InvalidArgument, MeshError
from tests.fakes.group_engines import PATIENT_S, Group, group, spawned, submit
from tests.fakes.group_outputs import assert_same
from tests.fakes.tiny_model import VOCAB_SIZE, write_model
from tests.matrix.examination import write_architecture

pytestmark = pytest.mark.timeout(300)
_CANCELLED = engine_pb2.ENGINE_FINISH_REASON_CANCELLED


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its heads can be divided by two and by three."""
    path = tmp_path_factory.mktemp("divisible")
    return write_model(path, hidden=96, num_attention_heads=6, num_key_value_heads=6)


def text(number: int, tokens: int) -> tuple[int, ...]:
    draw = np.random.default_rng(number).integers(3, VOCAB_SIZE, tokens)
    return tuple(int(token) for token in draw)


@pytest.mark.parametrize("size", [2, 3])
async def test_a_group_generates_the_tokens_of_one_process(model: Path, size: int) -> None:
    prompts = [text(number, tokens) for number, tokens in enumerate((3, 40, 150), 1)]
    async with group(model, size) as ranks:
        greedy = await ranks.run(*(submit(at, prompt) for at, prompt in enumerate(prompts, 1)))
        assert_same(model, prompts, Sampling(), [*greedy.values()])

        warm = await ranks.results(*(submit(at, each) for at, each in enumerate(prompts, 1)))
        assert [result.cached_tokens for result in warm.values()] == [0, 32, 128]
        assert [result.tokens for result in warm.values()] == [*greedy.values()]

        seeds = [submit(at, each, seed=7) for at, each in enumerate(prompts, 1)]
        seeded = await ranks.run(*seeds)
        assert_same(model, prompts, Sampling(temperature=1.0, seed=7), [*seeded.values()])

        await _cancels(ranks)
        scored = submit(1, prompts[1])
        scored.logprobs.prompt = True
        copied = submit(2, prompts[1])
        copied.shares_prefill_of = 1
        results = await ranks.results(scored, copied)
        assert len(results[1].prompt_logprobs) == len(prompts[1]) - 1
        assert results[1].tokens == results[2].tokens == greedy[2]

        ranks.ranks[0].process.terminate()
        assert [await rank.ended() for rank in ranks.ranks] == [0] * size
        for rank in ranks.ranks:
            assert "Traceback" not in await rank.errors()


@pytest.fixture(scope="module")
def layered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture of experts with low-rank attention, and a layer for each of three ranks."""
    path = tmp_path_factory.mktemp("layered")
    return write_architecture(path, "deepseek_v3", num_hidden_layers=3, vocab_size=VOCAB_SIZE)


@pytest.mark.parametrize("size", [2, 3])
async def test_a_group_divided_by_layers_generates_the_tokens_of_one_process(
    layered: Path, size: int
) -> None:
    prompts = [text(number, tokens) for number, tokens in enumerate((3, 40, 150), 1)]
    async with group(layered, size, "--group-split", "pipeline") as ranks:
        greedy = await ranks.run(*(submit(at, prompt) for at, prompt in enumerate(prompts, 1)))
        assert_same(layered, prompts, Sampling(), [*greedy.values()])

        warm = await ranks.results(*(submit(at, each) for at, each in enumerate(prompts, 1)))
        assert [result.cached_tokens for result in warm.values()] == [0, 32, 128]
        assert_same(layered, prompts, Sampling(), [result.tokens for result in warm.values()])

        seeds = [submit(at, each, seed=7) for at, each in enumerate(prompts, 1)]
        seeded = await ranks.run(*seeds)
        assert_same(layered, prompts, Sampling(temperature=1.0, seed=7), [*seeded.values()])
        await _cancels(ranks, max_tokens=300)
        scored = submit(1, prompts[1])
        scored.logprobs.prompt = True
        results = await ranks.results(scored, submit(2, prompts[2]))
        assert len(results[1].prompt_logprobs) == len(prompts[1]) - 1
        assert results[1].tokens == greedy[2]

        ranks.ranks[-1].process.terminate()
        assert [await rank.ended() for rank in ranks.ranks] == [0] * size
        for rank in ranks.ranks:
            assert "Traceback" not in await rank.errors()


@pytest.mark.parametrize("counts", [[1, 3], [1, 2, 1]], ids=str)
async def test_ranks_with_unequal_shares_generate_the_tokens_of_one_process(
    tmp_path: Path, counts: list[int]
) -> None:
    layers = sum(counts)
    model = write_architecture(
        tmp_path / "model", "deepseek_v3", num_hidden_layers=layers, vocab_size=VOCAB_SIZE
    )
    shares = [count * 1_000_000 // layers for count in counts]
    prompts = [text(number, tokens) for number, tokens in enumerate((3, 40, 150), 1)]
    async with group(model, len(counts), "--group-split", "pipeline", shares=shares) as ranks:
        greedy = await ranks.run(*(submit(at, prompt) for at, prompt in enumerate(prompts, 1)))
        assert_same(model, prompts, Sampling(), [*greedy.values()])
        ranks.ranks[0].process.terminate()
        for rank in ranks.ranks:
            assert await rank.ended() == 0
            assert f"layers by rank: {', '.join(map(str, counts))}" in await rank.errors()


_FULL, _SLIDING = "full_attention", "sliding_attention"
_WINDOWS = {"layer_types": [_FULL, _SLIDING, _SLIDING, _FULL], "sliding_window": 32}


@pytest.mark.parametrize(
    ("name", "split", "changes"),
    [
        ("qwen3_5", "pipeline", {}),
        ("qwen3_5", "tensor", {}),
        ("gpt_oss", "tensor", {}),
        ("llama", "pipeline", _WINDOWS),
    ],
)
async def test_a_model_with_layers_of_several_kinds_is_divided(
    tmp_path: Path, name: str, split: str, changes: dict[str, Any]
) -> None:
    changes = {"num_hidden_layers": 4, "vocab_size": VOCAB_SIZE, **changes}
    model = write_architecture(tmp_path / name, name, **changes)
    prompts = [text(number, tokens) for number, tokens in enumerate((3, 40, 150), 1)]
    async with group(model, 2, "--group-split", split) as ranks:
        for _ in range(2):
            greedy = await ranks.run(*(submit(at, each) for at, each in enumerate(prompts, 1)))
            assert_same(model, prompts, Sampling(), [*greedy.values()])


async def test_a_rank_with_some_layers_is_lost_like_any_other(layered: Path) -> None:
    async with group(layered, 2, "--group-split", "pipeline", silence_s="1.5") as ranks:
        begun = asyncio.Event()
        endless = submit(1, text(1, 8), max_tokens=400)
        running = asyncio.create_task(ranks.results(endless, begun=begun))
        await begun.wait()
        ranks.ranks[1].process.kill()
        assert await ranks.ranks[0].ended() != 0
        with pytest.raises(MeshError):
            await running


@pytest.mark.parametrize(
    ("name", "layers", "why"),
    [
        ("deepseek_v3", 1, "1 layers, too few for 2 ranks with pipeline; set --group 1"),
        ("qwen3_5", 2, "the mix of layers of rank 1 differs"),
    ],
)
async def test_layers_that_cannot_be_divided_are_refused(
    tmp_path: Path, name: str, layers: int, why: str
) -> None:
    model = write_architecture(tmp_path / "model", name, num_hidden_layers=layers)
    common = ("--model-dir", str(model), "--group-size", "2", "--group-split", "pipeline")
    async with spawned(*common) as leader:
        place = ("--group-rank", "1", "--group-leader", await leader.report("group_address"))
        async with spawned(*common, *place, "--group-silence-s", PATIENT_S):
            assert await leader.report("permanent") is True
            assert why in leader.reports[-1]["message"]


async def _cancels(ranks: Group, max_tokens: int = 1900) -> None:
    call = ranks.stub.Execute()
    endless = submit(1, text(9, 20), max_tokens=max_tokens)
    await call.write(engine_pb2.ExecuteRequest(submit=endless))
    reasons: list[int] = []
    async for response in call:
        for output in response.outputs:
            if output.token_ids and not reasons:
                cancel = engine_pb2.Cancel(sequence_ids=[1])
                await call.write(engine_pb2.ExecuteRequest(cancel=cancel))
                await call.done_writing()
                reasons.append(0)
            if output.finish_reason:
                reasons.append(output.finish_reason)
    assert reasons[-1] == _CANCELLED


@pytest.mark.parametrize(
    ("size", "victim", "how"),
    [
        (3, 2, signal.SIGKILL),
        (2, 0, signal.SIGKILL),
        (3, 1, signal.SIGSTOP),
        (2, 0, signal.SIGSTOP),
    ],
    ids=["follower killed", "leader killed", "follower frozen", "leader frozen"],
)
async def test_no_rank_outlives_another(
    model: Path, size: int, victim: int, how: signal.Signals
) -> None:
    async with group(model, size, silence_s="1.5") as ranks:
        begun = asyncio.Event()
        endless = submit(1, text(1, 8), max_tokens=1900)
        running = asyncio.create_task(ranks.results(endless, begun=begun))
        await begun.wait()  # so that the ring has exchanges under way
        process = ranks.ranks[victim].process
        process.send_signal(how)
        for rank in ranks.ranks:
            if rank.process is not process:
                assert await rank.ended() != 0
        if how is signal.SIGSTOP:
            process.send_signal(signal.SIGCONT)
            assert await ranks.ranks[victim].ended() != 0
        with contextlib.suppress(MeshError):  # a frozen rank may be the one that served it
            await running
            raise AssertionError("a stream ended without an error")


async def test_a_rank_that_is_frozen_while_a_group_starts_ends_the_start(model: Path) -> None:
    common = ("--model-dir", str(model), "--group-size", "3", "--group-silence-s", PATIENT_S)
    common = (*common, "--group-start-silence-s", "2")
    async with spawned(*common) as leader:
        place = ("--group-leader", await leader.report("group_address"), "--group-rank")
        async with spawned(*common, *place, "1") as frozen:
            await leader.says("rank 1 joined")
            frozen.process.send_signal(signal.SIGSTOP)
            # The start begins with the last rank.
            async with spawned(*common, *place, "2") as last:
                assert await leader.ended() != 0
                assert await last.ended() != 0
                assert not any("address" in report for report in leader.reports)
                frozen.process.send_signal(signal.SIGCONT)
                assert await frozen.ended() != 0


async def test_a_follower_that_is_asked_to_stop_lets_the_group_drain(model: Path) -> None:
    async with group(model, 2) as ranks:
        ranks.ranks[1].process.terminate()
        assert [await rank.ended() for rank in ranks.ranks] == [0, 0]


async def test_heads_that_cannot_be_divided_are_refused(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", num_key_value_heads=1)
    async with spawned("--model-dir", str(model), "--group-size", "2") as leader:
        joining = await leader.report("group_address")
        place = ("--group-size", "2", "--group-rank", "1", "--group-leader", joining)
        async with spawned("--model-dir", str(model), *place, "--group-silence-s", PATIENT_S):
            assert await leader.report("permanent") is True
            assert "cannot be divided among 2 ranks" in leader.reports[-1]["message"]
            assert await leader.ended() != 0


class Three:
    """The ring of three ranks, as its first one sees it before anything is computed."""

    def size(self) -> int:
        return 3

    def rank(self) -> int:
        return 0


class Two(Three):
    def size(self) -> int:
        return 2


@pytest.mark.parametrize(
    ("name", "changes", "instead"),
    [
        (
            "llama",
            {},
            "it has 4 attention heads; "
            "use --group 2, or --group 2 or less with --group-split pipeline",
        ),
        ("llama", {"num_hidden_layers": 3}, "; use --group 2, or --group-split pipeline"),
        ("llama", {"num_key_value_heads": 1, "num_hidden_layers": 1}, "; set --group 1"),
        ("exaone_moe", {}, "; use --group 2"),
    ],
)
def test_sizes_that_cannot_be_divided_are_refused_with_what_is_possible(
    tmp_path: Path, name: str, changes: dict[str, Any], instead: str
) -> None:
    model, _ = read_model(write_architecture(tmp_path / "model", name, **changes))
    with pytest.raises(InvalidArgument, match=f"among 3 ranks with tensor: .*{instead}$"):
        divide(model, Three())


def test_smollm2_can_be_divided_by_three_or_by_layers(tmp_path: Path) -> None:
    """Its heads, in layers that are smaller than its own; packed, as its file is."""
    model = write_model(
        tmp_path, hidden=288, num_attention_heads=9, num_key_value_heads=3, layers=3, bits=4
    )
    whole, _ = read_model(model)
    assert possible_sizes(whole) == [3]
    divided, _ = read_model(model)
    divide(divided, Three())
    with pytest.raises(InvalidArgument) as refusal:
        divide(whole, Two())
    assert refusal.value.message == (
        "this llama model cannot be divided among 2 ranks with tensor: it has 9 attention heads; "
        "use --group 3, or --group-split pipeline"
    )


def test_an_architecture_that_was_not_compared_is_refused_by_name(tmp_path: Path) -> None:
    model, _ = read_model(write_architecture(tmp_path / "model", "gemma2"))
    with pytest.raises(FeatureNotSupported, match="architecture gemma2"):
        choose_split(model, "auto")


@pytest.mark.parametrize(
    ("name", "wanted", "chosen"),
    [
        ("llama", "auto", "tensor"),
        ("llama", "pipeline", "pipeline"),
        ("deepseek_v3", "auto", "tensor"),
        ("deepseek_v3", "tensor", "tensor"),
        ("deepseek_v3", "pipeline", "pipeline"),
        ("qwen3_next", "auto", "pipeline"),
    ],
)
def test_layers_are_divided_where_heads_cannot_be(
    tmp_path: Path, name: str, wanted: str, chosen: str
) -> None:
    model, _ = read_model(write_architecture(tmp_path / "model", name))
    assert choose_split(model, wanted) == chosen


@pytest.mark.parametrize(
    ("name", "wanted", "instead"),
    [("gpt_oss", "pipeline", "tensor"), ("qwen3_next", "tensor", "pipeline")],
)
def test_a_division_that_was_not_compared_is_refused_by_name(
    tmp_path: Path, name: str, wanted: str, instead: str
) -> None:
    model, _ = read_model(write_architecture(tmp_path / "model", name))
    with pytest.raises(FeatureNotSupported, match=f"{wanted} .* {name}; set it to {instead}"):
        choose_split(model, wanted)


async def test_ranks_with_different_files_are_refused(model: Path, tmp_path: Path) -> None:
    other = write_model(
        tmp_path / "other", hidden=96, num_attention_heads=6, num_key_value_heads=6, seed=1
    )
    async with spawned("--model-dir", str(model), "--group-size", "2") as leader:
        joining = await leader.report("group_address")
        place = ("--group-size", "2", "--group-rank", "1", "--group-leader", joining)
        async with spawned("--model-dir", str(other), *place):
            assert await leader.report("permanent") is True
            assert "the model's directory of rank 1 differs" in json.dumps(leader.reports[-1])
