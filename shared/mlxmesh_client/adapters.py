"""The client's methods for LoRA adapters of models."""

from __future__ import annotations

from os import PathLike, fspath
from pathlib import Path

from grpc import aio

from mlxmesh.model.v1 import adapter_pb2 as pb
from mlxmesh.model.v1.adapter_pb2_grpc import AdapterServiceStub
from mlxmesh_client.calls import Calls


class AdaptersClient:
    """LoRA adapters of models; `MeshClient.adapters` has it.

    await mesh.adapters.add("french", "/data/french", model="pocket")
    response = await mesh.complete("pocket", messages=messages, adapter="french")
    """

    def __init__(self, channel: aio.Channel, calls: Calls) -> None:
        self._stub = AdapterServiceStub(channel)
        self._calls = calls

    async def add(
        self,
        name: str,
        directory: str | PathLike[str],
        *,
        model: str,
        replace: bool = False,
        timeout_s: float | None = None,
    ) -> pb.Adapter:
        """Adds the adapter of a directory on the model service's host, of mlx-lm or of PEFT.

        Its files are copied; the same content again changes nothing. Raises: AdapterInvalid,
        AdapterExists.
        """
        request = pb.AddAdapterRequest(
            model=model, name=name, directory=str(Path(fspath(directory))), replace=replace
        )
        return (
            await self._calls.unary(self._stub.AddAdapter, request, timeout_s, safe=True)
        ).adapter

    async def get(self, name: str, *, model: str, timeout_s: float | None = None) -> pb.Adapter:
        """Returns one adapter. Raises: AdapterNotFound."""
        request = pb.GetAdapterRequest(model=model, name=name)
        return (
            await self._calls.unary(self._stub.GetAdapter, request, timeout_s, safe=True)
        ).adapter

    async def list(self, *, model: str = "", timeout_s: float | None = None) -> list[pb.Adapter]:
        """Returns the adapters of a model, or of all models, by model and name."""
        adapters: list[pb.Adapter] = []
        request, call = pb.ListAdaptersRequest(model=model), self._stub.ListAdapters
        while True:
            page = await self._calls.unary(call, request, timeout_s, safe=True)
            adapters.extend(page.adapters)
            if not page.next_page_token:
                return adapters
            request.page_token = page.next_page_token

    async def remove(self, name: str, *, model: str, timeout_s: float | None = None) -> None:
        """Removes an adapter; generations that run finish with it."""
        request = pb.RemoveAdapterRequest(model=model, name=name)
        await self._calls.unary(self._stub.RemoveAdapter, request, timeout_s, safe=False)
