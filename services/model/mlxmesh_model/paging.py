"""Tokens of pages that are ordered by name. Pure."""

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
