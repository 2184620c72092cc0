"""mlxmesh generate, attach and chat against a scripted mesh."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from mlxmesh.generation.v1 import generation_pb2 as g
from tests.command_line import mlxmesh
from tests.fakes.scripted_generation import ScriptedGeneration, serving

USAGE = g.Usage(prompt_tokens=2, completion_tokens=3)
STOP = g.Finished(finish_reason=g.FINISH_REASON_STOP, usage=USAGE, total_usage=USAGE)
CALLS = g.Finished(finish_reason=g.FINISH_REASON_TOOL_CALLS, usage=USAGE, total_usage=USAGE)
CUT = g.Finished(finish_reason=g.FINISH_REASON_LENGTH, usage=USAGE, total_usage=USAGE)
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
ADD = {"name": "add", "description": "Adds.", "parameters": SCHEMA}


class Mesh:
    """The commands, at one scripted mesh."""

    def __init__(self, fake: ScriptedGeneration, address: str) -> None:
        self.fake = fake
        self.address = address

    def run(self, *arguments: str, stdin: str = "") -> Result:
        return mlxmesh(*arguments, "--address", self.address, stdin=stdin)

    def ok(self, *arguments: str, stdin: str = "") -> str:
        """What a command that succeeds prints."""
        result = self.run(*arguments, stdin=stdin)
        assert result.exit_code == 0, result.output
        return result.stdout

    def asked(self, *arguments: str) -> g.GenerateRequest:
        """The request of `generate Hi` with these arguments."""
        self.fake.say(g.Delta(text="a"), STOP)
        self.ok("generate", "Hi", *arguments)
        return self.fake.requests[-1]


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    fake = ScriptedGeneration()
    with serving(fake) as address:
        yield Mesh(fake, address)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a schema, a grammar and tools, which is the current one."""
    other = {"type": "function", "function": {"name": "sub"}}
    for name, value in (("schema", SCHEMA), ("add", ADD), ("both", [ADD, other]), ("list", [5])):
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    (tmp_path / "empty.json").write_text("[]")
    (tmp_path / "broken.json").write_text('{"a": \n 1,}')
    (tmp_path / "latin.json").write_bytes(b'{"a": "\xe9"}')
    (tmp_path / "g.lark").write_text('start: "a"')
    monkeypatch.chdir(tmp_path)
    return tmp_path


# What is asked.


@pytest.mark.parametrize("given", ["schema.json", json.dumps(SCHEMA)])
def test_a_schema_is_a_file_or_json(mesh: Mesh, files: Path, given: str) -> None:
    assert json.loads(mesh.asked("--json-schema", given).json_schema) == SCHEMA


@pytest.mark.parametrize(
    ("arguments", "field", "expected"),
    [
        (["--json-object"], "json_object", g.JsonObject()),
        (["--regex", "a+"], "regex", "a+"),
        (["--grammar", "g.lark"], "grammar", 'start: "a"'),
        (["--choice", "a", "--choice", "b"], "choice", g.Choices(texts=["a", "b"])),
        (["-n", "32"], "n", 32),
        (["--logprobs", "0"], "logprobs", g.Logprobs()),
        (["--logprobs", "20", "--prompt-logprobs"], "logprobs", g.Logprobs(top=20, prompt=True)),
        (["--session", "s-1"], "session_id", "s-1"),
        (["--flex"], "service_tier", g.SERVICE_TIER_FLEX),
        (["--reasoning"], "reasoning", g.Reasoning(enabled=True)),
        (["--no-reasoning"], "reasoning", g.Reasoning(enabled=False)),
        (
            ["--reasoning-effort", "low", "--reasoning-budget", "9"],
            "reasoning",
            g.Reasoning(effort=g.REASONING_EFFORT_LOW, budget_tokens=9),
        ),
        (
            ["--tool", "add.json", "--tool-choice", "none"],
            "tool_choice",
            g.ToolChoice(mode=g.TOOL_MODE_NONE),
        ),
        (["--tool", "both.json", "--tool-choice", "sub"], "tool_choice", g.ToolChoice(name="sub")),
        (["--tool", "add.json", "--no-parallel-tool-calls"], "parallel_tool_calls", False),
    ],
)
def test_an_option_becomes_its_field(
    mesh: Mesh, files: Path, arguments: list[str], field: str, expected: object
) -> None:
    assert getattr(mesh.asked(*arguments), field) == expected


def test_tools_and_labels_are_collected(mesh: Mesh, files: Path) -> None:
    request = mesh.asked(
        "--tool", "both.json", "--tool", "add.json", "--label", "a=b=c", "--label", "d="
    )
    assert [tool.name for tool in request.tools] == ["add", "sub", "add"]
    assert json.loads(request.tools[0].parameters_json_schema) == SCHEMA
    assert dict(request.labels) == {"a": "b=c", "d": ""}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--regex", "a", "--choice", "b"], "--regex and --choice exclude each other"),
        (["--json-schema", "nowhere.json"], "nowhere.json: No such file"),
        (["--json-schema", "broken.json"], "broken.json is not JSON: line 2, column"),
        (["--json-schema", "latin.json"], "latin.json is not UTF-8"),
        (["--json-schema", "list.json"], "list.json must be a JSON object"),
        (["--json-schema", "{"], "the schema is not JSON: line 1"),
        (["--grammar", "nowhere.lark"], "nowhere.lark: No such file"),
        (["--tool", "list.json"], "list.json must be an object or a list of objects"),
        (["--tool", "empty.json"], "empty.json has no tools"),
        (["--tool", "broken.json"], "broken.json is not JSON"),
        (["--tool", "add.json", "--tool-choice", "mul"], "one of the tools: add"),
        (["--tool-choice", "required"], "add --tool FILE"),
        (["--no-parallel-tool-calls"], "add --tool FILE"),
        (["--tool", "add.json", "--raw"], "--tool needs the chat template; remove --raw"),
        (["--no-reasoning", "--raw"], "reasoning needs the chat template; remove --raw"),
        (["--reasoning-budget", "5", "--raw"], "reasoning needs the chat template; remove --raw"),
        (["--json-schema", ""], "--json-schema must be a file or a JSON object"),
        (["--label", "a=b", "--label", "a=c"], "--label a is given twice"),
        (["--reasoning-effort", "huge"], "minimal, low, medium or high"),
        (["--label", "blue"], "--label must be KEY=VALUE"),
        (["--label", "=blue"], "--label must be KEY=VALUE"),
        (["--label", "A=b"], "labels"),
        (["--session", "a b"], "session_id"),
        (["--regex", ""], "regex"),
    ],
)
def test_a_mistake_says_what_to_do(
    mesh: Mesh, files: Path, arguments: list[str], says: str
) -> None:
    result = mesh.run("generate", "Hi", *arguments)
    assert result.exit_code == 1
    assert says in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["-n", "0"],
        ["-n", "33"],
        ["--logprobs", "-1"],
        ["--logprobs", "21"],
        ["--reasoning-budget", "0"],
        ["--reasoning-budget", "1000001"],
    ],
)
def test_a_number_out_of_range_is_bad_usage(arguments: list[str]) -> None:
    assert mlxmesh("generate", "Hi", *arguments).exit_code == 2


# What is shown.


def call(index: int, name: str, arguments: str) -> g.ToolCall:
    return g.ToolCall(index=index, id=f"c-{index}", name=name, arguments=arguments)


def test_calls_are_shown_whole(mesh: Mesh) -> None:
    mesh.fake.say(
        g.Delta(text="Wait."),
        g.Delta(tool_calls=[call(0, "add", '{"a"')]),
        g.Delta(tool_calls=[g.ToolCall(arguments=': "ü"}'), call(1, "sub", '{"b": ')]),
        CALLS,
    )
    assert mesh.ok("generate", "Hi").splitlines() == [
        "Wait.",
        "add",
        "{",
        '  "a": "ü"',
        "}",
        "sub",
        '{"b": ',
        "(these arguments are not JSON)",
    ]


def test_outputs_come_one_after_the_other(mesh: Mesh) -> None:
    mesh.fake.say(
        g.Delta(index=2, text="c"),
        g.Delta(index=0, text="a"),
        g.Delta(index=1, text="b"),
        g.Finished(index=1, finish_reason=g.FINISH_REASON_STOP),
        g.Delta(index=0, text="A"),
        g.Finished(index=0, finish_reason=g.FINISH_REASON_STOP),
        g.Delta(index=2, tool_calls=[call(0, "add", "{}")]),
        g.Finished(index=2, finish_reason=g.FINISH_REASON_TOOL_CALLS, total_usage=USAGE),
    )
    shown = mesh.ok("generate", "Hi", "-n", "3")
    assert shown == ("output 1 of 3\naA\n\noutput 2 of 3\nb\n\noutput 3 of 3\nc\nadd\n{}\n")


def test_piped_text_has_no_reasoning(mesh: Mesh) -> None:
    mesh.fake.say(g.Delta(reasoning_text="Hm. "), g.Delta(text="Yes"), g.Delta(text="."), STOP)
    assert mesh.ok("generate", "Hi") == "Yes.\n"


def logprob(text: bytes, value: float | None, *top: g.TokenLogprob) -> g.TokenLogprob:
    return g.TokenLogprob(token_id=1, logprob=value, bytes=text, top=top)


def test_logprobs_are_tables(mesh: Mesh) -> None:
    other = logprob(b" No", -1.5)
    mesh.fake.say(
        g.PromptLogprobs(tokens=[logprob(b"Hi", None), logprob(b" \n", -0.25)]),
        g.Delta(text="Yes", token_ids=[1], logprobs=[logprob(b" Yes", -0.5, other)]),
        g.Delta(text="\u20ac", token_ids=[2], logprobs=[logprob(b"\xe2", -2.0)]),
        STOP,
    )
    lines = mesh.ok("generate", "Hi", "--logprobs", "1", "--prompt-logprobs").splitlines()
    assert [line.split() for line in lines if line] == [
        ["Yes\u20ac"],
        ["token", "logprob", "%", "likeliest"],
        ['"', 'Yes"', "-0.500", "60.7", '"', 'No"', "-1.500"],
        ["b'\\xe2'", "-2.000", "13.5"],
        ["prompt"],
        ["token", "logprob", "%"],
        ['"Hi"'],
        ['"', '\\n"', "-0.250", "77.9"],
    ]


@pytest.mark.parametrize("command", [["generate", "Hi", "-n", "2"], ["attach", "r-1"]])
def test_json_is_complete(mesh: Mesh, command: list[str]) -> None:
    mesh.fake.say(
        g.PromptLogprobs(tokens=[logprob(b"Hi", None)]),
        g.Delta(reasoning_text="Hm", token_ids=[4]),
        g.Delta(text="a", token_ids=[5], logprobs=[logprob(b"a", -0.5)]),
        g.Delta(index=1, tool_calls=[call(0, "add", "{}")]),
        g.Finished(index=1, finish_reason=g.FINISH_REASON_TOOL_CALLS),
        STOP,
    )
    found: dict[str, Any] = json.loads(mesh.ok(*command, "--json"))
    assert set(found) == {field.name for field in g.CompleteResponse.DESCRIPTOR.fields}
    assert (found["text"], found["reasoning_text"], found["token_ids"]) == ("a", "Hm", [4, 5])
    assert found["finished"]["finish_reason"] == "stop"
    assert found["logprobs"][0]["logprob"] == -0.5
    assert "logprob" not in found["prompt_logprobs"][0]
    (other,) = found["other_outputs"]
    assert other["tool_calls"] == [{"index": 0, "id": "c-0", "name": "add", "arguments": "{}"}]
    assert other["finished"]["finish_reason"] == "tool_calls"


def test_an_attached_response_has_its_outputs(mesh: Mesh) -> None:
    mesh.fake.say(
        g.Delta(index=1, text="b"),
        g.Delta(text="a"),
        g.Finished(index=1, finish_reason=g.FINISH_REASON_STOP),
        STOP,
    )
    assert mesh.ok("attach", "r-1", "--after", "1") == "a\n\noutput 2\nb\n"


def test_a_response_that_breaks_off_is_resumed_as_its_error_says(mesh: Mesh) -> None:
    mesh.fake.say(g.Delta(text="a"), numbering=0x1F0C)
    result = mesh.run("generate", "Hi", "--request-id", "mine")
    assert (result.exit_code, result.stdout) == (1, "a\n")
    (command,) = re.findall("`(mlxmesh attach mine .*)`", result.stderr)
    mesh.fake.say(g.Delta(text="a"), g.Delta(text="b"), STOP, numbering=0x1F0C)
    assert mlxmesh(*command.split()[1:]).stdout == "b\n"
    mesh.fake.say(g.Delta(text="ab"), STOP, numbering=9)
    moved = mlxmesh(*command.split()[1:])
    assert (moved.exit_code, moved.stdout) == (1, "")
    assert "`mlxmesh attach mine` without --after" in moved.stderr


def test_only_what_is_retained_is_said_to_be_resumable(mesh: Mesh) -> None:
    mesh.fake.say(g.Delta(text="a"))
    for command in (("generate", "Hi"), ("attach", "mine", "--json")):
        assert "--after" not in mesh.run(*command).stderr
    assert "--after 2`" in mesh.run("attach", "mine").stderr


@pytest.mark.parametrize("position", ["x", "-1", "12@", "@1f0c", "12@0", "12@1F0C", "1.5"])
def test_what_is_no_position_is_refused(mesh: Mesh, position: str) -> None:
    result = mesh.run("attach", "mine", "--after", position)
    assert result.exit_code == 2
    assert "--after" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--json-object"], "the output reached its maximum length"),
        (["--json-object", "-n", "2"], "an output reached its maximum length"),
        (["--tool", "add.json"], "the output reached its maximum length"),
        ([], ""),
    ],
)
@pytest.mark.usefixtures("files")
def test_an_output_that_is_cut_short_is_told(mesh: Mesh, arguments: list[str], said: str) -> None:
    mesh.fake.say(g.Delta(text='{"a'), CUT)
    result = mesh.run("generate", "Hi", *arguments)
    assert result.exit_code == 0
    assert bool(result.stderr) == bool(said)
    assert said in result.stderr


def test_a_chat_keeps_reasoning_to_itself(mesh: Mesh) -> None:
    mesh.fake.say(g.Delta(reasoning_text="Hm."), g.Delta(text="Yes."), STOP)
    options = ("--no-reasoning", "--reasoning-budget", "7", "--session", "s")
    command = (sys.executable, "-m", "mlxmesh_cli", "chat", *options, "--address", mesh.address)
    result = subprocess.run(
        command, input="One?\nTwo?\n", capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout == "Yes.\nYes.\n"
    _, second = mesh.fake.requests
    assert second.reasoning == g.Reasoning(enabled=False, budget_tokens=7)
    assert second.session_id == "s"
    assert [one.content for one in second.chat.messages] == ["One?", "Yes.", "Two?"]
