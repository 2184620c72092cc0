"""Cuts between the services of a mesh: no call is wrong or lost, and the path is used again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.hosts.network import Network
from tests.hosts.partition_kinds import PARTITIONS
from tests.hosts.partition_mesh import HOSTS, PartitionMesh
from tests.hosts.partition_trial import Load, Trial, unkept
from tests.hosts.partitions import bad_weather, rows

pytestmark = [pytest.mark.tools, pytest.mark.timeout(900)]

# A generous multiple of what the mesh allows itself: 1 s for a breaker whose connection is back,
# 1 s to connect, 3 s for the ping of a watch.
BACK_WITHIN_S = 30.0
CUT_S = 3.0
# Each link and each kind of cut once.
SHORT = (
    "gateway | generation1",
    "generation1 | engine1, flapping",
    "everybody | Consul, engine1 dies",
)
LOSSY = "engine1 > generation1"


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """A mesh of eight hosts under load, with TLS, by names: what `partitions` has without both."""
    folder = tmp_path_factory.mktemp("partitions")
    with Network(*HOSTS) as network:
        mesh = PartitionMesh(network, folder, tls=True, named=True)
        mesh.set_up()
        with Load(mesh, folder / "load") as load:
            trial = Trial(mesh, load)
            yield trial
            print(*rows(trial.rounds, load.history()), sep="\n")


def play(trial: Trial, name: str) -> None:
    """Cuts, heals, and judges every call so far."""
    [partition] = [each for each in PARTITIONS if each.name == name]
    played = trial.play(replace(partition, cut_s=CUT_S))
    assert played.recovered_s is not None
    assert played.recovered_s - played.healed_s < BACK_WITHIN_S
    assert trial.load.history()
    assert unkept(trial.load.history(), trial.load.reference()) == []


@pytest.mark.parametrize("name", SHORT)
def test_a_cut_costs_no_call_and_the_path_is_used_again(trial: Trial, name: str) -> None:
    play(trial, name)


def test_a_one_way_cut_of_lossy_links_costs_no_call(trial: Trial) -> None:
    with bad_weather(trial.mesh.network):
        play(trial, LOSSY)
