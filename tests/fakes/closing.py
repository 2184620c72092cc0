"""What the fixture `closing` of tests/integration/conftest.py does."""

from typing import Any, Protocol, TypeVar


class Closable(Protocol):
    """Ends with `close`, and has threads or sockets until then."""

    async def close(self) -> Any: ...


C = TypeVar("C", bound=Closable)


class Closing(Protocol):
    """Closes what it is given when the test ends, also when it fails; returns it."""

    def __call__(self, opened: C, /) -> C: ...
