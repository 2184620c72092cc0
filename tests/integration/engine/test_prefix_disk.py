"""Prefixes on disk: an engine that starts again begins with what earlier ones have prefilled."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest

from mlxmesh_engine.cache.prefix_cache import BLOCK_TOKENS
from mlxmesh_engine.forward.loader import LoadedModel
from mlxmesh_engine.prefixes.directory import Name, PrefixDirectory
from mlxmesh_engine.prefixes.host_row import HostRow
from mlxmesh_engine.scheduling.request import FinishReason, SequenceRequest
from mlxmesh_shared.errors import DeadlineExceeded
from tests.fakes.engine_rig import STREAM, Rig, load_model
from tests.fakes.tiny_model import VOCAB_SIZE, mx, write_model
from tests.matrix.examination import write_architecture

MIB = 2**20
KINDS = ("cpu", "mlx", "bfloat16", "windows", "state")
CUT = ("cpu", "mlx", "bfloat16")


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def loaded(kind: str, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = tmp_path_factory.mktemp(kind)
    if kind == "cpu":
        return load_model(write_model(folder))
    if kind == "mlx":
        return load_model(write_model(folder), cpu_forward=False)
    if kind == "bfloat16":
        return load_model(write_model(folder, dtype=mx.bfloat16), dtype="as_shipped")
    name = "gemma3" if kind == "windows" else "nemotron_h"
    return load_model(write_architecture(folder / name, name), cpu_forward=False)


class Restarts:
    """Rigs that use the same root, one after another."""

    def __init__(self, loaded: LoadedModel, root: Path) -> None:
        self.root = root
        self._loaded = loaded
        self._directories: list[PrefixDirectory] = []

    def start(self, *, identity: Callable[[], str] = lambda: "m") -> Rig:
        directory = PrefixDirectory(self.root, 2**30, identity)
        self._directories.append(directory)
        rig = Rig(self._loaded, prefix_cache_bytes=64 * MIB, prefix_directory=directory)
        assert directory.wait_opened(30)
        return rig

    def stop(self) -> None:
        """Ends the last one, which writes all that it has."""
        self._directories.pop().close(30)


@pytest.fixture
def restarts(loaded: LoadedModel, tmp_path: Path) -> Iterator[Restarts]:
    made = Restarts(loaded, tmp_path / "prefixes")
    yield made
    made.stop()


def text(number: int, tokens: int) -> tuple[int, ...]:
    draw = np.random.default_rng(number).integers(3, min(VOCAB_SIZE, 96), tokens)
    return tuple(int(token) for token in draw)


def ask(number: int, prompt: tuple[int, ...], max_tokens: int = 8) -> SequenceRequest:
    return SequenceRequest((STREAM, number), prompt, max_tokens)


def cached(rig: Rig, number: int) -> int:
    emitted = [update.cached_tokens for update in rig.updates[number]]
    return [tokens for tokens in emitted if tokens is not None][-1]


def warm_tokens(kind: str, prompt: tuple[int, ...]) -> int:
    """What a repeated prompt finds: whole blocks, or the state before its last token."""
    before_last = len(prompt) - 1
    return before_last // BLOCK_TOKENS * BLOCK_TOKENS if kind in CUT else before_last


def test_the_first_sequence_after_a_restart_finds_its_prefix(kind: str, restarts: Restarts) -> None:
    prompt = text(1, 150)
    first = restarts.start().submit(ask(1, prompt)).run()
    restarts.stop()
    second = restarts.start().submit(ask(1, prompt)).run()
    assert cached(second, 1) == warm_tokens(kind, prompt)
    assert second.tokens(1) == first.tokens(1)
    assert second.loop.prefix_disk.hits > 0


def test_a_conversation_goes_on_after_a_restart(kind: str, restarts: Restarts) -> None:
    prompt = text(1, 100)
    first = restarts.start().submit(ask(1, prompt, 40)).run()
    restarts.stop()
    longer = (*prompt, *first.tokens(1), *text(2, 30))
    second = restarts.start().submit(ask(1, longer)).run()
    assert cached(second, 1) == (128 if kind in CUT else 139)
    assert second.tokens(1) == Rig(second.loaded).submit(ask(1, longer)).run().tokens(1)


def test_many_read_the_same_prefix_at_once_beside_one_that_reads_nothing(
    kind: str, restarts: Restarts
) -> None:
    shared = text(1, 128)
    first = restarts.start()
    # Two, so that a state is left where they part.
    first.submit(ask(1, (*shared, *text(2, 9)))).run().submit(ask(2, (*shared, *text(3, 9)))).run()
    restarts.stop()
    rig = restarts.start()
    asked = [ask(number, (*shared, *text(number, number))) for number in range(10, 16)]
    alone = ask(20, text(99, 50))
    rig.submit(*asked, alone).run()
    assert [cached(rig, each.key[1]) for each in asked] == [128] * 6
    assert cached(rig, 20) == 0
    plain = Rig(rig.loaded).submit(*asked, alone).run()
    for each in (*asked, alone):
        assert rig.tokens(each.key[1]) == plain.tokens(each.key[1])


def test_a_namespace_on_disk_is_one_of_its_own(kind: str, restarts: Restarts) -> None:
    prompt = text(1, 100)
    restarts.start().submit(ask(1, prompt)).run()
    restarts.stop()
    rig = restarts.start()
    rig.submit(SequenceRequest((STREAM, 1), prompt, 8, prefix_namespace=b"adapter")).run()
    assert cached(rig, 1) == 0


def test_damaged_files_cost_a_prefill_and_nothing_else(kind: str, restarts: Restarts) -> None:
    prompt = text(1, 150)
    first = restarts.start().submit(ask(1, prompt)).run()
    restarts.stop()
    for path in restarts.root.glob("*/*.prefix"):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    second = restarts.start().submit(ask(1, prompt)).run()
    assert cached(second, 1) == 0
    assert second.loop.prefix_disk.corrupt > 0
    assert second.tokens(1) == first.tokens(1)


def test_another_model_finds_nothing(restarts: Restarts) -> None:
    prompt = text(1, 100)
    restarts.start().submit(ask(1, prompt)).run()
    restarts.stop()
    rig = restarts.start(identity=lambda: "other")
    rig.submit(ask(1, prompt)).run()
    assert cached(rig, 1) == 0


class HangingDirectory(PrefixDirectory):
    """Of a disk that answers when the test says so."""

    def read(self, wanted: Sequence[Name]) -> Future[HostRow | None]:
        self.reads = [*getattr(self, "reads", ()), (wanted, Future[HostRow | None]())]
        return self.reads[-1][1]

    def answer(self) -> None:
        for wanted, future in self.reads:
            future.set_result(super().read(wanted).result())


class Hanging:
    """A rig on a disk that hangs, which has the prefix of one prompt, and its clock."""

    def __init__(self, loaded: LoadedModel, root: Path) -> None:
        self.prompt, self.now_s = text(1, 100), 100.0
        first = PrefixDirectory(root, 2**30, lambda: "m")
        assert first.wait_opened(30)
        self._rig(loaded, first).submit(ask(1, self.prompt)).run()
        first.close(30)
        self.directory = HangingDirectory(root, 2**30, lambda: "m")
        assert self.directory.wait_opened(30)
        self.rig = self._rig(loaded, self.directory)

    def _rig(self, loaded: LoadedModel, directory: PrefixDirectory) -> Rig:
        return Rig(
            loaded,
            prefix_cache_bytes=64 * MIB,
            prefix_directory=directory,
            clock=lambda: self.now_s,
        )


@pytest.fixture
def hanging(loaded: LoadedModel, tmp_path: Path) -> Iterator[Hanging]:
    made = Hanging(loaded, tmp_path / "prefixes")
    yield made
    made.directory.close(30)


def test_only_who_needs_the_disk_waits_for_it(kind: str, hanging: Hanging) -> None:
    rig = hanging.rig
    rig.submit(ask(1, hanging.prompt)).step()
    assert rig.loop.blocked
    rig.submit(ask(2, text(9, 50)))
    assert not rig.loop.blocked
    rig.step(30)
    assert rig.last(2).finish_reason is FinishReason.LENGTH
    assert 1 not in rig.updates
    hanging.directory.answer()
    rig.run()
    assert cached(rig, 1) == warm_tokens(kind, hanging.prompt)


def test_a_sequence_that_waits_for_the_disk_can_be_cancelled_and_expires(hanging: Hanging) -> None:
    rig = hanging.rig
    late = SequenceRequest((STREAM, 2), hanging.prompt, 8, deadline_s=hanging.now_s + 1)
    rig.submit(ask(1, hanging.prompt), late, SequenceRequest((7, 3), hanging.prompt, 8)).step()
    rig.loop.cancel((STREAM, 1))
    rig.loop.drop_stream(7)
    hanging.now_s += 2
    rig.step()
    assert rig.last(1).finish_reason is FinishReason.CANCELLED
    assert isinstance(rig.last(2).error, DeadlineExceeded)
    assert rig.loop.idle
    assert not rig.loop.blocked
    hanging.directory.answer()
    assert rig.submit(ask(4, hanging.prompt)).step() is not None


def test_a_disk_that_hangs_for_long_costs_a_prefill(hanging: Hanging) -> None:
    rig = hanging.rig
    rig.submit(ask(1, hanging.prompt)).step(5)
    assert 1 not in rig.updates
    hanging.now_s += 6
    rig.run()
    assert cached(rig, 1) == 0
    assert rig.tokens(1) == Rig(rig.loaded).submit(ask(1, hanging.prompt)).run().tokens(1)
