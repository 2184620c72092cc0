"""Which launcher runs a data directory: claims, stale records, reused pids."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from mlxmesh_launcher.process_start import start_of
from mlxmesh_launcher.record import FILE_NAME, LauncherRecord, RecordFile, read_record
from mlxmesh_shared.errors import IllegalState


def test_a_claim_is_read_back_with_the_address_once_published(tmp_path: Path) -> None:
    file = RecordFile(tmp_path)
    file.claim()
    record = read_record(tmp_path)
    assert record is not None
    assert (record.pid, record.gateway) == (os.getpid(), "")
    file.publish("127.0.0.1:1234", control="127.0.0.1:1235")
    published = read_record(tmp_path)
    assert published is not None
    assert (published.gateway, published.control) == ("127.0.0.1:1234", "127.0.0.1:1235")
    file.release()
    assert read_record(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_second_claim_names_the_holder_and_the_way_out(tmp_path: Path) -> None:
    RecordFile(tmp_path).claim()
    with pytest.raises(IllegalState, match=rf"pid {os.getpid()}.*mlxmesh down"):
        RecordFile(tmp_path).claim()


def test_the_record_of_a_dead_process_does_not_block(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    (tmp_path / FILE_NAME).write_text(json.dumps({"pid": process.pid, "create_time": 1.0}))
    assert read_record(tmp_path) is None
    RecordFile(tmp_path).claim()


def test_a_reused_pid_is_not_the_launcher() -> None:
    mine = LauncherRecord(pid=os.getpid(), create_time=start_of(psutil.Process()))
    assert mine.is_running()
    assert not replace(mine, create_time=mine.create_time - 100).is_running()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', '{"other": 2}'])
def test_a_torn_record_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE_NAME).write_text(text)
    assert read_record(tmp_path) is None
