"""Converts adapters to AdapterService's messages."""

from google.protobuf.timestamp_pb2 import Timestamp

from mlxmesh.model.v1 import adapter_pb2
from mlxmesh_model.catalogue.adapter import Adapter


def to_adapter(adapter: Adapter) -> adapter_pb2.Adapter:
    """An adapter as a message."""
    created = Timestamp()
    created.FromDatetime(adapter.created_at)
    return adapter_pb2.Adapter(
        model=adapter.model,
        name=adapter.name,
        digest=adapter.digest,
        directory=adapter.directory,
        format=adapter.format,
        rank=adapter.rank,
        weights_bytes=adapter.weights_bytes,
        modules=adapter.modules,
        create_time=created,
    )
