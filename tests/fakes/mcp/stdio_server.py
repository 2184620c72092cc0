"""An MCP server on standard input and output, by the official SDK: `stdio_server.py [HOW]`."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp_types import ToolAnnotations

HOW = sys.argv[1] if len(sys.argv) > 1 else "plain"
server = MCPServer("fake", version="1.2")


@server.tool(description="Says it again.", annotations=ToolAnnotations(read_only_hint=True))
def echo(text: str) -> str:
    return text


@server.tool()
def add(a: int, b: int) -> int:
    return a + b


@server.tool()
def fail(text: str) -> str:
    raise ValueError(text)


@server.tool()
def environment() -> dict[str, str]:
    return dict(os.environ)


@server.tool()
def where() -> dict[str, Any]:
    return {"pid": os.getpid(), "group": os.getpgid(0), "directory": os.getcwd()}


@server.tool(annotations=ToolAnnotations(destructive_hint=True))
def crash(words: str = "I am gone") -> str:
    print(words, file=sys.stderr, flush=True)
    os._exit(3)


@server.tool()
async def sleep(seconds: float, path: str = "") -> str:
    """Says in a file that it runs, and when it was cancelled."""
    if path:
        Path(path).write_text("running")
    try:
        await anyio.sleep(seconds)
    except BaseException:
        if path:
            Path(path).write_text("cancelled")
        raise
    return "awake"


@server.tool()
def freeze(seconds: float) -> str:
    time.sleep(seconds)
    return "thawed"


@server.tool()
def large(characters: int) -> str:
    return "x" * characters


@server.tool()
def start_child(seconds: int = 600, *, leave: bool = False) -> int:
    """A child that outlives its parent if it can."""
    code = (
        f"import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep({seconds})"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=leave,
    )  # fmt: skip
    return child.pid


@server.tool()
async def learn(name: str, context: Context) -> str:
    """Adds a tool while it runs."""
    server.add_tool(lambda: name, name=name, description="was learned")
    await context.notify_tools_changed()
    return "learned"


def main() -> None:
    if HOW == "stubborn":  # ignores that its input is closed, and SIGTERM
        import signal

        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    server.run("stdio")
    if HOW == "stubborn":
        time.sleep(600)


if __name__ == "__main__":
    main()
