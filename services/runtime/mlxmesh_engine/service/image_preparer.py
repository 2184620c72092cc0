"""Reads the images of requests off the event loop, one at a time, within a limit of memory."""

import asyncio
import weakref
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from mlxmesh_engine.scheduling.images import ImageFile, ImageIds, ImageReader, ReadImage, expand
from mlxmesh_engine.scheduling.request import SequenceRequest
from mlxmesh_engine.service.convert import ModelLimits, check_lengths
from mlxmesh_shared.errors import ContextTooLong, ImageInvalid, InvalidArgument, QueueFull

_RETRY_DELAY_S = 1.0


class ImagePreparer:
    """Used on the event loop. Equal images are read once while one of them is in use."""

    def __init__(self, reader: ImageReader, limits: ModelLimits, *, max_bytes: int) -> None:
        """max_bytes: of files that are being read, and of images in use; one prompt always fits."""
        self._reader = reader
        self._limits = limits
        self._max_bytes = max_bytes
        self._ids = ImageIds()
        self._read: weakref.WeakValueDictionary[bytes, ReadImage] = weakref.WeakValueDictionary()
        self._held_bytes = 0
        # Images are released on any thread.
        self._released: deque[int] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="images")

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    @property
    def held_bytes(self) -> int:
        while self._released:
            self._held_bytes -= self._released.popleft()
        return self._held_bytes

    async def prepare(self, request: SequenceRequest) -> SequenceRequest:
        """The request with its images' tokens in its prompt; max_tokens is lowered to the context.

        Raises: ImageInvalid, InvalidArgument, ContextTooLong, QueueFull.
        """
        files = request.image_files
        self._check_places(request)
        own = _Held(sum(len(file.data) for file in files))
        self._reserve(own.nbytes, own=0)
        try:
            read = [await self._image(file, at, own) for at, file in enumerate(files)]
        finally:
            self._held_bytes -= sum(len(file.data) for file in files)
        images = expand(request.prompt, files, read, self._ids)
        limits, prompt = self._limits, len(images.token_ids)
        room = min(limits.context_tokens, limits.kv_tokens or limits.context_tokens)
        max_tokens = min(request.max_tokens, room - prompt)
        if max_tokens < max(1, len(request.generated)):
            raise ContextTooLong(
                f"with its images the prompt has {prompt} tokens, and the model's context, or the "
                f"engine's KV cache, {room}; send fewer or smaller images, or a shorter prompt",
                field="images",
            )
        check_lengths(prompt, len(request.generated), max_tokens, limits)
        return request.with_images(images, self._ids.namespace, max_tokens)

    def _check_places(self, request: SequenceRequest) -> None:
        """Raises: InvalidArgument."""
        token = self._reader.image_token_id
        places = [at for at, token_id in enumerate(request.prompt) if token_id == token]
        given = [file.position for file in request.image_files]
        if places != given:
            raise InvalidArgument(
                f"the image tokens ({token}) of the prompt are at {places[:20]}, and the images at "
                f"{given[:20]}; name the place of each",
                field="images",
            )

    async def _image(self, file: ImageFile, index: int, own: "_Held") -> ReadImage:
        """Raises: ImageInvalid, QueueFull."""
        if (known := self._read.get(file.digest)) is not None:
            return known
        loop = asyncio.get_running_loop()
        try:
            image = await loop.run_in_executor(self._thread, self._reader.read, file.data)
        except ImageInvalid as error:
            raise ImageInvalid(
                f"images[{index}]: {error.message}", field=f"images[{index}]"
            ) from error
        self._reserve(image.nbytes, own=own.nbytes)
        own.nbytes += image.nbytes
        weakref.finalize(image, self._released.append, image.nbytes)
        return self._read.setdefault(file.digest, image)

    def _reserve(self, nbytes: int, *, own: int) -> None:
        """own: what this request holds already. Raises: QueueFull."""
        held = self.held_bytes
        if held > own and held + nbytes > self._max_bytes:
            raise QueueFull(
                "the images of other sequences fill the memory for images; try again later",
                retry_delay_s=_RETRY_DELAY_S,
            )
        self._held_bytes += nbytes


@dataclass(slots=True)
class _Held:
    nbytes: int
