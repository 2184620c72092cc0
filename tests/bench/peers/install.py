"""Gives each peer an environment of its own, once: ~/.cache/mlxmesh/peers/<name>."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HOME = Path.home() / ".cache" / "mlxmesh" / "peers"
PINS = Path(__file__).with_name("pins")
LIMIT_S = 600


class PeerFailed(Exception):
    """A peer could not be installed, started or measured; the text says why."""


def installed(name: str, *, home: Path = HOME, pins: Path = PINS) -> Path:
    """The folder of the peer's programs, installed first where its pins are new.

    Raises PeerFailed with the last line that the installer wrote.
    """
    wanted, environment = pins / f"{name}.txt", home / name
    marker, programs = environment / "installed.txt", environment / "bin"
    if not marker.exists() or marker.read_text() != wanted.read_text():
        marker.unlink(missing_ok=True)
        _uv("venv", "--allow-existing", "--python", sys.executable, str(environment))
        # Every distribution is named in the pins; what they leave out is left out on purpose.
        python = ["--python", str(programs / "python")]
        _uv("pip", "sync", *python, str(wanted))
        marker.write_text(wanted.read_text())
    return programs


def run_step(command: Sequence[str | Path], *, limit_s: float = LIMIT_S) -> None:
    """Run one step of an installation, silently.

    Raises PeerFailed with the last line that it wrote, or when it does not end in time.
    """
    try:
        subprocess.run(
            command,
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=limit_s,
        )
    except subprocess.CalledProcessError as error:
        said = error.stdout.strip().splitlines() or ["no reason given"]
        raise PeerFailed(f"not installed: {said[-1]}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerFailed(f"not installed: {error}") from error


def _uv(*arguments: str) -> None:
    run_step([Path(sys.executable).with_name("uv"), *arguments, "--quiet"])
