"""Spare work makes way by host."""

from mlxmesh_generation.placement.spare import SpareWork, host_of


def test_all_work_of_a_host_makes_way_and_only_once() -> None:
    ended: list[str] = []
    work = SpareWork()
    for name, host in (("a", "h1"), ("b", "h1"), ("c", "h2")):
        work.add(host, lambda name=name: ended.append(name))
    work.yield_host("h1")
    work.yield_host("h1")
    assert ended == ["a", "b"]
    assert list(work.hosts) == ["h2"]


def test_work_that_has_ended_does_not_make_way() -> None:
    ended: list[str] = []

    def end() -> None:
        ended.append("a")

    work = SpareWork()
    work.add("h1", end)
    work.remove("h1", end)
    work.remove("h1", end)
    work.yield_host("h1")
    assert not ended
    assert not work.hosts


def test_ports_do_not_tell_hosts_apart() -> None:
    assert host_of("10.0.0.1:5000") == host_of("10.0.0.1:6000") == "10.0.0.1"
    assert host_of("[::1]:5000") == "[::1]"
