"""Cuts the network between the services of a mesh in every way, and judges what clients saw.

    .venv/bin/python -m tests.hosts.partitions [--minutes 10] [--only NAME,NAME] [--seed 1]
                                               [--json FILE] [--keep DIRECTORY]

Needs root, iproute2 (Linux) and a Consul agent (`make consul`). The exit status is 1 if a call was
wrong or lost; a missed target is a finding.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.bench.results import Row, console, drawn, machine, write
from tests.chaos.checker import Kind, Violation, by_request, check
from tests.chaos.history import OK, Call, read_history
from tests.hosts.network import Network
from tests.hosts.partition_mesh import ENGINES, GENERATIONS, HOSTS, MODEL_NAME, PartitionMesh
from tests.hosts.partition_mesh import PATIENCE_S as MESH_PATIENCE_S
from tests.hosts.setup import until

STREAMS = 4
TARGET_S = 5.0
"""From the heal to the end of the first whole call over the path."""
PATIENCE_S = 60.0
SETTLE_S = 1.5
FLAP_S = (0.3, 2.0)
CUTS_S = (2.0, 5.0, 12.0, 25.0, 40.0)
BAD_LINKS = ("generation1", "engine1")
DELAY_S, LOSS = 0.02, 0.02
BAD_WEATHER = f"{1000 * DELAY_S:.0f} ms, {100 * LOSS:.0f} % lost"
Way = tuple[str, str]
"""Packets from the first host to the second."""


@dataclass(frozen=True)
class Route:
    """What a call goes over."""

    generations: Sequence[str] = GENERATIONS
    engines: Sequence[str] = ENGINES


@dataclass(frozen=True)
class Partition:
    """Ways that are cut, and the calls that need them."""

    name: str
    ways: Sequence[Way]
    path: Route = Route()
    cut_s: float = 8.0
    flaps: bool = False
    during: Callable[[PartitionMesh], None] = lambda _: None
    """Called while the network is cut."""


def both(one: Sequence[str], other: Sequence[str]) -> list[Way]:
    """Each host of one side with each of the other, in both directions."""
    pairs = list(itertools.product(one, other))
    return [*pairs, *((b, a) for a, b in pairs)]


def kill_engine(mesh: PartitionMesh) -> None:
    """Its runtime starts another one, at another port."""
    mesh.kill_engine("engine1")


EVERYBODY = ("gateway", "model", *GENERATIONS, *ENGINES)
GENERATION1 = Route(generations=("generation1",))
ENGINE1 = Route(engines=("engine1",))
LINK = Route(("generation1",), ("engine1",))
PARTITIONS = (
    Partition("gateway | generation1", both(["gateway"], ["generation1"]), GENERATION1),
    Partition("gateway > generation1", [("gateway", "generation1")], GENERATION1),
    Partition("generation1 > gateway", [("generation1", "gateway")], GENERATION1),
    Partition("gateway | both generations", both(["gateway"], GENERATIONS)),
    Partition("generation1 | engine1", both(["generation1"], ["engine1"]), LINK),
    Partition("generation1 > engine1", [("generation1", "engine1")], LINK),
    Partition("engine1 > generation1", [("engine1", "generation1")], LINK),
    Partition("both generations | both engines", both(GENERATIONS, ENGINES)),
    Partition("everybody | engine1", both(("consul", *EVERYBODY[:-2]), ["engine1"]), ENGINE1),
    Partition(
        "everybody | generation1",
        both(("consul", "gateway", "model", *ENGINES), ["generation1"]),
        GENERATION1,
    ),
    Partition(
        "everybody | Consul, engine1 dies",
        both(EVERYBODY, ["consul"]),
        ENGINE1,
        during=kill_engine,
    ),
    Partition(
        "gateway | generation1, flapping",
        both(["gateway"], ["generation1"]),
        GENERATION1,
        flaps=True,
    ),
    Partition(
        "generation1 | engine1, flapping", both(["generation1"], ["engine1"]), LINK, flaps=True
    ),
    Partition("gateway | both generations, flapping", both(["gateway"], GENERATIONS), flaps=True),
)


@dataclass(frozen=True)
class Round:
    """One partition as it happened; times are those of the monotonic clock."""

    partition: Partition
    weather: str
    begun_s: float
    healed_s: float
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

    def __enter__(self) -> Load:
        self.folder.mkdir()
        words = (self.mesh.gateway, MODEL_NAME, self.folder, STREAMS)
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
        return read_history(file) if file.exists() else []

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
        for call in self.history():
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
        healed_s = time.monotonic()
        while (first := self._first_whole(partition, healed_s)) is None:
            if time.monotonic() > healed_s + PATIENCE_S:
                break
            time.sleep(0.1)
        self.rounds.append(Round(partition, weather, begun_s, healed_s, first))
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


def rows(rounds: Sequence[Round], calls: Sequence[Call]) -> list[Row]:
    """Each round's figures."""
    return [_row(each, calls) for each in rounds]


def _row(each: Round, calls: Sequence[Call]) -> Row:
    end_s = each.recovered_s or each.healed_s + PATIENCE_S
    during = [c for c in calls if c.started_s < end_s and (c.ended_s or end_s) > each.begun_s]
    running = [c for c in during if c.started_s < each.begun_s and c.messages]
    # For a path with an alternative, the longest pause is how long detection and moving took.
    pause_s = max((c.longest_gap_s(after_s=each.begun_s) for c in running), default=0.0)
    began_s = each.first.messages[0].at_s - each.healed_s if each.first is not None else None
    return {
        "cut": each.partition.name,
        "weather": each.weather or "-",
        "for s": round(each.healed_s - each.begun_s, 1),
        "calls": len(during),
        "moved": sum(bool(c.ending and c.ending.resumptions) for c in during),
        "resumed": sum(bool(c.attached) for c in during),
        "refused": sum(c.status != OK for c in during),
        "longest pause s": round(pause_s, 2),
        "first token s": "none" if began_s is None else round(began_s, 2),
        "recovery s": "none" if each.recovered_s is None else round(end_s - each.healed_s, 2),
    }


def rounds_until(
    until_s: float, trial: Trial, chosen: Sequence[Partition], network: Network, args: Options
) -> None:
    """One partition after the other, each time for another time, in fair and in bad weather."""
    lengths = random.Random(args.seed)
    for number, partition in enumerate(itertools.cycle(chosen)):
        if time.monotonic() > until_s or (args.once and number == len(chosen)):
            return
        bad = number // len(chosen) % 2 == 1
        cut_s = args.cut_s or lengths.choice(CUTS_S)
        with bad_weather(network) if bad else nullcontext(""):
            played = trial.play(replace(partition, cut_s=cut_s), BAD_WEATHER if bad else "")
        took = (
            "never"
            if played.recovered_s is None
            else f"{played.recovered_s - played.healed_s:.2f} s"
        )
        line = f"{time.strftime('%H:%M:%S')} {partition.name}, {cut_s:g} s: back after {took}"
        print(line, file=sys.stderr, flush=True)


@contextmanager
def bad_weather(network: Network) -> Generator[None]:
    """Delay and loss on the links of one generation and one engine."""
    for name in BAD_LINKS:
        network.degrade(name, delay_s=DELAY_S, loss=LOSS)
    try:
        yield
    finally:
        for name in BAD_LINKS:
            network.restore(name)


@dataclass(frozen=True)
class Options:
    """Of a run."""

    seed: int
    cut_s: float | None
    once: bool


def main() -> int:
    """Parse the options, run, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10, help="begin no round after these")
    parser.add_argument("--only", default="", help="parts of names of partitions, with commas")
    parser.add_argument("--seed", type=int, default=1, help="decides lengths and lost packets")
    parser.add_argument("--cut-s", type=float, help="cut for so long instead of 2 to 40 seconds")
    parser.add_argument("--once", action="store_true", help="end after one round of each")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--keep", type=Path, help="keep logs and histories in this new directory")
    args = parser.parse_args()
    words = [word for word in args.only.split(",") if word]
    chosen = [p for p in PARTITIONS if not words or any(word in p.name for word in words)]
    if not chosen:
        parser.error(f"no partition has that in its name: {', '.join(p.name for p in PARTITIONS)}")
    with tempfile.TemporaryDirectory(prefix="mlxmesh-partitions-") as folder:
        return run(args, chosen, args.keep or Path(folder))


def run(args: argparse.Namespace, chosen: Sequence[Partition], folder: Path) -> int:
    """All of it; 1 if a promise was not kept."""
    with Network(*HOSTS) as network:
        mesh = PartitionMesh(network, folder)
        mesh.set_up()
        print(f"{time.strftime('%H:%M:%S')} the mesh serves", file=sys.stderr, flush=True)
        with Load(mesh, folder / "load") as load:
            trial = Trial(mesh, load, args.seed)
            until_s = time.monotonic() + 60 * args.minutes
            rounds_until(until_s, trial, chosen, network, Options(args.seed, args.cut_s, args.once))
        calls, reference = load.history(), load.reference()
    found, table = unkept(calls, reference), rows(trial.rounds, calls)
    out = console()
    out.print(drawn("partitions", table))
    ends = Counter(call.status for call in calls)
    print(f"{machine()}\n{len(calls)} calls, {dict(ends)}, {len(found)} promises not kept")
    for violation in found[:20]:
        print(f"  {violation.call_id}: {violation.kind}: {violation.detail}")
    if args.json:
        write(args.json, json.dumps({"machine": machine(), "rounds": table, "ends": ends}))
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
