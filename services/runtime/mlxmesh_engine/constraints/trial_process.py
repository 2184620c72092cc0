"""The process in which grammars are compiled first: `python -m ... FD MODEL_DIR VOCAB_SIZE EOS...`.

A grammar is foreign code for a compiler that can take any time and memory and overflow the stack,
so it is tried where the kernel limits all three and the end harms nobody. Requests and answers are
JSON messages on the socket FD.
"""

import contextlib
import json
import resource
import signal
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from llguidance import LLMatcher

from mlxmesh_engine.constraints.limits import parser_limits
from mlxmesh_engine.constraints.tokenizer import Vocabulary, load_vocabulary

MAX_MEMORY_BYTES = 512 * 2**20
"""The memory that one compilation may use beyond that of the idle process."""
# Less than any thread of the engine has that compiles or computes masks.
_STACK_BYTES = 1536 * 2**10
# A process whose parent died during a compilation ends after this much more CPU time.
_SPARE_CPU_S = 5
_STATM = Path("/proc/self/statm")


def answer(vocabulary: Vocabulary, request: dict[str, Any]) -> dict[str, Any]:
    """Compiles one grammar and computes its first mask; has the memory it needs, or its error."""
    limit_cpu(request["timeout_s"])
    before = _pages(1)
    matcher = LLMatcher(
        vocabulary.tokenizer, request["grammar"], log_level=0, limits=parser_limits()
    )
    if not matcher.is_error():
        matcher.compute_bitmask()
    used = max(0, _pages(1) - before) * resource.getpagesize()
    return {"error": matcher.get_error(), "bytes": used}


def limit_cpu(seconds: float) -> None:
    """Ends this process once it has used this much more CPU time, plus a margin."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    until_s = int(used.ru_utime + used.ru_stime + seconds) + 1 + _SPARE_CPU_S
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    with contextlib.suppress(ValueError):  # a lower limit is set already
        resource.setrlimit(resource.RLIMIT_CPU, (until_s, hard))


def limit_memory() -> None:
    """Makes an allocation beyond the limit fail; macOS does not enforce it."""
    if sys.platform == "linux":
        limit = _pages(0) * resource.getpagesize() + MAX_MEMORY_BYTES
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _pages(column: int) -> int:
    """Pages of virtual (0) or resident (1) memory; 0 where the kernel does not say."""
    return int(_STATM.read_text().split()[column]) if _STATM.exists() else 0


def _serve(connection: Connection, vocabulary: Vocabulary) -> None:
    with contextlib.suppress(EOFError, ConnectionError):
        connection.send_bytes(b"{}")  # ready
        while True:
            request = json.loads(connection.recv_bytes())
            connection.send_bytes(json.dumps(answer(vocabulary, request)).encode())


def main(fd: int, model_dir: Path, vocab_size: int, eos_token_ids: frozenset[int]) -> None:
    # Ctrl-C is for the parent, which then closes the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    vocabulary = load_vocabulary(model_dir, vocab_size=vocab_size, eos_token_ids=eos_token_ids)
    threading.stack_size(_STACK_BYTES)
    with Connection(fd) as connection:
        thread = threading.Thread(target=_serve, args=(connection, vocabulary))
        limit_memory()
        thread.start()
        thread.join()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), frozenset(map(int, sys.argv[4:])))
