"""MCP servers that misbehave: `python hostile_server.py HOW`. It speaks JSON-RPC by itself."""

import json
import os
import sys
import time
from typing import Any

HOW = sys.argv[1]


def send(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def reply(request: dict[str, Any], result: dict[str, Any]) -> None:
    send({"jsonrpc": "2.0", "id": request["id"], "result": result})


def tool(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "inputSchema": {"type": "object"}, **more}


DEEP: dict[str, Any] = {"type": "object"}
for _ in range(100):
    DEEP = {"type": "object", "properties": {"a": DEEP}}
# Each level of the arguments doubles the work of whoever checks them.
EXPONENTIAL = {
    "type": "object",
    "$ref": "#/$defs/a",
    "$defs": {
        "a": {"type": "object", "properties": {"x": {"allOf": [{"$ref": "#/$defs/a"}] * 8}}},
    },
}
TOOLS: dict[str, list[dict[str, Any]]] = {
    "many": [tool(f"tool{number}", description="d" * 100) for number in range(10_000)],
    "same": [tool("same"), tool("same"), tool("other")],
    "names": [tool(""), tool("a b"), tool("x" * 200), tool("ü" * 60), tool("fine"), tool("a\nb")],
    "schemas": [
        tool("large", inputSchema={"type": "object", "description": "x" * 70_000}),
        tool("deep", inputSchema=DEEP),
        tool("exponential", inputSchema=EXPONENTIAL),
        tool("remote", inputSchema={"type": "object", "$ref": "http://127.0.0.1:9/schema"}),
        tool(
            "pattern", inputSchema={"type": "object", "properties": {"a": {"pattern": "^(a+)+$"}}}
        ),
        tool("invalid", inputSchema={"type": "object", "properties": {"a": {"type": "thing"}}}),
        tool("fine"),
    ],
    "markup": [
        tool(
            "markup",
            title="<script>alert(1)</script>",
            description="<img src=x onerror=alert(1)> \x1b[31m\u202e\x00 [a](javascript:alert(1))",
        )
    ],
}
DEFAULT = [tool("call")]


def called(request: dict[str, Any]) -> None:
    match HOW:
        case "dies":
            print("the end is near", file=sys.stderr, flush=True)
            os._exit(9)
        case "hangs":
            time.sleep(600)
        case "result":
            reply(request, {"content": "no list"})
        case "asks":
            send({"jsonrpc": "2.0", "id": 1, "method": "sampling/createMessage", "params": {}})
            reply(request, {"content": [{"type": "text", "text": "asked"}]})
        case "huge":
            reply(request, {"content": [{"type": "text", "text": "x" * 40_000_000}]})
        case "blocks":
            image = {"type": "image", "data": "AAAA" * 100_000, "mimeType": "image/png"}
            text = {"type": "text", "text": "é" * 1000}
            reply(request, {"content": [text, image, text]})
        case "error":
            error = {"code": -32603, "message": "it went wrong\x1b[31m"}
            send({"jsonrpc": "2.0", "id": request["id"], "error": error})
        case _:
            reply(request, {"content": [{"type": "text", "text": "called"}]})


def handle(request: dict[str, Any]) -> None:
    match request.get("method"):
        case "initialize":
            reply(
                request,
                {
                    "protocolVersion": request["params"]["protocolVersion"],
                    "capabilities": {"tools": {}},
                    "serverInfo": {"name": "hostile\x1b[31m" + "n" * 500, "version": "0"},
                },
            )
        case "tools/list" if HOW == "endless":
            reply(request, {"tools": [tool("again")], "nextCursor": "more"})
        case "tools/list":
            reply(request, {"tools": TOOLS.get(HOW, DEFAULT)})
        case "tools/call":
            called(request)
        case "notifications/initialized" if HOW == "notifies":
            while True:
                send({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
        case _ if "id" in request:
            error = {"code": -32601, "message": "Method not found"}
            send({"jsonrpc": "2.0", "id": request["id"], "error": error})


def main() -> None:
    match HOW:
        case "silent":
            time.sleep(600)
        case "garbage":
            while True:
                print("this is no message")
        case "line":
            while True:
                sys.stdout.write("x" * 65_536)
        case "exits":
            print("no configuration", file=sys.stderr)
            sys.exit(4)
        case "picky":  # as servers that end at a first message that is not initialize
            first = json.loads(sys.stdin.readline())
            if first["method"] != "initialize":
                sys.exit(5)
            handle(first)
    for line in sys.stdin:
        handle(json.loads(line))


if __name__ == "__main__":
    main()
