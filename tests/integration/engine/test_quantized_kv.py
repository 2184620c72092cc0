"""Keys and values with fewer bits: equal tokens alone, in a batch, in slices, resumed and warm."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from mlxmesh_engine.forward.loader import LoadedModel
from mlxmesh_engine.prefixes.directory import PrefixDirectory
from mlxmesh_engine.scheduling.request import Sampling, SequenceRequest
from mlxmesh_engine.service.backends import open_backend, open_encoder
from mlxmesh_engine.service.telemetry import StepMetrics
from mlxmesh_shared.errors import InvalidArgument
from mlxmesh_shared.settings import EngineSettings
from tests.fakes.engine_rig import STREAM, Rig, load_model
from tests.fakes.speculation import KnownSpeculation
from tests.matrix.examination import write_architecture

POCKET = Path(__file__).parents[3] / "deploy" / "demo-model" / "pocket-mini"
MIB = 2**20
KINDS = {
    "cpu-8bit": (True, "8bit"),
    "cpu-4bit": (True, "4bit"),
    "mlx-8bit": (False, "8bit"),
    "mlx-4bit": (False, "4bit"),
}


@pytest.fixture(scope="module", params=KINDS)
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    cpu_forward, kv_cache_type = KINDS[request.param]
    return load_model(POCKET, dtype="float32", cpu_forward=cpu_forward, kv_cache_type=kv_cache_type)


def asked() -> list[SequenceRequest]:
    """Prompts of different lengths, greedy and sampled."""
    lengths = [3, 17, 40, 64, 90, 90, 33, 150]
    return [
        SequenceRequest(
            (STREAM, number),
            tuple(3 + (number * 31 + at * at) % 200 for at in range(length)),
            24,
            sampling=Sampling(temperature=0.7, seed=number) if number % 3 == 0 else Sampling(),
        )
        for number, length in enumerate(lengths, start=1)
    ]


@pytest.fixture(scope="module")
def alone(loaded: LoadedModel) -> dict[int, list[int]]:
    """The tokens of each sequence that is served alone."""
    return {each.key[1]: Rig(loaded).submit(each).run().tokens(each.key[1]) for each in asked()}


def tokens_of(rig: Rig) -> dict[int, list[int]]:
    return {each.key[1]: rig.tokens(each.key[1]) for each in asked()}


def test_a_batch_changes_no_output(loaded: LoadedModel, alone: dict[int, list[int]]) -> None:
    assert tokens_of(Rig(loaded).submit(*asked()).run()) == alone


def test_slices_and_rows_that_join_late_change_no_output(
    loaded: LoadedModel, alone: dict[int, list[int]]
) -> None:
    rig = Rig(loaded, prefill_tokens_per_step=16, max_running=4)
    for each in asked():
        rig.submit(each).step(2)
    assert tokens_of(rig.run()) == alone


def test_a_sequence_resumes_in_mid_stream(loaded: LoadedModel, alone: dict[int, list[int]]) -> None:
    cut = 9
    resumed = [replace(each, generated=tuple(alone[each.key[1]][:cut])) for each in asked()]
    found = tokens_of(Rig(loaded).submit(*resumed).run())
    assert found == {number: tokens[cut:] for number, tokens in alone.items()}


def test_a_warm_prefix_changes_no_output(
    loaded: LoadedModel, alone: dict[int, list[int]], tmp_path: Path
) -> None:
    """Also from the disk of an engine that ran before."""
    for at in range(2):
        directory = PrefixDirectory(tmp_path, 2**30, lambda: "m")
        assert directory.wait_opened(30)
        rig = Rig(loaded, prefix_cache_bytes=64 * MIB, prefix_directory=directory)
        for warm in range(2):
            assert tokens_of(rig.submit(*asked()).run()) == alone
            cached = sum(update.cached_tokens or 0 for update in rig.updates[8])
            assert cached > 0 or (at, warm) == (0, 0)
            rig.updates.clear()
        assert (rig.loop.prefix_disk.hits > 0) == (at == 1)
        directory.close(30)


def test_proposals_that_are_taken_back_change_no_output(
    loaded: LoadedModel, alone: dict[int, list[int]]
) -> None:
    source = KnownSpeculation(alone, loaded.vocab_size)
    rig = Rig(loaded, speculation=source, clock=time.monotonic).submit(*asked()).run()
    assert tokens_of(rig) == alone
    assert 0 < source.accepted < source.proposed


def test_equal_prompts_share_one_prefill(loaded: LoadedModel, alone: dict[int, list[int]]) -> None:
    first = asked()[0]
    copies = [replace(first, key=(STREAM, number)) for number in range(1, 6)]
    rig = Rig(loaded).submit(*copies).run()
    assert [rig.tokens(number) for number in range(1, 6)] == [alone[1]] * 5


def test_a_token_takes_less_memory(loaded: LoadedModel) -> None:
    full = load_model(POCKET, dtype="float32", cpu_forward=loaded.model.interruptible)
    assert full.kv.token_bytes / loaded.kv.token_bytes >= 2
    asked_ = replace(asked()[7], max_tokens=100)
    rigs = [Rig(each).submit(asked_) for each in (loaded, full)]
    for rig in rigs:
        rig.step(3)
    few, many = (rig.loop.kv_bytes for rig in rigs)
    assert 150 * loaded.kv.token_bytes <= few <= many / 2


@pytest.mark.parametrize("name", ["gemma3", "nemotron_h", "deepseek_v3", "gemma2"])
def test_a_model_whose_caches_cannot_be_quantized_is_refused_by_name(
    name: str, tmp_path: Path
) -> None:
    """For its windows, its states, its own cache, its own attention."""
    folder = write_architecture(tmp_path / name, name)
    with pytest.raises(InvalidArgument, match="kv_cache_type to full") as refused:
        load_model(folder, cpu_forward=False, kv_cache_type="8bit")
    assert refused.value.field == "kv_cache_type"


def test_where_no_keys_and_values_are_kept_it_is_refused(tmp_path: Path) -> None:
    settings = EngineSettings(model_dir=tmp_path, kv_cache_type="4bit")
    simulated = settings.model_copy(update={"backend": "simulated"})
    for open_ in (
        lambda: open_backend(simulated, StepMetrics()),
        lambda: open_encoder(settings, "embedding"),
    ):
        with pytest.raises(InvalidArgument) as refused:
            open_()
        assert refused.value.field == "kv_cache_type"
