"""llama.cpp as a peer: its server, the types of one GGUF file, and what its API needs beside ours.

Prompts are always new, so its caches of prompts would only cost it time: they are off.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.bench.peers.catalogue import Argv, Peer, Site
from tests.bench.peers.install import run_step
from tests.bench.peers.llama_cpp_build import NAME, VERSION

CONTEXT_TOKENS = 256
"""For each slot: the least that llama.cpp gives, and more than any stream here takes."""
ASK: dict[str, Any] = {"ignore_eos": True, "cache_prompt": False}
"""The fields of its own in each request."""
AS_IT_IS = "Q4_1"
"""The type that the file ships in; llama-quantize makes the others from it."""


def llama_cpp(*, slots: int, threads: int) -> Peer:
    """The server for so many streams at once; all else is at its default."""

    def commands(site: Site) -> list[Argv]:
        where = ("--host", "127.0.0.1", "--port", site.ports[0], "--offline")
        room = ("--parallel", slots, "--ctx-size", slots * CONTEXT_TOKENS)
        caches = ("--no-cache-prompt", "--cache-ram", 0)
        model = ("--model", site.model, "--threads", threads)
        return [site.argv("llama-server", *model, *where, *room, *caches)]

    return Peer(NAME, f"llama-cpp-python=={VERSION}", commands)


def as_type(gguf: Path, kind: str, *, programs: Path, folder: Path) -> Path:
    """The same weights in another type of llama.cpp's; the file itself for the type that it has.

    Raises PeerFailed.
    """
    if kind == AS_IT_IS:
        return gguf
    target = folder / f"{kind}.gguf"
    run_step([programs / "llama-quantize", "--allow-requantize", gguf, target, kind])
    return target
