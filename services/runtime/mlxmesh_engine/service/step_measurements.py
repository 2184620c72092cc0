"""Measures the steps of an engine, for its scheduler, its speculation and its metrics."""

from collections.abc import Iterable

from mlxmesh_engine.forward.decode_groups import DecodedTokens, LaunchedStep
from mlxmesh_engine.scheduling.background import BackgroundTurn
from mlxmesh_engine.scheduling.prefill_plan import PrefillSlice, count_tokens
from mlxmesh_engine.scheduling.scheduler import Scheduler
from mlxmesh_engine.scheduling.step_times import StepDurations, StepTimes, StepWork
from mlxmesh_engine.service.telemetry import StepMetrics
from mlxmesh_engine.speculation.speculation import Speculation


class StepMeasurements:
    """Call for each step `began`, `decode_launched`, then `prefill_started`."""

    def __init__(
        self,
        scheduler: Scheduler,
        speculation: Speculation,
        metrics: StepMetrics,
        *,
        overlapping: bool,
    ) -> None:
        """overlapping: as for StepTimes."""
        self._scheduler = scheduler
        self._speculation = speculation
        self._metrics = metrics
        self._overlapping = overlapping
        self._times = StepTimes(overlapping=overlapping)
        self._durations = StepDurations(overlapping=overlapping)
        self._background_before = False
        self._last_decode = DecodedTokens()
        self.proposed_tokens = 0
        self.accepted_tokens = 0
        """Of all sequences: the tokens that were proposed, and how many became output."""

    def began(self, now_s: float) -> None:
        """Records the duration of the step before this one."""
        if (duration := self._durations.began(now_s)) is None:
            return
        duration_s, background = duration
        self._scheduler.record_pace(duration_s, background=background)
        last = self._last_decode
        if not background and last.rows:
            self._speculation.record_step(
                duration_s, rows=last.rows, proposed=last.proposed, accepted=last.accepted
            )

    def decode_launched(
        self,
        now_s: float,
        *,
        previous: LaunchedStep | None,
        launched: LaunchedStep | None,
        turn: BackgroundTurn,
    ) -> None:
        """Records what decoded. A step only starts its prefill; the next step waits for the result.

        The budgets of prefill count steps without background work only.
        """
        scheduler = self._scheduler
        self._durations.launched(
            StepWork(bool(scheduler.decoding), scheduler.prefilling, background=bool(turn))
        )
        ended = previous if self._overlapping else launched
        self._last_decode = DecodedTokens.of(launched)
        self.proposed_tokens += self._last_decode.proposed
        self.accepted_tokens += self._last_decode.accepted
        decoded = DecodedTokens.of(ended)
        tokens = decoded.tokens
        if launched is not None and launched is not ended and launched.verified:
            tokens += self._last_decode.tokens
            decoded = self._last_decode
        self._metrics.record(now_s, decoded.rows, tokens)
        background = turn or self._background_before
        self._background_before = bool(turn)
        if background or (self._overlapping and (previous is None) != (launched is None)):
            self._times.reset()
        elif step_time := self._times.ended(now_s, decoding=launched is not None):
            scheduler.record_step(step_time)

    def prefill_started(self, slices: Iterable[PrefillSlice]) -> None:
        """Records the prefill of the step, without that of background sequences."""
        self._times.prefill_started(count_tokens(slices))
