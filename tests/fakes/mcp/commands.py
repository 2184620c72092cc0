"""The command lines of MCP servers for tests."""

import sys
from pathlib import Path

_HERE = Path(__file__).parent


def stdio_server(how: str = "plain") -> tuple[str, ...]:
    """A server by the official SDK."""
    return (sys.executable, str(_HERE / "stdio_server.py"), how)


def hostile_server(how: str) -> tuple[str, ...]:
    """A server that misbehaves."""
    return (sys.executable, str(_HERE / "hostile_server.py"), how)
