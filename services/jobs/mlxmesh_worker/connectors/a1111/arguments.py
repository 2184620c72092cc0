"""The arguments of A1111's connector: those of its API that shape an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from mlxmesh_worker.connectors.arguments import Arguments

Text = Annotated[str, Field(max_length=100_000)]
Name = Annotated[str, Field(min_length=1, max_length=256)]
Side = Annotated[int, Field(ge=64, le=4096, multiple_of=8)]
# 64 MiB of bytes in base64.
Image = Annotated[str, Field(min_length=1, max_length=90_000_000, pattern=r"^[^:]*$|^data:image/")]
"""The name of an input file, or an image in base64. No URL: the back end would fetch it."""


class Common(Arguments):
    """What both operations have."""

    prompt: Text
    negative_prompt: Text = ""
    styles: Annotated[tuple[Name, ...], Field(max_length=32)] = ()
    seed: Annotated[int, Field(ge=-1, le=4_294_967_295)] = -1
    """-1 for one that is chosen for the job, the same for each attempt."""
    steps: Annotated[int, Field(ge=1, le=150)] = 20
    width: Side = 512
    height: Side = 512
    cfg_scale: Annotated[float, Field(ge=0, le=30)] = 7
    sampler_name: Name | None = None
    scheduler: Name | None = None
    batch_size: Annotated[int, Field(ge=1, le=8)] = 1
    """Images made at once."""
    n_iter: Annotated[int, Field(ge=1, le=32)] = 1
    """Batches."""
    tiling: bool = False
    restore_faces: bool = False
    checkpoint: Name | None = None
    """The model to load for this job."""
    clip_skip: Annotated[int, Field(ge=1, le=12)] | None = None


class TextToImage(Common):
    """Images from a text, enlarged if wanted."""

    enable_hr: bool = False
    hr_scale: Annotated[float, Field(ge=1, le=4)] = 2
    hr_upscaler: Name | None = None
    hr_second_pass_steps: Annotated[int, Field(ge=0, le=150)] = 0
    denoising_strength: Annotated[float, Field(ge=0, le=1)] = 0.7


class ImageToImage(Common):
    """Images from images."""

    init_images: Annotated[list[Image], Field(min_length=1, max_length=8)]
    mask: Image | None = None
    denoising_strength: Annotated[float, Field(ge=0, le=1)] = 0.75
    resize_mode: Annotated[int, Field(ge=0, le=3)] = 0
    mask_blur: Annotated[int, Field(ge=0, le=64)] = 4
    inpainting_fill: Annotated[int, Field(ge=0, le=3)] = 0
    inpaint_full_res: bool = True
    inpaint_full_res_padding: Annotated[int, Field(ge=0, le=256)] = 0
    inpainting_mask_invert: Annotated[int, Field(ge=0, le=1)] = 0


OPERATIONS: Mapping[str, type[Common]] = {"txt2img": TextToImage, "img2img": ImageToImage}
