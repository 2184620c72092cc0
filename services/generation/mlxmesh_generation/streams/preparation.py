"""Prepares a request: resolves its model and tokenizes its input."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from mlxmesh_generation.domain.catalogue import ModelVersion
from mlxmesh_generation.domain.request import CountRequest, GenerationRequest, Resumed
from mlxmesh_generation.placement.engines import Replicas
from mlxmesh_generation.placement.mirror import CatalogueMirror
from mlxmesh_generation.streams.plan import Plan
from mlxmesh_generation.text import prompts
from mlxmesh_generation.text.prompts import Prompts
from mlxmesh_generation.text.tokenizer import ModelTokenizer
from mlxmesh_generation.text.tokenizers import Tokenizers
from mlxmesh_shared.errors import ModelNotLoaded

# An engine that is starting or restarting may connect within this time.
REPLICA_WAIT_S = 2.0
# JSON clients that store numbers as doubles keep such a seed exactly.
_SEED_BITS = 53


@dataclass(frozen=True)
class Prepared:
    """All that a generation needs before it asks an engine."""

    plan: Plan
    tokenizer: ModelTokenizer


class Preparation:
    """Resolves models and tokenizes inputs."""

    def __init__(
        self,
        *,
        catalogue: CatalogueMirror,
        tokenizers: Tokenizers,
        prompts: Prompts,
        replicas: Replicas,
    ) -> None:
        self._catalogue = catalogue
        self._tokenizers = tokenizers
        self._prompts = prompts
        self._replicas = replicas

    async def count(self, request: CountRequest) -> Sequence[int]:
        """The token ids of an input."""
        version = await self._catalogue.resolve(request.model)
        self._prompts.expect(request.input)
        tokenizer = await self._tokenizers.get(version)
        return await self._prompts.token_ids(
            request.input, tokenizer, version, caller=request.caller
        )

    async def prepare(
        self,
        request: GenerationRequest,
        resumed: Resumed | None,
        received_s: float,
        timeout_s: float | None,
    ) -> Prepared:
        """Checks a request and tokenizes its input.

        Raises: every error of the request, ModelNotLoaded, ServiceUnavailable.
        """
        version = await self._catalogue.resolve(request.model)
        self._check_loaded(version)
        prompts.check_vocabulary(request, version)
        self._prompts.expect(request.input)
        tokenizer = await self._tokenizers.get(version)
        plan = await self._plan(request, version, tokenizer, received_s, timeout_s)
        if resumed is not None:
            prompts.check_resumed(resumed, request, version, plan.max_tokens)
        return Prepared(plan, tokenizer)

    async def wait_connected(self, plan: Plan, timeout_s: float | None) -> None:
        """Returns once an engine is connected, or after a short time without one."""
        wait_s = REPLICA_WAIT_S if timeout_s is None else min(REPLICA_WAIT_S, timeout_s / 2)
        await self._replicas.wait_connected(plan.version, wait_s)

    async def _plan(
        self,
        request: GenerationRequest,
        version: ModelVersion,
        tokenizer: ModelTokenizer,
        received_s: float,
        timeout_s: float | None,
    ) -> Plan:
        token_ids = await self._prompts.token_ids(
            request.input, tokenizer, version, caller=request.caller
        )
        seed = request.sampling.seed
        return Plan(
            request=request,
            version=version,
            prompt_token_ids=token_ids,
            max_tokens=prompts.max_tokens(request, version, len(token_ids)),
            seed=random.getrandbits(_SEED_BITS) if seed is None else seed,
            received_s=received_s,
            deadline_s=None if timeout_s is None else received_s + timeout_s,
        )

    def _check_loaded(self, version: ModelVersion) -> None:
        if not self._replicas.expected(version):
            raise ModelNotLoaded(
                f"model {version} is registered but not loaded; run `mlxmesh load {version}`",
                field="model",
            )
