"""Lets the model call a function until it answers: python tools.py "How warm is it in Oslo?"."""

import asyncio
import json
import os
import sys
from typing import Any

from mlxmesh_client import MeshClient, MeshError, Outputs

MAX_ROUNDS = 5
WEATHER = {
    "name": "get_weather",
    "description": "Returns the weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    # The arguments of every call satisfy the schema.
    "strict": True,
}


def get_weather(city: str) -> str:
    return json.dumps({"city": city, "celsius": 4, "sky": "rain"})


async def main() -> int:
    question = sys.argv[1] if len(sys.argv) > 1 else "How warm is it in Oslo?"
    model = os.environ.get("MLXMESH_EXAMPLE_MODEL", "qwen")
    messages: list[Any] = [("user", question)]
    async with MeshClient(os.environ.get("MLXMESH_ADDRESS", "localhost:50051")) as mesh:
        try:
            for _ in range(MAX_ROUNDS):
                answer = await generate(mesh, model, messages)
                if not answer["tool_calls"]:
                    return 0
                messages += [answer, *map(result_of, answer["tool_calls"])]
        except MeshError as error:
            print(f"{error.reason}: {error}", file=sys.stderr)
            return 1
    print("the model did not stop calling", file=sys.stderr)
    return 1


async def generate(mesh: MeshClient, model: str, messages: list[Any]) -> dict[str, Any]:
    """Shows one message of the model as it arrives, and returns it for the next request."""
    outputs = Outputs()
    stream = mesh.generate(model, messages=messages, tools=[WEATHER], max_tokens=1000)
    async for event in stream:
        outputs.add(event)
        print(event.text, end="", flush=True)
    print()
    output = outputs[0]
    return {
        "role": "assistant",
        "content": output.text,
        "reasoning_text": output.reasoning_text,
        "tool_calls": output.tool_calls,
    }


def result_of(call: Any) -> dict[str, str]:
    """Runs a call; its result is a message too."""
    result = get_weather(**json.loads(call.arguments))
    print(f"[{call.name}({call.arguments}) = {result}]")
    return {"role": "tool", "tool_call_id": call.id, "content": result}


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
