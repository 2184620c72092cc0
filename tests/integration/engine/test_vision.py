"""Prompts with images in the step loop, token for token as mlx-vlm alone."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlxmesh_engine.cache.kv_cache import Batching
from mlxmesh_engine.scheduling.images import ImageFile, ImageIds, expand
from mlxmesh_engine.scheduling.request import LogprobOptions, Sampling, SequenceRequest
from mlxmesh_engine.vision.loader import load_vision
from mlxmesh_shared.errors import EngineFailed, FeatureNotSupported, InvalidArgument
from tests.fakes.engine_rig import STREAM, Rig
from tests.fakes.tiny_model import BLAS, mx
from tests.fakes.tiny_vlm import VOCAB_SIZE, WRITERS, around

MAX_TOKENS = 24


class Family:
    """A tiny model, loaded by the engine, and mlx-vlm's own."""

    def __init__(self, name: str, path: Path) -> None:
        from mlx_vlm.utils import load

        self.path = WRITERS[name](path)
        self.loaded = load_vision(self.path, blas=BLAS, available_bytes=lambda: 2**34)
        assert self.loaded.image_reader is not None
        self.reader = self.loaded.image_reader
        self.model, self.processor = load(str(self.path))
        self.before, self.after = around(name, self.path)
        self.ids = ImageIds()

    def prompt(self, number: int, images: list[bytes]) -> tuple[list[int], list[ImageFile]]:
        """Text, images with what their model puts around each, and text again."""
        rng = np.random.default_rng(number)
        tokens = [int(token) for token in rng.integers(3, 400, 40 + number)]
        files: list[ImageFile] = []
        for image in images:
            tokens += self.before
            files.append(ImageFile(image, len(tokens)))
            tokens += [self.reader.image_token_id, *self.after]
            tokens += [int(token) for token in rng.integers(3, 400, 7)]
        return tokens, files

    def request(self, number: int, images: list[bytes], **options: Any) -> SequenceRequest:
        tokens, files = self.prompt(number, images)
        plain = SequenceRequest((STREAM, number), tuple(tokens), MAX_TOKENS, **options)
        if not images:
            return plain
        read = [self.reader.read(image) for image in images]
        expanded = expand(tokens, files, read, self.ids)
        return plain.with_images(expanded, self.ids.namespace, MAX_TOKENS)

    def alone(self, number: int, images: list[bytes]) -> list[int]:
        """The greedy output of mlx-vlm itself, from the text and the decoded images."""
        from mlx_vlm.generate.ar import generate_step
        from mlx_vlm.utils import prepare_inputs

        tokens, _ = self.prompt(number, images)
        if images:
            # What the processor makes of all images together, and the tokens of a prompt's text.
            pictures = [Image.open(io.BytesIO(image)).convert("RGB") for image in images]
            text = self.processor.tokenizer.convert_ids_to_tokens(self.reader.image_token_id)
            made = prepare_inputs(self.processor, images=pictures, prompts=text * len(images))
            inputs: dict[str, Any] = {
                name: value
                for name, value in made.items()
                if name not in ("input_ids", "attention_mask")
            }
            tokens = list(self.request(number, images).prompt)
        else:
            inputs = {"pixel_values": None}
        pixels = inputs.pop("pixel_values")
        steps = generate_step(
            mx.array([tokens]), self.model, pixels, None, max_tokens=MAX_TOKENS, **inputs
        )
        return [int(np.array(token).item()) for token, _ in steps][:MAX_TOKENS]


@pytest.fixture(scope="module", params=sorted(WRITERS))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    return Family(request.param, tmp_path_factory.mktemp(request.param))


def picture(seed: int, width: int = 56, height: int = 40) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


CASES = {
    1: [picture(1)],
    2: [],
    3: [picture(2, 30, 64), picture(3, 64, 64)],
    4: [],
    5: [picture(1)],
    6: [picture(4, 24, 24)],
}


@pytest.fixture(scope="module")
def expected(family: Family) -> dict[int, list[int]]:
    outputs = {number: family.alone(number, images) for number, images in CASES.items()}
    assert len({tuple(tokens) for tokens in outputs.values()}) == len(CASES)
    return outputs


def test_a_model_that_sees_is_batched(family: Family) -> None:
    assert family.loaded.batching is Batching.TOGETHER
    assert family.loaded.vocab_size == VOCAB_SIZE


@pytest.mark.parametrize("number", CASES)
def test_alone(family: Family, expected: dict[int, list[int]], number: int) -> None:
    rig = Rig(family.loaded).submit(family.request(number, CASES[number])).run()

    assert rig.tokens(number) == expected[number]


@pytest.mark.parametrize("per_step", [512, 16])
def test_together(family: Family, expected: dict[int, list[int]], per_step: int) -> None:
    """Some join late, and prompts are cut into slices, also in the middle of an image."""
    rig = Rig(family.loaded, prefill_tokens_per_step=per_step)
    for number, images in CASES.items():
        rig.submit(family.request(number, images)).step(2)
    rig.run()

    assert {number: rig.tokens(number) for number in CASES} == expected


def test_one_after_another(family: Family, expected: dict[int, list[int]]) -> None:
    """As a model whose images cannot be batched is served."""
    from mlxmesh_engine.vision.forward import VisionForward
    from mlxmesh_engine.vision.model import VisionModel

    inner: VisionModel = vars(family.loaded.model)["_model"]
    alone = VisionForward(inner, Batching.ALONE)
    loaded = replace(family.loaded, model=alone, batching=Batching.ALONE)
    rig = Rig(loaded, prefix_cache_bytes=2**24)
    for number, images in CASES.items():
        rig.submit(family.request(number, images))
    rig.run()

    assert {number: rig.tokens(number) for number in CASES} == expected


def test_resumed(family: Family, expected: dict[int, list[int]]) -> None:
    rig = Rig(family.loaded)
    for number, images in CASES.items():
        generated = tuple(expected[number][: 3 * number])
        rig.submit(family.request(number, images, generated=generated))
    rig.run()

    assert {n: expected[n][: 3 * n] + rig.tokens(n) for n in CASES} == expected


def test_requeued(family: Family, expected: dict[int, list[int]]) -> None:
    """A background sequence gives its keys and values up, and is prefilled again."""
    background = family.request(1, CASES[1], background=True)
    rig = Rig(family.loaded, kv_capacity_tokens=background.max_total_tokens + 8)
    rig.submit(background).step(8)
    rig.submit(family.request(5, CASES[5])).run()

    assert (rig.tokens(1), rig.tokens(5)) == (expected[1], expected[5])
    assert rig.last(1).timings is not None
    orders = [number for number in rig.updates if rig.last(number).last]
    assert orders == [1, 5]


def test_warm_prefix(family: Family, expected: dict[int, list[int]]) -> None:
    """An equal image is found, also where the cached part ends in the middle of it."""
    rig = Rig(family.loaded, prefix_cache_bytes=2**24)
    for number, images in CASES.items():
        rig.submit(family.request(number, images)).run()
    for number, images in CASES.items():
        request = family.request(number, images)
        rig.submit(replace(request, key=(STREAM, 10 + number))).run()
        assert rig.tokens(10 + number) == expected[number]
        (cached,) = {
            update.cached_tokens
            for update in rig.updates[10 + number]
            if update.cached_tokens is not None
        }
        assert cached >= len(request.prompt) - 1 - 32 - (len(request.prompt) - 1) % 32


def test_another_image_is_not_found(family: Family) -> None:
    """Prompts that differ in an image only share what comes before it."""
    rig = Rig(family.loaded, prefix_cache_bytes=2**24)
    rig.submit(family.request(1, [picture(1)])).run()
    other = replace(family.request(1, [picture(9)]), key=(STREAM, 2))
    rig.submit(other).run()

    cold = Rig(family.loaded).submit(other).run()
    assert rig.tokens(2) == cold.tokens(2) != rig.tokens(1)
    accepted = rig.updates[2][0]
    assert accepted.cached_tokens == 32
    assert accepted.prompt_tokens == len(other.prompt)


def test_copies_share_the_prefill(family: Family, expected: dict[int, list[int]]) -> None:
    rig = Rig(family.loaded)
    first = family.request(1, CASES[1])
    rig.submit(first, replace(first, key=(STREAM, 2), shares_prefill_of=first.key)).run()

    assert rig.tokens(1) == rig.tokens(2) == expected[1]
    prefilled = [update.prefilled_tokens for update in rig.updates[2] if update.prefilled_tokens]
    assert prefilled == [len(first.prompt)]
    assert rig.loop.cached_prompt_tokens == len(first.prompt) - 1


def test_another_image_shares_no_prefill(family: Family, expected: dict[int, list[int]]) -> None:
    rig = Rig(family.loaded)
    first, other = family.request(1, [picture(9)]), family.request(1, [picture(1)])
    rig.submit(first, replace(other, key=(STREAM, 2), shares_prefill_of=first.key)).run()

    assert rig.tokens(2) == expected[1] != rig.tokens(1)


def test_sampled_rows_repeat_themselves(family: Family) -> None:
    sampling = Sampling(temperature=1.0, seed=7)
    alone = Rig(family.loaded).submit(family.request(1, CASES[1], sampling=sampling)).run()
    rig = Rig(family.loaded)
    for number, images in CASES.items():
        rig.submit(family.request(number, images, sampling=sampling))

    assert rig.run().tokens(1) == alone.tokens(1)


def test_logprobs(family: Family, expected: dict[int, list[int]]) -> None:
    options = LogprobOptions(top=2)
    rig = Rig(family.loaded).submit(family.request(1, CASES[1], logprobs=options)).run()

    _, output = rig.logprobs(1)
    assert output is not None
    assert list(output.top_token_ids[::2]) == expected[1] == rig.tokens(1)


def test_an_image_that_fails_fails_alone(
    family: Family, expected: dict[int, list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    """Pixels that the model cannot compute; the other rows go on."""
    broken = family.request(1, CASES[1])
    assert broken.images is not None
    (placed,) = broken.images.images
    inputs = {**placed.image.inputs, "pixel_values": np.zeros((1, 1, 1), np.float32)}
    image = replace(placed, image=replace(placed.image, inputs=inputs))
    broken = replace(broken, images=replace(broken.images, images=(image,)))
    rig = Rig(family.loaded)
    rig.submit(broken, *(family.request(n, CASES[n]) for n in CASES if n != 1)).run()

    assert isinstance(rig.last(1).error, EngineFailed)
    assert {n: rig.tokens(n) for n in CASES if n != 1} == {
        n: tokens for n, tokens in expected.items() if n != 1
    }
    assert "the prefill of a prompt failed" in caplog.text


def test_code_of_a_processor_is_refused(family: Family, tmp_path: Path) -> None:
    path = WRITERS["qwen2_vl"](tmp_path / "model")
    (path / "processor_config.json").write_text('{"auto_map": {"AutoProcessor": "evil.Evil"}}')

    with pytest.raises(FeatureNotSupported, match="never run"):
        load_vision(path, blas=BLAS, available_bytes=lambda: 2**34)


def test_a_model_without_a_processor_is_refused(tmp_path: Path) -> None:
    path = WRITERS["smolvlm"](tmp_path / "model")
    (path / "preprocessor_config.json").unlink()

    with pytest.raises(InvalidArgument, match="image processor"):
        load_vision(path, blas=BLAS, available_bytes=lambda: 2**34)
