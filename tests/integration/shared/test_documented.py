"""Reflection gives the contracts with their comments, which the generated stubs have lost."""

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from mlxmesh.generation.v1 import generation_pb2
from mlxmesh_shared.rpc.reflection import documented_pool

NAME = "mlxmesh/generation/v1/generation.proto"


def test_our_files_have_their_comments() -> None:
    proto = FileDescriptorProto()
    documented_pool().FindFileByName(NAME).CopyToProto(proto)

    comments = [location.leading_comments for location in proto.source_code_info.location]
    assert any("Text generation. Public" in comment for comment in comments)


def test_the_contract_is_the_one_that_is_served() -> None:
    served, proto = FileDescriptorProto(), FileDescriptorProto()
    generation_pb2.DESCRIPTOR.CopyToProto(served)
    documented_pool().FindFileByName(NAME).CopyToProto(proto)

    assert [m.name for m in proto.message_type] == [m.name for m in served.message_type]
    assert proto.service[0].method == served.service[0].method


def test_imports_come_along_and_foreign_files_too() -> None:
    file = documented_pool().FindFileContainingSymbol("mlxmesh.generation.v1.GenerateRequest")

    imported = {dependency.name for dependency in file.dependencies}
    assert "mlxmesh/common/v1/sampling.proto" in imported
    proto = FileDescriptorProto()
    documented_pool().FindFileByName("google/protobuf/descriptor.proto").CopyToProto(proto)
    assert proto.package == "google.protobuf"


def test_missing() -> None:
    with pytest.raises(KeyError):
        documented_pool().FindFileByName("no/such.proto")
