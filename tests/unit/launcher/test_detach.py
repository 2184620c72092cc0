"""Stopping what does not stop by itself."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import psutil

from mlxmesh_launcher.detach import stop_detached
from mlxmesh_launcher.record import FILE_NAME, LauncherRecord, start_of

DEAF = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


def test_what_was_killed_is_gone_when_the_stop_returns(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE) as launcher:
        assert launcher.stdout is not None
        child = psutil.Process(int(launcher.stdout.readline()))
        start = start_of(psutil.Process(launcher.pid))
        record = LauncherRecord(launcher.pid, start, stop_timeout_s=0)
        (tmp_path / FILE_NAME).write_text(json.dumps(asdict(record)))
        assert asyncio.run(stop_detached(tmp_path))
        assert not psutil.pid_exists(launcher.pid)
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert not asyncio.run(stop_detached(tmp_path))
