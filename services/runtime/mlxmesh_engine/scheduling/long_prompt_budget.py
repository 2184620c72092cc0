"""How many tokens of long prompts a decode step may prefill as well. Pure."""

from mlxmesh_engine.scheduling.linear_cost import LinearCost

# Between two probes: steps without long prompts, which measure the baseline.
_STEPS_BETWEEN_PROBES = 64
# The first two cannot be attributed: prefill of the steps before may still run.
_STEPS_PER_PROBE = 4
_MIN_TOKENS = 4
_INITIAL_TOKENS = 16
_GROWTH = 1.1
# However large the measured cost: one slow step must not stop long prompts.
_MAX_STEPS_BETWEEN_SLICES = 8


class LongPromptBudget:
    """Keeps the mean decode step below `slowdown` times its duration without prefill.

    A pass of prefill has a fixed cost. If a slice that fits every step would mostly pay for that,
    the slice is as large as the fixed cost is worth, and some steps have none.
    """

    def __init__(self, *, slowdown: float, max_tokens: int) -> None:
        self._slowdown = slowdown
        self._max_tokens = max_tokens
        self._baseline_s: float | None = None
        self._cost = LinearCost()
        self._steps_since_probe = _STEPS_BETWEEN_PROBES
        self._steps_since_slice = 0
        self._tokens = float(_INITIAL_TOKENS)
        self._spare_s = 0.0
        """Prefill time that the steps so far have earned and not used."""

    @property
    def baseline_s(self) -> float | None:
        """The duration of a decode step without prefill; None until one was measured."""
        return self._baseline_s

    def next_tokens(self) -> int:
        """The budget of the next step; 0 while a probe measures steps without prefill."""
        self._steps_since_probe += 1
        self._steps_since_slice += 1
        probing = self._steps_since_probe > _STEPS_BETWEEN_PROBES
        if self._steps_since_probe >= _STEPS_BETWEEN_PROBES + _STEPS_PER_PROBE:
            self._steps_since_probe = 0
        if probing or not self._slice_due():
            return 0
        self._steps_since_slice = 0
        return min(self._max_tokens, int(self._tokens))

    def _slice_due(self) -> bool:
        if self._baseline_s is None or not self._cost.measured:
            return True
        earned_s = self._spare_s + self._spare_per_step_s(self._baseline_s)
        overdue = self._steps_since_slice >= _MAX_STEPS_BETWEEN_SLICES
        return overdue or earned_s >= 0.99 * self._cost.seconds(self._tokens)

    def _spare_per_step_s(self, baseline_s: float) -> float:
        return baseline_s * (self._slowdown - 1)

    def record(self, step_s: float, tokens: int) -> None:
        """Records the duration of a decode step that prefilled so many tokens as well."""
        if tokens == 0:
            # The recent minimum: other work on the machine must not count as decoding.
            max_s = step_s if self._baseline_s is None else self._baseline_s * _GROWTH
            self._baseline_s = min(step_s, max_s)
            self._earn(self._baseline_s, used_s=0.0)
        elif self._baseline_s is not None:
            used_s = max(step_s - self._baseline_s, 1e-6)
            self._cost.record(used_s, tokens)
            self._resize(self._baseline_s)
            self._earn(self._baseline_s, used_s=used_s)

    def _resize(self, baseline_s: float) -> None:
        """A slice that is too large is cut at once; one that is too small grows by a tenth."""
        fitting = self._cost.tokens_within(self._spare_per_step_s(baseline_s))
        wanted = max(fitting, self._cost.break_even_tokens, _MIN_TOKENS)
        self._tokens = min(wanted, self._tokens * _GROWTH, float(self._max_tokens))

    def _earn(self, baseline_s: float, *, used_s: float) -> None:
        """Neither an idle time nor one slow step counts for more than a slice."""
        bound_s = self._cost.seconds(self._tokens) if self._cost.measured else 0.0
        earned_s = self._spare_s + self._spare_per_step_s(baseline_s) - used_s
        self._spare_s = min(max(earned_s, -bound_s), bound_s)
