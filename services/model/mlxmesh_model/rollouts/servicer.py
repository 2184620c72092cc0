"""RolloutService: each method checks, calls and replies."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable
from typing import Any

from grpc.aio import ServicerContext

from mlxmesh.model.v1 import rollout_pb2 as pb
from mlxmesh.model.v1 import rollout_pb2_grpc
from mlxmesh_model.rollouts import convert
from mlxmesh_model.rollouts.controller import Clock, utc_now
from mlxmesh_model.rollouts.machine import Action, readings_of
from mlxmesh_model.rollouts.queries import position
from mlxmesh_model.rollouts.rollout import ENDED, Rollout
from mlxmesh_model.rollouts.store import RolloutStore
from mlxmesh_shared.rpc.caller import forwarded_caller

_Context = ServicerContext[Any, Any]

_DEFAULT_PAGE_SIZE = 100
_WATCH_INTERVAL_S = 1.0


class RolloutServicer(rollout_pb2_grpc.RolloutServiceServicer):
    """Rollouts over gRPC; the contract documents each method."""

    def __init__(
        self,
        rollouts: RolloutStore,
        *,
        wake: Callable[[], None],
        clock: Clock = utc_now,
        watch_interval_s: float = _WATCH_INTERVAL_S,
    ) -> None:
        """`wake` is called after each change."""
        self._watch_interval_s = watch_interval_s
        self._rollouts = rollouts
        self._wake = wake
        self._clock = clock

    async def StartRollout(
        self, request: pb.StartRolloutRequest, context: _Context
    ) -> pb.StartRolloutResponse:
        rollout = await self._rollouts.start(
            request.rollout_id or f"r-{secrets.token_hex(6)}",
            convert.to_wish(request),
            now=self._clock(),
            principal=forwarded_caller(context).principal,
        )
        return pb.StartRolloutResponse(rollout=await self._changed(rollout))

    async def GetRollout(
        self, request: pb.GetRolloutRequest, context: _Context
    ) -> pb.GetRolloutResponse:
        rollout = await self._rollouts.get(request.rollout_id)
        return pb.GetRolloutResponse(rollout=await self._shown(rollout))

    async def WatchRollout(
        self, request: pb.WatchRolloutRequest, context: _Context
    ) -> AsyncGenerator[pb.WatchRolloutResponse]:
        sent = None
        while True:
            rollout = await self._rollouts.get(request.rollout_id)
            shown = await self._shown(rollout)
            if shown != sent:
                yield pb.WatchRolloutResponse(rollout=shown)
                sent = shown
            if rollout.state in ENDED:
                return
            # Read again, because another model service may record outcomes and move the rollout.
            await asyncio.sleep(self._watch_interval_s)

    async def ListRollouts(
        self, request: pb.ListRolloutsRequest, context: _Context
    ) -> pb.ListRolloutsResponse:
        size = request.page_size or _DEFAULT_PAGE_SIZE
        before = convert.from_page_token(request.page_token)
        found = await self._rollouts.page(model=request.name, before=before, limit=size + 1)
        page = found[:size]
        token = convert.to_page_token(position(page[-1])) if len(found) > size else ""
        return pb.ListRolloutsResponse(
            rollouts=map(convert.to_rollout, page), next_page_token=token
        )

    async def PauseRollout(
        self, request: pb.PauseRolloutRequest, context: _Context
    ) -> pb.PauseRolloutResponse:
        rollout = await self._asked(request.rollout_id, Action.PAUSE, context)
        return pb.PauseRolloutResponse(rollout=rollout)

    async def ResumeRollout(
        self, request: pb.ResumeRolloutRequest, context: _Context
    ) -> pb.ResumeRolloutResponse:
        rollout = await self._asked(request.rollout_id, Action.RESUME, context)
        return pb.ResumeRolloutResponse(rollout=rollout)

    async def AbortRollout(
        self, request: pb.AbortRolloutRequest, context: _Context
    ) -> pb.AbortRolloutResponse:
        rollout = await self._asked(request.rollout_id, Action.ABORT, context)
        return pb.AbortRolloutResponse(rollout=rollout)

    async def PromoteRollout(
        self, request: pb.PromoteRolloutRequest, context: _Context
    ) -> pb.PromoteRolloutResponse:
        rollout = await self._asked(request.rollout_id, Action.PROMOTE, context)
        return pb.PromoteRolloutResponse(rollout=rollout)

    async def _asked(self, rollout_id: str, action: Action, context: _Context) -> pb.Rollout:
        principal = forwarded_caller(context).principal
        rollout = await self._rollouts.ask(
            rollout_id, action, now=self._clock(), principal=principal
        )
        return await self._changed(rollout)

    async def _changed(self, rollout: Rollout) -> pb.Rollout:
        self._wake()
        return await self._shown(rollout)

    async def _shown(self, rollout: Rollout) -> pb.Rollout:
        """A rollout with its whole history, and what its guards read while it runs."""
        history = await self._rollouts.history(rollout.rollout_id)
        if rollout.state in ENDED:
            return convert.to_rollout(rollout, history=history)
        observed = await self._rollouts.observe(rollout)
        return convert.to_rollout(
            rollout,
            requests=observed.new.requests,
            readings=readings_of(rollout, observed),
            history=history,
        )
