"""Progress bars go when what they measured failed."""

from __future__ import annotations

import pytest

from mlxmesh_cli.screen.progress import bytes_bar, steps_bar


@pytest.mark.parametrize("is_of_bytes", [True, False])
def test_a_bar_is_gone_before_the_error(
    is_of_bytes: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    bar = (
        bytes_bar("pulling x", quiet=False)
        if is_of_bytes
        else steps_bar("loading x", total=1, quiet=False)
    )
    with pytest.raises(ValueError, match="refused"), bar:
        raise ValueError("refused")
    assert capsys.readouterr().err == ""


def test_a_bar_stays_when_all_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    with steps_bar("loading x", total=2, quiet=False) as advance:
        advance(2)
    assert "loading x" in capsys.readouterr().err
