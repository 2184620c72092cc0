"""A version's tokenizer is fetched once, read once, and never half there."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest

from mlxmesh_generation.domain.catalogue import ModelVersion
from mlxmesh_generation.text.tokenizer import ModelTokenizer
from mlxmesh_generation.text.tokenizers import Tokenizers
from mlxmesh_shared.errors import IllegalState, Internal, ServiceUnavailable
from tests.fakes import tokenizer_files


class Source:
    def __init__(self, *pieces: tuple[str, bytes]) -> None:
        self.pieces = pieces
        self.fetches = 0
        self.breaks = False
        self.profiles: list[str] = []

    async def tokenizer_files(
        self, name: str, version: int, profile: str
    ) -> AsyncGenerator[tuple[str, bytes]]:
        self.fetches += 1
        self.profiles.append(profile)
        for piece in self.pieces:
            yield piece
        if self.breaks:
            raise ServiceUnavailable("broken")


def pocket(digit: str = "a", *, digest: str | None = None) -> ModelVersion:
    return ModelVersion("pocket", 1, digit * 64 if digest is None else digest, 1024, 300, 1)


class Loader:
    """Instead of reading a tokenizer, remembers what it was given."""

    def __init__(self, tokenizer: ModelTokenizer) -> None:
        self.tokenizer = tokenizer
        self.read: list[dict[str, bytes]] = []

    def __call__(self, directory: Path) -> ModelTokenizer:
        self.read.append({path.name: path.read_bytes() for path in directory.iterdir()})
        return self.tokenizer


def names_in(directory: Path) -> list[str]:
    return [path.name for path in directory.rglob("*")]


@pytest.fixture
def loader(byte_level: ModelTokenizer) -> Loader:
    return Loader(byte_level)


async def test_pieces_become_whole_files(tmp_path: Path, loader: Loader) -> None:
    source = Source(("tokenizer.json", b"ab"), ("tokenizer.json", b"cd"), ("config.json", b"{}"))
    tokenizers = Tokenizers(source=source, directory=tmp_path / "cache", load=loader)
    assert await tokenizers.get(pocket()) is loader.tokenizer
    assert loader.read == [{"tokenizer.json": b"abcd", "config.json": b"{}"}]


async def test_a_file_that_is_too_large_is_not_kept(tmp_path: Path, loader: Loader) -> None:
    piece = ("chat_template.jinja", b"x" * 2**19)
    tokenizers = Tokenizers(source=Source(*[piece] * 3), directory=tmp_path / "c", load=loader)
    with pytest.raises(IllegalState, match=r"chat_template.jinja .* too large"):
        await tokenizers.get(pocket())
    assert (loader.read, names_in(tmp_path / "c")) == ([], [])


async def test_many_callers_fetch_and_read_once(tmp_path: Path, loader: Loader) -> None:
    source = Source(("tokenizer.json", b"x"))
    tokenizers = Tokenizers(source=source, directory=tmp_path, load=loader)
    await asyncio.gather(*(tokenizers.get(pocket()) for _ in range(10)))
    assert (source.fetches, len(loader.read)) == (1, 1)


async def test_files_on_disk_need_no_model_service(tmp_path: Path, loader: Loader) -> None:
    source = Source(("tokenizer.json", b"x"))
    await Tokenizers(source=source, directory=tmp_path, load=loader).get(pocket())
    source.breaks = True
    await Tokenizers(source=source, directory=tmp_path, load=loader).get(pocket())
    assert source.fetches == 1


async def test_a_broken_fetch_leaves_nothing_and_is_tried_again(
    tmp_path: Path, loader: Loader
) -> None:
    source = Source(("tokenizer.json", b"x"))
    source.breaks = True
    tokenizers = Tokenizers(source=source, directory=tmp_path, load=loader)
    with pytest.raises(ServiceUnavailable):
        await tokenizers.get(pocket())
    assert names_in(tmp_path) == []
    source.breaks = False
    assert await tokenizers.get(pocket()) is loader.tokenizer


async def test_only_the_last_used_stay_in_memory(tmp_path: Path, loader: Loader) -> None:
    source = Source(("tokenizer.json", b"x"))
    tokenizers = Tokenizers(source=source, directory=tmp_path, max_loaded=2, load=loader)
    for digit in "abac":  # b was used longest ago when c comes
        await tokenizers.get(pocket(digit))
    assert len(loader.read) == 3
    await tokenizers.get(pocket("a"))
    assert len(loader.read) == 3
    await tokenizers.get(pocket("b"))
    assert (len(loader.read), source.fetches) == (4, 3)


@pytest.mark.parametrize("name", ["../evil.json", "/etc/passwd", "", "a/b.json", ".hidden"])
async def test_a_name_that_leaves_the_directory_is_refused(
    tmp_path: Path, loader: Loader, name: str
) -> None:
    tokenizers = Tokenizers(source=Source((name, b"x")), directory=tmp_path / "cache", load=loader)
    with pytest.raises(Internal):
        await tokenizers.get(pocket())
    assert names_in(tmp_path) == []


async def test_a_digest_that_is_none_is_refused(tmp_path: Path, loader: Loader) -> None:
    tokenizers = Tokenizers(source=Source(), directory=tmp_path, load=loader)
    with pytest.raises(Internal):
        await tokenizers.get(pocket(digest="../" * 3))


async def test_a_version_being_pulled_has_no_tokenizer_yet(tmp_path: Path, loader: Loader) -> None:
    tokenizers = Tokenizers(source=Source(), directory=tmp_path, load=loader)
    with pytest.raises(IllegalState, match="pocket@1"):
        await tokenizers.get(pocket(digest=""))


async def test_a_damaged_copy_is_an_error_and_is_fetched_again(tmp_path: Path) -> None:
    source = Source(("tokenizer.json", b"{ no tokenizer"), ("tokenizer_config.json", b"{}"))
    tokenizers = Tokenizers(source=source, directory=tmp_path)
    with pytest.raises(IllegalState, match="pocket@1"):
        await tokenizers.get(pocket())
    assert names_in(tmp_path) == []
    files = tokenizer_files.byte_level(tmp_path.with_name("good"))
    source.pieces = tuple((path.name, path.read_bytes()) for path in files.iterdir())
    assert (await tokenizers.get(pocket())).encode_rendered("one")
    assert source.fetches == 2


async def test_each_revision_of_a_profile_has_its_own_template(
    tmp_path: Path, loader: Loader
) -> None:
    source = Source(("chat_template.jinja", b"x"))
    tokenizers = Tokenizers(source=source, directory=tmp_path, load=loader)
    for profile in ("", "fast@1", "fast@2", "Fast@2", "fast@1"):
        await tokenizers.get(replace(pocket(), profile=profile))
    assert source.profiles == ["", "fast@1", "fast@2", "Fast@2"]
    again = Tokenizers(source=source, directory=tmp_path, load=loader)
    await again.get(replace(pocket(), profile="fast@2"))
    assert source.fetches == 4
