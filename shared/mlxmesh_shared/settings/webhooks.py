"""What a webhook's setting may say: a URL, and the names of the events that it wants."""

import re
from urllib.parse import urlsplit

_NAME = re.compile(r"[a-z]{1,32}\.([a-z_]{1,32}|\*)")


def split_texts(value: object) -> object:
    """A list as it is; one text, from a flag or a variable, at its commas."""
    if not isinstance(value, str):
        return value
    return tuple(text.strip() for text in value.split(",") if text.strip())


def check_webhook(text: str) -> str:
    """The text, if it can be used. Raises: ValueError."""
    url, *names = text.split() or [""]
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(
            "each webhook must begin with a URL, for example http://127.0.0.1:9000/events model.*"
        )
    for name in names:
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"{name} is no event's name; write model.loaded, or model.*")
    return text
