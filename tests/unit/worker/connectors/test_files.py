"""Files of back ends: media types, names and limits."""

import base64
from collections.abc import AsyncIterator

import pytest

from mlxmesh_shared.errors import BackEndFailed, InvalidArgument, OutputTooLarge
from mlxmesh_worker.connectors import files
from mlxmesh_worker.connectors.files import (
    MAX_FILE_BYTES,
    Outputs,
    extension_of,
    legal_name,
    media_type_of,
    read_input,
)
from tests.fakes.connector_reports import FakeReports

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    ("beginning", "media_type", "extension"),
    [
        (PNG, "image/png", ".png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg", ".jpg"),
        (b"RIFF1234WEBPVP8 ", "image/webp", ".webp"),
        (b"RIFF1234WAVEfmt ", "audio/wav", ".wav"),
        (b"RIFF", "application/octet-stream", ".bin"),
        (b"GIF89a", "image/gif", ".gif"),
        (b"\x00\x00\x00\x18ftypmp42", "video/mp4", ".mp4"),
        (b"\x1aE\xdf\xa3", "video/webm", ".webm"),
        (b"fLaC", "audio/flac", ".flac"),
        (b"<svg onload=alert(1)>", "application/octet-stream", ".bin"),
        (b"", "application/octet-stream", ".bin"),
    ],
)
def test_media_types_are_those_of_the_content(
    beginning: bytes, media_type: str, extension: str
) -> None:
    assert media_type_of(beginning) == media_type
    assert extension_of(beginning) == extension


@pytest.mark.parametrize(
    ("name", "legal"),
    [
        ("a b-1.png", "a b-1.png"),
        ("../../etc/passwd", "passwd"),
        ("C:\\temp\\x.png", "x.png"),
        ("..", "output"),
        ("", "output"),
        ("ä\n.png", "__.png"),
        ("x" * 300, "x" * 128),
    ],
)
def test_names(name: str, legal: str) -> None:
    assert legal_name(name) == legal


async def chunks(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def test_content_in_small_pieces_arrives_whole() -> None:
    reports = FakeReports()
    made = await Outputs(reports).store("a", chunks(b"\x89PN", b"G\r\n\x1a", b"\n", b"rest" * 9))
    assert made.media_type == "image/png"
    assert reports.files[made.file_id] == PNG + b"rest" * 9


async def test_an_empty_file() -> None:
    reports = FakeReports()
    assert (await Outputs(reports).store("a", chunks())).size_bytes == 0


async def test_base64() -> None:
    reports = FakeReports()
    outputs = Outputs(reports)
    text = base64.b64encode(PNG + bytes(1_000_000)).decode()
    for sent in (text, f"data:image/png;base64,{text}"):
        made = await outputs.store_base64("image", sent)
        assert (made.name, made.size_bytes) == ("image.png", 1_000_008)
    with pytest.raises(BackEndFailed, match="base64"):
        await outputs.store_base64("image", "%%%")
    with pytest.raises(OutputTooLarge):
        await outputs.store_base64("image", "A" * (MAX_FILE_BYTES // 3 * 4 + 8))


async def test_too_many_files() -> None:
    outputs = Outputs(FakeReports())
    for _ in range(files.MAX_FILES):
        await outputs.store("a", chunks(b"x"))
    with pytest.raises(OutputTooLarge, match="256"):
        await outputs.store("a", chunks(b"x"))


async def test_an_input_file_that_is_too_large() -> None:
    class Endless(FakeReports):
        async def read(self, name: str) -> AsyncIterator[bytes]:
            while True:
                yield bytes(8 * 1024 * 1024)

    with pytest.raises(InvalidArgument, match="sketch"):
        await read_input(Endless(), "sketch")
