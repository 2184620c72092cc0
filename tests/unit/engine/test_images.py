"""Images of prompts: their numbers in prefixes, and their places."""

import numpy as np

from mlxmesh_engine.scheduling.images import ImageFile, ImageIds, ReadImage, expand
from mlxmesh_engine.scheduling.request import SequenceRequest

ONE, OTHER = ImageFile(b"one", 1), ImageFile(b"other", 3)


def read(*tokens: int) -> ReadImage:
    return ReadImage(tokens, {"pixel_values": np.zeros((2, 3), np.float32)})


def test_tokens_replace_the_one_that_stands_for_an_image() -> None:
    images = expand([5, 9, 6, 9, 7], [ONE, OTHER], [read(1, 9, 9, 2), read(9)], ImageIds())

    assert images.token_ids == (5, 1, 9, 9, 2, 6, 9, 7)
    assert [(image.start, image.stop) for image in images.images] == [(1, 5), (6, 7)]
    ids = images.prefix_ids
    assert (ids[0], ids[5], ids[7]) == (5, 6, 7)
    assert len({*ids[1:5], ids[6]}) == 5
    assert min(*ids[1:5], ids[6]) >= 2**31


def test_equal_images_have_equal_numbers_and_others_have_none_in_common() -> None:
    ids = ImageIds()

    assert ids.of(ONE.digest, 3) == ids.of(ONE.digest, 3)
    assert not set(ids.of(ONE.digest, 3)) & set(ids.of(OTHER.digest, 3))
    assert not set(ids.of(ONE.digest, 3)) & set(ids.of(ONE.digest, 4))


def test_a_forgotten_image_gets_new_numbers() -> None:
    ids = ImageIds(max_known=2)
    first = ids.of(ONE.digest, 3)
    ids.of(OTHER.digest, 3)
    assert ids.of(ONE.digest, 3) == first
    ids.of(b"third", 3)

    assert ids.of(ONE.digest, 3) == first
    assert ids.of(OTHER.digest, 3).start > first.start + 6


def test_used_up_numbers_begin_again_in_another_namespace() -> None:
    ids = ImageIds(end_id=2**31 + 8)
    namespace = ids.namespace
    ids.reserve(8)
    assert ids.of(ONE.digest, 8) == range(2**31, 2**31 + 8)
    assert ids.namespace == namespace

    ids.reserve(1)
    assert ids.namespace != namespace
    assert ids.of(OTHER.digest, 1) == range(2**31, 2**31 + 1)


def test_processes_have_namespaces_of_their_own() -> None:
    assert ImageIds().namespace != ImageIds().namespace


def test_prefixes_of_the_prompt_and_of_what_follows() -> None:
    images = expand([5, 9, 6], [ONE], [read(9, 9)], ImageIds())
    whole = images.prefix_ids

    assert images.prefix_ids_of((5, 9)) == whole[:2]
    assert images.prefix_ids_of((5, 9, 9, 6, 3)) == (*whole, 3)


def test_a_request_with_its_images() -> None:
    request = SequenceRequest((1, 1), (5, 9, 6), 8, image_files=(ONE,), prefix_namespace=b"a")
    images = expand(request.prompt, request.image_files, [read(9, 9)], ImageIds())

    expanded = request.with_images(images, b"b", 7)

    assert (expanded.prompt, expanded.max_tokens) == ((5, 9, 9, 6), 7)
    assert (expanded.image_files, expanded.prefix_namespace) == ((), b"ab")
