from mlxmesh_engine.scheduling.pace import TokenRate


def test_counts_the_last_second() -> None:
    subject = TokenRate()
    for step in range(10):
        subject.add(step * 0.1, 32)
    assert subject.per_second(0.95) == 320
    assert subject.per_second(1.45) == 160
    assert subject.per_second(60.0) == 0
