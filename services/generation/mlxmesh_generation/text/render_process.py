"""The process that runs chat templates: `python -m mlxmesh_generation.text.render_process FD`.

A template is foreign code that can ask for any time and memory in one expression, so it runs where
the kernel limits both and its end harms nobody. Requests and answers are frames on the socket FD.
"""

import contextlib
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from mlxmesh_generation.text.chat_template import CompiledTemplate
from mlxmesh_generation.text.render_frames import (
    EXHAUSTED,
    MARKED_TEXT,
    REFUSED,
    TEXT,
    UNUSABLE,
    read_frame,
    write_frame,
)
from mlxmesh_generation.text.special_text import SpecialTexts
from mlxmesh_generation.text.template_limits import TemplateRefused, TemplateUnusable
from mlxmesh_generation.text.template_values import template_values

MAX_MEMORY_BYTES = 512 * 2**20
"""The memory that one rendering may use beyond that of the idle process."""
# A process whose parent died during a rendering ends after this much more CPU time.
_SPARE_CPU_S = 5
_STATM = Path("/proc/self/statm")
_WATCH_S = 0.02


class Renderer:
    """The templates of this process, by the names that its parent uses."""

    def __init__(self) -> None:
        self._templates: dict[str, tuple[CompiledTemplate, SpecialTexts]] = {}

    def answer(self, request: dict[str, Any]) -> bytes:
        """Renders one request to one response."""
        limit_cpu(request["max_render_s"])
        try:
            return self._rendered(request)
        except TemplateRefused as error:
            return REFUSED + str(error).encode(errors="replace")
        except TemplateUnusable as error:
            return UNUSABLE + str(error).encode(errors="replace")
        except MemoryError:
            return EXHAUSTED + b"needs too much memory"

    def _rendered(self, request: dict[str, Any]) -> bytes:
        if "source" in request:
            self._templates[request["template"]] = (
                CompiledTemplate(
                    request["source"],
                    variables=request["variables"],
                    max_render_s=request["max_render_s"],
                ),
                SpecialTexts(request["special_texts"]),
            )
        template, special = self._templates[request["template"]]
        values, has_marks = template_values(request["conversation"], special)
        text = template.render(values)
        try:
            return (MARKED_TEXT if has_marks else TEXT) + text.encode()
        except UnicodeEncodeError:
            raise TemplateUnusable("makes text that is not Unicode") from None


def limit_cpu(seconds: float) -> None:
    """Ends this process once it has used this much more CPU time, plus a margin."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    until_s = int(used.ru_utime + used.ru_stime + seconds) + 1 + _SPARE_CPU_S
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    with contextlib.suppress(ValueError):  # a lower limit is set already
        resource.setrlimit(resource.RLIMIT_CPU, (until_s, hard))


def limit_memory(platform: str = sys.platform) -> None:
    """Makes an allocation beyond the limit fail; where the kernel cannot, ends this process soon.

    macOS accepts RLIMIT_AS and does not enforce it.
    """
    if platform == "linux":
        pages = int(_STATM.read_text().split()[0])
        limit = pages * resource.getpagesize() + MAX_MEMORY_BYTES
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    else:
        most = peak_bytes(platform) + MAX_MEMORY_BYTES
        threading.Thread(target=_watch_memory, args=(most, platform), daemon=True).start()


def peak_bytes(platform: str = sys.platform) -> int:
    """The peak memory of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform == "darwin" else 1024 * peak


def _watch_memory(most: int, platform: str) -> None:
    while peak_bytes(platform) <= most:
        time.sleep(_WATCH_S)
    os._exit(1)


def main(fd: int) -> None:
    # Ctrl-C is for the parent, which then closes the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit_memory()
    renderer = Renderer()
    with socket.socket(fileno=fd) as stream, contextlib.suppress(EOFError, ConnectionError):
        write_frame(stream, b"")  # ready
        while True:
            write_frame(stream, renderer.answer(json.loads(read_frame(stream))))


if __name__ == "__main__":
    main(int(sys.argv[1]))
