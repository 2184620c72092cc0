"""Kills and pauses jobs services and workers while they run jobs, and judges.

    .venv/bin/python -m tests.chaos.jobs [--jobs 100000] [--kills 200] [--pauses 20]
                                         [--database sqlite|postgres] [--seed 1] [--json FILE]
                                         [--keep DIRECTORY]

The exit status tells of a promise that was broken, or of a target that was missed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from tests.bench.results import show, write
from tests.chaos.__main__ import progress
from tests.chaos.jobs.trial import Plan, play


def main() -> int:
    """Parse the options, run, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default, about in (
        ("jobs", 100_000, "jobs to submit"),
        ("kills", 200, "kills of workers and jobs services"),
        ("pauses", 20, "pauses of workers beyond their lease, and of jobs services"),
        ("workers", 8, "workers"),
        ("slots", 16, "jobs of one connector that a worker runs at once"),
        ("ahead", 2_000, "jobs that wait while more are submitted"),
        ("seed", 1, "decides the jobs and the faults"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=about)
    parser.add_argument("--lease", type=float, default=10, help="seconds of a worker's lease")
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--json", type=Path, help="write all findings here")
    parser.add_argument("--keep", type=Path, help="keep logs and the record in this new directory")
    args = parser.parse_args()
    plan = Plan(
        jobs=args.jobs,
        kills=args.kills,
        pauses=args.pauses,
        database=args.database,
        seed=args.seed,
        workers=args.workers,
        slots=args.slots,
        lease_s=args.lease,
        ahead=args.ahead,
    )
    if args.keep:
        args.keep.mkdir(parents=True)
    findings = asyncio.run(
        play(plan, lambda line: progress.print(line, highlight=False), args.keep)
    )
    show(findings)
    if args.json:
        write(args.json, findings.to_json())
    return int(not all(each.met for each in findings.results))


if __name__ == "__main__":
    sys.exit(main())
