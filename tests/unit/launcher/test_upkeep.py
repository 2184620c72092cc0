"""What is done from time to time goes on after a failure, which is logged once."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mlxmesh_launcher.authority import Authority, ensure_certificates
from mlxmesh_launcher.certificate_directory import read_certificate
from mlxmesh_launcher.periodic_tasks import PeriodicTasks, rotate_logs
from mlxmesh_shared.host.log_file import LogFile
from tests.fakes.waiting import until


async def test_certificates_are_renewed_after_a_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    ensure_certificates(tmp_path)
    Authority(tmp_path).issue("client", lifetime=timedelta(days=1))
    key, away = tmp_path / "ca.key", tmp_path / "away"
    key.rename(away)
    key.mkdir()  # reading it is an OSError for root too

    turns: list[int] = []

    def renew() -> None:
        turns.append(1)
        ensure_certificates(tmp_path)

    tasks = PeriodicTasks()
    tasks.every(0.01, "renewing certificates", renew)
    await until(lambda: len(turns) >= 5, timeout_s=20)
    failures = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [one.getMessage().partition(",")[0] for one in failures] == [
        "renewing certificates failed"
    ]
    key.rmdir()
    away.rename(key)
    soon = datetime.now(UTC) + timedelta(days=2)
    await until(lambda: read_certificate(tmp_path / "client.crt").expires > soon, timeout_s=20)
    await until(lambda: "renewing certificates works again" in caplog.text, timeout_s=20)
    await tasks.stop()


async def test_logs_stay_bounded_while_they_are_written(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "logs" / "model.log", max_bytes=1000, max_files=2)
    tasks = PeriodicTasks()
    rotate_logs(tasks, [log])
    for number in range(200):
        log.append(f"line {number} of a talkative service")
    await until(lambda: log.part(1).exists(), timeout_s=20)
    assert log.path.stat().st_size <= 1000
    await tasks.stop()
