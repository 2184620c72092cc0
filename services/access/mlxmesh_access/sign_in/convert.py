"""Converts sessions to AccessService's messages."""

from __future__ import annotations

from mlxmesh.access.v1 import access_pb2 as pb
from mlxmesh_access.convert import to_user
from mlxmesh_access.sign_in.sessions import IssuedTokens
from mlxmesh_shared.timestamps import to_time


def to_session_tokens(tokens: IssuedTokens) -> pb.SessionTokens:
    """The tokens of a session."""
    return pb.SessionTokens(
        access_token=tokens.access.text,
        access_expires=to_time(tokens.access.expires_ms),
        refresh_token=tokens.refresh_token,
        refresh_expires=to_time(tokens.refresh_expires_ms),
        user=to_user(tokens.user),
    )
