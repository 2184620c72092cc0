"""Lines of standard input: a file and a pipe give the same, whatever bytes they hold."""

import json
import subprocess
import sys
from pathlib import Path

CONTENT = b"one\nzwei\n" + b"tr\xe8s\n" + "四".encode()
PROGRAM = """
import asyncio, json
from mlxmesh_cli.commands.chat_session import stdin_lines

async def main():
    print(json.dumps([line async for line in stdin_lines()]))

asyncio.run(main())
"""
WANTED = ["one\n", "zwei\n", "tr\ufffds\n", "四"]
COMMAND = [sys.executable, "-c", PROGRAM]


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "questions.txt"
    path.write_bytes(CONTENT)
    with path.open("rb") as file:
        assert json.loads(subprocess.check_output(COMMAND, stdin=file, timeout=30)) == WANTED


def test_a_pipe() -> None:
    assert json.loads(subprocess.check_output(COMMAND, input=CONTENT, timeout=30)) == WANTED


def test_a_line_that_is_too_long_is_refused_in_words() -> None:
    refused = subprocess.run(COMMAND, input=b"x" * (17 << 20), capture_output=True, timeout=60)
    assert b"InvalidArgument: a line of standard input has more than 16 MiB" in refused.stderr
