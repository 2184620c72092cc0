"""A program whose MLX thread still ends while the interpreter does: `slow_thread_end.py KIND DIR`.

Python's `join` returns before the destructors of a native thread's variables run. Here they begin
with a wait, and so does the end of the interpreter, which is longer.
"""

import asyncio
import contextlib
import ctypes
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import mlx.core as mx

from mlxmesh_engine.scheduling.request import SequenceRequest
from mlxmesh_engine.service.encoder_thread import EncoderThread
from mlxmesh_engine.service.follow import FollowerThread
from mlxmesh_engine.service.mlx_thread import MlxThread
from tests.fakes.engine_rig import load_model

_THREAD_S, _INTERPRETER_S = 1.0, 3.0


class _Lasting:
    """Delays the end of the interpreter."""

    def __del__(self, sleep: Callable[[float], None] = time.sleep) -> None:
        sleep(_INTERPRETER_S)


def delay_end_of_thread() -> None:
    """The destructors of this thread's variables that exist will run after a wait. For Linux."""
    libc = ctypes.CDLL(None)
    wait_us = ctypes.c_void_p(int(_THREAD_S * 1e6))
    libc.__cxa_thread_atexit_impl(libc.usleep, wait_us, None)


_add_one = mx.compile(lambda x: x + 1)


def _fail_after_use() -> NoReturn:
    mx.eval(_add_one(mx.ones(4)))
    delay_end_of_thread()
    raise ValueError


async def generate(model_dir: Path) -> None:
    thread = MlxThread(lambda: load_model(model_dir))
    ended = asyncio.Event()
    await thread.start(lambda outputs, _: _set_at_end(outputs, ended))
    thread.submit(SequenceRequest((1, 1), (5, 6, 7), 4))
    await ended.wait()
    thread._put(lambda _: delay_end_of_thread())
    await thread.stop()


def _set_at_end(outputs: Any, ended: asyncio.Event) -> None:
    if any(update.last for updates in outputs.values() for update in updates):
        ended.set()


async def encode(_: Path) -> None:
    thread = EncoderThread(_fail_after_use)
    with contextlib.suppress(ValueError):
        await thread.start(lambda *_: None)
    await thread.stop()


async def follow(_: Path) -> None:
    thread = FollowerThread(_fail_after_use)
    thread.start()
    with contextlib.suppress(ValueError):
        await thread.dead
    await thread.stop()


if __name__ == "__main__":
    lasting = _Lasting()
    asyncio.run(
        {"generate": generate, "encode": encode, "follow": follow}[sys.argv[1]](Path(sys.argv[2]))
    )
