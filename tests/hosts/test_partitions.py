"""The network between the services of a mesh is cut, one way, in turns and for long enough to tell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.hosts.network import Network
from tests.hosts.partition_mesh import HOSTS, PartitionMesh
from tests.hosts.partitions import PARTITIONS, Load, Trial, bad_weather, rows, unkept

pytestmark = [pytest.mark.tools, pytest.mark.timeout(600)]

# A generous multiple of what the mesh allows itself: 2 s for a breaker whose connection is back, 1 s
# to connect, 3 s for the ping of a watch.
BACK_WITHIN_S = 30.0
CUT_S = 4.0
SHORT = (
    "gateway | generation1",
    "engine1 > generation1",
    "gateway | both generations, flapping",
    "everybody | Consul, engine1 dies",
)


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """A mesh of eight hosts under load; at its end, every call of all tests is judged."""
    folder = tmp_path_factory.mktemp("partitions")
    with Network(*HOSTS) as network:
        mesh = PartitionMesh(network, folder)
        mesh.set_up()
        with Load(mesh, folder / "load") as load:
            trial = Trial(mesh, load)
            yield trial
        calls = load.history()
        print(*rows(trial.rounds, calls), sep="\n")
        assert unkept(calls, load.reference()) == []


@pytest.mark.parametrize("name", SHORT)
def test_the_path_is_used_again_after_the_network_is_back(trial: Trial, name: str) -> None:
    [partition] = [each for each in PARTITIONS if each.name == name]
    played = trial.play(replace(partition, cut_s=CUT_S))
    assert played.recovered_s is not None
    assert played.recovered_s - played.healed_s < BACK_WITHIN_S


def test_a_path_of_lossy_links_is_cut_and_used_again(trial: Trial) -> None:
    [partition] = [each for each in PARTITIONS if each.name == "generation1 | engine1"]
    with bad_weather(trial.network):
        played = trial.play(replace(partition, cut_s=CUT_S))
    assert played.recovered_s is not None
    assert played.recovered_s - played.healed_s < BACK_WITHIN_S
