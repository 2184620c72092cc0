from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from mlxmesh_engine.sampling.sampler import BatchSampler
from mlxmesh_engine.scheduling.request import Sampling, SequenceRequest
from mlxmesh_engine.scheduling.sequence import ActiveSequence
from tests.fakes.reference_sampling import adjusted, contest, probabilities

VOCAB = 600
LOGITS = np.random.default_rng(7).normal(0, 3, (40, VOCAB)).astype(np.float32)
OPTIONS = [
    Sampling(),
    Sampling(temperature=1.0),
    Sampling(temperature=0.2),
    Sampling(temperature=2.5),
    Sampling(temperature=1.0, top_p=0.9),
    Sampling(temperature=1.0, top_p=0.05),
    Sampling(temperature=10.0, top_p=0.999),
    Sampling(temperature=1.0, top_k=1),
    Sampling(temperature=1.0, top_k=5),
    Sampling(temperature=3.0, top_k=400),
    Sampling(temperature=1.0, top_k=VOCAB),
    Sampling(temperature=1.0, top_k=1_000_000),
    Sampling(temperature=1.0, min_p=0.1),
    Sampling(temperature=1.0, min_p=1.0),
    Sampling(temperature=1.5, top_k=50, top_p=0.8, min_p=0.02),
    Sampling(temperature=1.0, repetition_penalty=1.3),
    Sampling(repetition_penalty=5.0),
    Sampling(presence_penalty=1.5),
    Sampling(frequency_penalty=2.0),
    Sampling(frequency_penalty=-1.0, presence_penalty=-0.5),
    Sampling(temperature=0.8, frequency_penalty=0.7, presence_penalty=0.2, top_p=0.95),
    Sampling(logit_bias={3: 100.0}),
    Sampling(logit_bias={0: -100.0, 599: 4.0}, temperature=1.0),
    Sampling(temperature=1e-38),
]


def active(sampling: Sampling, index: int, output: tuple[int, ...] = ()) -> ActiveSequence:
    prompt = tuple(int(i) for i in np.random.default_rng(index).integers(0, VOCAB, 30))
    return ActiveSequence(SequenceRequest((1, index), prompt, 100, output, sampling))


def seeded(sampling: Sampling, seed: int) -> Sampling:
    return replace(sampling, seed=seed)


def test_every_option_in_one_batch_chooses_as_the_reference_over_many_steps() -> None:
    rows = [active(seeded(s, 1000 + i), i) for i, s in enumerate(OPTIONS)]
    sampler = BatchSampler(VOCAB)
    sampler.join(rows)
    outputs: list[list[int]] = [[] for _ in rows]
    for step in range(12):
        logits = np.roll(LOGITS[: len(rows)], step * 17, axis=1)
        tokens = np.array(sampler.sample(mx.array(logits), [step] * len(rows)))
        for index, row in enumerate(rows):
            scores = contest(
                logits[index].astype(np.float64),
                row.request.sampling,
                prompt=row.request.prompt,
                output=outputs[index],
            )
            best = int(np.argmax(scores))
            gap = scores[best] - scores[tokens[index]]
            assert gap < 1e-4, f"row {index} step {step}: {row.request.sampling}"
            outputs[index].append(int(tokens[index]))


@pytest.mark.parametrize("sampling", [s for s in OPTIONS if not s.greedy])
def test_draws_follow_the_distribution(sampling: Sampling) -> None:
    rows = [active(seeded(sampling, 77 + i), 1) for i in range(400)]
    sampler = BatchSampler(VOCAB)
    sampler.join(rows)
    logits = mx.array(np.repeat(LOGITS[:1], len(rows), axis=0))
    # One draw each where the first would change the scores of the second.
    positions = range(1 if sampling.depends_on_output else 10)
    drawn = np.concatenate(
        [np.array(sampler.sample(logits, [position] * len(rows))) for position in positions]
    )
    scores = adjusted(LOGITS[0].astype(np.float64), sampling, rows[0].request.prompt, [])
    expected = probabilities(scores, sampling)
    assert expected[drawn].min() > 0
    counts = np.bincount(drawn, minlength=VOCAB)
    order = np.argsort(-expected)[:8]
    groups = np.append(counts[order], counts.sum() - counts[order].sum())
    shares = np.append(expected[order], max(1 - expected[order].sum(), 0))
    far = [
        (n, p)
        for n, p in zip(groups, shares, strict=True)
        if abs(n - p * len(drawn)) > 5 * np.sqrt(max(p * (1 - p) * len(drawn), 1))
    ]
    assert not far


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    rows = [active(seeded(s, i), i) for i, s in enumerate(OPTIONS)]
    together = BatchSampler(VOCAB)
    together.join(rows)
    positions = list(range(len(rows)))
    tokens = np.array(together.sample(mx.array(LOGITS[: len(rows)]), positions))
    for index, row in enumerate(rows):
        alone = BatchSampler(VOCAB)
        alone.join([row])
        token = alone.sample(mx.array(LOGITS[index : index + 1]), [positions[index]])
        assert token.item() == tokens[index], row.request.sampling


def test_rows_that_leave_remove_their_state() -> None:
    penalized = Sampling(frequency_penalty=2.0)
    rows = [active(Sampling(), 0), active(penalized, 1), active(Sampling(logit_bias={5: 9.0}), 2)]
    sampler = BatchSampler(VOCAB)
    sampler.join(rows)
    flat = np.zeros((3, VOCAB), np.float32)
    flat[:, 8], flat[:, 9] = 1.5, 1.0
    first = np.array(sampler.sample(mx.array(flat), [0, 0, 0]))
    assert first.tolist() == [8, 8, 5]
    sampler.filter([1, 2])
    assert np.array(sampler.sample(mx.array(flat[1:]), [1, 1])).tolist() == [9, 5]
    sampler.filter([1])
    assert sampler.arrays() == []
    sampler.join([active(penalized, 3, output=(8, 8))])
    assert np.array(sampler.sample(mx.array(flat[1:]), [2, 2])).tolist() == [5, 9]


def test_a_greedy_batch_has_no_state() -> None:
    sampler = BatchSampler(VOCAB)
    sampler.join([active(Sampling(), 0)])
    assert sampler.arrays() == []


@pytest.mark.parametrize("vocab", [4096, 32_003])
def test_large_vocabularies_choose_as_the_reference(vocab: int) -> None:
    rng = np.random.default_rng(vocab)
    logits = rng.normal(0, 3, (len(OPTIONS), vocab)).astype(np.float32)
    rows = [active(seeded(s, 50 + i), i, output=(3, 3, 9)) for i, s in enumerate(OPTIONS)]
    sampler = BatchSampler(vocab)
    sampler.join(rows)
    tokens = np.array(sampler.sample(mx.array(logits), [3] * len(rows)))
    for index, row in enumerate(rows):
        scores = contest(
            logits[index].astype(np.float64),
            row.request.sampling,
            prompt=row.request.prompt,
            output=row.request.generated,
        )
        assert scores.max() - scores[tokens[index]] < 1e-4, row.request.sampling


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_narrow_scores_are_computed_in_float32(dtype: mx.Dtype) -> None:
    sampler = BatchSampler(VOCAB)
    sampler.join([active(Sampling(temperature=1.0, top_p=0.9, seed=4), 0)])
    logits = mx.array(LOGITS[:1]).astype(dtype)
    again = BatchSampler(VOCAB)
    again.join([active(Sampling(temperature=1.0, top_p=0.9, seed=4), 0)])
    wide = logits.astype(mx.float32)
    assert sampler.sample(logits, [3]).item() == again.sample(wide, [3]).item()
