"""Decodes image files within limits; nothing is decoded before its format and size are known."""

import io
import warnings
from collections.abc import Generator
from contextlib import contextmanager

from PIL import Image, ImageOps, UnidentifiedImageError

from mlxmesh_shared.errors import ImageInvalid

MAX_PIXELS = 50_331_648
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
_KINDS = "PNG, JPEG, WebP or GIF"


def decode(data: bytes) -> Image.Image:
    """The first frame, upright, in RGB; transparency is ignored. Raises: ImageInvalid."""
    with _problems_told(), Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ImageInvalid(
                f"the image has {width} x {height} pixels; the limit is {MAX_PIXELS:,}"
            )
        return ImageOps.exif_transpose(image).convert("RGB")


@contextmanager
def _problems_told() -> Generator[None]:
    """Raises: ImageInvalid for whatever the decoder raises."""
    try:
        with warnings.catch_warnings():
            # Of a size that is checked, and of metadata that nobody needs.
            warnings.simplefilter("ignore")
            yield
    except ImageInvalid:
        raise
    except UnidentifiedImageError:
        raise ImageInvalid(f"the image is not a {_KINDS} file") from None
    except Image.DecompressionBombError:
        raise ImageInvalid(f"the image has too many pixels; the limit is {MAX_PIXELS:,}") from None
    # A broken file may raise anything: OSError, ValueError, SyntaxError, struct.error, IndexError.
    except Exception as error:
        raise ImageInvalid(f"the image cannot be decoded: {_plain(error)}") from error


def _plain(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
