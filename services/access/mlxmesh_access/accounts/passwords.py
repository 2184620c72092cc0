"""What the accounts need of password hashing."""

from typing import Protocol

from mlxmesh_shared.errors import InvalidArgument

MIN_PASSWORD_CHARACTERS = 8


class PasswordHashes(Protocol):
    """Slow hashes of passwords; both methods take tens of milliseconds, in a thread."""

    async def hash(self, password: str) -> str:
        """The text to store."""
        ...

    async def matches(self, password_hash: str, password: str) -> bool:
        """Whether the password has this hash; with the hash "", it takes as long and is False."""
        ...


def check_password(password: str) -> str:
    """The password. Raises: InvalidArgument when it is too short."""
    if len(password) < MIN_PASSWORD_CHARACTERS:
        raise InvalidArgument(
            f"password must have at least {MIN_PASSWORD_CHARACTERS} characters", field="password"
        )
    return password
