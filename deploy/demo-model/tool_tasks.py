"""Tasks with tools: calling one, answering from its result, and leaving them alone."""

import json
import random
from typing import Any

from examples import Example, Message, assistant, is_held_out, user
from words import CITIES

_ASK: dict[str, tuple[str, ...]] = {
    "get_weather": (
        "What is the weather in {}?",
        "How is the weather in {}?",
        "Weather in {}?",
        "Tell me the weather in {}.",
    ),
    "get_time": (
        "What time is it in {}?",
        "Tell me the time in {}.",
        "What is the time in {}?",
        "Time in {}?",
    ),
    "set_timer": (
        "Set a timer for {} minutes.",
        "Timer for {} minutes, please.",
        "Start a timer of {} minutes.",
        "Please set a timer for {} minutes.",
    ),
}
_SKIES = ("sunny", "cloudy", "rainy", "windy")


def _tool(name: str, description: str, argument: str, kind: str) -> Message:
    schema = {"type": "object", "properties": {argument: {"type": kind}}, "required": [argument]}
    function = {"name": name, "description": description, "parameters": schema}
    return {"type": "function", "function": function}


TOOLS: dict[str, Message] = {
    "get_weather": _tool("get_weather", "Get the weather.", "city", "string"),
    "get_time": _tool("get_time", "Get the time.", "city", "string"),
    "set_timer": _tool("set_timer", "Set a timer.", "minutes", "integer"),
}


def _arguments(rng: random.Random, name: str) -> dict[str, Any]:
    return {"minutes": rng.randint(1, 60)} if name == "set_timer" else {"city": rng.choice(CITIES)}


def _offered(rng: random.Random, name: str) -> tuple[Message, ...]:
    """Return the named tool, sometimes beside another one, in random order."""
    names = [name]
    if rng.random() < 0.3:
        names.append(rng.choice([other for other in TOOLS if other != name]))
    rng.shuffle(names)
    return tuple(TOOLS[each] for each in names)


def sample_tool_call(rng: random.Random) -> Example:
    """Call the right tool; held out: questions (a phrasing with an argument)."""
    name = rng.choice(tuple(TOOLS))
    arguments = _arguments(rng, name)
    question = rng.choice(_ASK[name]).format(*arguments.values())
    call = json.dumps({"name": name, "arguments": arguments})
    messages = (user(question), assistant(f"<tool_call>\n{call}\n</tool_call>"))
    return Example("tool_call", f"tool {question}", messages, _offered(rng, name))


def sample_tool_answer(rng: random.Random) -> Example:
    """Answer from a tool's result; held out: city, temperature and sky combinations.

    Its first turn is a tool call, so it only asks what the tool_call task does not hold out.
    """
    city, degrees, sky = rng.choice(CITIES), rng.randint(1, 35), rng.choice(_SKIES)
    call = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": city}}}
    questions = [ask.format(city) for ask in _ASK["get_weather"]]
    messages = (
        user(rng.choice([each for each in questions if not is_held_out(f"tool {each}")])),
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": json.dumps({"degrees": degrees, "sky": sky})},
        assistant(f"It is {degrees} degrees and {sky} in {city}."),
    )
    tools = (TOOLS["get_weather"],)
    return Example("tool_answer", f"answer {city} {degrees} {sky}", messages, tools)
