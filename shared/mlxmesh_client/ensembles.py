"""The client's methods for ensembles."""

from mlxmesh.model.v1 import ensemble_pb2 as pb
from mlxmesh.model.v1.ensemble_pb2_grpc import EnsembleServiceStub
from mlxmesh_client.calls import Calls


class EnsembleMethods:
    """One method per RPC of EnsembleService."""

    _calls: Calls
    _ensembles: EnsembleServiceStub

    async def set_ensemble(
        self, name: str, recipe: pb.EnsembleRecipe, *, timeout_s: float | None = None
    ) -> pb.Ensemble:
        """Creates or replaces an ensemble; then its name is a model for `generate` and `complete`.

        recipe = EnsembleRecipe(fallback=FallbackRecipe(models=["big", "small"]))
        """
        request = pb.SetEnsembleRequest(name=name, recipe=recipe)
        call = self._ensembles.SetEnsemble
        return (await self._calls.unary(call, request, timeout_s, safe=True)).ensemble

    async def get_ensemble(self, name: str, *, timeout_s: float | None = None) -> pb.Ensemble:
        """Returns one ensemble."""
        request = pb.GetEnsembleRequest(name=name)
        call = self._ensembles.GetEnsemble
        return (await self._calls.unary(call, request, timeout_s, safe=True)).ensemble

    async def list_ensembles(self, *, timeout_s: float | None = None) -> list[pb.Ensemble]:
        """Returns every ensemble, sorted by name."""
        ensembles: list[pb.Ensemble] = []
        request, call = pb.ListEnsemblesRequest(), self._ensembles.ListEnsembles
        while True:
            page = await self._calls.unary(call, request, timeout_s, safe=True)
            ensembles.extend(page.ensembles)
            if not page.next_page_token:
                return ensembles
            request.page_token = page.next_page_token

    async def delete_ensemble(self, name: str, *, timeout_s: float | None = None) -> None:
        """Removes an ensemble; its models stay."""
        request = pb.DeleteEnsembleRequest(name=name)
        await self._calls.unary(self._ensembles.DeleteEnsemble, request, timeout_s, safe=False)
