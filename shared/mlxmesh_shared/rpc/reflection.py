"""Reflection of the contracts with their comments, which the generated stubs do not have."""

import contextlib
from collections.abc import Container, Iterable, Sequence
from functools import cached_property
from importlib import resources
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_reflection.v1alpha import reflection, reflection_pb2


class DocumentedFile:
    """A file descriptor for reflection, with the source info of its contract."""

    def __init__(
        self, descriptor: FileDescriptor, documented: dict[str, FileDescriptorProto]
    ) -> None:
        self._descriptor = descriptor
        self._documented = documented
        self.name = descriptor.name

    @cached_property
    def dependencies(self) -> list["DocumentedFile"]:
        """The files it imports."""
        imported: Iterable[FileDescriptor] = self._descriptor.dependencies
        return [DocumentedFile(file, self._documented) for file in imported]

    def CopyToProto(self, proto: FileDescriptorProto) -> None:
        """Fills `proto`, with comments if the file is a contract of this mesh."""
        documented = self._documented.get(self.name)
        if documented is None:
            self._descriptor.CopyToProto(proto)
        else:
            proto.CopyFrom(documented)


class DocumentedPool:
    """The default descriptor pool, with comments in its files."""

    def __init__(self, documented: FileDescriptorSet) -> None:
        self._pool = descriptor_pool.Default()
        self._documented = {file.name: file for file in documented.file}

    def FindFileByName(self, name: str) -> DocumentedFile:
        """The file of that name. Raises KeyError when there is none."""
        return DocumentedFile(self._pool.FindFileByName(name), self._documented)

    def FindFileContainingSymbol(self, symbol: str) -> DocumentedFile:
        """The file that defines a symbol of any kind, such as a method, a field, a oneof or an
        enum value. Raises KeyError when there is none.
        """
        return DocumentedFile(_file_of(self._pool, symbol), self._documented)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


def _file_of(pool: descriptor_pool.DescriptorPool, symbol: str) -> FileDescriptor:
    """The pool itself finds messages, enums, services, extensions and only some enum values."""
    try:
        return pool.FindFileContainingSymbol(symbol)
    except KeyError:
        owner, _, name = symbol.rpartition(".")
        if not owner:
            raise
        file = pool.FindFileContainingSymbol(owner)
        if not any(name in members for members in _members(pool, owner)):
            raise
        return file


def _members(pool: descriptor_pool.DescriptorPool, owner: str) -> Iterable[Container[str]]:
    """The names of the members of a message, an enum or a service."""
    with contextlib.suppress(KeyError):
        message = pool.FindMessageTypeByName(owner)
        yield from (message.fields_by_name, message.oneofs_by_name, message.enum_values_by_name)
    with contextlib.suppress(KeyError):
        yield pool.FindServiceByName(owner).methods_by_name
    with contextlib.suppress(KeyError):
        yield pool.FindEnumTypeByName(owner).values_by_name


def documented_pool() -> DocumentedPool:
    """The pool with the contracts that this process was built with."""
    encoded = resources.files("mlxmesh").joinpath("descriptors.binpb").read_bytes()
    return DocumentedPool(FileDescriptorSet.FromString(encoded))


V1 = "grpc.reflection.v1.ServerReflection"
V1ALPHA = "grpc.reflection.v1alpha.ServerReflection"


def reflection_handlers(service_names: Sequence[str]) -> list[grpc.GenericRpcHandler]:
    """Handlers of both reflection services, which list and describe the services with comments."""
    servicer = _OnDemand(service_names)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return [
        grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler})
        for name in (V1, V1ALPHA)
    ]


class _OnDemand:
    """Reads the contracts with the first call: few processes are asked, and all have to start."""

    def __init__(self, service_names: Sequence[str]) -> None:
        self._service_names = service_names

    @cached_property
    def _servicer(self) -> Any:
        _add_v1_descriptor(descriptor_pool.Default())
        names = (*self._service_names, V1, V1ALPHA)
        return reflection.aio.ReflectionServicer(names, pool=documented_pool())

    def ServerReflectionInfo(self, requests: Any, context: Any) -> Any:
        return self._servicer.ServerReflectionInfo(requests, context)


def _add_v1_descriptor(pool: descriptor_pool.DescriptorPool) -> None:
    try:
        pool.FindServiceByName(V1)
    except KeyError:
        v1alpha = descriptor_pb2.FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(v1alpha)
        renamed = text_format.MessageToString(v1alpha).replace("v1alpha", "v1")
        pool.Add(text_format.Parse(renamed, descriptor_pb2.FileDescriptorProto()))
