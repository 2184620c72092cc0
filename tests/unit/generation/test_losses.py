from mlxmesh_generation.streams.recovery import ISOLATED_AFTER, MAX_WITHOUT_PROGRESS, Losses


def test_losses_in_a_row_without_a_token_are_limited() -> None:
    losses = Losses()
    assert [losses.may_resume(5) for _ in range(MAX_WITHOUT_PROGRESS + 1)] == [True] * 3 + [False]


def test_a_new_token_starts_the_count_again() -> None:
    losses = Losses()
    assert all(losses.may_resume(tokens) for tokens in range(1, 50))
    assert losses.resumptions == 49


def test_what_another_process_began_counts_on() -> None:
    losses = Losses(resumptions=2, tokens=7)
    assert losses.may_resume(7)
    assert losses.resumptions == 3


def test_after_two_losses_without_a_token_it_goes_on_alone() -> None:
    losses, isolated = Losses(), list[bool]()
    for _ in range(ISOLATED_AFTER):
        isolated.append(losses.isolated)
        losses.may_resume(5)
    assert (isolated, losses.isolated) == ([False, False], True)


def test_losses_with_tokens_between_them_isolate_nobody() -> None:
    losses = Losses()
    for tokens in range(1, 20):
        losses.may_resume(tokens)
        assert not losses.isolated
