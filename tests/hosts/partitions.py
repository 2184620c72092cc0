"""Cuts the network between the services of a mesh in every way, and judges what clients saw.

    .venv/bin/python -m tests.hosts.partitions [--minutes 10] [--only NAME,NAME] [--seed 1] [--tls]
                                               [--names] [--json FILE] [--keep DIRECTORY]

Needs root, iproute2 (Linux) and a Consul agent (`make consul`). The exit status is 1 if a call was
wrong or lost; a missed target is a finding.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from tests.bench.results import Row, console, drawn, machine, write
from tests.chaos.history import OK, Call
from tests.hosts.network import Network
from tests.hosts.partition_kinds import PARTITIONS, Partition
from tests.hosts.partition_mesh import HOSTS, PartitionMesh
from tests.hosts.partition_trial import PATIENCE_S, Load, Round, Trial, unkept

CUTS_S = (2.0, 5.0, 12.0, 25.0, 40.0)
BAD_LINKS = ("generation1", "engine1")
DELAY_S, LOSS = 0.02, 0.02
BAD_WEATHER = f"{1000 * DELAY_S:.0f} ms, {100 * LOSS:.0f} % lost"


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
        "data s": "none" if each.heard_s is None else round(each.heard_s - each.healed_s, 2),
        "first token s": "none" if began_s is None else round(began_s, 2),
        "recovery s": "none" if each.recovered_s is None else round(end_s - each.healed_s, 2),
    }


def rounds_until(
    until_s: float, trial: Trial, chosen: Sequence[Partition], network: Network, options: Options
) -> None:
    """One partition after the other, in fair weather and then in bad weather, and so on."""
    for partition, weather in itertools.islice(planned(chosen, options), options.rounds):
        if time.monotonic() > until_s:
            return
        with bad_weather(network) if weather else nullcontext():
            played = trial.play(partition, weather)
        took = (
            "never"
            if played.recovered_s is None
            else f"{played.recovered_s - played.healed_s:.2f} s"
        )
        line = f"{time.strftime('%H:%M:%S')} {partition.name}, {partition.cut_s:g} s: {took}"
        print(line, file=sys.stderr, flush=True)


def planned(chosen: Sequence[Partition], options: Options) -> Generator[tuple[Partition, str]]:
    """Each partition with the weather; each of the lengths asked for, else one by chance."""
    lengths = random.Random(options.seed)
    for weather in itertools.cycle((BAD_WEATHER,) if options.bad else ("", BAD_WEATHER)):
        for partition in chosen:
            for cut_s in options.cuts_s or (lengths.choice(CUTS_S),):
                yield replace(partition, cut_s=cut_s), weather


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
    cuts_s: Sequence[float]
    rounds: int | None
    bad: bool


def main() -> int:
    """Parse the options, run, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10, help="begin no round after these")
    parser.add_argument("--only", default="", help="parts of names of partitions, with commas")
    parser.add_argument("--seed", type=int, default=1, help="decides lengths and lost packets")
    parser.add_argument("--cuts-s", default="", help="cut for each of these instead of 2 to 40 s")
    parser.add_argument("--once", action="store_true", help="end after each of them once")
    parser.add_argument("--bad", action="store_true", help="delay and loss in every round")
    parser.add_argument("--tls", action="store_true", help="between all services and the client")
    parser.add_argument("--names", action="store_true", help="hosts know each other by names")
    parser.add_argument("--rto-max-ms", type=int, help="net.ipv4.tcp_rto_max_ms of every host")
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
    cuts_s = [float(word) for word in args.cuts_s.split(",") if word]
    rounds = len(chosen) * max(1, len(cuts_s)) if args.once else None
    with Network(*HOSTS) as network:
        if args.rto_max_ms:
            network.set_rto_max_ms(args.rto_max_ms)
        mesh = PartitionMesh(network, folder, tls=args.tls, named=args.names)
        mesh.set_up()
        print(f"{time.strftime('%H:%M:%S')} the mesh serves", file=sys.stderr, flush=True)
        with Load(mesh, folder / "load") as load:
            trial = Trial(mesh, load, args.seed)
            options = Options(args.seed, cuts_s, rounds, args.bad)
            rounds_until(time.monotonic() + 60 * args.minutes, trial, chosen, network, options)
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
