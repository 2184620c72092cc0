"""The client's methods for rollouts."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from mlxmesh.model.v1 import rollout_pb2 as pb
from mlxmesh.model.v1.rollout_pb2_grpc import RolloutServiceStub
from mlxmesh_client.calls import Calls
from mlxmesh_client.guards import parse_guard

_POLL_S = 1.0


class RolloutMethods:
    """One method per RPC of RolloutService, and one that follows a rollout."""

    _calls: Calls
    _rollouts: RolloutServiceStub

    async def start_rollout(
        self,
        name: str,
        *,
        to_version: int,
        alias: str = "",
        steps: Sequence[int] = (),
        hold_s: int | None = None,
        guards: Sequence[str] = (),
        min_requests: int | None = None,
        rollout_id: str = "",
        timeout_s: float | None = None,
    ) -> pb.Rollout:
        """Moves an alias to another version in steps; a guard is a text like `error_rate<1%`.

        A call with a rollout_id may be repeated.
        """
        request = pb.StartRolloutRequest(
            name=name,
            to_version=to_version,
            alias=alias,
            steps=steps,
            hold_s=hold_s,
            guards=[parse_guard(guard) for guard in guards],
            min_requests=min_requests,
            rollout_id=rollout_id,
        )
        call, safe = self._rollouts.StartRollout, bool(rollout_id)
        return (await self._calls.unary(call, request, timeout_s, safe=safe)).rollout

    async def get_rollout(self, rollout_id: str, *, timeout_s: float | None = None) -> pb.Rollout:
        """Returns a rollout with its whole history, and what its guards read."""
        request = pb.GetRolloutRequest(rollout_id=rollout_id)
        call = self._rollouts.GetRollout
        return (await self._calls.unary(call, request, timeout_s, safe=True)).rollout

    async def watch_rollout(
        self, rollout_id: str, *, timeout_s: float | None = None
    ) -> AsyncGenerator[pb.Rollout]:
        """Yields a rollout as it is, then after each change of it or of what its guards read."""
        request = pb.WatchRolloutRequest(rollout_id=rollout_id)
        call = self._rollouts.WatchRollout
        async for response in self._calls.stream(call, request, timeout_s, safe=True):
            yield response.rollout

    async def list_rollouts(
        self, name: str = "", *, limit: int | None = None, timeout_s: float | None = None
    ) -> list[pb.Rollout]:
        """Returns the rollouts of a model, or of all, the newest first."""
        found: list[pb.Rollout] = []
        request = pb.ListRolloutsRequest(name=name)
        while True:
            page = await self._calls.unary(
                self._rollouts.ListRollouts, request, timeout_s, safe=True
            )
            found.extend(page.rollouts)
            if not page.next_page_token or (limit is not None and len(found) >= limit):
                return found[:limit]
            request.page_token = page.next_page_token

    async def pause_rollout(self, rollout_id: str, *, timeout_s: float | None = None) -> pb.Rollout:
        """Keeps the weights as they are until the rollout is resumed."""
        request = pb.PauseRolloutRequest(rollout_id=rollout_id)
        call = self._rollouts.PauseRollout
        return (await self._calls.unary(call, request, timeout_s, safe=True)).rollout

    async def resume_rollout(
        self, rollout_id: str, *, timeout_s: float | None = None
    ) -> pb.Rollout:
        """Continues a paused rollout; its present step begins again."""
        request = pb.ResumeRolloutRequest(rollout_id=rollout_id)
        call = self._rollouts.ResumeRollout
        return (await self._calls.unary(call, request, timeout_s, safe=True)).rollout

    async def abort_rollout(self, rollout_id: str, *, timeout_s: float | None = None) -> pb.Rollout:
        """Ends a rollout and sets its alias back."""
        request = pb.AbortRolloutRequest(rollout_id=rollout_id)
        call = self._rollouts.AbortRollout
        return (await self._calls.unary(call, request, timeout_s, safe=True)).rollout

    async def promote_rollout(
        self, rollout_id: str, *, timeout_s: float | None = None
    ) -> pb.Rollout:
        """Ends a rollout and sets its alias to the new version at once."""
        request = pb.PromoteRolloutRequest(rollout_id=rollout_id)
        call = self._rollouts.PromoteRollout
        return (await self._calls.unary(call, request, timeout_s, safe=True)).rollout

    async def follow_rollout(
        self, rollout_id: str, *, interval_s: float = _POLL_S
    ) -> AsyncGenerator[pb.Rollout]:
        """Yields a rollout as it is, and after each change, until it has ended."""
        known = -1
        while True:
            rollout = await self.get_rollout(rollout_id)
            if len(rollout.history) != known:
                known = len(rollout.history)
                yield rollout
            if rollout.HasField("end_time"):
                return
            await asyncio.sleep(interval_s)
