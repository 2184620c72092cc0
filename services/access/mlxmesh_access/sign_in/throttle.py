"""Delays repeated attempts to sign in, by name and by host, in bounded memory.

Each attempt counts as a failure until it succeeds, so that parallel attempts gain nothing. A
refused attempt does not count, so waiting for the delay always suffices. A host from which a name
has signed in before is limited only by its own failures with that name, so nobody can lock others
out.
"""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict
from dataclasses import dataclass

from mlxmesh_shared.errors import TooManyRequests

MAX_SUBJECTS = 65_536
FORGET_AFTER_S = 3600
_FIRST_DELAY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """How many failures are free, and the longest delay after more of them."""

    free: int
    max_delay_s: float

    def delay_s(self, failures: int) -> float:
        """The time between the last failure and the next attempt; it doubles with each failure."""
        if failures < self.free:
            return 0
        # The exponent is bounded: a large power is no float.
        return min(self.max_delay_s, _FIRST_DELAY_S * 2.0 ** min(failures - self.free, 32))


BY_NAME_AND_HOST = Limit(free=5, max_delay_s=300)
BY_NAME = Limit(free=20, max_delay_s=30)
BY_HOST = Limit(free=50, max_delay_s=60)
OLD_PASSWORDS = Limit(free=5, max_delay_s=300)
SIGN_UPS_BY_HOST = Limit(free=10, max_delay_s=300)


class Failures:
    """Counts failures of a bounded number of subjects; the least recent is forgotten first."""

    def __init__(self, limit: Limit, *, max_subjects: int = MAX_SUBJECTS) -> None:
        self._limit = limit
        self._max_subjects = max_subjects
        self._counts: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._counts)

    def wait_s(self, subject: str, now_s: float) -> float:
        """How long the subject must wait before its next attempt; 0 if it need not."""
        failures, last_s = self._count(subject, now_s)
        return max(0.0, last_s + self._limit.delay_s(failures) - now_s)

    def add(self, subject: str, now_s: float) -> None:
        """Counts a failure."""
        failures, _ = self._count(subject, now_s)
        self._counts[subject] = (failures + 1, now_s)
        self._counts.move_to_end(subject)
        if len(self._counts) > self._max_subjects:
            self._counts.popitem(last=False)

    def undo(self, subject: str) -> None:
        """One failure was none."""
        failures, last_s = self._counts.pop(subject, (0, 0.0))
        if failures > 1:
            self._counts[subject] = (failures - 1, last_s)

    def clear(self, subject: str) -> None:
        """Forgets the subject's failures."""
        self._counts.pop(subject, None)

    def _count(self, subject: str, now_s: float) -> tuple[int, float]:
        failures, last_s = self._counts.get(subject, (0, 0.0))
        return (failures, last_s) if now_s - last_s < FORGET_AFTER_S else (0, 0.0)


class SignInThrottle:
    """Limits attempts to sign in. Times are of a clock that never goes back."""

    def __init__(self, *, max_subjects: int = MAX_SUBJECTS) -> None:
        self._by_pair = Failures(BY_NAME_AND_HOST, max_subjects=max_subjects)
        self._by_name = Failures(BY_NAME, max_subjects=max_subjects)
        self._by_host = Failures(BY_HOST, max_subjects=max_subjects)
        self._known = OrderedDict[str, None]()
        self._max_subjects = max_subjects

    @property
    def subjects(self) -> int:
        """How many subjects are in memory."""
        return sum(map(len, (self._by_pair, self._by_name, self._by_host, self._known)))

    def begin(self, name: str, host: str, now_s: float) -> None:
        """Counts an attempt. Raises: TooManyRequests, with the time until the next is allowed."""
        network = network_of(host)
        wait_s = max(limit.wait_s(who, now_s) for limit, who in self._limits(name, network))
        if wait_s > 0:
            raise too_many_attempts(wait_s)
        for failures, who in self._all(name, network):
            failures.add(who, now_s)

    def succeeded(self, name: str, host: str) -> None:
        """The attempt was no failure; forgets those of this name from this host."""
        network = network_of(host)
        pair = _pair(name, network)
        self._by_pair.clear(pair)
        self._by_name.undo(name)
        self._by_host.undo(network)
        self._known[pair] = None
        self._known.move_to_end(pair)
        if len(self._known) > self._max_subjects:
            self._known.popitem(last=False)

    def abandoned(self, name: str, host: str) -> None:
        """The attempt that began has not been made."""
        for failures, who in self._all(name, network_of(host)):
            failures.undo(who)

    def _limits(self, name: str, network: str) -> list[tuple[Failures, str]]:
        """What limits this attempt: where the name is known, only its own failures there."""
        everything = self._all(name, network)
        return everything[:1] if _pair(name, network) in self._known else everything

    def _all(self, name: str, network: str) -> list[tuple[Failures, str]]:
        pair = _pair(name, network)
        return [(self._by_pair, pair), (self._by_name, name), (self._by_host, network)]


class Throttle:
    """Limits the attempts of each subject."""

    def __init__(self, limit: Limit) -> None:
        self._failures = Failures(limit)

    def begin(self, subject: str, now_s: float) -> None:
        """Counts an attempt. Raises: TooManyRequests, with the time until the next is allowed."""
        wait_s = self._failures.wait_s(subject, now_s)
        if wait_s > 0:
            raise too_many_attempts(wait_s)
        self._failures.add(subject, now_s)

    def succeeded(self, subject: str) -> None:
        """Forgets the subject's attempts."""
        self._failures.clear(subject)

    def abandoned(self, subject: str) -> None:
        """An attempt that began has not been made."""
        self._failures.undo(subject)


def too_many_attempts(wait_s: float) -> TooManyRequests:
    """The refusal of an attempt that came too early."""
    message = f"too many attempts: wait {math.ceil(wait_s)} s before the next one"
    return TooManyRequests(message, retry_delay_s=wait_s)


def network_of(host: str) -> str:
    """The host; for IPv6 its /64, all of which usually belongs to one subscriber."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))


def _pair(name: str, network: str) -> str:
    # No network contains a space.
    return f"{network} {name}"
