"""Plays partitions of one mesh under load, and judges what the clients saw."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.checker import Kind, Violation, by_request, check
from tests.chaos.history import OK, Call, read_history, read_more_history
from tests.hosts.partition_kinds import Partition, Route
from tests.hosts.partition_mesh import (
    ENGINES,
    GENERATIONS,
    GOSSIP_PORT,
    MODEL_NAME,
    PartitionMesh,
)
from tests.hosts.partition_mesh import PATIENCE_S as MESH_PATIENCE_S
from tests.hosts.setup import until

STREAMS = 4
PATIENCE_S = 60.0
SETTLE_S = 1.5
FLAP_S = (0.3, 2.0)


@dataclass(frozen=True)
class Round:
    """One partition as it happened; times are those of the monotonic clock."""

    partition: Partition
    weather: str
    begun_s: float
    healed_s: float
    heard_s: float | None
    """When a connection over what was cut first had data since then."""
    first: Call | None
    """The first whole call over the path since then; None if there was none for too long."""

    @property
    def recovered_s(self) -> float | None:
        """When that call ended."""
        return self.first.ended_s if self.first is not None else None


@dataclass
class Load:
    """The client's process and what it has written."""

    mesh: PartitionMesh
    folder: Path
    process: subprocess.Popen[bytes] = field(init=False)
    _calls: list[Call] = field(default_factory=list[Call])
    _read_bytes: int = 0
    """Of the history: reading all of it each time would take a busy machine's CPU from the mesh."""

    def __enter__(self) -> Load:
        self.folder.mkdir()
        tls_dir = self.mesh.tls_dir or "-"
        words = (self.mesh.gateway, MODEL_NAME, self.folder, STREAMS, tls_dir)
        command = (sys.executable, "-m", "tests.hosts.partition_client", *map(str, words))
        self.process = self.mesh.network["client"].start(
            *command, log=self.folder / "client.log", stdin=subprocess.PIPE
        )
        until(self._has_reference, MESH_PATIENCE_S)
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(5 * PATIENCE_S) == 0, self._log()

    def history(self) -> list[Call]:
        """The calls that have ended."""
        file = self.folder / "history.jsonl"
        if file.exists():
            calls, self._read_bytes = read_more_history(file, self._read_bytes)
            self._calls += calls
        return self._calls

    def reference(self) -> dict[str, Call]:
        """The undisturbed calls."""
        return by_request(read_history(self.folder / "reference.jsonl"))

    def served(self) -> dict[str, tuple[str, str]]:
        """By call: the generation and the engine."""
        file = self.folder / "served.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return {call: (generation, engine) for call, generation, engine in map(json.loads, lines)}

    def first_whole(self, path: Route, ids: dict[str, str], since_s: float) -> Call | None:
        """The call over a path that ended first, of those that had their first message since."""
        generations = {ids[name] for name in path.generations}
        engines = {ids[name] for name in path.engines}
        served = self.served()
        found: list[Call] = []
        # They are in the order in which they ended.
        ended = itertools.takewhile(
            lambda call: (call.ended_s or 0.0) >= since_s, reversed(self.history())
        )
        for call in ended:
            generation, engine = served.get(call.call_id, ("", ""))
            began = bool(call.messages) and call.messages[0].at_s >= since_s
            if began and call.status == OK and generation in generations and engine in engines:
                found.append(call)
        return min(found, key=lambda call: call.ended_s or 0.0, default=None)

    def _has_reference(self) -> bool:
        assert self.process.poll() is None, self._log()
        return "reference" in self._log()

    def _log(self) -> str:
        return (self.folder / "client.log").read_text()


class Trial:
    """Partitions of one mesh, one after the other, under one load."""

    def __init__(self, mesh: PartitionMesh, load: Load, seed: int = 1) -> None:
        self.rounds: list[Round] = []
        self.mesh = mesh
        self.load = load
        self._random = random.Random(seed)
        self._ids: dict[str, str] = {}
        until(self._knows_instances, MESH_PATIENCE_S)

    def _knows_instances(self) -> bool:
        self._ids = self.mesh.instance_ids()
        return {*GENERATIONS, *ENGINES} <= self._ids.keys()

    def play(self, partition: Partition, weather: str = "") -> Round:
        """Cuts, heals, and waits for a call over the path."""
        until(lambda: self._first_whole(partition, 0.0) is not None, PATIENCE_S)
        begun_s = time.monotonic()
        if partition.flaps:
            self._flap(partition, begun_s + partition.cut_s)
        else:
            self._cut(partition)
            partition.during(self.mesh)
            time.sleep(max(0.0, begun_s + partition.cut_s - time.monotonic()))
            self._heal(partition)
        healed_s, heard_s = time.monotonic(), None
        while (first := self._first_whole(partition, healed_s)) is None:
            if time.monotonic() > healed_s + PATIENCE_S:
                break
            heard_s = heard_s or self._heard_s(partition, healed_s)
            time.sleep(0.1)
        heard_s = heard_s or self._heard_s(partition, healed_s)
        self.rounds.append(Round(partition, weather, begun_s, healed_s, heard_s, first))
        time.sleep(SETTLE_S)
        return self.rounds[-1]

    def _first_whole(self, partition: Partition, since_s: float) -> Call | None:
        return self.load.first_whole(partition.path, self._ids, since_s)

    def _flap(self, partition: Partition, until_s: float) -> None:
        while time.monotonic() < until_s:
            self._cut(partition)
            time.sleep(self._random.uniform(*FLAP_S))
            self._heal(partition)
            time.sleep(self._random.uniform(*FLAP_S))

    def _heard_s(self, partition: Partition, healed_s: float) -> float | None:
        """When one of the hosts first had data from another one by TCP since the heal, if yet."""
        network, (_, host) = self.mesh.network, partition.ways[0]
        others = {name for way in partition.ways if host in way for name in way} - {host}
        now = time.monotonic()
        ages_s = network[host].heard_s([network[name].address for name in others], GOSSIP_PORT)
        return min((now - age for age in ages_s if now - age >= healed_s), default=None)

    def _cut(self, partition: Partition) -> None:
        for way in partition.ways:
            self.mesh.network.block(*way)

    def _heal(self, partition: Partition) -> None:
        for way in partition.ways:
            self.mesh.network.unblock(*way)


def unkept(calls: Sequence[Call], reference: dict[str, Call]) -> list[Violation]:
    """Every promise that was not kept: those of the checker, and that streams can be resumed."""
    return [*check(calls, reference), *_lost(calls)]


def _lost(calls: Sequence[Call]) -> Iterator[Violation]:
    """Calls that ended with an error after their first message, though clients tried to resume."""
    for call in calls:
        began, refused = bool(call.messages), call.status.startswith("UNAVAILABLE/")
        if call.status != OK and (began or not refused):
            yield Violation(
                call.call_id, Kind.LOST, f"{call.status}, resumed {call.attached} times"
            )
