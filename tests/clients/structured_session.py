# pyright: basic, reportMissingImports=false
"""What programs do with instructor and LangChain, as JSON: run by their environment's Python.

Usage: structured_session.py URL_OF_V1
"""

from __future__ import annotations

import json
import sys
from typing import Any, Literal

import instructor
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from openai import OpenAI
from pydantic import BaseModel, ConfigDict, Field

QUESTION = "Describe a place."
MAX_TOKENS = 400


class Place(BaseModel):
    """A place; its JSON is bounded, so that a tiny model comes to its end."""

    model_config = ConfigDict(extra="forbid")
    city: str = Field(max_length=20)
    floor: Literal[1, 2, 3]


def by_instructor(url: str) -> dict[str, Any]:
    client = OpenAI(base_url=url, api_key="any", max_retries=0)
    modes = {"json_schema": instructor.Mode.JSON_SCHEMA, "tools": instructor.Mode.TOOLS}
    found: dict[str, Any] = {}
    for name, mode in modes.items():
        place = instructor.from_openai(client, mode=mode).chat.completions.create(
            model="pocket",
            response_model=Place,
            max_retries=0,
            max_tokens=MAX_TOKENS,
            temperature=0,
            messages=[{"role": "user", "content": QUESTION}],
        )
        found[name] = place.model_dump()
    return found


def model(url: str, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(
        base_url=url,
        api_key="any",  # pyright: ignore[reportArgumentType]
        model="pocket",
        max_retries=0,
        max_tokens=MAX_TOKENS,  # pyright: ignore[reportCallIssue]
        temperature=0,
        **options,
    )


def by_langchain(url: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for method in ("json_schema", "function_calling"):
        place: Any = model(url).with_structured_output(Place, method=method).invoke(QUESTION)
        found[method] = place.model_dump()
    bound = model(url).bind_tools([Place], tool_choice="required")
    streamed: Any = None
    for chunk in bound.stream(QUESTION):
        streamed = chunk if streamed is None else streamed + chunk
    found["streamed"] = [call["args"] for call in streamed.tool_calls]
    call = streamed.tool_calls[0]
    turns = [HumanMessage(QUESTION), streamed, ToolMessage("It rains.", tool_call_id=call["id"])]
    last: Any = model(url).bind_tools([Place], tool_choice="none").invoke(turns)
    found["answer"] = {"text": last.content, "calls": last.tool_calls}
    return found


if __name__ == "__main__":
    address = sys.argv[1]
    told = {"instructor": by_instructor(address), "langchain": by_langchain(address)}
    json.dump(told, sys.stdout)
