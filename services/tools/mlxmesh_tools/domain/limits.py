"""Bounds of what MCP servers may offer and send. Pure."""

MAX_SERVERS = 64
MAX_TOOLS = 250
"""Of one server."""
MAX_TOOLS_BYTES = 2 * 1024 * 1024
"""Of all tools of one server, as they are listed."""
MAX_PAGES = 20
"""Of one server's list of tools."""
MAX_SCHEMA_BYTES = 65_536
MAX_SCHEMA_DEPTH = 64
MAX_NAME_CHARACTERS = 128
MAX_TITLE_CHARACTERS = 200
MAX_DESCRIPTION_CHARACTERS = 4096
MAX_VERSION_CHARACTERS = 100
MAX_LISTED_TOOLS = 1000
MAX_LISTED_BYTES = 8 * 1024 * 1024
MAX_WAITING_CALLS = 64
"""Of one server, behind those that run."""
MAX_ARGUMENTS_BYTES = 1024 * 1024
MIN_TIMEOUT_MS = 100
MIN_RESULT_BYTES = 1024
_MIN_MESSAGE_BYTES = 4 * 1024 * 1024


def max_message_bytes(max_result_bytes: int) -> int:
    """The largest message that a server may send: results are cut off, but must be read first."""
    return max(_MIN_MESSAGE_BYTES, 2 * max_result_bytes)


def cut(text: str, max_characters: int) -> str:
    """The text without control characters, and without what is above the limit."""
    shown = "".join(each for each in text[: 4 * max_characters] if _is_shown(each))
    return shown[:max_characters]


def _is_shown(character: str) -> bool:
    return character in "\n\t" or character.isprintable()
