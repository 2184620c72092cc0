"""What a group generates, compared with one process."""

from collections.abc import Sequence
from pathlib import Path

from mlxmesh_engine.scheduling.request import Sampling, SequenceRequest
from tests.fakes.engine_rig import STREAM, Rig, load_model, scores_after
from tests.fakes.reference_sampling import contest

# Rounding alone may swap two scores that are closer than this.
_ROUNDING = 1e-4
MAX_TOKENS = 12
Prompts = Sequence[tuple[int, ...]]


def alone(model: Path, prompts: Prompts, sampling: Sampling) -> list[list[int]]:
    """What one process generates, each prompt for itself."""
    loaded = load_model(model, cpu_forward=False)
    outputs: list[list[int]] = []
    for prompt in prompts:
        rig = Rig(loaded)
        request = SequenceRequest((STREAM, 1), prompt, MAX_TOKENS, sampling=sampling)
        outputs.append(rig.submit(request).run().tokens(1))
    return outputs


def assert_same(
    model: Path, prompts: Prompts, sampling: Sampling, tokens: Sequence[list[int]]
) -> None:
    """Equal to one process, except after a tie, which rounding may break either way."""
    expected_tokens = alone(model, prompts, sampling)
    for prompt, expected, actual in zip(prompts, expected_tokens, tokens, strict=True):
        assert len(actual) == MAX_TOKENS
        if actual == expected:
            continue
        pairs = zip(expected, actual, strict=True)
        at = next(at for at, (one, other) in enumerate(pairs) if one != other)
        output = expected[:at]
        scores = scores_after(load_model(model), [*prompt, *output])[-1]
        race = contest(scores, sampling, prompt=prompt, output=output)
        assert abs(race[expected[at]] - race[actual[at]]) < _ROUNDING
