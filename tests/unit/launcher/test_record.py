"""Which launcher runs a data directory: claims, stale records, reused pids."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from mlxmesh_launcher.lock import FILE_NAME as LOCK
from mlxmesh_launcher.lock import DirectoryLock
from mlxmesh_launcher.record import FILE_NAME, LauncherRecord, RecordFile, read_record, start_of
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
    assert list(tmp_path.iterdir()) == [tmp_path / LOCK]


def test_a_second_claim_names_the_holder_and_the_way_out(tmp_path: Path) -> None:
    first = RecordFile(tmp_path)
    first.claim()
    with pytest.raises(IllegalState, match=rf"pid {os.getpid()}.*mlxmesh down"):
        RecordFile(tmp_path).claim()
    first.release()
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


def test_of_many_launchers_at_a_time_one_gets_the_directory(tmp_path: Path) -> None:
    """Each has a stale record to clear away, which is where two could believe to have it."""
    (tmp_path / FILE_NAME).write_text(json.dumps({"pid": 1, "create_time": 1.0}))
    script = (
        "import sys, pathlib\n"
        "from mlxmesh_launcher.record import RecordFile\n"
        "from mlxmesh_shared.errors import IllegalState\n"
        "record = RecordFile(pathlib.Path(sys.argv[1]))\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "try:\n"
        "    record.claim(); print('claimed', flush=True); sys.stdin.readline()\n"
        "except IllegalState as error:\n"
        "    print(error, flush=True)\n"
    )
    starts = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    said = [[start.stdout.readline() for start in starts if start.stdout]]
    for start in starts:
        assert start.stdin is not None
        start.stdin.write("\n")
        start.stdin.flush()
    said.append([start.stdout.readline() for start in starts if start.stdout])
    claimed = [
        start.pid for start, line in zip(starts, said[1], strict=True) if line == "claimed\n"
    ]
    assert len(claimed) == 1, said
    assert sum(f"launcher pid {claimed[0]}" in line for line in said[1]) == len(starts) - 1
    for start in starts:
        start.communicate("\n", timeout=20)


def test_a_lock_that_is_handed_on_outlives_who_took_it(tmp_path: Path) -> None:
    lock = DirectoryLock.acquire(tmp_path)
    holder = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"],
        stdin=subprocess.PIPE,
        pass_fds=(lock.descriptor,),
    )
    lock.write_holder(holder.pid)
    lock.release()
    with pytest.raises(IllegalState, match=f"launcher pid {holder.pid}"):
        RecordFile(tmp_path).claim()
    holder.kill()
    holder.communicate(timeout=20)
    RecordFile(tmp_path).claim()


def test_a_directory_that_was_removed_is_claimed_again(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    record = RecordFile(data_dir)
    record.claim()
    assert not record.reclaim()
    shutil.rmtree(data_dir)
    assert record.reclaim()
    assert read_record(data_dir) is not None
    with pytest.raises(IllegalState, match="already runs"):
        RecordFile(data_dir).claim()
    record.release()


def test_a_removed_directory_that_another_took_is_left_to_it(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    record, other = RecordFile(data_dir), RecordFile(data_dir)
    record.claim()
    shutil.rmtree(data_dir)
    other.claim()
    with pytest.raises(IllegalState, match="already runs"):
        record.reclaim()
    record.release()
    assert read_record(data_dir) is not None


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(IllegalState, match="cannot be used as the data directory: Not a dir") as no:
        RecordFile(tmp_path / "file" / "data").claim()
    assert "\n" not in str(no.value)
