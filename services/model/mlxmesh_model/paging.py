"""Tokens of pages that are ordered by name, or by falling numbers. Pure."""

import base64

from mlxmesh_shared.errors import InvalidArgument

# Identifies our page tokens.
_PAGE = "after:"


def to_page_token(name: str) -> str:
    """The token of the page that starts after a name."""
    return base64.urlsafe_b64encode(f"{_PAGE}{name}".encode()).decode()


def from_page_token(token: str) -> str:
    """The name that a page starts after.

    Raises: InvalidArgument for a token that to_page_token did not make.
    """
    try:
        text = base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except ValueError:
        text = ""
    if token and not text.startswith(_PAGE):
        raise InvalidArgument(
            "page_token must be next_page_token of an earlier response", field="page_token"
        )
    return text.removeprefix(_PAGE)


def number_of_page_token(token: str) -> int | None:
    """The number that a page ends before; None for the first page.

    Raises: InvalidArgument.
    """
    if not token:
        return None
    if not token.isascii() or not token.isdecimal() or len(token) > 9:
        raise InvalidArgument(
            "page_token is not the next_page_token of a response", field="page_token"
        )
    return int(token)
