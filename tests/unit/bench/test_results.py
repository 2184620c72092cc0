"""What every benchmark shares: verdicts, medians, JSON."""

import pytest

from tests.bench.results import Findings, Result, judged, median_ratio, shown


@pytest.mark.parametrize(
    ("measured", "at_least", "met"),
    [(2.0, True, True), (1.9, True, False), (2.0, False, True), (2.1, False, False)],
)
def test_a_result_is_met_on_its_own_side_of_what_is_wanted(
    measured: float, at_least: bool, met: bool
):
    assert Result("it", measured, 2.0, at_least=at_least).met is met


def test_a_figure_that_is_none_is_not_met():
    assert not Result("it", float("nan"), 1.0).met
    assert not Result("it", float("nan"), 1.0, at_least=False).met


def test_ratios_are_taken_round_by_round():
    assert median_ratio([10, 20, 90], [1, 10, 30], float) == 3


def test_rounds_of_different_number_are_refused():
    with pytest.raises(ValueError, match="zip"):
        median_ratio([1, 2], [1], float)


def test_a_verdict_says_what_was_wanted():
    least, most = judged([Result("a", 1.5, 1.0), Result("b", 12.5, 5, "ms", at_least=False)])
    assert (least["wanted"], least["verdict"]) == ("≥ 1", "met")
    assert (most["wanted"], most["unit"], most["verdict"]) == ("≤ 5", "ms", "MISSED")


@pytest.mark.parametrize(
    ("value", "text"),
    [(12345.6, "12,346"), (45.678, "45.7"), (0.01234, "0.0123"), (256, "256"), ("a", "a")],
)
def test_figures_have_as_many_digits_as_say_something(value: float | str, text: str):
    assert shown(value) == text


def test_findings_come_back_from_their_json():
    found = Findings([Result("a", 1.5, 1.0)], {"t": [{"streams": 8, "ratio": 0.5, "name": "x"}]})
    text = found.to_json()
    assert '"met": true' in text
    assert Findings.from_json(text) == found
