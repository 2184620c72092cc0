"""The command that talks to a model: chat."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from mlxmesh_cli.commands.text import MaxTokens, Model, Seed, Temperature, TopK, TopP, options_given
from mlxmesh_cli.mesh.session import Address, DataDir, connect, gateway_address, run


def chat(
    model: Model = None,
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    seed: Seed = None,
    history: Annotated[
        bool, typer.Option(help="Keep questions in ~/.local/state/mlxmesh for the arrow keys.")
    ] = True,
    address: Address = None,
    data_dir: DataDir = None,
) -> None:
    """Talk to a model over several turns; /help lists what you can do.

    Ctrl-C stops an answer and keeps the conversation, Ctrl-D leaves. Where standard input is not a
    terminal each line is a question, and answers remember the lines before.
    """
    options = options_given(max_tokens, temperature, top_p, top_k, seed, None)

    async def work() -> None:
        from mlxmesh_cli.commands.chatting import Chatting
        from mlxmesh_cli.screen.answers import default_model
        from mlxmesh_cli.screen.conversation import Conversation

        async with connect(address, data_dir) as client:
            conversation = Conversation(model or await default_model(client), system or "")
            chatting = Chatting(client, conversation, options)
            if not sys.stdin.isatty():
                await chatting.answer_lines()
                return
            from mlxmesh_cli.screen.chat_prompt import ChatPrompt

            await chatting.introduce(gateway_address(address, data_dir))
            await chatting.answer_questions(ChatPrompt(keep_history=history))

    run(work())
