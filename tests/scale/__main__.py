"""Measures discovery and placement with up to a thousand simulated engines on a real Consul agent.

    make scale                                     # 50, 200, 500 and 1,000 engines, five minutes
    make scale SCALE="--engines 50 200 --changes 3"   # smaller and quicker
    .venv/bin/python -m tests.scale --json FILE --picture FILE

For each size it starts a Consul agent and five processes: two that serve the engines, and three
that hold the generation instances and the gateways. They use the mesh's own code: the registry
adapter, the placement of generation instances, the gateways' choice of an instance. One generation
instance is connected to every engine; the others have links that stay idle, because fifty times a
thousand connections do not fit into one machine. Then it

  1. registers the engines, and waits until every generation instance knows all of them;
  2. measures a placement and a gateway's choice, in CPU time, so that a busy machine matters less;
  3. leaves the mesh alone, and then has one engine after the other change its metadata;
  4. kills the process of a tenth of the engines, and waits until every instance has noticed.

It prints each figure by size, and the exponent with which it grows with the number of engines. The
exit status is 1 when a size did not run to its end; a missed limit is a finding, not a failure.
Needs a Consul agent: `make consul` builds one; CONSUL_BIN names another one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import time
from pathlib import Path

from rich.console import Console

from tests.bench.picture import draw
from tests.bench.results import Row, show, write
from tests.fakes.tools import TOOLS
from tests.scale.growth import judged, panels
from tests.scale.size import Mesh, consul, measure

LIMIT_S = 900.0
"""After so long no further size begins."""
SIZE_LIMIT_S = 600.0

progress = Console(stderr=True)


async def measure_all(sizes: list[Mesh], limit_s: float) -> list[Row]:
    """One size after the other, as long as there is time."""
    rows: list[Row] = []
    until_s = time.monotonic() + limit_s
    for mesh in sizes:
        if rows and time.monotonic() > until_s:
            progress.print(f"out of time: {mesh.engines} engines and more are left out")
            break
        progress.rule(f"{mesh.engines} engines", align="left")
        started_s = time.monotonic()
        async with asyncio.timeout(SIZE_LIMIT_S), consul() as (address, agent):
            rows.append(await measure(mesh, address, agent))
        progress.print(f"done, {time.monotonic() - started_s:.0f} s")
    return rows


def find_consul() -> str:
    """The agent to start; empty if there is none."""
    built = TOOLS / "consul"
    return os.environ.get("CONSUL_BIN") or (
        str(built) if built.exists() else shutil.which("consul") or ""
    )


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--engines", type=int, nargs="+", default=[50, 200, 500, 1000], help="the sizes, rising"
    )
    parser.add_argument("--generations", type=int, default=50, help="at each size; at least 3")
    parser.add_argument("--gateways", type=int, default=10, help="at each size; at least 1")
    parser.add_argument("--changes", type=int, default=10, help="of engines, one second each")
    parser.add_argument("--idle", type=float, default=10.0, help="seconds of each quiet phase")
    parser.add_argument(
        "--check-interval",
        type=float,
        default=2.0,
        help="seconds between checks by Consul; longer where a busy machine answers late",
    )
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds; then no size begins")
    parser.add_argument("--json", type=Path, help="write the results here too")
    parser.add_argument("--picture", type=Path, help="draw the curves into this .svg or .png")
    args = parser.parse_args(arguments)
    if min(args.engines) < 20 or sorted(set(args.engines)) != args.engines:
        parser.error("--engines must rise, and each must be at least 20")
    if args.generations < 3 or args.gateways < 1 or args.changes < 1:
        parser.error("--generations must be at least 3, --gateways and --changes at least 1")
    if args.idle <= 0 or args.check_interval < 0.1:
        parser.error("--idle must be above 0, --check-interval at least 0.1")
    return args


def main() -> int:
    """Parse the options, run, print, write."""
    args = parsed()
    built = find_consul()
    if not built:
        progress.print("there is no Consul agent: run `make consul`, or set CONSUL_BIN")
        return 1
    os.environ["CONSUL_BIN"] = built
    sizes = [
        Mesh(
            engines,
            args.generations,
            args.gateways,
            args.changes,
            args.idle,
            args.check_interval,
        )
        for engines in args.engines
    ]
    rows = asyncio.run(measure_all(sizes, args.limit))
    findings = judged(rows)
    show(findings) if findings.results else progress.print(rows)
    if args.json:
        write(args.json, findings.to_json())
    if args.picture and len(rows) > 1:
        draw(panels(rows), args.picture)
    return int(len(rows) < len(sizes))


if __name__ == "__main__":
    sys.exit(main())
