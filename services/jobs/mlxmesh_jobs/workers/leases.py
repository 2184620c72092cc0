"""Which workers are lost. Pure: the time is given, in seconds of this process's monotonic clock.

A session is known by its beat, a number in the database that grows with each heartbeat. A process
decides by when it has seen the beat change itself, so no clocks of two hosts are compared, and a
change of a wall clock changes nothing.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from mlxmesh_jobs.domain.jobs import StoredSession

MAX_TICK_S = 1.0
"""How often heartbeats are recorded, at least."""
_MIN_TICK_S = 0.05
_UNLISTED_TICKS = 2.5
"""A living session of another jobs service changes its beat within so many ticks."""
_PAUSE_TICKS = 3


@dataclass(frozen=True, kw_only=True)
class Lost:
    """A session to end."""

    key: int
    worker_id: str
    beat: int | None
    """As of end_session."""
    reason: str
    """A sentence's end: why it is thought lost."""


@dataclass(slots=True)
class _Session:
    """What this process knows of a session."""

    worker_id: str
    beat: int
    changed_s: float
    """When its beat was seen to change."""
    heard_s: float | None = None
    """When its worker sent something; None without a stream to this process."""
    ended_s: float | None = None
    """When its stream to this process ended; None if there was none, or it went on elsewhere."""
    own_beats: int = 0
    """By how much this process has raised the beat since it saw it last."""


class Leases:
    """The sessions of all jobs services, as this process sees them."""

    def __init__(self, *, lease_s: float, reconnect_s: float) -> None:
        self._lease_s = lease_s
        self._reconnect_s = reconnect_s
        self.tick_s = max(_MIN_TICK_S, min(MAX_TICK_S, lease_s / 4, reconnect_s / 2))
        self._unlisted_s = max(reconnect_s, _UNLISTED_TICKS * self.tick_s)
        self._sessions: dict[int, _Session] = {}
        self._listed: frozenset[str] | None = None
        self._ticked_s: float | None = None

    def tick(self, now_s: float) -> None:
        """To be called each tick. A process that was paused itself has heard nobody meanwhile, so
        the pause counts as nobody's silence.
        """
        before_s, self._ticked_s = self._ticked_s, now_s
        if before_s is None or now_s - before_s <= _PAUSE_TICKS * self.tick_s:
            return
        pause_s = now_s - before_s - self.tick_s
        for session in self._sessions.values():
            session.changed_s = min(now_s, session.changed_s + pause_s)
            if session.heard_s is not None:
                session.heard_s = min(now_s, session.heard_s + pause_s)
            if session.ended_s is not None:
                session.ended_s = min(now_s, session.ended_s + pause_s)

    def list(self, worker_ids: Collection[str]) -> None:
        """What the registry lists."""
        self._listed = frozenset(worker_ids)

    def connected(self, key: int, worker_id: str, now_s: float) -> None:
        """A session has a stream to this process."""
        session = self._sessions.setdefault(key, _Session(worker_id, -1, now_s))
        session.heard_s, session.ended_s = now_s, None
        session.own_beats += 1  # to open a session is a heartbeat

    def heard(self, key: int, now_s: float) -> None:
        """Its worker sent something."""
        session = self._sessions.get(key)
        if session is not None and session.heard_s is not None:
            session.heard_s = now_s

    def disconnected(self, key: int, now_s: float) -> None:
        """Its stream has ended."""
        session = self._sessions.get(key)
        if session is not None:
            session.heard_s, session.ended_s = None, now_s

    def forget(self, key: int) -> None:
        """The session was ended."""
        self._sessions.pop(key, None)

    def beating(self) -> Sequence[int]:
        """Whose heartbeats this process records."""
        return [key for key, each in self._sessions.items() if each.heard_s is not None]

    def beaten(self, keys: Sequence[int]) -> None:
        """This process has recorded heartbeats."""
        for key in keys:
            if key in self._sessions:
                self._sessions[key].own_beats += 1

    def observe(self, stored: Sequence[StoredSession], now_s: float) -> None:
        """What the database has of all sessions that were not ended."""
        for each in stored:
            session = self._sessions.setdefault(
                each.key, _Session(each.worker_id, each.beat, now_s)
            )
            is_by_others = 0 <= session.beat < each.beat - session.own_beats
            if is_by_others:
                session.ended_s = None  # it has a stream to another jobs service
            if session.beat != each.beat:
                session.beat, session.changed_s = each.beat, now_s
            session.own_beats = 0
        known = {each.key for each in stored}
        for key in [*self._sessions]:
            if key not in known and self._sessions[key].heard_s is None:
                del self._sessions[key]

    def lost(self, now_s: float) -> Sequence[Lost]:
        """The sessions to end now."""
        return [
            Lost(
                key=key,
                worker_id=session.worker_id,
                beat=None if session.heard_s is not None else session.beat,
                reason=reason,
            )
            for key, session in self._sessions.items()
            if (reason := self._reason(session, now_s))
        ]

    def _reason(self, session: _Session, now_s: float) -> str:
        """Why it is lost; empty if it is not."""
        if session.heard_s is not None:
            is_silent = now_s - session.heard_s >= self._lease_s
            return f"it was silent for {self._lease_s:g} s" if is_silent else ""
        if session.beat < 0:
            return ""  # not observed yet
        still_s = now_s - session.changed_s
        is_listed = self._listed is None or session.worker_id in self._listed
        if session.ended_s is not None:
            if not is_listed:
                return "its stream ended and the registry does not list it"
            if now_s - session.ended_s >= self._reconnect_s:
                return f"its stream ended and it opened none within {self._reconnect_s:g} s"
        elif not is_listed and still_s >= self._unlisted_s:
            return "the registry does not list it and it has no heartbeat"
        if still_s >= self._lease_s:
            return f"it had no heartbeat for {self._lease_s:g} s"
        return ""
