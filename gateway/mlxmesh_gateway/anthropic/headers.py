"""The headers of Anthropic's API."""

from __future__ import annotations

from mlxmesh_gateway.http.exchange import Exchange
from mlxmesh_shared.errors import InvalidArgument

VERSION_HEADER = "anthropic-version"
BETA_HEADER = "anthropic-beta"
VERSIONS = ("2023-06-01", "2026-10-21")
"""They are handled alike: the newer one lacks sampling options, which are the mesh's own then."""


def check_headers(exchange: Exchange) -> None:
    """Raises: InvalidArgument for a missing version, or one that the mesh does not speak.

    Beta features are ignored, and the response says so: their fields are handled like all others.
    """
    if exchange.headers.get(VERSION_HEADER) not in VERSIONS:
        raise InvalidArgument(
            f"the header {VERSION_HEADER} must be {' or '.join(VERSIONS)}", field=VERSION_HEADER
        )
    if BETA_HEADER in exchange.headers:
        exchange.tell_ignored([BETA_HEADER])
