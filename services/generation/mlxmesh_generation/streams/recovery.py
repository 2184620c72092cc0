"""What an output does when its engine refuses it or is lost."""

import asyncio
import time
from collections.abc import Callable, Collection
from enum import Enum

from mlxmesh_generation.placement.router import RETRY_DELAY_S
from mlxmesh_generation.placement.sequence import Placer
from mlxmesh_generation.streams.phase import Phase
from mlxmesh_generation.streams.plan import Plan
from mlxmesh_generation.streams.submission import DEADLINE_MARGIN_S
from mlxmesh_shared.errors import ContextTooLong, EngineLost, MeshError, NoReplica, QueueFull

ENGINE_WAIT_S = 30.0
# Between two attempts to place a sequence while no engine has room.
RETRY_PAUSE_S = 0.1
# A limit for requests that crash every engine they run on.
MAX_WITHOUT_PROGRESS = 3
# From then on the engine runs it alone: its batch may have caused the crashes.
ISOLATED_AFTER = 2


class Action(Enum):
    FAIL = "fail"
    SHORTEN = "shorten"
    """Submit it again with a smaller default length."""
    TRY_ANOTHER = "try another"
    """Submit it to one other engine, once."""
    RESUME = "resume"
    """Its engine was lost: resume it on another one."""
    RETRY = "retry"
    """An engine refused to resume it: keep trying."""


def action_after(error: MeshError, phase: Phase, *, may_wait: bool = False) -> Action:
    """The action after an engine's failure in a phase. Pure.

    may_wait: an output that no engine has accepted yet waits, instead of asking only one more.
    """
    if isinstance(error, ContextTooLong) and phase.unaccepted:
        return Action.SHORTEN
    if not error.retryable:
        return Action.FAIL
    if phase is Phase.SUBMITTED:
        return Action.RETRY if may_wait else Action.TRY_ANOTHER
    if phase is Phase.RESUBMITTED and not isinstance(error, EngineLost):
        return Action.RETRY
    return Action.RESUME


class Losses:
    """Counts how often one output lost its engine. Pure."""

    def __init__(self, resumptions: int = 0, tokens: int = 0) -> None:
        self.resumptions = resumptions
        """How often it was resumed, in other processes too."""
        self._without_progress = 0
        self._tokens = tokens

    def may_resume(self, tokens: int) -> bool:
        """Records a loss after so many tokens; False after too many in a row without a token."""
        if tokens > self._tokens:
            self._without_progress = 0
        self._tokens = tokens
        self._without_progress += 1
        self.resumptions += 1
        return self._without_progress <= MAX_WITHOUT_PROGRESS

    @property
    def isolated(self) -> bool:
        """Whether it must run alone: it lost engines in a row without a token in between."""
        return self._without_progress >= ISOLATED_AFTER


class Recovery:
    """Waits for another engine and submits the output to it."""

    def __init__(self, plan: Plan, engines: Placer, engine_wait_s: float) -> None:
        self._plan = plan
        self._engines = engines
        self._engine_wait_s = engine_wait_s
        self._task: asyncio.Task[None] | None = None
        self._was_lost = False
        self.lost_engine = ""
        self.waiting_since_s = plan.received_s
        """When it was received or last lost its engine, in time.monotonic()."""

    def note_loss(self, engine_id: str) -> None:
        self._was_lost = True
        self.lost_engine = engine_id
        self.waiting_since_s = time.monotonic()

    def start(
        self,
        submit: Callable[[Collection[str]], None],
        fail: Callable[[MeshError], None],
        *,
        avoid: str,
        pause_s: float,
    ) -> None:
        """Calls `submit` until it succeeds, or `fail` once; first without the engine to avoid."""
        self._task = asyncio.create_task(self._run(submit, fail, avoid, pause_s))

    def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()

    async def _run(
        self,
        submit: Callable[[Collection[str]], None],
        fail: Callable[[MeshError], None],
        avoid: str,
        pause_s: float,
    ) -> None:
        failure: MeshError | None = None
        try:
            async with asyncio.timeout(self._until_s() - time.monotonic()):
                await asyncio.sleep(pause_s)
                await self._submit(submit, avoid)
        except TimeoutError:
            failure = self._too_late()
        except MeshError as error:
            failure = error
        self._task = None  # from here on, stop() must not cancel the task that calls it
        if failure is not None:
            fail(failure)

    async def _submit(self, submit: Callable[[Collection[str]], None], avoid: str) -> None:
        avoided = (avoid,) if avoid else ()
        while True:
            try:
                submit(avoided)
            except (NoReplica, QueueFull):
                await self._engines.wait_for_replica(self._plan.version)
                await asyncio.sleep(RETRY_PAUSE_S)
                avoided = ()
            else:
                return

    def _too_late(self) -> MeshError:
        if self._was_lost:
            return EngineLost("the engine was lost and no other came in time; try again")
        return QueueFull(
            "no engine had room for all outputs in time; try again, or ask for fewer",
            retry_delay_s=RETRY_DELAY_S,
        )

    def _until_s(self) -> float:
        if self._plan.deadline_s is None:
            # Its model may have to be loaded again.
            wait_s = max(self._engine_wait_s, self._plan.load_timeout_s or 0.0)
            return self.waiting_since_s + wait_s
        return self._plan.deadline_s - DEADLINE_MARGIN_S
