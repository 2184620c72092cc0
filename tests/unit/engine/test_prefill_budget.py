from mlxmesh_engine.prefill_budget import PrefillBudget


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
