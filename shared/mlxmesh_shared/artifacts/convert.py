"""Manifests: TransferService's messages to domain objects and back."""

from mlxmesh.artifact.v1 import transfer_pb2 as pb
from mlxmesh_shared.artifacts.local_file import LocalFile
from mlxmesh_shared.artifacts.manifest import FileIdentity, Manifest, ManifestFile


def to_manifest(manifest: Manifest) -> pb.GetManifestResponse:
    """The files of a version or adapter."""
    return pb.GetManifestResponse(files=map(_to_file, manifest.files))


def from_manifest(digest: str, response: pb.GetManifestResponse) -> Manifest:
    """The manifest that another process sent. Raises: FetchFailed."""
    return Manifest(digest, tuple(map(_from_file, response.files))).checked()


def to_availability(file: LocalFile | None) -> pb.GetAvailabilityResponse:
    """How much of a file is here."""
    if file is None:
        return pb.GetAvailabilityResponse()
    return pb.GetAvailabilityResponse(available_bytes=file.available_bytes, complete=file.complete)


def to_chunk(offset: int, data: bytes) -> pb.ReadFileResponse:
    """A part of a file."""
    return pb.ReadFileResponse(offset=offset, data=data)


def _to_file(file: ManifestFile) -> pb.ManifestFile:
    identity = file.identity
    return pb.ManifestFile(
        name=file.name,
        size_bytes=file.size_bytes,
        sha256=file.sha256,
        identity=pb.FileIdentity(
            device=identity.device, inode=identity.inode, modified_ns=identity.modified_ns
        )
        if identity is not None
        else None,
    )


def _from_file(file: pb.ManifestFile) -> ManifestFile:
    identity = None
    if file.HasField("identity"):
        found = file.identity
        identity = FileIdentity(found.device, found.inode, found.modified_ns)
    return ManifestFile(file.name, file.size_bytes, file.sha256, identity)
