"""Converts the images of a conversation; checks their number and sizes, and decodes nothing."""

import binascii
import re
from base64 import b64decode
from collections.abc import Sequence

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_generation.domain.request import Image
from mlxmesh_shared.errors import ImageInvalid, InvalidArgument

MAX_IMAGES = 16
MAX_IMAGE_BYTES = 20_971_520
MAX_BYTES = 33_554_432
"""Of all images of a conversation."""
_DATA_URL = re.compile(r"data:(?:image/[A-Za-z0-9.+-]{1,64})?;base64,", re.IGNORECASE)


class Images:
    """The images of one conversation, so far."""

    def __init__(self) -> None:
        self._count = 0
        self._bytes = 0

    def add(self, message: pb.Image, path: str) -> Image:
        """path: the field that it is. Raises: InvalidArgument, ImageInvalid."""
        self._count += 1
        if self._count > MAX_IMAGES:
            raise ImageInvalid(
                f"{path}: a conversation has at most {MAX_IMAGES} images", field=path
            )
        data = _of_url(message.url, f"{path}.url") if message.url else message.data
        if not data:
            raise ImageInvalid(f"{path}: it is empty", field=path)
        if len(data) > MAX_IMAGE_BYTES:
            raise ImageInvalid(
                f"{path}: it has {len(data):,} bytes; the limit is {MAX_IMAGE_BYTES:,}", field=path
            )
        self._bytes += len(data)
        if self._bytes > MAX_BYTES:
            raise ImageInvalid(
                f"{path}: the images of a conversation have at most {MAX_BYTES:,} bytes",
                field=path,
            )
        return Image(data, path)


def turn_parts(
    parts: Sequence[pb.ContentPart], path: str, images: Images
) -> tuple[str | Image, ...]:
    """Empty for parts without an image. Raises: InvalidArgument, ImageInvalid."""
    if not any(part.HasField("image") for part in parts):
        return ()
    return tuple(
        images.add(part.image, f"{path}[{index}].image") if part.HasField("image") else part.text
        for index, part in enumerate(parts)
    )


def _of_url(url: str, path: str) -> bytes:
    """Raises: InvalidArgument, ImageInvalid."""
    if url[:5].lower() != "data:":
        raise InvalidArgument(
            f"{path}: addresses are not fetched; send the image itself, as data or as a URL that "
            "begins with data:image/png;base64, (or jpeg, webp, gif)",
            field=path,
        )
    found = _DATA_URL.match(url)
    if found is None:
        raise InvalidArgument(
            f"{path}: it must begin like data:image/png;base64, and go on with base64", field=path
        )
    try:
        return b64decode(url[found.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise ImageInvalid(f"{path}: what follows the comma is not base64", field=path) from None
