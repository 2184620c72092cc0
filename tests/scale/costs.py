"""What discovery and placement cost one generation instance and Consul, by the number of engines.

    .venv/bin/python -m tests.scale.costs [--engines 50 200 500 1000] [--json FILE] [--picture FILE]

One process on a real Consul agent, for machines that are too busy for `make scale`: it registers
engines that nobody serves, reads their list through the registry adapter, and places sequences.
Times are CPU time of this process and of Consul, so that other work on the machine matters little.
It says nothing about how soon instances notice a change, and nothing about connections.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from pathlib import Path

import psutil

from mlxmesh_generation.placement.engines import Engines
from mlxmesh_generation.placement.router import BLOCK_TOKENS, PrefixAffinity, prefixes
from mlxmesh_shared.registry.port import Instance
from mlxmesh_shared.settings import ConsulSettings
from tests.bench.picture import draw
from tests.bench.results import Row, console, drawn, machine, write
from tests.fakes.registry import InMemoryRegistry
from tests.scale.__main__ import find_consul
from tests.scale.engine_host import REGISTER_AT_ONCE, WIDE, model_of
from tests.scale.growth import cost_panels, tabled
from tests.scale.mesh_host import no_connection, place_s
from tests.scale.size import consul
from tests.scale.watching import WatchedRegistry

READS, PLACEMENTS = 5, 50
UNCHECKED_S = 3600.0
AFFINITY_BLOCKS = 20_000


def engine(number: int) -> Instance:
    """An engine that nobody serves."""
    return Instance(
        service="engine",
        instance_id=f"engine-{number:05d}-0123abcd",
        address=f"127.0.0.1:{1 + number}",
        pid=1,
        metadata={
            "contract": "v1",
            "host": f"host-{number // 8}",
            "model": model_of(number),
            "version": "1",
            "device": "cpu",
            "runtime": f"runtime-{number // 8}",
        },
    )


async def reading(registry: WatchedRegistry, agent: psutil.Process) -> Row:
    """One answer of Consul, as a watch reads it after a change."""
    bytes_before, consul_before = registry.counts.list_bytes, _cpu_s(agent)
    started_s = time.thread_time()
    for _ in range(READS):
        await registry.resolve("engine")
    return {
        "KB/answer": (registry.counts.list_bytes - bytes_before) / READS / 1e3,
        "read ms": 1e3 * (time.thread_time() - started_s) / READS,
        "consul ms": 1e3 * (_cpu_s(agent) - consul_before) / READS,
    }


async def placing(instances: int) -> Row:
    """Placements of an instance that is linked to all engines, and the memory of a link."""
    registry = InMemoryRegistry()
    for number in range(instances):
        await registry.register(engine(number))
    engines = Engines(registry, open_=no_connection)
    before = psutil.Process().memory_full_info().uss
    running = asyncio.create_task(engines.run())
    async with asyncio.timeout(120):
        while len([*engines.breakers()]) < instances:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.5)
    memory = psutil.Process().memory_full_info().uss - before
    row: Row = {
        "place us, half of all": 1e6 * place_s(engines, WIDE, PLACEMENTS),
        "place us, 10 replicas": 1e6 * place_s(engines, model_of(0), PLACEMENTS),
        "KB/link without connection": memory / instances / 1e3,
    }
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return row


def forgetting(instances: int) -> Row:
    """A tenth of the engines is gone: what is remembered of their prompts goes as well."""
    affinity = PrefixAffinity()
    for block in range(AFFINITY_BLOCKS):
        known = prefixes([block] * BLOCK_TOKENS)
        affinity.note(known, f"engine-{block % instances}")
    started_s = time.thread_time()
    affinity.forget(f"engine-{number}" for number in range(instances // 10))
    return {"forget a tenth ms": 1e3 * (time.thread_time() - started_s)}


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


async def measure(sizes: list[int]) -> list[Row]:
    """One size after the other, on one agent."""
    rows: list[Row] = []
    async with consul() as (address, agent):
        settings = ConsulSettings(address=address, check_interval_s=UNCHECKED_S)
        registry = WatchedRegistry(settings)
        known = 0
        for size in sizes:
            while known < size:
                numbers = range(known, min(known + REGISTER_AT_ONCE, size))
                await asyncio.gather(*(registry.register(engine(one)) for one in numbers))
                known += len(numbers)
            row: Row = {"engines": size, **await reading(registry, agent), **await placing(size)}
            rows.append({**row, **forgetting(size)})
            print(rows[-1], file=sys.stderr, flush=True)
        await registry.close()
    return rows


def main() -> int:
    """Parse the options, run, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engines", type=int, nargs="+", default=[50, 200, 500, 1000])
    parser.add_argument("--json", type=Path, help="write the results here too")
    parser.add_argument("--picture", type=Path, help="draw the curves into this .svg or .png")
    args = parser.parse_args()
    os.environ["CONSUL_BIN"] = find_consul()
    if not os.environ["CONSUL_BIN"]:
        parser.error("there is no Consul agent: run `make consul`, or set CONSUL_BIN")
    rows = asyncio.run(measure(args.engines))
    findings = tabled(rows)
    out = console()
    out.print(machine())
    out.print(drawn("by size", findings.tables["by size"]))
    if args.json:
        write(args.json, findings.to_json())
    if args.picture:
        draw(cost_panels(rows), args.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
