"""Writes harmony_messages.json: outputs, and the messages that openai-harmony reads in them.

Run it with openai-harmony 0.0.8, and TIKTOKEN_ENCODINGS_BASE set to a folder that has OpenAI's
vocabulary o200k_base.tiktoken. The tests need neither.
"""

import json
import random
from pathlib import Path
from typing import Any

from openai_harmony import (  # pyright: ignore[reportMissingImports]
    HarmonyEncodingName,
    Message,
    Role,
    StreamableParser,
    load_harmony_encoding,
)

_ENCODING: Any = load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)
_BEGIN = "<|start|>assistant"
_TEXTS = ("Hm.", "Ünïcode 😀 東京", 'Quotes " and \\ and {braces}', "Two\n\nlines", "a < b > c |")
_ARGUMENTS = ({}, {"city": "Zürich", "days": 3}, {"deep": [{"a": '"}'}, None, 1.5]})
_HEADS = (
    "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}",
    "<|channel|>commentary to=functions.f<|constrain|>json<|message|>{}",
    " to=functions.f<|channel|>commentary <|constrain|>json<|message|>{}",
    " to=functions.f<|channel|>commentary<|constrain|>json<|message|>{}",
    " to=functions.f<|channel|>commentary json<|message|>{}",
    " to=functions.f<|channel|>commentary<|message|>{}",
    " to=functions.f<|channel|>analysis<|message|>{}",
    "<|channel|>analysis to=functions.f-2.g code<|message|>{}",
    "<|channel|>final<|message|>",
    "<|channel|>final<|message|>An answer that is c",
    "<|channel|>analysis<|message|>Reasoning that is c",
)


def _message(rng: random.Random) -> Any:
    channel = rng.choice(["analysis", "commentary", "final", "call"])
    if channel != "call":
        return Message.from_role_and_content(Role.ASSISTANT, rng.choice(_TEXTS)).with_channel(
            channel
        )
    arguments = json.dumps(rng.choice(_ARGUMENTS), ensure_ascii=rng.random() < 0.5)
    message = Message.from_role_and_content(Role.ASSISTANT, arguments).with_channel("commentary")
    return message.with_recipient("functions.get_weather").with_content_type("<|constrain|>json")


def _rendered(rng: random.Random) -> str:
    tokens = [token for _ in range(rng.randint(1, 4)) for token in _ENCODING.render(_message(rng))]
    return _ENCODING.decode_utf8(tokens).removeprefix(_BEGIN)


def _case(output: str) -> dict[str, Any]:
    parser = StreamableParser(_ENCODING, Role.ASSISTANT)
    for token in _ENCODING.encode(output, allowed_special="all"):
        parser.process(token)
    parser.process_eos()
    messages = [
        {
            "channel": message.channel or "",
            "recipient": message.recipient or "",
            "text": message.content[0].text,
        }
        for message in parser.messages
    ]
    return {"output": output, "messages": messages}


def main() -> None:
    rng = random.Random(14)
    outputs = [*_HEADS, *(_rendered(rng) for _ in range(60))]
    cases = [_case(output) for output in dict.fromkeys(outputs)]
    text = json.dumps(cases, ensure_ascii=False, indent=1)
    Path(__file__).with_suffix(".json").write_text(text + "\n")


if __name__ == "__main__":
    main()
