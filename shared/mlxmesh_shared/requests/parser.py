"""Bytes to a checked message: counted first, and large ones beside the event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message

from mlxmesh_shared.errors import MalformedMessage, MessageTooLarge
from mlxmesh_shared.requests.held_bytes import SMALL_BYTES
from mlxmesh_shared.requests.threads import finish_in_thread
from mlxmesh_shared.requests.turns import Turns
from mlxmesh_shared.rules import Validator, WireLimits
from mlxmesh_shared.rules.wire import MAX_UNCOUNTED_BYTES

M = TypeVar("M", bound=Message)


class RequestParser:
    """Parses requests for one server; whatever is wrong with one is an error that says so."""

    def __init__(self, validator: Validator, *, limits: WireLimits | None = None) -> None:
        self._validator = validator
        self._limits = limits or WireLimits()
        self._turns = Turns()

    async def parse(self, cls: type[M], encoded: bytes, caller: Callable[[], str]) -> M:
        """The message. `caller` names who takes the turn, which only a large one needs.

        Raises: MalformedMessage, InvalidArgument, FeatureNotSupported.
        """
        if self._is_light(cls, encoded):
            return self._parsed(cls, encoded)
        async with self._turns.of(caller()):
            # The interpreter is shared with the event loop, but the count and the rules let go of
            # it every few milliseconds, and what is parsed after the count takes little time.
            return await finish_in_thread(self.parse_now, cls, encoded)

    def _is_light(self, cls: type[Message], encoded: bytes) -> bool:
        if len(encoded) <= MAX_UNCOUNTED_BYTES:
            return True
        return len(encoded) <= SMALL_BYTES and self._limits.is_light(_descriptor(cls), encoded)

    def parse_now(self, cls: type[M], encoded: bytes) -> M:
        """The message, of any size, at once. Raises: as `parse`."""
        self._limits.check(_descriptor(cls), encoded)
        return self._parsed(cls, encoded)

    def _parsed(self, cls: type[M], encoded: bytes) -> M:
        try:
            message = cls.FromString(encoded)
        except (DecodeError, ValueError):
            # Its text may quote the message.
            raise MalformedMessage(
                f"the message is not a valid {cls.DESCRIPTOR.full_name}: malformed protobuf"
            ) from None
        self._validator.check(message)
        return message


def _descriptor(cls: type[Message]) -> Descriptor:
    return cast("Descriptor", cls.DESCRIPTOR)


def check_size(encoded: bytes, max_bytes: int) -> None:
    """Raises: MessageTooLarge."""
    if len(encoded) > max_bytes:
        raise MessageTooLarge(
            f"the message has {len(encoded)} bytes; at most {max_bytes} are accepted"
        )
