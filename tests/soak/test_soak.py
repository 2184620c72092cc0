"""The options of the soak."""

import pytest

from tests.soak.__main__ import parsed


@pytest.mark.parametrize(
    "words",
    [
        ["--minutes", "0"],
        ["--interval", "0"],
        ["--pause", "-1"],
        ["--fault-every", "-1"],
    ],
)
def test_illegal_options_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(words)
    assert "must be" in capsys.readouterr().err
