"""Group commit: operations that wait for the writer share one transaction.

A commit costs the same for one change and for many, and so do most statements.
"""

from asyncio import Future, get_running_loop
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from mlxmesh_jobs.storage.work import Work
from mlxmesh_shared.errors import DatabaseBusy, MeshError
from mlxmesh_shared.sql.transactions import OF_THE_DATABASE, Transactions

_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")
Operation = Callable[[Work, Sequence[_Argument]], Awaitable[Sequence[_Result | MeshError]]]
"""Does the same for several arguments in one transaction, and has a result or an error for each. It
decides on errors before it writes anything for that argument."""
MAX_GROUP = 256
MAX_QUEUED = 20_000
_RETRY_DELAY_S = 1.0


@dataclass(slots=True)
class _Waiting:
    operation: Operation[Any, Any]
    argument: Any
    done: Future[Any]


class GroupCommit:
    """Runs operations, each in a transaction that it may share."""

    def __init__(
        self,
        transactions: Transactions,
        clock: Callable[[], int],
        on_change: Callable[[], None],
    ) -> None:
        """on_change: called after each commit that changed a job."""
        self._transactions = transactions
        self._clock = clock
        self._on_change = on_change
        self._queue: list[_Waiting] = []
        self._runs = False

    async def run(self, operation: Operation[_Argument, _Result], argument: _Argument) -> _Result:
        """The result for one argument, once it is committed. Raises: MeshError."""
        if len(self._queue) >= MAX_QUEUED:
            raise DatabaseBusy("too many changes wait to be stored", retry_delay_s=_RETRY_DELAY_S)
        waiting = _Waiting(operation, argument, get_running_loop().create_future())
        self._queue.append(waiting)
        if not self._runs:
            self._runs = True
            self._transactions.run_to_completion(self._drain())
        return await waiting.done

    async def _drain(self) -> None:
        try:
            while self._queue:
                group, self._queue = self._queue[:MAX_GROUP], self._queue[MAX_GROUP:]
                await self._commit(group)
        finally:
            self._runs = False

    async def _commit(self, group: Sequence[_Waiting]) -> None:
        try:
            results = await self._transaction(group)
        except OF_THE_DATABASE as error:
            _fail(group, error)
        except Exception as error:  # noqa: BLE001 - its callers get it
            if len(group) == 1:
                _fail(group, error)
                return
            # One of them is to blame; the others do not suffer from it.
            for one in group:
                await self._commit([one])
        else:
            for one, result in results:
                _settle(one, result)

    async def _transaction(self, group: Sequence[_Waiting]) -> list[tuple[_Waiting, Any]]:
        results: list[tuple[_Waiting, Any]] = []
        async with self._transactions.write() as session:
            work = Work(session, self._clock())
            for operation, members in _by_operation(group):
                done = await operation(work, [member.argument for member in members])
                await work.flush()
                results += zip(members, done, strict=True)
            changed = await work.finish()
        if changed:
            self._on_change()
        return results


def _by_operation(
    group: Sequence[_Waiting],
) -> list[tuple[Operation[Any, Any], list[_Waiting]]]:
    found: dict[Operation[Any, Any], list[_Waiting]] = {}
    for one in group:
        found.setdefault(one.operation, []).append(one)
    return list(found.items())


def _settle(waiting: _Waiting, result: Any) -> None:
    # Whoever was cancelled does not wait any more.
    if waiting.done.done():
        return
    if isinstance(result, MeshError):
        waiting.done.set_exception(result)
    else:
        waiting.done.set_result(result)


def _fail(group: Sequence[_Waiting], error: Exception) -> None:
    for one in group:
        if not one.done.done():
            one.done.set_exception(error)
