"""One leader at a time, and another when the first one is done."""

import asyncio
import subprocess
import sys
from pathlib import Path

from mlxmesh_shared.host.file_lock import FileLock


async def test_the_second_waits_for_the_first(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert first.try_acquire()
    assert first.try_acquire()
    assert not second.try_acquire()
    waiting = asyncio.create_task(second.acquire())
    await asyncio.sleep(0.2)
    assert not waiting.done()
    first.release()
    async with asyncio.timeout(30):
        await waiting
    assert not first.try_acquire()
    second.release()


def test_the_end_of_a_process_releases_its_lock(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; "
        "from mlxmesh_shared.host.file_lock import FileLock; "
        "lock = FileLock(Path(sys.argv[1])); print(lock.try_acquire(), flush=True); "
        "sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "lock")]
    lock = FileLock(tmp_path / "lock")
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        assert not lock.try_acquire()
        holder.kill()
    assert lock.try_acquire()
    lock.release()
