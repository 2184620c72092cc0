"""Runs every benchmark of the mesh, each in a process of its own, and says which targets are met.

    .venv/bin/python -m tests.bench [--only 1,4] [--rounds 3] [--json FILE] [--picture FILE]

Prints the tables of each part and one summary. A part that fails is reported and the rest goes on;
the exit status is then 1. A missed target is a finding, not a failure.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from tests.bench.picture import draw_suite
from tests.bench.results import MODEL_VARIABLE, MODELS, Findings, console, drawn, machine, write
from tests.bench.suite import Outcome, Part, Suite, parts_for

PART_LIMIT_S = 400.0
STOP_GRACE_S = 60.0
"""An interrupted part still stops the mesh that it started."""

progress = Console(stderr=True)


def run_part(
    part: Part,
    options: list[str],
    limit_s: float = PART_LIMIT_S,
    stop_grace_s: float = STOP_GRACE_S,
) -> Outcome:
    """One part, which prints its own tables."""
    started_s = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="mlxmesh-bench-") as folder:
        found = Path(folder) / "findings.json"
        words = ("-m", f"tests.bench.{part.module}", "--json", str(found), *options)
        failure = _run([sys.executable, *words], limit_s, stop_grace_s)
        findings = None if failure else Findings.from_json(found.read_text())
    return Outcome(part, time.perf_counter() - started_s, findings, failure)


def _run(command: list[str], limit_s: float, stop_grace_s: float) -> str:
    """Why the process failed; empty when it did not."""
    with subprocess.Popen(command) as process:
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(stop_grace_s)
            process.kill()
            return f"no end within {limit_s:.0f} s"
    return f"exited with code {code}; its output says why" if code else ""


def run_all(parts: list[Part], options: list[str]) -> Suite:
    """The parts one after the other: they would disturb each other."""
    where, outcomes = machine(), list[Outcome]()
    for number, part in enumerate(parts, 1):
        head = f"part {number} of {len(parts)}, target {part.target}: {part.title}"
        progress.rule(head, align="left")
        outcome = run_part(part, options)
        outcomes.append(outcome)
        progress.print(f"{outcome.failure or 'done'}, {outcome.seconds:.0f} s")
    return Suite(where, outcomes)


def main() -> int:
    """Parse the options, run, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="targets, as in 1,4")
    parser.add_argument("--rounds", type=int, help="measurements of each kind, in every part")
    parser.add_argument("--json", type=Path, help="write all results and tables here")
    parser.add_argument("--picture", type=Path, help="draw the curves into this .svg or .png")
    parser.add_argument("--peers", type=Path, help="the JSON of bench_peers, to draw them too")
    parser.add_argument("--model", choices=MODELS, help="measure a real model instead of our own")
    args = parser.parse_args()
    if args.model:
        os.environ[MODEL_VARIABLE] = args.model
    try:
        parts = parts_for(args.only)
    except ValueError as error:
        parser.error(str(error))
    suite = run_all(parts, ["--rounds", str(args.rounds)] if args.rounds else [])
    out = console()
    out.print(f"{suite.machine}; {sum(each.seconds for each in suite.outcomes):.0f} s")
    out.print(drawn("summary", suite.summary()))
    if args.json:
        write(args.json, suite.to_json())
    if args.picture and not draw_suite(suite, args.picture, peers=args.peers):
        progress.print(f"{args.picture} stays as it is: it is drawn from targets 1 and 7")
    return int(suite.failed)


if __name__ == "__main__":
    sys.exit(main())
