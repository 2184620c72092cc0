"""The generations that run in this process, by request id."""

import random
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from mlxmesh_generation import prompts
from mlxmesh_generation.catalogue import ModelVersion
from mlxmesh_generation.engines import Engines
from mlxmesh_generation.generation import Generation, Plan
from mlxmesh_generation.limits import GenerationLimits
from mlxmesh_generation.mirror import CatalogueMirror
from mlxmesh_generation.request import GenerationRequest, PromptInput
from mlxmesh_generation.tokenizer import ModelTokenizer
from mlxmesh_generation.tokenizers import Tokenizers
from mlxmesh_shared.errors import (
    GenerationExists,
    GenerationNotFound,
    ModelNotLoaded,
)
from mlxmesh_shared.reference import ModelReference

# An engine that was just loaded, or is being started again, may be connected within this time.
REPLICA_WAIT_S = 2.0
# Survives JSON, in which many clients keep numbers as doubles.
_SEED_BITS = 53


@dataclass
class _Claim:
    """A request id in use; without a generation while that is being prepared."""

    generation: Generation | None = None
    cancelled: bool = False


class Generations:
    """Starts generations and knows those that run."""

    def __init__(
        self,
        *,
        catalogue: CatalogueMirror,
        tokenizers: Tokenizers,
        engines: Engines,
        limits: GenerationLimits,
    ) -> None:
        self._catalogue = catalogue
        self._tokenizers = tokenizers
        self._engines = self.engines = engines
        self._limits = limits
        self._claims: dict[str, _Claim] = {}

    @asynccontextmanager
    async def running(
        self, request: GenerationRequest, timeout_s: float | None
    ) -> AsyncGenerator[Generation]:
        """A started generation; leaving the context gives up what is left of it.

        Raises: GenerationExists, TooManyRequests, and whatever is wrong with request or mesh.
        """
        received_s = time.monotonic()
        with self._limits.holding(request), self._claimed(request.request_id) as claim:
            generation = await self._prepare(request, received_s, timeout_s)
            claim.generation = generation
            if claim.cancelled:
                generation.cancel()
            try:
                generation.start()
                yield generation
            finally:
                generation.close()

    def cancel(self, request_id: str) -> None:
        """Raises: GenerationNotFound when no running generation has the id."""
        claim = self._claims.get(request_id)
        if claim is None:
            raise GenerationNotFound(
                "no running generation has this request_id", field="request_id"
            )
        claim.cancelled = True
        if claim.generation is not None:
            claim.generation.cancel()

    async def count(self, model: ModelReference, source: PromptInput) -> Sequence[int]:
        """The token ids that an input comes to."""
        version = await self._catalogue.resolve(model)
        return await prompts.token_ids(source, await self._tokenizers.get(version))

    @contextmanager
    def _claimed(self, request_id: str) -> Generator[_Claim]:
        if request_id in self._claims:
            raise GenerationExists(
                "a generation with this request_id is running", field="request_id"
            )
        claim = self._claims[request_id] = _Claim()
        try:
            yield claim
        finally:
            del self._claims[request_id]

    async def _prepare(
        self, request: GenerationRequest, received_s: float, timeout_s: float | None
    ) -> Generation:
        version = await self._catalogue.resolve(request.model)
        self._check_loaded(version)
        prompts.check_vocabulary(request, version)
        tokenizer = await self._tokenizers.get(version)
        plan = await self._plan(request, version, tokenizer, received_s, timeout_s)
        wait_s = REPLICA_WAIT_S if timeout_s is None else min(REPLICA_WAIT_S, timeout_s / 2)
        await self._engines.wait_connected(version, wait_s)
        return Generation(plan, engines=self._engines, detokenizer=tokenizer.detokenizer())

    async def _plan(
        self,
        request: GenerationRequest,
        version: ModelVersion,
        tokenizer: ModelTokenizer,
        received_s: float,
        timeout_s: float | None,
    ) -> Plan:
        token_ids = await prompts.token_ids(request.input, tokenizer)
        has_seed = request.sampling.HasField("seed")
        return Plan(
            request=request,
            version=version,
            prompt_token_ids=token_ids,
            max_tokens=prompts.max_tokens(request, version, len(token_ids)),
            seed=request.sampling.seed if has_seed else random.getrandbits(_SEED_BITS),
            received_s=received_s,
            deadline_s=None if timeout_s is None else received_s + timeout_s,
        )

    def _check_loaded(self, version: ModelVersion) -> None:
        if version.desired_replicas == 0 and not self._engines.known(version):
            raise ModelNotLoaded(
                f"model {version} is registered but not loaded; run `mlxmesh load {version}`",
                field="model",
            )
