from mlxmesh_engine.prefill_budget import LongPromptBudget, PrefillBudget


def test_it_is_the_setting_while_steps_are_fast() -> None:
    subject = PrefillBudget(512)
    for step_s in (0.01, 0.4, 0.9):
        subject.note(step_s)
    assert subject.tokens == 512


def test_a_slow_step_halves_it_and_a_very_slow_one_cuts_it_to_what_fits() -> None:
    subject = PrefillBudget(512)
    subject.note(1.1)
    assert subject.tokens == 256
    subject.note(16)
    assert subject.tokens == 16


def test_fast_steps_bring_it_back_up_to_the_setting() -> None:
    subject = PrefillBudget(100)
    subject.note(4)
    sizes = [subject.tokens]
    for _ in range(3):
        subject.note(0.2)
        sizes.append(subject.tokens)
    assert sizes == [25, 50, 100, 100]


def test_it_never_comes_to_nothing_nor_above_a_small_setting() -> None:
    for setting, least in ((512, 8), (3, 3)):
        subject = PrefillBudget(setting)
        for _ in range(5):
            subject.note(3600)
        assert subject.tokens == least


def test_what_a_decode_step_carries_is_cut_to_what_fits_and_grows_slowly() -> None:
    subject = LongPromptBudget(slowdown=3)
    subject.note(0.010, 0)
    subject.note(0.090, 40)
    assert settled(subject) == 10
    subject.note(0.015, 10)
    assert settled(subject) == 11


def test_it_is_never_nothing_for_long() -> None:
    subject = LongPromptBudget(slowdown=1.5)
    for _ in range(20):
        subject.note(0.01, 0)
        subject.note(9.0, 100)
    taken = [subject.take() for _ in range(300)]
    assert set(taken) == {0, 4}
    assert taken.count(0) <= 20


def test_without_a_measurement_it_starts_small() -> None:
    subject = LongPromptBudget(slowdown=2)
    subject.note(5.0, 16)
    assert settled(subject) == 16


def settled(subject: LongPromptBudget) -> int:
    """What it gives once it has looked at quiet steps."""
    return max(subject.take() for _ in range(5))
