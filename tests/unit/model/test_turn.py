"""One at a time, and the next when the one before is done."""

import asyncio
import subprocess
import sys
from pathlib import Path

from mlxmesh_model.fleet.turn import Turn


async def test_the_second_waits_for_the_first(tmp_path: Path) -> None:
    first, second = Turn(tmp_path / "t"), Turn(tmp_path / "t")
    assert first.take()
    assert first.take()
    assert not second.take()
    waiting = asyncio.create_task(second.wait())
    await asyncio.sleep(0.2)
    assert not waiting.done()
    first.release()
    async with asyncio.timeout(5):
        await waiting
    assert not first.take()
    second.release()


def test_the_end_of_a_process_passes_its_turn_on(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from mlxmesh_model.fleet.turn import Turn; "
        "turn = Turn(Path(sys.argv[1])); print(turn.take(), flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "t")]
    turn = Turn(tmp_path / "t")
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        assert not turn.take()
        holder.kill()
    assert turn.take()
    turn.release()
