"""Server reflection, v1 and v1alpha.

grpcio-reflection serves v1alpha only. The two differ in their package's name and in nothing on the
wire, so v1 is the same servicer under the other name, with a renamed descriptor.
"""

from collections.abc import Sequence
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from grpc_reflection.v1alpha import reflection, reflection_pb2

from mlxmesh_shared.documented import documented_pool

V1 = "grpc.reflection.v1.ServerReflection"
V1ALPHA = "grpc.reflection.v1alpha.ServerReflection"


def reflection_handlers(service_names: Sequence[str]) -> list[grpc.GenericRpcHandler]:
    """Handlers that list the services and describe them, comments included."""
    _add_v1_descriptor(descriptor_pool.Default())
    names, pool = (*service_names, V1, V1ALPHA), documented_pool()
    servicer: Any = reflection.aio.ReflectionServicer(names, pool=pool)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return [
        grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler})
        for name in (V1, V1ALPHA)
    ]


def _add_v1_descriptor(pool: descriptor_pool.DescriptorPool) -> None:
    try:
        pool.FindServiceByName(V1)
    except KeyError:
        v1alpha = descriptor_pb2.FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(v1alpha)
        renamed = text_format.MessageToString(v1alpha).replace("v1alpha", "v1")
        pool.Add(text_format.Parse(renamed, descriptor_pb2.FileDescriptorProto()))
