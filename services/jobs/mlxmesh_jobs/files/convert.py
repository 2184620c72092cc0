"""Converts files and those who ask for them to FileService's messages and back."""

from typing import Any

from mlxmesh.job.v1 import file_pb2 as pb
from mlxmesh_jobs.domain.jobs import Owner
from mlxmesh_jobs.domain.ports import StoredFile
from mlxmesh_jobs.files.files import NewFile, Viewer
from mlxmesh_shared.rpc.caller import came_through_gateway, forwarded_submitter
from mlxmesh_shared.timestamps import to_time


def viewer_of(context: Any) -> Viewer:
    """Who makes a call. Raises: InvalidArgument for an illegal name."""
    submitter = forwarded_submitter(context)
    caller = submitter.caller
    is_worker = not came_through_gateway(context)
    return Viewer(
        owner=Owner(
            owner=submitter.owner,
            principal=caller.principal,
            share=submitter.share,
            user=caller.user,
            key_id=caller.key_id,
            team=submitter.team,
            models=submitter.models,
            is_admin=caller.is_admin,
        ),
        sees_all=caller.is_admin or is_worker,
        is_worker=is_worker,
    )


def from_new_file(request: pb.CreateFileRequest) -> NewFile:
    """A file to begin."""
    return NewFile(
        name=request.name,
        purpose=request.purpose,
        media_type=request.media_type,
        expires_after_s=request.expires_after_s,
        job_id=request.job_id,
    )


def to_file(file: StoredFile) -> pb.File:
    """What is known of a file."""
    return pb.File(
        file_id=file.file_id,
        name=file.name,
        purpose=pb.FilePurpose.ValueType(file.purpose),
        size_bytes=file.size_bytes,
        sha256=file.sha256,
        media_type=file.media_type,
        complete=file.complete,
        principal=file.owner.principal,
        create_time=to_time(file.created_ms),
        expire_time=to_time(file.expires_ms),
        job_id=file.job_id,
    )
