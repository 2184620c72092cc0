"""The list of peers: pinned, on loopback only, installed once."""

import re
from pathlib import Path

import pytest

from tests.bench.peers.catalogue import PEERS, Peer, Site
from tests.bench.peers.install import PINS, PeerFailed, installed

SITE = Site(Path("/programs"), Path("/model"), (1001, 1002, 1003))
by_name = pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)


@by_name
def test_every_distribution_is_pinned_to_one_version(peer: Peer):
    lines = (PINS / f"{peer.name}.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert peer.version in pins
    assert [pin for pin in pins if not re.match(r"[a-z0-9.-]+==[^ *]+( ;|$)", pin)] == []


@by_name
def test_every_process_listens_on_loopback_and_a_port_of_its_own(peer: Peer):
    commands = peer.commands(SITE)
    ports = [argv[argv.index("--port") + 1] for argv in commands]
    assert [argv[argv.index("--host") + 1] for argv in commands] == ["127.0.0.1"] * len(commands)
    assert ports == ["1001", "1002"][: len(commands)]
    assert all(Path(argv[0]).parent == SITE.programs for argv in commands)
    assert all("0.0.0.0" not in argument for argv in commands for argument in argv)


def test_an_environment_with_these_pins_is_left_as_it_is(tmp_path: Path):
    (tmp_path / "pins").mkdir()
    (tmp_path / "pins" / "some.txt").write_text("some==1\n")
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "installed.txt").write_text("some==1\n")
    programs = installed("some", home=tmp_path, pins=tmp_path / "pins")
    assert programs == tmp_path / "some" / "bin"
    assert not programs.exists()


def test_a_failed_installation_says_why_and_is_tried_again(tmp_path: Path):
    (tmp_path / "some.txt").write_text("not a requirement\n")
    for _ in range(2):
        with pytest.raises(PeerFailed, match="not installed: "):
            installed("some", home=tmp_path, pins=tmp_path)
    assert not (tmp_path / "some" / "installed.txt").exists()
