"""What a step costs with and without proposed tokens, and whether they paid off. Pure."""

import math

from mlxmesh_engine.scheduling.linear_cost import LinearCost

_WEIGHT = 0.2
_MAX_JUMP = 2.0
# While nothing is measured: the cost of one more token as a part of a step's cost for each row.
_INITIAL_SHARE = 0.3
# Proposals may lose so many steps, then they pause; a pause after another is twice as long.
_MAX_DEBT_STEPS = 2.0
_MAX_CREDIT_STEPS = 4.0
_FIRST_PAUSE_STEPS = 128
_MAX_PAUSE_STEPS = 4096
# Preparing proposals that then do not pay is an expense that a pause makes small.
_PAUSE_FOR_PREPARATION = 32
# Plain steps become slower as sequences grow: after so many steps with proposals, one has none.
_MAX_STEPS_WITHOUT_PLAIN = 64
# After so many steps without proposals, their cost is measured again.
_MAX_AGE_STEPS = 512


class StepCost:
    """The costs of steps with about the same number of rows."""

    def __init__(self) -> None:
        self._plain_s = 0.0
        self._extra = LinearCost()
        self._balance_steps = 0.0
        self._prepared_steps = 0.0
        self._pause_steps = _FIRST_PAUSE_STEPS
        self._paused_steps = 0
        self._age_steps = 0
        self._verified_steps = 0

    @property
    def plain_s(self) -> float:
        """The duration of a step without proposals; 0 while it is unknown."""
        return self._plain_s

    @property
    def ready(self) -> bool:
        """Whether the next step may have proposals.

        Not before a step without them was measured, nor while they pause since they lost time.
        """
        measured = self._plain_s > 0 and self._verified_steps < _MAX_STEPS_WITHOUT_PLAIN
        return measured and not self._paused_steps

    def token_share(self, rows: int) -> float:
        """The cost of one more token as a part of a plain step's cost for each of its rows."""
        if not self._extra.measured:
            return _INITIAL_SHARE
        return self._extra.per_token_s * rows / self._plain_s

    def slowdown(self, tokens: int) -> float:
        """The duration of a step with so many proposed tokens, over that of a plain step."""
        if not self._extra.measured:
            return 1.0
        return 1 + self._extra.seconds(tokens) / self._plain_s

    def record_plain(self, seconds: float) -> None:
        """Records a step without proposals."""
        if self._paused_steps:
            self._paused_steps -= 1
        self._verified_steps = 0
        self._age_steps += 1
        if self._age_steps == _MAX_AGE_STEPS:
            self._extra = LinearCost()
        if not self._plain_s:
            self._plain_s = seconds
        else:
            bounded = min(seconds, _MAX_JUMP * self._plain_s)
            self._plain_s += _WEIGHT * (bounded - self._plain_s)

    def record_verified(self, seconds: float, *, rows: int, proposed: int, accepted: int) -> None:
        """Records a step that verified proposed tokens."""
        if not self._plain_s:
            return
        self._age_steps = 0
        self._verified_steps += 1
        bounded = min(seconds, _MAX_JUMP * (1 + proposed / rows) * self._plain_s)
        self._extra.record(max(bounded - self._plain_s, 0.0), proposed)
        self._balance_steps += 1 + accepted / rows - bounded / self._plain_s
        if self._balance_steps >= _MAX_CREDIT_STEPS:
            self._balance_steps, self._pause_steps = _MAX_CREDIT_STEPS, _FIRST_PAUSE_STEPS
            self._prepared_steps = 0.0
        elif self._balance_steps < -_MAX_DEBT_STEPS:
            preparation = math.ceil(_PAUSE_FOR_PREPARATION * self._prepared_steps)
            self._paused_steps = max(self._pause_steps, preparation)
            self._balance_steps = self._prepared_steps = 0.0
            self._pause_steps = min(2 * self._pause_steps, _MAX_PAUSE_STEPS)

    def record_preparation(self, seconds: float) -> None:
        """Records a step that prepared proposals and had none yet, as a draft model's prefill."""
        if self._plain_s:
            self._prepared_steps += max(0.0, seconds / self._plain_s - 1)


class StepCosts:
    """One `StepCost` for each class of numbers of rows."""

    def __init__(self) -> None:
        self._by_rows: dict[int, StepCost] = {}

    def of(self, rows: int) -> StepCost:
        number = round(2 * math.log2(rows))
        if number not in self._by_rows:
            self._by_rows[number] = StepCost()
        return self._by_rows[number]
