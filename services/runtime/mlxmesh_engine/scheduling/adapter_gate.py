"""What the scheduler asks before a sequence with an adapter gets a row. Pure."""

from typing import Protocol

from mlxmesh_engine.scheduling.sequence import ActiveSequence


class AdapterGate(Protocol):
    """Gives running sequences the slots of their adapters."""

    full: bool
    """Whether a sequence waits because running ones use all slots, or all of their memory."""
    version: int
    """Changes when a sequence that had to wait may no longer have to."""

    def acquire(self, active: ActiveSequence) -> bool:
        """Whether a sequence may run: it needs no adapter, or has the slot of its own from now on.

        If not, it waits until its adapter is read or a slot is free; or it has failed.
        """
        ...

    def release(self, active: ActiveSequence) -> None:
        """A sequence runs no longer."""
        ...


class NoAdapters:
    """An engine whose requests name no adapters; implements `AdapterGate`."""

    full = False
    version = 0

    def acquire(self, active: ActiveSequence) -> bool:
        return True

    def release(self, active: ActiveSequence) -> None: ...
