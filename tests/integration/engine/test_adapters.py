"""Sequences with LoRA adapters: every token is mlx-lm's own with the adapter fused."""

import contextlib
import gc
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxmesh_engine.forward.loader import LoadedModel
from mlxmesh_engine.scheduling.request import AdapterSource, GrammarKind, LogprobOptions
from mlxmesh_shared.errors import AdapterInvalid, AdapterNotFound
from mlxmesh_shared.lora.adapter_files import read_adapter
from tests.fakes.adapter_rig import (
    Adapter,
    check,
    loaded_scores,
    request,
    write_adapter,
    write_source,
)
from tests.fakes.constrained_rig import ConstrainedRig, constrained, write_text_model
from tests.fakes.engine_rig import STREAM, Rig, load_model
from tests.fakes.failing_forward import FailingForward
from tests.fakes.lora_adapters import random_layers, write_mlx_lm
from tests.fakes.speculation import RandomSpeculation
from tests.fakes.tiny_model import EOS, mx, write_model
from tests.matrix.configs import VOCAB_SIZE
from tests.matrix.examination import Reference, prompt, write_architecture

_Q = "model.layers.0.self_attn.q_proj"


@dataclass(frozen=True)
class Served:
    """A loaded model and two adapters of it."""

    model_dir: Path
    loaded: LoadedModel
    base: Reference
    one: Adapter
    two: Adapter

    @property
    def mixed(self) -> list[tuple[tuple[int, ...], Adapter | None]]:
        """Rows with and without adapters, some with equal prompts."""
        which = [None, self.one, self.two, self.one, None, self.two]
        return [(prompt(at % 3, 20 + at % 4), adapter) for at, adapter in enumerate(which)]


def _serve(folder: Path, model_dir: Path, *, fused: bool = True, **options: Any) -> Served:
    return Served(
        model_dir,
        load_model(model_dir, **options),
        Reference(model_dir),
        write_adapter(folder / "one", model_dir, seed=1, fused=fused),
        write_adapter(folder / "two", model_dir, seed=2, rank=7, peft=True, fused=fused),
    )


_CASES = {
    "llama, own pass": ("llama", {}),
    "llama, mlx-lm's pass": ("llama", {"cpu_forward": False}),
    "qwen3": ("qwen3", {}),
    "gemma3, windowed": ("gemma3_text", {}),
    "gemma3, mlx-lm's pass": ("gemma3_text", {"cpu_forward": False}),
    "qwen2_moe, own pass": ("qwen2_moe", {}),
    "internlm2, heads in groups": ("internlm2", {}),
    "mamba": ("mamba", {}),
    "jamba": ("jamba", {}),
    "4 bits, expanded": ("4bit", {"dtype": "float32"}),
    "4 bits": ("4bit", {"dtype": "as_shipped"}),
}


@pytest.fixture(scope="module", params=_CASES)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Served:
    architecture, options = _CASES[request.param]
    folder = tmp_path_factory.mktemp("adapters")
    if architecture == "4bit":
        model_dir = write_model(folder / "model", bits=4, vocab_size=VOCAB_SIZE, eos_token_id=1)
        return _serve(folder, model_dir, fused=False, **options)
    return _serve(folder, write_architecture(folder / "model", architecture), **options)


def test_each_alone(served: Served):
    for adapter in (served.one, served.two):
        row = (prompt(0, 20), adapter)
        assert adapter.reference.tokens(row[0]) != served.base.tokens(row[0])
        check(Rig(served.loaded), [row], served.base)


def test_rows_with_different_adapters_and_none(served: Served):
    check(Rig(served.loaded), served.mixed, served.base)


def test_prefixes_are_not_shared_between_adapters(served: Served):
    rig, shared = Rig(served.loaded, prefix_cache_bytes=2**26), prompt(7, 64)
    for adapter in (served.one, None, served.two):
        check(rig, [(shared + prompt(8, 4), adapter)], served.base)
        assert rig.loop.cached_prompt_tokens == 0
    check(rig, [(shared + prompt(9, 4), each) for each in (served.two, None)], served.base)


def test_resumed_in_mid_stream(served: Served):
    for adapter in (served.one, served.two):
        tokens = tuple(adapter.reference.tokens(prompt(3, 22))[:3])
        check(Rig(served.loaded), [(prompt(3, 22), adapter)], served.base, generated=tokens)


def test_rows_without_adapters_are_bit_for_bit_what_they_are_in_any_batch(served: Served):
    rig = Rig(served.loaded)
    for number, adapter in enumerate((served.one, served.two), 1):
        check(rig, [(prompt(0, 20), adapter)], served.base)
        assert len(rig.adapters.digests) == number
    prompts = [prompt(at, 12) for at in range(4)]
    without = loaded_scores(served.loaded, prompts, ())
    beside = loaded_scores(served.loaded, prompts, (0, 1, 0, 2))
    for at in (0, 2):
        assert np.array_equal(np.array(without[at]), np.array(beside[at]))
    for at in (1, 3):
        assert not np.array_equal(np.array(without[at]), np.array(beside[at]))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Served:
    folder = tmp_path_factory.mktemp("llama")
    model_dir = write_architecture(folder / "model", "llama")
    return _serve(folder, model_dir, cpu_forward=False)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Served:
    folder = tmp_path_factory.mktemp("own")
    return _serve(folder, write_architecture(folder / "model", "llama"))


@pytest.fixture(params=["own", "llama"])
def either(request: pytest.FixtureRequest) -> Served:
    """The tiny Llama by the pass for CPUs, and by mlx-lm's."""
    return request.getfixturevalue(request.param)


def test_one_slot_serves_adapters_in_turn(either: Served):
    rig = Rig(either.loaded, max_adapters=1)
    check(rig, either.mixed, either.base)
    assert len(rig.adapters.digests) == 1


def test_who_waits_for_a_slot_is_overtaken(either: Served):
    rig = Rig(either.loaded, max_adapters=1)
    rig.submit(request(1, prompt(0, 20), either.one))
    while not rig.scheduler.running:
        rig.step()
    rig.submit(request(2, prompt(1, 20), either.two), request(3, prompt(2, 20))).step()
    assert (rig.scheduler.running, rig.scheduler.waiting) == (2, 1)
    rig.loop.cancel((STREAM, 2))
    assert rig.scheduler.waiting == 0
    rig.submit(request(4, prompt(1, 20), either.two)).run()
    either.two.reference.check(prompt(1, 20), rig.tokens(4))
    either.base.check(prompt(2, 20), rig.tokens(3))


def test_background_sequences_give_their_slots_up(either: Served):
    rig = Rig(either.loaded, max_adapters=1)
    rig.submit(request(1, prompt(0, 20), either.one, background=True))
    while not rig.scheduler.background_running:
        rig.step()
    rig.step(3)
    rig.submit(request(2, prompt(1, 20), either.two)).run()
    assert rig.last(2).timings is not None
    either.two.reference.check(prompt(1, 20), rig.tokens(2))
    either.one.reference.check(prompt(0, 20), rig.tokens(1))


def test_copies_of_a_row_and_isolated_rows(either: Served):
    rig, text = Rig(either.loaded), prompt(5, 30)
    first = request(1, text, either.one)
    copy = request(2, text, either.one, shares_prefill_of=first.key)
    base = request(3, text, shares_prefill_of=first.key)
    alone = request(4, text, either.two, isolated=True)
    rig.submit(first, copy, base, alone).run()
    for number in (1, 2):
        either.one.reference.check(text, rig.tokens(number))
    either.base.check(text, rig.tokens(3))
    either.two.reference.check(text, rig.tokens(4))


def test_a_batch_that_fails_restarts_with_its_adapters(either: Served):
    failing = FailingForward(either.loaded.model, lambda rows: len(rows) > 1, RuntimeError("many"))
    check(Rig(replace(either.loaded, model=failing)), either.mixed, either.base)


def test_speculation(own: Served):
    """Places of one row in one pass have the row's adapter."""
    repeated = prompt(1, 12) * 3
    speculation = RandomSpeculation(VOCAB_SIZE)
    rig = Rig(own.loaded, speculation=speculation)
    check(rig, [(repeated, own.one), (repeated, None), (repeated, own.two)], own.base)
    assert speculation.proposed


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda directory: shutil.rmtree(directory), AdapterNotFound, "has no adapter_config"),
        (
            lambda directory: (directory / "adapters.safetensors").write_bytes(b""),
            AdapterInvalid,
            "is damaged",
        ),
        (
            lambda directory: write_mlx_lm(directory, random_layers({_Q: (8, 8)})),
            AdapterInvalid,
            "have changed",
        ),
    ],
)
def test_an_adapter_that_cannot_be_read_fails_only_its_sequences(
    either: Served, tmp_path: Path, change, error, message
):
    directory = tmp_path / "adapter"
    shutil.copytree(either.one.source.directory, directory)
    change(directory)
    broken = replace(either.one, source=replace(either.one.source, directory=str(directory)))
    rig = Rig(either.loaded)
    rig.submit(
        request(1, prompt(0, 20), broken),
        request(2, prompt(0, 20)),
        request(3, prompt(1, 9), broken),
    ).run()
    for number in (1, 3):
        assert isinstance(rig.last(number).error, error)
        assert message in str(rig.last(number).error)
    either.base.check(prompt(0, 20), rig.tokens(2))
    check(rig, [(prompt(0, 20), either.one)], either.base)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({_Q: (8, 8)}, "but the model's has"),
        ({"model.layers.99.self_attn.q_proj": (8, 8)}, "the model has no such module"),
        ({"lm_head": (8, 8)}, "only modules of the layers"),
    ],
)
def test_an_adapter_of_another_model(either: Served, tmp_path: Path, shapes, message):
    directory = write_mlx_lm(tmp_path, random_layers(shapes))
    source = AdapterSource(read_adapter(directory).digest, str(directory))
    rig = Rig(either.loaded).submit(request(1, prompt(0, 20), replace(either.one, source=source)))
    rig.run()
    assert isinstance(rig.last(1).error, AdapterInvalid)
    assert message in str(rig.last(1).error)


def test_an_adapter_larger_than_all_slots(either: Served):
    rig = Rig(either.loaded, adapter_bytes=1000)
    rig.submit(request(1, prompt(0, 20), either.one), request(2, prompt(0, 20))).run()
    assert isinstance(rig.last(1).error, AdapterInvalid)
    assert "raise adapter_bytes" in str(rig.last(1).error)
    either.base.check(prompt(0, 20), rig.tokens(2))


def test_log_probabilities(either: Served):
    text, options = prompt(4, 24), LogprobOptions(top=0, prompt=True)
    rig = Rig(either.loaded)
    rig.submit(
        request(1, text, either.one, logprobs=options),
        request(2, text, either.two, logprobs=options),
        request(3, text, logprobs=options),
    ).run()
    references = (either.one.reference, either.two.reference, either.base)
    for number, reference in enumerate(references, 1):
        of_prompt, of_output = rig.logprobs(number)
        assert of_prompt is not None
        assert of_output is not None
        expected = reference.logprobs((*text, *rig.tokens(number)), len(text))
        found = [*of_prompt.chosen, *of_output.chosen]
        np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("cpu_forward", [True, False])
def test_constraints(tmp_path: Path, cpu_forward: bool):
    """The most likely of what a grammar allows, by mlx-lm's scores with the adapter."""
    model_dir = write_text_model(tmp_path / "model")
    adapters = [write_adapter(tmp_path / str(at), model_dir, seed=at) for at in range(2)]
    with contextlib.closing(
        ConstrainedRig(model_dir, load_model(model_dir, cpu_forward=cpu_forward))
    ) as rig:
        text = rig.tokenizer.get_vocab()
        letters = [text["a"], text["b"], text["c"]]
        requests = [
            replace(
                constrained(number, GrammarKind.REGEX, "[abc]{6}"),
                adapter=adapter.source,
                prefix_namespace=bytes.fromhex(adapter.source.digest),
            )
            for number, adapter in enumerate(adapters, 1)
        ]
        ran = rig.run(*requests, constrained(3, GrammarKind.REGEX, "[abc]{6}"))
    for number, adapter in enumerate(adapters, 1):
        tokens = requests[0].prompt
        for _ in range(6):
            tokens = (*tokens, adapter.reference.chosen(tokens, letters))
        assert ran.tokens(number) == [*tokens[len(requests[0].prompt) :], EOS]
    assert len({tuple(ran.tokens(number)) for number in (1, 2, 3)}) > 1


def test_many_rows_with_an_adapter_each(either: Served, tmp_path: Path):
    """More than are added one by one; modules and ranks differ."""
    adapters = [
        write_adapter(tmp_path / str(at), either.model_dir, seed=at, rank=1 + at, modules=modules)
        for at, modules in enumerate(((), ("q_proj", "down_proj"), ("v_proj",), (), ("o_proj",)))
    ]
    rows = [(prompt(at, 20 + at), adapter) for at, adapter in enumerate([*adapters, None])]
    check(Rig(either.loaded), rows, either.base)


def test_the_least_recently_used_adapter_is_evicted(either: Served, tmp_path: Path):
    rig = Rig(either.loaded, max_adapters=2)
    third = write_source(tmp_path, either.model_dir, seed=3)
    one, two = either.one.source, either.two.source
    for source in (one, two, one, third):
        adapter = replace(either.one, source=source)
        rig.submit(request(len(rig.updates) + 1, prompt(0, 20), adapter)).run()
    assert rig.adapters.digests == (one.digest, third.digest)


def test_the_memory_of_slots_does_not_grow(either: Served, tmp_path: Path):
    """Ranks and modules change from one adapter to the next."""
    rig = Rig(either.loaded, max_adapters=2, adapter_bytes=2**20)
    sources = [
        write_source(
            tmp_path / str(at), either.model_dir, seed=at, rank=1 + 3 * (at % 3), modules=m
        )
        for at, m in enumerate(((), ("q_proj",), ("down_proj", "v_proj"), (), ("o_proj",), ()))
    ]

    def use_all() -> int:
        for source in sources:
            active = replace(either.one, source=source)
            rig.submit(request(len(rig.updates) + 1, prompt(0, 20), active)).run()
        gc.collect()
        mx.clear_cache()
        return mx.get_active_memory()

    use_all()
    before = use_all()
    for _ in range(5):
        assert use_all() <= before
    assert rig.adapters.nbytes <= 2**20
