"""The table of a model's history."""

from google.protobuf.timestamp_pb2 import Timestamp

from mlxmesh.model.v1.history_pb2 import DurationPercentiles, HistoryPeriod
from mlxmesh_cli.screen.history_table import history_table
from mlxmesh_cli.screen.output import to_dict

HOUR_S = 3600
START_S = 1_773_500_400  # 2026-03-14 15:00 UTC


def period(start_s: int, length_s: int, **fields: object) -> HistoryPeriod:
    times = DurationPercentiles(count=2, p50_ms=123.4, p95_ms=200, p99_ms=250)
    whole = {"version": 1, "requests": 2, "ttft": times, "tpot": DurationPercentiles()}
    return HistoryPeriod(
        start_time=Timestamp(seconds=start_s),
        end_time=Timestamp(seconds=start_s + length_s),
        **whole | fields,  # pyright: ignore[reportArgumentType]
    )


def lines(*periods: HistoryPeriod, width: int = 200) -> list[list[str]]:
    table = history_table([to_dict(each) for each in periods])
    return [line.plain.split("  ") for line in table.lines(width)]


def words(row: list[str]) -> list[str]:
    return [cell.strip() for cell in row if cell.strip()]


def test_an_hour_has_its_sums_and_times() -> None:
    fields = {"errors": 1, "prompt_tokens": 30, "cached_tokens": 4, "completion_tokens": 50}
    shown = period(START_S, HOUR_S, device_s=1.25, cost=0.012345, cancelled=1, **fields)
    header, row = map(words, lines(shown))
    assert header == [
        *("time", "version", "requests", "errors", "cancelled", "prompt", "cached", "completion"),
        *("ttft p50", "p95", "tpot p50", "device s", "cost"),
    ]
    assert row == [
        *("2026-03-14 15:00", "1", "2", "1", "1", "30", "4", "50"),
        *("123 ms", "200 ms", "-", "1.2", "0.01235"),
    ]


def test_days_and_totals_say_their_time() -> None:
    day = period(START_S - 15 * HOUR_S, 24 * HOUR_S)
    total = period(START_S, 3 * HOUR_S)
    _, first, second = map(words, lines(day, total))
    assert first[0] == "2026-03-14"
    assert second[0] == "2026-03-14 15:00 to 2026-03-14 18:00"


def test_what_never_happened_has_no_column() -> None:
    header = words(lines(period(START_S, HOUR_S))[0])
    assert not {"refused", "cancelled", "cost"} & set(header)


def test_a_narrow_terminal_keeps_requests_and_errors() -> None:
    header, row = lines(period(START_S, HOUR_S), width=45)
    assert words(header) == ["time", "version", "requests", "errors"]
    assert len("  ".join(row)) <= 45
