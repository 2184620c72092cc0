"""Outputs of models in each format of tool calls, and what they consist of."""

from dataclasses import dataclass

from mlxmesh_generation.domain.request import Tool
from mlxmesh_generation.parsers.parts import ArgumentsPart, CallPart, Part, TextPart

TOOLS = (
    Tool(
        "get_weather",
        parameters='{"type": "object", "properties": {"city": {"type": "string"},'
        ' "days": {"type": "integer"}}, "required": ["city"]}',
    ),
    Tool("get_time"),
    Tool("files.write-all"),
)


@dataclass(frozen=True)
class Written:
    """An output, and its parts."""

    format_name: str
    output: str
    parts: tuple[Part, ...]

    def __str__(self) -> str:
        return f"{self.format_name}: {self.output[:60]!r}"


def text(content: str) -> Part:
    return TextPart(content)


def call(name: str, arguments: str = "{}", call_id: str = "") -> tuple[Part, ...]:
    return (CallPart(name, call_id), *([ArgumentsPart(arguments)] if arguments else []))


def _all(format_name: str, *outputs: tuple[str, tuple[Part, ...]]) -> list[Written]:
    return [Written(format_name, output, parts) for output, parts in outputs]


_WEATHER = call("get_weather", '{"city": "Oslo"}')

HERMES = _all(
    "hermes",
    ("Hello!\n", (text("Hello!\n"),)),
    (
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>',
        _WEATHER,
    ),
    (
        'Wait.\n<tool_call>{"name": "get_time"}</tool_call>\n'
        '<tool_call>{"name": "get_weather", "arguments": {"city": "Oslo"}}</tool_call>\n',
        (text("Wait."), *call("get_time"), *_WEATHER),
    ),
    (
        '<tool_call>{"arguments": {"city": "Oslo"}, "name": "get_weather"}</tool_call>\nDone',
        (*_WEATHER, text("\nDone")),
    ),
    (
        '<tool_call>{"name": "get_weather", '
        '"arguments": "{\\"city\\": \\"\\u00c5\\"}"}</tool_call>',
        call("get_weather", '{"city": "Å"}'),
    ),
    (
        '<tool_call>{"name": "get_weather", "parameters": null}</tool_call>',
        call("get_weather"),
    ),
    (
        '<tool_call>{"type": "function", "function": {"name": "get_weather", '
        '"arguments": {"city": "Oslo"}}, "why": [1]}</tool_call>',
        _WEATHER,
    ),
    (
        '<tool_call>{"id": "a1", "name": "get_time", "arguments": {}}</tool_call>',
        call("get_time", call_id="a1"),
    ),
    (
        '<tool_call>{"name": "get_weather", '
        '"arguments": {"city": "</tool_call>\\"}{"}}</tool_call>',
        call("get_weather", '{"city": "</tool_call>\\"}{"}'),
    ),
    # The object is not closed, or closed twice; the end marker is missing.
    ('<tool_call>{"name": "get_weather", "arguments": {"city": "Oslo"}</tool_call>', _WEATHER),
    (
        '<tool_call>{"name": "get_weather", "arguments": {"city": "Oslo"}}}</tool_call>.',
        (*_WEATHER, text("}.")),
    ),
    (
        '<tool_call>{"name": "get_time", "arguments": {}}<tool_call>'
        '{"name": "get_weather", "arguments": {"city": "Oslo"}}',
        (*call("get_time"), *_WEATHER),
    ),
    # Arguments that are no JSON stay as they are written.
    (
        '<tool_call>{"name": "get_weather", "arguments": {"city": Oslo <b>}}</tool_call> Done',
        (*call("get_weather", '{"city": Oslo <b>}}'), text(" Done")),
    ),
    (
        '<tool_call>{"name": "get_weather", "arguments": {"a" "b"}}<tool_call>{"name": "get_time"}',
        (*call("get_weather", '{"a" "b"}}'), *call("get_time")),
    ),
    # What is no call is text.
    ("<tool_call>not JSON</tool_call>", (text("<tool_call>not JSON</tool_call>"),)),
    (
        '<tool_call>{"city": "Oslo"}</tool_call>',
        (text('<tool_call>{"city": "Oslo"}</tool_call>'),),
    ),
    ("a <tool_calls> </tool_call>", (text("a <tool_calls> </tool_call>"),)),
    # Cut by the largest number of tokens.
    ('Wait.\n<tool_call>\n{"name": "get_we', (text("Wait."),)),
    ("Wait.\n<tool_call>", (text("Wait."),)),
    ("Wait.\n<tool_c", (text("Wait.\n<tool_c"),)),
    (
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Os',
        call("get_weather", '{"city": "Os'),
    ),
    (
        '<tool_call>\n{"name": "get_weather", "arguments": "{\\"city\\": \\"\\u00c',
        call("get_weather", '{"city": "\\u00c'),
    ),
    ('<tool_call>\n{"name": "get_weather", "arguments": nul', call("get_weather", "nul")),
)

LLAMA3_JSON = _all(
    "llama3_json",
    ('{"name": "get_weather", "parameters": {"city": "Oslo"}}', _WEATHER),
    (
        ' {"type": "function", "function": "get_weather", "parameters": {"city": "Oslo"}}',
        _WEATHER,
    ),
    (
        '{"name": "get_time", "parameters": {}}; {"name": "get_weather", '
        '"parameters": {"city": "Oslo"}}',
        (*call("get_time"), *_WEATHER),
    ),
    (
        'Let me look. <|python_tag|>{"name": "f", "parameters": {}}',
        (text("Let me look. "), *call("f")),
    ),
    ('<|python_tag|>print("hello")', (text('<|python_tag|>print("hello")'),)),
    ('{"capital": "Oslo"}', (text('{"capital": "Oslo"}'),)),
    # An answer in JSON, not a tool.
    ('{"name": "Ada", "parameters": {}}', (text('{"name": "Ada", "parameters": {}}'),)),
    ('{"name": "get_time", "age": 3}', (text('{"name": "get_time", "age": 3}'),)),
    ('{"name": "get_t', (text('{"name": "get_t'),)),
    ("{} is empty", (text("{} is empty"),)),
    ('Like {"name": "get_time"}', (text('Like {"name": "get_time"}'),)),
)

PYTHONIC = _all(
    "llama_pythonic",
    (
        "[get_weather(city='Oslo', days=3), get_time()]",
        (*call("get_weather", '{"city": "Oslo", "days": 3}'), *call("get_time")),
    ),
    (
        '<|python_start|>[f(a=None, b=[True, (1, 2,)], c={"x": -1.5e3})]<|python_end|>\nDone',
        (*call("f", '{"a": null, "b": [true, [1, 2]], "c": {"x": -1.5e3}}'), text("\nDone")),
    ),
    (
        r"[get_weather(city='a\'b\"\\\n\x41\u00e5\ud83d\ude00')]",
        call("get_weather", r'{"city": "a' + r"'b\"\\\nAå😀" + '"}'),
    ),
    ("[get_weather('Oslo', 2)]", call("get_weather", '{"city": "Oslo", "days": 2}')),
    ('[files.write-all(**{"a b": [1, "x"]})]', call("files.write-all", '{"a b": [1, "x"]}')),
    # What is no literal becomes a string.
    (
        "[get_weather(city=New York, days=len([1, 2]))]",
        call("get_weather", '{"city": "New York", "days": "len([1, 2])"}'),
    ),
    ("[get_weather(city='Oslo'] Hm", call("get_weather", '{"city": "Oslo"] Hm')),
    ("[see](https://example.org)", (text("[see](https://example.org)"),)),
    ("[unknown(a=1)]", (text("[unknown(a=1)]"),)),
    ("[1, 2, 3]", (text("[1, 2, 3]"),)),
    ("No [get_time()]", (text("No [get_time()]"),)),
    ("[get_wea", (text("[get_wea"),)),
    ("Wait <|python_start|>[f", (text("Wait "),)),
    ("[get_weather(city='Os", call("get_weather", '{"city": "Os')),
)

MISTRAL = _all(
    "mistral",
    (
        'Hi[TOOL_CALLS] [{"name": "get_time", "arguments": {}}, '
        '{"name": "get_weather", "arguments": {"city": "Oslo"}, "id": "D681PevKs"}]',
        (text("Hi"), *call("get_time"), *_WEATHER),
    ),
    (
        '[TOOL_CALLS]get_time[ARGS]{}[TOOL_CALLS]get_weather[ARGS]{"city": "Oslo"}',
        (*call("get_time"), *_WEATHER),
    ),
    ("[TOOL_CALLS]get_time[CALL_ID]D681PevKs[ARGS]{}", call("get_time", call_id="D681PevKs")),
    ('[TOOL_CALLS]get_weather{"city": "Oslo"} Done', (*_WEATHER, text(" Done"))),
    (
        '[TOOL_CALLS]get_weather[ARGS]{"city": Oslo!}[TOOL_CALLS]get_time[ARGS]{}',
        (*call("get_weather", '{"city": Oslo!}'), *call("get_time")),
    ),
    ("[TOOL_CALLS] no call", (text("[TOOL_CALLS] no call"),)),
    ("[TOOL_CALLS]f[ARGS]nothing", (text("[TOOL_CALLS]f[ARGS]nothing"),)),
    ("[TOOL_CALLS][]", (text("[TOOL_CALLS][]"),)),
    ("Hi[TOOL_CALLS]get_ti", (text("Hi"),)),
    ("Hi[TOOL_CALLS]", (text("Hi"),)),
    ("Hi[TOOL_", (text("Hi[TOOL_"),)),
    ('[TOOL_CALLS]get_weather[ARGS]{"city', call("get_weather", '{"city')),
)

GRANITE = _all(
    "granite",
    ('<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Oslo"}}]', _WEATHER),
    (
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>',
        _WEATHER,
    ),
    (
        '<function_call> {"name": "get_time", "arguments": {}}'
        ' <function_call> {"name": "get_weather", "arguments": {"city": "Oslo"}}',
        (*call("get_time"), *_WEATHER),
    ),
    ('[{"name": "get_weather", "arguments": {"city": "Oslo"}}]', _WEATHER),
    ('[{"name": "Ada"}]', (text('[{"name": "Ada"}]'),)),
    ("<|tool_call|>[]", (text("<|tool_call|>[]"),)),
)

COMMAND = _all(
    "command",
    (
        'Plan.<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "get_time", '
        '"parameters": {}},\n    {"tool_call_id": "1", "tool_name": "get_weather", '
        '"parameters": {"city": "Oslo"}}\n]<|END_ACTION|>',
        (text("Plan."), *call("get_time"), *_WEATHER),
    ),
    (
        'Action: ```json\n[\n{\n"tool_name": "get_weather",\n'
        '"parameters": {"city": "Oslo"}\n}\n]```',
        _WEATHER,
    ),
    ("<|START_ACTION|>[]<|END_ACTION|>", (text("<|START_ACTION|>[]<|END_ACTION|>"),)),
)

JSON = _all(
    "json",
    (
        '[{"name": "get_time", "arguments": {}}, '
        '{"name": "get_weather", "arguments": {"city": "Oslo"}}]',
        (*call("get_time"), *_WEATHER),
    ),
    ('{"name": "get_weather", "arguments": {"city": "Oslo"}}', _WEATHER),
    (
        'Sure:\n```json\n[{"name": "get_weather", "arguments": {"city": "Oslo"}}]\n```\nDone',
        (text("Sure:"), *_WEATHER, text("\nDone")),
    ),
    ("```json\n[1, 2]\n```", (text("```json\n[1, 2]\n```"),)),
    ('```json\n[{"name"', (text('```json\n[{"name"'),)),
    ("[]", (text("[]"),)),
    ('[{"name": "get_time", "arguments": {}}', call("get_time")),
)

OUTPUTS = (*HERMES, *LLAMA3_JSON, *PYTHONIC, *MISTRAL, *GRANITE, *COMMAND, *JSON)
