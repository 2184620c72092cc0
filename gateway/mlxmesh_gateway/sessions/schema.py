"""What browsers send to sign in."""

from __future__ import annotations

from mlxmesh_gateway.http.schema import Schema


class SignInBody(Schema):
    """A name and a password, or what an OpenID Connect issuer sent back."""

    name: str = ""
    """The user's name."""
    password: str = ""
    """The password. A secret."""
    state: str = ""
    """The state that the issuer sent back; instead of a name."""
    code: str = ""
    """The code that the issuer sent back. A secret."""
