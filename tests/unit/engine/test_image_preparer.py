"""Images are read off the event loop, once, within a limit of memory."""

import asyncio
import gc
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from mlxmesh_engine.scheduling.images import ImageFile, ReadImage
from mlxmesh_engine.scheduling.request import FinishReason, SequenceRequest
from mlxmesh_engine.service.convert import ModelLimits
from mlxmesh_engine.service.image_preparer import ImagePreparer
from mlxmesh_shared.errors import ContextTooLong, ImageInvalid, InvalidArgument, QueueFull

IMAGE = 9


class Reader:
    """An image is as many tokens as its file has bytes, and 1,000 bytes of pixels."""

    image_token_id = IMAGE

    def __init__(self) -> None:
        self.files: list[bytes] = []

    def read(self, data: bytes) -> ReadImage:
        self.files.append(data)
        if data == b"broken":
            raise ImageInvalid("it is broken")
        return ReadImage((IMAGE,) * len(data), {"pixel_values": np.zeros(1000, np.uint8)})


@contextmanager
def preparer(
    reader: Reader, *, context: int = 100, max_bytes: int = 10_000
) -> Iterator[ImagePreparer]:
    made = ImagePreparer(
        reader, ModelLimits(50, context, frozenset(), images=True), max_bytes=max_bytes
    )
    try:
        yield made
    finally:
        made.close()


def request(*files: bytes, max_tokens: int = 8, generated: tuple[int, ...] = ()) -> SequenceRequest:
    prompt = (1, *(token for _ in files for token in (IMAGE, 2)))
    placed = tuple(ImageFile(data, 1 + 2 * at) for at, data in enumerate(files))
    return SequenceRequest((1, 1), prompt, max_tokens, generated, image_files=placed)


async def released(subject: ImagePreparer) -> None:
    """Until nothing is held; the thread may still hold what it read last."""
    while subject.held_bytes:
        gc.collect()
        await asyncio.sleep(0.01)


async def test_images_are_expanded_and_equal_ones_read_once() -> None:
    reader = Reader()
    with preparer(reader) as subject:
        prepared = await subject.prepare(request(b"abc", b"d", b"abc"))
        assert prepared.prompt == (1, *[IMAGE] * 3, 2, IMAGE, 2, *[IMAGE] * 3, 2)
        assert reader.files == [b"abc", b"d"]
        assert subject.held_bytes == 2000

        del prepared
        await released(subject)


async def test_a_broken_image_is_named_and_holds_nothing() -> None:
    with preparer(Reader()) as subject:
        with pytest.raises(ImageInvalid, match="broken") as caught:
            await subject.prepare(request(b"abc", b"broken"))
        assert caught.value.field == "images[1]"
        del caught
        await released(subject)


@pytest.mark.parametrize("positions", [(2,), (1, 2), ()])
async def test_every_image_token_needs_its_image(positions: tuple[int, ...]) -> None:
    files = tuple(ImageFile(b"a", position) for position in positions)
    with preparer(Reader()) as subject, pytest.raises(InvalidArgument, match="place of each"):
        await subject.prepare(SequenceRequest((1, 1), (1, IMAGE, 2), 8, image_files=files))


async def test_output_gets_what_images_leave() -> None:
    with preparer(Reader(), context=20) as subject:
        assert (await subject.prepare(request(b"x" * 12, max_tokens=18))).max_tokens == 6
        assert (await subject.prepare(request(b"x" * 12, max_tokens=5))).max_tokens == 5
        with pytest.raises(ContextTooLong, match="fewer or smaller images"):
            await subject.prepare(request(b"x" * 18, max_tokens=5))


async def test_a_resumed_output_may_be_complete() -> None:
    with preparer(Reader(), context=20) as subject:
        resumed = request(b"x" * 12, max_tokens=18, generated=(3,) * 6)
        assert resumed.complete is None
        assert (await subject.prepare(resumed)).complete is FinishReason.LENGTH


async def test_memory_is_bounded_but_one_prompt_always_fits() -> None:
    with preparer(Reader(), max_bytes=1500) as subject:
        first = await subject.prepare(request(b"a", b"b", b"c"))
        assert subject.held_bytes == 3000
        with pytest.raises(QueueFull):
            await subject.prepare(request(b"d"))
        del first
        await released(subject)
        assert (await subject.prepare(request(b"d"))).images is not None
