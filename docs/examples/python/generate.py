"""Streams one answer: python generate.py "Once upon a time"."""

import asyncio
import os
import sys

from mlxmesh_client import MeshClient, MeshError


async def main() -> int:
    prompt = sys.argv[1] if len(sys.argv) > 1 else "Once upon a time"
    model = os.environ.get("MLXMESH_EXAMPLE_MODEL", "pocket")
    async with MeshClient(os.environ.get("MLXMESH_ADDRESS", "localhost:50051")) as mesh:
        try:
            async for event in mesh.generate(model, prompt=prompt, max_tokens=60, temperature=0.7):
                print(event.text, end="", flush=True)
                if event.finished:
                    usage = event.finished.usage
                    print(f"\n[{usage.prompt_tokens} tokens in, {usage.completion_tokens} out]")
        except MeshError as error:
            print(f"{error.reason}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
