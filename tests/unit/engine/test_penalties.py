import mlx.core as mx
import numpy as np

from mlxmesh_engine.sampling.penalties import CountPenalty, RepetitionPenalty
from mlxmesh_engine.scheduling.request import Sampling, SequenceRequest
from mlxmesh_engine.scheduling.sequence import ActiveSequence

VOCAB = 6
SCORES = mx.array([[4.0, -4.0, 4.0, -4.0, 0.0, 1.0]] * 3)
ROWS = [
    Sampling(),
    Sampling(repetition_penalty=2.0, presence_penalty=1.0),
    Sampling(frequency_penalty=0.5),
]


def actives() -> list[ActiveSequence]:
    return [
        ActiveSequence(SequenceRequest((1, at), (0, 1), 9, (2, 2), row))
        for at, row in enumerate(ROWS)
    ]


def applied(subject: RepetitionPenalty | CountPenalty) -> list[list[float]]:
    return np.array(subject.apply(SCORES)).tolist()


def test_repetition_counts_prompt_and_output_alike() -> None:
    subject = RepetitionPenalty(VOCAB)
    subject.join(actives())
    subject.refresh(ROWS)
    plain = [4, -4, 4, -4, 0, 1]
    assert applied(subject) == [plain, [2, -8, 2, -4, 0, 1], plain]
    subject.record(mx.array([5, 3, 5], mx.uint32))
    assert applied(subject) == [plain, [2, -8, 2, -8, 0, 1], plain]
    subject.filter([0, 2])
    subject.refresh([ROWS[0], ROWS[2]])
    assert subject.arrays() == []


def test_presence_counts_once_and_frequency_each_time_of_the_output_alone() -> None:
    subject = CountPenalty(VOCAB)
    subject.join(actives())
    subject.refresh(ROWS)
    plain = [4, -4, 4, -4, 0, 1]
    assert applied(subject) == [plain, [4, -4, 3, -4, 0, 1], [4, -4, 3, -4, 0, 1]]
    subject.record(mx.array([5, 5, 2], mx.uint32))
    assert applied(subject) == [plain, [4, -4, 3, -4, 0, 0], [4, -4, 2.5, -4, 0, 1]]
    subject.filter([2])
    subject.refresh([ROWS[2]])
    assert np.array(subject.apply(SCORES[:1])).tolist() == [[4, -4, 2.5, -4, 0, 1]]
