"""Who may read files of a process at a time."""

from contextlib import ExitStack

import pytest

from mlxmesh_shared.artifacts.uploads import STALE_AFTER_S, Uploads
from mlxmesh_shared.errors import UploadsFull


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_two_may_read_one_file() -> None:
    uploads = Uploads(per_file=2)
    with uploads.reading("a"):
        with uploads.reading("a"), pytest.raises(UploadsFull), uploads.reading("a"):
            pass
        with uploads.reading("b"), uploads.reading("a"):
            pass


def test_only_so_many_may_read_at_all() -> None:
    uploads = Uploads(per_file=2, total=3)
    with ExitStack() as stack:
        for name in ("a", "b", "c"):
            stack.enter_context(uploads.reading(name))
        with pytest.raises(UploadsFull) as caught, uploads.reading("d"):
            pass
        assert caught.value.retry_delay_s
        assert caught.value.retryable
    with uploads.reading("d"):
        pass


def test_a_reader_that_takes_nothing_does_not_count() -> None:
    clock = Clock()
    uploads = Uploads(per_file=1, clock=clock)
    with uploads.reading("a") as frozen:
        clock.now_s += STALE_AFTER_S + 0.1
        with uploads.reading("a") as second:
            second.sent(1)
            # It may go on: nobody else may begin meanwhile.
            frozen.sent(1)
            with pytest.raises(UploadsFull), uploads.reading("a"):
                pass


def test_bytes_are_counted_by_file() -> None:
    uploads = Uploads()
    with uploads.reading("a") as one, uploads.reading("b") as other:
        one.sent(10)
        other.sent(5)
        one.sent(1)
    assert uploads.sent_bytes == 16
    assert uploads.sent_of == {"a": 11, "b": 5}
