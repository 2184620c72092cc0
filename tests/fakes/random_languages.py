"""What a model writes at a high temperature, for batches of random constraints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from hypothesis import HealthCheck, Phase, settings

from mlxmesh_engine.scheduling.request import FinishReason, GrammarKind
from tests.fakes.constrained_rig import ConstrainedRig, constrained

BATCH = 20


class Language(NamedTuple):
    """A constraint, and whether a text satisfies it by another implementation."""

    kind: GrammarKind
    text: str
    has: Callable[[str], bool]


def check(rig: ConstrainedRig, languages: Sequence[Language]) -> None:
    """Fails if a sequence gets stuck, or ends with what its constraint does not allow."""
    ran = rig.run(
        *(
            constrained(
                at, one.kind, one.text, max_tokens=120, temperature=1.5, seed=at, eos=rig.eos
            )
            for at, one in enumerate(languages)
        )
    )
    for at, language in enumerate(languages):
        last = ran.last(at)
        assert last.error is None, (language.text, last.error)
        if last.finish_reason is FinishReason.STOP:
            text = rig.text(ran.tokens(at))
            assert language.has(text), (language.text, text)


def suite(batches: int) -> Any:
    """The settings of a test that gets this many batches of constraints, always the same."""
    return settings(
        max_examples=batches,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        derandomize=True,
    )
