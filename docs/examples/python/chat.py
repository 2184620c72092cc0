"""A conversation of several turns: python chat.py, or lines on standard input."""

import asyncio
import os
import sys

from mlxmesh_client import MeshClient, MeshError


async def main() -> int:
    model = os.environ.get("MLXMESH_EXAMPLE_MODEL", "pocket")
    messages: list[tuple[str, str]] = []
    async with MeshClient(os.environ.get("MLXMESH_ADDRESS", "localhost:50051")) as mesh:
        while question := await asyncio.to_thread(read_question):
            messages.append(("user", question))
            answer = ""
            try:
                async for event in mesh.generate(model, messages=messages, max_tokens=200):
                    answer += event.text
                    print(event.text, end="", flush=True)
            except MeshError as error:
                print(f"{error.reason}: {error}", file=sys.stderr)
                return 1
            print()
            # The mesh keeps no conversation: each turn carries the ones before it.
            messages.append(("assistant", answer))
    return 0


def read_question() -> str:
    try:
        return input("you: " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return ""


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
