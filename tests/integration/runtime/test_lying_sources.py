"""Sources that break the contract, and requests that do, over real gRPC."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlxmesh.artifact.v1 import transfer_pb2 as pb
from mlxmesh.artifact.v1.transfer_pb2_grpc import TransferServiceStub
from mlxmesh_runtime.files.wanted import Wanted
from mlxmesh_shared.artifacts.local_file import CHUNK_BYTES
from mlxmesh_shared.artifacts.manifest import Manifest
from mlxmesh_shared.errors import FetchFailed, InvalidArgument
from mlxmesh_shared.rpc.channels import open_channel
from tests.fakes.lying_source import Chunks, LyingSource
from tests.fakes.transfer_hosts import MODEL_BYTES, Network, Origin, content

DIGEST = "a" * 64


def nothing(request: pb.ReadFileRequest) -> Iterator[pb.ReadFileResponse]:
    yield from ()


def another_part(request: pb.ReadFileRequest) -> Iterator[pb.ReadFileResponse]:
    yield pb.ReadFileResponse(offset=request.offset + 1, data=b"x")


def no_bytes(request: pb.ReadFileRequest) -> Iterator[pb.ReadFileResponse]:
    while True:
        yield pb.ReadFileResponse(offset=request.offset)


def too_many_bytes(request: pb.ReadFileRequest) -> Iterator[pb.ReadFileResponse]:
    for offset in range(request.offset, 2 * MODEL_BYTES, CHUNK_BYTES):
        yield pb.ReadFileResponse(offset=offset, data=bytes(CHUNK_BYTES))


@pytest.mark.parametrize("chunks", [nothing, another_part, no_bytes, too_many_bytes])
async def test_files_come_from_elsewhere_when_a_runtime_lies(
    network: Network, files: Origin, folder: Path, manifest: Manifest, chunks: Chunks
) -> None:
    await network.origin(files)
    liar = await network.source("runtime", LyingSource(chunks))
    host = await network.host("a")
    assert content(await host.fetch(manifest)) == content(folder)
    assert liar.reads


async def test_a_runtime_that_sends_nothing_and_does_not_end_is_left(
    network: Network, files: Origin, folder: Path, manifest: Manifest
) -> None:
    await network.origin(files)
    liar = await network.source("runtime", LyingSource(hangs=True))
    host = await network.host("a", silence_s=0.2)
    assert content(await host.fetch(manifest)) == content(folder)
    assert liar.reads


async def test_nobody_is_asked_for_more_of_a_file_that_is_here(
    network: Network, files: Origin, folder: Path, manifest: Manifest
) -> None:
    names = {file.sha256: file.name for file in manifest.files}
    left: list[int] = []

    def everything(request: pb.ReadFileRequest) -> Iterator[pb.ReadFileResponse]:
        right = (folder / names[request.sha256]).read_bytes()
        left.append(len(right) - request.offset)
        for offset in range(request.offset, len(right), CHUNK_BYTES):
            yield pb.ReadFileResponse(offset=offset, data=right[offset : offset + CHUNK_BYTES])

    await network.origin(files)
    for name in ("1", "2"):
        await network.source("runtime", LyingSource(everything, hangs=True), name)
    host = await network.host("a", silence_s=0.2)
    assert content(await host.fetch(manifest)) == content(folder)
    assert left
    assert 0 not in left


async def test_a_runtime_that_drips_is_left(
    network: Network, files: Origin, folder: Path, manifest: Manifest
) -> None:
    def drips(request: pb.ReadFileRequest) -> Iterator[pb.ReadFileResponse]:
        for offset in range(request.offset, MODEL_BYTES):
            time.sleep(0.02)
            yield pb.ReadFileResponse(offset=offset, data=right[offset : offset + 1])

    right = (folder / "model.safetensors").read_bytes()
    await network.origin(files)
    liar = await network.source("runtime", LyingSource(drips))
    host = await network.host("a", silence_s=0.2)
    assert content(await host.fetch(manifest)) == content(folder)
    assert liar.reads


@pytest.mark.parametrize(
    "listed",
    [
        [],
        [{"name": "../../x", "sha256": DIGEST}],
        [{"name": "/tmp/x", "sha256": DIGEST}],
        [{"name": "a/../../x", "sha256": DIGEST}],
        [{"name": "x", "sha256": "../../x"}],
        [{"name": "x", "sha256": DIGEST}, {"name": "x", "sha256": DIGEST}],
    ],
)
async def test_a_list_of_files_that_lead_elsewhere_is_refused(
    network: Network, listed: list[dict[str, Any]]
) -> None:
    """Of an adapter, whose digest does not prove the list."""
    told = pb.GetManifestResponse(files=[pb.ManifestFile(**each) for each in listed])
    liar = await network.source("model", LyingSource(manifest=told))
    host = await network.host("a")
    with pytest.raises(FetchFailed, match="illegal list of files"):
        await host.fetches.fetch(Wanted(DIGEST))
    assert not liar.reads
    assert not (network.tmp_path / "a" / "fetched").exists()


async def test_a_file_is_sent_in_chunks_from_the_offset_on(
    network: Network, files: Origin, folder: Path, manifest: Manifest
) -> None:
    await network.origin(files)
    weights = next(file for file in manifest.files if file.name == "model.safetensors")
    [origin] = await network.registry.resolve("model")
    async with open_channel(origin.address) as channel:
        read = TransferServiceStub(channel).ReadFile
        for offset in (0, 1, CHUNK_BYTES + 7, MODEL_BYTES, MODEL_BYTES + 1, 2**50):
            request = pb.ReadFileRequest(
                sha256=weights.sha256, digest=manifest.digest, offset=offset
            )
            chunks = [chunk async for chunk in read(request)]
            assert all(0 < len(chunk.data) <= CHUNK_BYTES for chunk in chunks)
            at = offset
            for chunk in chunks:
                assert chunk.offset == at
                at += len(chunk.data)
            sent = b"".join(chunk.data for chunk in chunks)
            assert sent == (folder / "model.safetensors").read_bytes()[offset:]


ILLEGAL: list[tuple[str, dict[str, Any], str]] = [
    *(
        (method, {field: value}, field)
        for method, field in (
            ("GetManifest", "digest"),
            ("GetAvailability", "sha256"),
            ("ReadFile", "sha256"),
            ("ReadFile", "digest"),
        )
        for value in ("", "a" * 63, "a" * 65, "A" * 64, "../" + "a" * 61, "a" * 64 + "\n")
    ),
    ("ReadFile", {"offset": 2**50 + 1}, "offset"),
    ("ReadFile", {"offset": 2**64 - 1}, "offset"),
]


async def test_illegal_requests_name_the_field(network: Network, files: Origin) -> None:
    await network.origin(files)
    [origin] = await network.registry.resolve("model")
    legal = {
        "GetManifest": {"digest": DIGEST},
        "GetAvailability": {"sha256": DIGEST},
        "ReadFile": {"sha256": DIGEST, "digest": DIGEST},
    }
    async with open_channel(origin.address) as channel:
        stub: Any = TransferServiceStub(channel)
        for method, changes, field in ILLEGAL:
            request = getattr(pb, f"{method}Request")(**{**legal[method], **changes})
            call = getattr(stub, method)(request)
            answer = anext(aiter(call)) if method == "ReadFile" else call
            with pytest.raises(InvalidArgument) as caught:
                await answer
            assert caught.value.field == field, (method, changes)
