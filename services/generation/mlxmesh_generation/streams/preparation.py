"""Prepares a request: resolves its model, tokenizes its input, and plans its outputs."""

import random
import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlxmesh_generation.domain.catalogue import ModelKind, ModelVersion, Route
from mlxmesh_generation.domain.ensemble import Recipe
from mlxmesh_generation.domain.request import (
    Chat,
    CountRequest,
    GenerationRequest,
    PromptInput,
    PromptTokens,
    Reasoning,
    Resumed,
)
from mlxmesh_generation.domain.routing import Price
from mlxmesh_generation.parsers.choose import OutputFormat, choose
from mlxmesh_generation.parsers.parts import Reading
from mlxmesh_generation.parsers.registry import REASONING_FORMATS, TOOL_FORMATS
from mlxmesh_generation.placement.engines import Replicas
from mlxmesh_generation.placement.mirror import CatalogueMirror
from mlxmesh_generation.placement.sequence import EngineConstraint
from mlxmesh_generation.streams import output_rules
from mlxmesh_generation.streams.loads import Loads
from mlxmesh_generation.streams.output_rules import ModelFormat
from mlxmesh_generation.streams.plan import Plan
from mlxmesh_generation.streams.upstream_preparation import (
    PreparedUpstream,
    check_resumable,
    prepared_upstream,
)
from mlxmesh_generation.text import prompts
from mlxmesh_generation.text.prompts import Prompt, Prompts
from mlxmesh_generation.text.tokenizer import ModelTokenizer
from mlxmesh_generation.text.tokenizers import Tokenizers
from mlxmesh_generation.upstream.upstreams import Upstreams
from mlxmesh_shared.errors import FeatureNotSupported
from mlxmesh_shared.reference import ModelReference

# JSON clients that store numbers as doubles keep such a seed exactly.
_SEED_BITS = 53


@dataclass(frozen=True)
class Prepared:
    """All that a generation needs before it asks an engine."""

    plan: Plan
    tokenizer: ModelTokenizer


class Preparation:
    """Resolves models, tokenizes inputs, and plans how outputs are constrained and read."""

    def __init__(
        self,
        *,
        catalogue: CatalogueMirror,
        tokenizers: Tokenizers,
        prompts: Prompts,
        replicas: Replicas,
        upstreams: Upstreams,
    ) -> None:
        self._catalogue = catalogue
        self._tokenizers = tokenizers
        self._prompts = prompts
        self._replicas = replicas
        self._loads = Loads(tokenizers, replicas)
        self._upstreams = upstreams

    async def count(self, request: CountRequest) -> Sequence[int]:
        """The token ids of an input."""
        _refuse_images(request.input, "an engine alone knows how many tokens they are")
        version = await self._catalogue.resolve(request.model)
        _check_local(version, "model")
        self._prompts.expect(request.input)
        tokenizer = await self._tokenizers.get(version)
        variables: Mapping[str, Any] = {}
        if isinstance(request.input, Chat) and tokenizer.chat is not None:
            model = _model_format(version, tokenizer, with_tools=request.input.tools is not None)
            output_rules.check_chat(request.input, model)
            variables = output_rules.template_variables(request.input.reasoning, model.chosen)
        prompt = await self._prompts.tokenize(
            request.input, tokenizer, version, caller=request.caller, variables=variables
        )
        return prompt.token_ids

    async def recipe(self, reference: ModelReference) -> Recipe | None:
        """The recipe of an ensemble; None for a model. Raises: ModelNotFound."""
        return await self._catalogue.recipe(reference)

    async def scoring(
        self, request: GenerationRequest, answer: str, timeout_s: float | None
    ) -> tuple[Route, PromptTokens, int]:
        """A judge's route, its input that ends with an answer to the request's, and how many of
        the tokens are the answer's.
        """
        _refuse_images(request.input, "a judge reads none")
        route = await self._catalogue.route(request.model, request.asker)
        version = route.version
        _check_local(version, "model")
        _check_kind(version)
        self._loads.check(route)
        self._prompts.expect(request.input)
        tokenizer = await self._loads.tokenizer(route, time.monotonic(), timeout_s)
        source = request.input
        if isinstance(source, Chat) and tokenizer.chat is not None:
            model = _model_format(version, tokenizer, with_tools=False)
            # A text that follows the prompt at once is no reasoning.
            off = False if model.chosen.switch is not None else None
            chat = replace(source, tools=None, reasoning=Reasoning(enabled=off))
            prompt = await self._render(chat, request, version, tokenizer, model)
        else:
            prompt = await self._prompts.tokenize(source, tokenizer, version, caller=request.caller)
        answered = await self._prompts.plain_ids(answer, tokenizer, caller=request.caller)
        scored = PromptTokens(array("I", [*prompt.token_ids, *answered]))
        return route, scored, len(answered)

    async def output_format(self, reference: ModelReference) -> OutputFormat:
        """How the output of a model is read.

        Raises: IllegalState for a setting that names no format.
        """
        version = await self._catalogue.resolve(reference)
        _check_local(version, "model")
        tokenizer = await self._tokenizers.get(version)
        return _model_format(version, tokenizer, with_tools=True).chosen

    async def prepare(
        self,
        request: GenerationRequest,
        resumed: Resumed | None,
        received_s: float,
        timeout_s: float | None,
    ) -> Prepared | PreparedUpstream:
        """Checks a request and tokenizes its input.

        Raises: every error of the request, ModelNotLoaded, ServiceUnavailable.
        """
        begun = resumed.started if resumed is not None else None
        if begun is not None and begun.adapter is not None:
            # Its name may stand for another one by now, or for none.
            route = await self._catalogue.route(request.model, request.asker)
            route = replace(route, adapter=begun.adapter)
        else:
            route = await self._catalogue.route(request.model, request.asker, request.adapter)
        version = route.version
        _check_kind(version)
        if version.upstream is not None:
            plan = _upstream_plan(request, route, received_s, timeout_s)
            if resumed is not None:
                check_resumable(resumed, str(version))
                plan = _resumed_plan(plan, resumed)
            connection = self._upstreams.of(version, version.upstream)
            return prepared_upstream(plan, version.upstream, connection)
        self._loads.check(route)
        prompts.check_vocabulary(request, version)
        _check_images(request.input, version)
        self._prompts.expect(request.input)
        tokenizer = await self._loads.tokenizer(route, received_s, timeout_s)
        shaped = await self._shaped(request, version, tokenizer)
        plan = _plan(request, route, shaped, received_s, timeout_s)
        if resumed is not None:
            prompts.check_resumed(resumed, request, version, plan.max_tokens)
            plan = _resumed_plan(plan, resumed)
        return Prepared(plan, tokenizer)

    def connected(self, plan: Plan) -> bool:
        """Whether an engine is connected, or none is needed."""
        return plan.version.upstream is not None or self._replicas.connected(plan.version)

    async def wait_connected(self, plan: Plan) -> None:
        """Returns once an engine is connected; a model that is not loaded on demand is given only a
        short time.

        Raises: why the model will not be loaded; NoReplica when it takes too long.
        """
        await self._loads.wait_connected(
            plan.version, load_timeout_s=plan.load_timeout_s, deadline_s=plan.deadline_s
        )

    async def _shaped(
        self, request: GenerationRequest, version: ModelVersion, tokenizer: ModelTokenizer
    ) -> "_Shaped":
        """The prompt of a request, and how its outputs are constrained and read."""
        source = request.input
        if not isinstance(source, Chat) or tokenizer.chat is None:
            prompt = await self._prompts.tokenize(source, tokenizer, version, caller=request.caller)
            return _Shaped(prompt, output_rules.plain_constraint(request.constraint))
        model = _model_format(version, tokenizer, with_tools=source.tools is not None)
        chat = output_rules.checked(request, source, model)
        prompt = await self._render(chat, request, version, tokenizer, model)
        if output_rules.is_undecided(chat, model, prompt.text):
            reasoning = replace(chat, reasoning=replace(chat.reasoning, enabled=True))
            same = await self._render(reasoning, request, version, tokenizer, model)
            chat = reasoning if same.text == prompt.text else chat
        constraint = output_rules.chat_constraint(
            request,
            chat,
            model,
            prompt.text,
            token_id=tokenizer.added_tokens.get,
            encode=tokenizer.encode_rendered,
        )
        return _Shaped(prompt, constraint, output_rules.reading(chat, model, prompt.text))

    async def _render(
        self,
        chat: Chat,
        request: GenerationRequest,
        version: ModelVersion,
        tokenizer: ModelTokenizer,
        model: ModelFormat,
    ) -> Prompt:
        variables = output_rules.template_variables(chat.reasoning, model.chosen)
        return await self._prompts.tokenize(
            chat, tokenizer, version, caller=request.caller, variables=variables
        )


def _check_local(version: ModelVersion, field: str) -> None:
    """Raises: FeatureNotSupported for what needs the tokenizer of a model."""
    if version.upstream is not None:
        raise FeatureNotSupported(
            f"{field}: the upstream of {version} does not tell its tokens and formats; ask a model"
            " that runs here",
            field=field,
        )


def _check_kind(version: ModelVersion) -> None:
    """Raises: FeatureNotSupported for a model that generates nothing."""
    instead = _OTHER_METHODS.get(version.kind)
    if instead is not None:
        raise FeatureNotSupported(f"model: {version} {instead}", field="model")


def _check_images(source: PromptInput, version: ModelVersion) -> None:
    """Raises: FeatureNotSupported for images that the model does not read."""
    images = source.images if isinstance(source, Chat) else ()
    if images and version.kind is not ModelKind.VISION:
        field = images[0].path
        raise FeatureNotSupported(
            f"{field}: {version} reads no images; use a model of the kind vision", field=field
        )


def _refuse_images(source: PromptInput, why: str) -> None:
    """Raises: FeatureNotSupported."""
    if isinstance(source, Chat) and source.images:
        field = source.images[0].path
        raise FeatureNotSupported(f"{field}: images are not supported here: {why}", field=field)


def _check_prompt_logprobs(request: GenerationRequest, prompt: Prompt) -> None:
    """Raises: FeatureNotSupported beside images, whose tokens the caller does not know."""
    if prompt.images and request.logprobs is not None and request.logprobs.prompt:
        raise FeatureNotSupported(
            "logprobs.prompt: it is not supported for a prompt with images",
            field="logprobs.prompt",
        )


_OTHER_METHODS: Mapping[ModelKind | None, str] = {
    ModelKind.EMBEDDING: "makes vectors and generates nothing; call Embed, or /v1/embeddings",
    ModelKind.RERANK: "orders documents and generates nothing; call Rerank, or /v1/rerank",
}


@dataclass(frozen=True)
class _Shaped:
    """A prompt, and the shape of its outputs."""

    prompt: Prompt
    constraint: EngineConstraint | None = None
    reading: Reading | None = None


def _model_format(
    version: ModelVersion, tokenizer: ModelTokenizer, *, with_tools: bool
) -> ModelFormat:
    """Raises: IllegalState for a setting that names no format."""
    chosen = choose(
        tokenizer.chat.source if tokenizer.chat is not None else None,
        tokenizer.added_texts,
        tool_setting=version.tool_format,
        reasoning_setting=version.reasoning_format,
    )
    model, known = str(version), output_rules.known_format
    return ModelFormat(
        model,
        chosen,
        known(chosen.tools, TOOL_FORMATS, "tool format", model) if with_tools else None,
        known(chosen.reasoning, REASONING_FORMATS, "reasoning format", model),
    )


def _plan(
    request: GenerationRequest,
    route: Route,
    shaped: _Shaped,
    received_s: float,
    timeout_s: float | None,
) -> Plan:
    token_ids, version = shaped.prompt.token_ids, route.version
    _check_prompt_logprobs(request, shaped.prompt)
    seed = request.sampling.seed
    return Plan(
        request=request,
        version=version,
        prompt_token_ids=token_ids,
        images=shaped.prompt.images,
        max_tokens=prompts.max_tokens(request, version, len(token_ids)),
        seed=random.getrandbits(_SEED_BITS) if seed is None else seed,
        received_s=received_s,
        deadline_s=None if timeout_s is None else received_s + timeout_s,
        constraint=shaped.constraint,
        reading=shaped.reading,
        assignment=route.assignment,
        shadows=route.shadows,
        price=_price(request, route),
        load_timeout_s=route.loading.timeout_s if route.loading.on_demand else None,
        adapter=route.adapter,
    )


def _upstream_plan(
    request: GenerationRequest, route: Route, received_s: float, timeout_s: float | None
) -> Plan:
    """Its prompt is tokenized by the upstream; only a seed of the caller's is sent there."""
    return Plan(
        request=request,
        version=route.version,
        prompt_token_ids=(),
        max_tokens=request.max_tokens or 0,
        seed=request.sampling.seed or 0,
        received_s=received_s,
        deadline_s=None if timeout_s is None else received_s + timeout_s,
        assignment=route.assignment,
        price=_price(request, route),
    )


def _price(request: GenerationRequest, route: Route) -> Price | None:
    return route.price.of_flex() if request.flex and route.price else route.price


def _resumed_plan(plan: Plan, resumed: Resumed) -> Plan:
    # No answer compares with it: its times here are not those of the whole generation.
    plan = replace(plan, shadows=(), resumed=True)
    if resumed.started is None:
        return plan
    # It names a version by now, whose arm was assigned when it began.
    started = resumed.started
    return replace(plan, assignment=started.assignment, steps=started.steps)
