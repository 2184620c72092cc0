"""Decoding of image files, and what is refused before it is decoded."""

import io
import struct
import zlib
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlxmesh_engine.vision import image_file
from mlxmesh_engine.vision.image_file import decode
from mlxmesh_shared.errors import ImageInvalid

RED, BLUE = (255, 0, 0), (0, 0, 255)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(width: int = 40, height: int = 30) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def png(width: int, height: int) -> bytes:
    """A small file that says it has so many black pixels, and compresses a few rows of them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * (1 + 3 * width) * 40, 9)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", rows), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_lossless_formats(kind: str) -> None:
    image = noise()
    assert decode(encoded(image, kind, lossless=True)).tobytes() == image.tobytes()


def test_jpeg() -> None:
    image = decode(encoded(Image.new("RGB", (40, 30), RED), "JPEG", quality=95))
    assert (image.mode, image.size) == ("RGB", (40, 30))
    assert np.abs(np.asarray(image).astype(int) - RED).max() < 5


def test_the_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data).getcolors() == [(64, RED)]


def test_orientation_is_applied() -> None:
    image = noise()
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = decode(encoded(image, "PNG", exif=exif))
    assert upright.tobytes() == image.rotate(-90, expand=True).tobytes()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "CMYK"])
def test_other_kinds_of_pixels(mode: str) -> None:
    image = Image.new(mode, (8, 6)) if mode == "I;16" else noise().convert(mode)
    kind = "JPEG" if mode == "CMYK" else "PNG"
    decoded = decode(encoded(image, kind))
    assert (decoded.mode, decoded.size) == ("RGB", image.size)


def test_transparent_palette() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([*RED, *BLUE])
    assert decode(encoded(image, "PNG", transparency=1)).getcolors() == [(16, BLUE)]


def test_a_bomb_is_refused_by_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less than 10 KB that would take 10.8 GB."""

    def load(*_: Any) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    data = png(60_000, 60_000)
    assert len(data) < 10_240

    with pytest.raises(ImageInvalid, match="pixels"):
        decode(data)


def test_the_most_pixels() -> None:
    with pytest.raises(ImageInvalid, match="8193 x 6144"):
        decode(png(8193, 6144))
    assert decode(png(8192, 6144)).size == (8192, 6144)
    assert image_file.MAX_PIXELS == 8192 * 6144


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.9])
def test_cut_off(kind: str, part: float) -> None:
    data = encoded(noise(200, 200), kind)
    with pytest.raises(ImageInvalid):
        decode(data[: int(len(data) * part)])


@pytest.mark.parametrize("kind", ["TIFF", "BMP", "ICO", "PPM", "PDF"])
def test_other_formats(kind: str) -> None:
    with pytest.raises(ImageInvalid, match="PNG, JPEG, WebP or GIF"):
        decode(encoded(noise(), kind))


@pytest.mark.parametrize("data", [b"\0", b"GIF89a", b"<svg/>", b"%PDF-1.7", b"\xff\xd8\xff\xe0"])
def test_no_image(data: bytes) -> None:
    with pytest.raises(ImageInvalid):
        decode(data)


def test_changed_bytes_never_raise_anything_else() -> None:
    rng = np.random.default_rng(3)
    for kind in ("PNG", "JPEG", "WEBP", "GIF"):
        data = bytearray(encoded(noise(), kind))
        for _ in range(60):
            broken = bytearray(data)
            for at in rng.integers(0, len(data), 6):
                broken[at] = int(rng.integers(256))
            with suppress(ImageInvalid):
                assert decode(bytes(broken)).mode == "RGB"
