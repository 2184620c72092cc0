"""Addresses, keys, server-sent events and failures of upstreams."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_shared.errors import (
    ContextTooLong,
    IllegalState,
    InvalidArgument,
    TooManyRequests,
    UpstreamRefused,
    UpstreamUnavailable,
)
from mlxmesh_shared.openai_upstream.address import KeyReference, checked_url
from mlxmesh_shared.openai_upstream.failures import error_of_status, retry_delay_s
from mlxmesh_shared.openai_upstream.sse import EventReader, EventTooLarge

SECRET = "sk-very-secret"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host/v1",
        "ftp://host/v1",
        "file:///etc/passwd",
        "http://",
        "https://user:pass@host/v1",
        "https://token@host/v1",
        "http://host/v1?key=x",
        "http://host/v1#x",
        "http://host:99999/v1",
        "http://[::1/v1",
        "http://host/a b",
        "http://host/\n",
    ],
)
def test_an_illegal_url_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        checked_url(url)
    assert caught.value.field == "base_url"
    assert "pass" not in caught.value.message
    assert "token" not in caught.value.message


def test_a_url_may_be_private_and_loses_its_last_slash() -> None:
    assert checked_url("http://10.0.0.7:8000/v1/") == "http://10.0.0.7:8000/v1"
    assert checked_url("https://[fd00::1]/v1") == "https://[fd00::1]/v1"


@pytest.mark.parametrize("text", [SECRET, "env:", "env:a-b", "file:relative", "file:", "ENV:A"])
def test_what_names_no_place_of_a_key_is_refused_without_quoting_it(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        KeyReference.parse(text)
    assert SECRET not in caught.value.message


async def test_a_key_is_read_for_each_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "key"
    file.write_text("one\n")
    reference = KeyReference.parse(f"file:{file}")
    assert await reference.read() == "one"
    file.write_text("two")
    assert await reference.read() == "two"
    monkeypatch.setenv("UPSTREAM_TEST_KEY", "three")
    assert await KeyReference.parse("env:UPSTREAM_TEST_KEY").read() == "three"
    assert await KeyReference().read() == ""


@pytest.mark.parametrize("content", ["", " \n", "two words", "line\nline", "é"])
async def test_a_key_that_cannot_be_sent_is_not_quoted(content: str, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(content)
    with pytest.raises(IllegalState) as caught:
        await KeyReference(f"file:{file}").read()
    assert str(file) in caught.value.message
    assert "words" not in caught.value.message


async def test_a_missing_key_names_its_place(tmp_path: Path) -> None:
    with pytest.raises(IllegalState, match="NO_SUCH_VARIABLE_HERE"):
        await KeyReference("env:NO_SUCH_VARIABLE_HERE").read()
    with pytest.raises(IllegalState, match="no-key"):
        await KeyReference(f"file:{tmp_path}/no-key").read()


STREAM = (
    b"\xef\xbb\xbfdata: one\n\n: a comment\r\ndata:two\r\ndata:  three\r\n\r\n"
    b"event: x\nid: 1\ndata\n\nretry: 5\n\ndata: \xc3\xa4\r\rdata: never ends\n"
)
EVENTS = ["one", "two\n three", "", "ä"]


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_events_do_not_depend_on_how_their_bytes_come(cuts: list[int]) -> None:
    reader, events, start = EventReader(), list[str](), 0
    for cut in [*sorted(cuts), len(STREAM)]:
        events += reader.feed(STREAM[start:cut])
        start = cut
    assert events == EVENTS


@pytest.mark.parametrize("chunk", [b"x" * 60, b"data: " + b"y" * 9 + b"\n"])
def test_an_event_has_a_largest_size(chunk: bytes) -> None:
    reader = EventReader(max_event_bytes=100)
    reader.feed(chunk)

    def feed_more() -> None:
        for _ in range(50):
            reader.feed(chunk)

    with pytest.raises(EventTooLarge):
        feed_more()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (301, UpstreamRefused),
        (400, InvalidArgument),
        (401, UpstreamRefused),
        (403, UpstreamRefused),
        (404, UpstreamRefused),
        (408, UpstreamUnavailable),
        (413, InvalidArgument),
        (422, InvalidArgument),
        (429, TooManyRequests),
        (500, UpstreamUnavailable),
        (503, UpstreamUnavailable),
    ],
)
def test_a_status_has_a_meaning_and_its_message_no_key(status: int, kind: type) -> None:
    body = f'{{"error": {{"message": "bad\\nkey {SECRET}", "code": "c"}}}}'.encode()
    error = error_of_status(status, "3", body, name="far@1", secret=SECRET)
    assert type(error) is kind
    assert "far@1" in error.message
    assert SECRET not in error.message
    assert "\n" not in error.message
    if status in (429, 500, 503):
        assert error.retry_delay_s == 3.0


@pytest.mark.parametrize("body", [b"", b"<", b"[]", b'{"error": 3}', b'{"error": {"code": 4}}'])
def test_a_body_of_any_form_makes_an_error(body: bytes) -> None:
    error = error_of_status(500, "", body, name="far@1", secret="")
    assert isinstance(error, UpstreamUnavailable)


def test_a_prompt_that_is_too_long_is_told_by_its_code() -> None:
    body = b'{"error": {"message": "too long", "code": "context_length_exceeded"}}'
    error = error_of_status(400, "", body, name="far@1", secret="")
    assert isinstance(error, ContextTooLong)


@pytest.mark.parametrize(
    ("header", "delay_s"),
    [
        ("2.5", 2.5),
        ("-1", 0.0),
        ("nan", 0.0),
        ("inf", 3600.0),
        ("99999999", 3600.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 90.0),
        ("soon", 1.0),
        ("", 1.0),
    ],
)
def test_a_retry_delay_is_a_number_or_a_date(header: str, delay_s: float) -> None:
    assert retry_delay_s(header, now_s=lambda: 10.0) == delay_s
