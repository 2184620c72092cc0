"""Fuzzes what reads bytes from outside, with atheris, each target in a process of its own.

    .venv/bin/python -m tests.chaos.fuzz [--seconds 60] [TARGET[=SECONDS] ...]

What a target let out is kept in build/fuzz/; `--input FILE TARGET` runs it once more.
"""

import argparse
import importlib
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

NAMES = ("http", "wire", "reference", "stops", "tokens", "safetensors", "settings")
FOUND = Path("build/fuzz")
AT_A_TIME = 2
MAX_BYTES = 4096
START_S = 300
"""Until a target that does not begin is ended: instrumenting takes a minute on a busy machine."""


def main() -> int:
    """Run the targets; returns 1 when one let something out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "targets", nargs="*", type=_target, metavar="TARGET[=SECONDS]", help="default: all"
    )
    parser.add_argument("--seconds", type=int, default=60, help="for each target without its own")
    parser.add_argument("--input", type=Path, help="run one target on this file only")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    targets = args.targets or [_target(name) for name in NAMES]
    if args.input is not None:
        return _once(targets[0].name, args.input)
    if args.inside:
        _fuzz(targets[0].name, args.seconds)
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        passed = list(pool.map(lambda each: _run(each.name, each.seconds or args.seconds), targets))
    return 0 if all(passed) else 1


class _Target(NamedTuple):
    name: str
    seconds: int
    """0 for the default."""


def _target(text: str) -> _Target:
    name, _, seconds = text.partition("=")
    if name not in NAMES:
        raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(NAMES)}")
    return _Target(name, int(seconds or 0))


def _run(name: str, seconds: int) -> bool:
    command = [sys.executable, "-m", "tests.chaos.fuzz", "--inside", "--seconds", str(seconds)]
    result = subprocess.run(
        [*command, name], capture_output=True, text=True, timeout=seconds + START_S, check=False
    )
    output = result.stdout + result.stderr
    done = next((line for line in output.splitlines() if line.startswith("Done ")), "")
    print(f"{name}: {done.lower() or 'FAILED'}", flush=True)
    if result.returncode:
        print("\n".join(output.splitlines()[-25:]), flush=True)
    return result.returncode == 0


def _fuzz(name: str, seconds: int) -> None:
    """Does not return."""
    atheris: Any = importlib.import_module("atheris")  # it has no types
    from tests.chaos.fuzz.targets import TARGETS, seeds

    FOUND.mkdir(parents=True, exist_ok=True)
    corpus = Path(tempfile.mkdtemp(prefix="mlxmesh-fuzz-"))
    for number, seed in enumerate(seeds(name)):
        (corpus / str(number)).write_bytes(seed)
    limits = [f"-max_total_time={seconds}", f"-max_len={MAX_BYTES}", "-timeout=10"]
    memory = ["-rss_limit_mb=2048", "-print_final_stats=0"]
    flags = [*limits, *memory, f"-artifact_prefix={FOUND}/{name}-", str(corpus)]
    atheris.Setup([sys.argv[0], *flags], TARGETS[name])
    atheris.Fuzz()


def _once(name: str, file: Path) -> int:
    from tests.chaos.fuzz.targets import TARGETS

    TARGETS[name](file.read_bytes())
    print("nothing was let out")
    return 0


if __name__ == "__main__":
    sys.exit(main())
