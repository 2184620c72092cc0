"""The engines of this mesh: links to them, their breakers, and the choice among them."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from copy import copy
from dataclasses import replace
from functools import partial

from mlxmesh_generation.domain.catalogue import ModelVersion
from mlxmesh_generation.placement import router
from mlxmesh_generation.placement.demand import Demand, VersionUse
from mlxmesh_generation.placement.encode_work import EncodedPart, EncodeWork
from mlxmesh_generation.placement.engine_link import EngineLink
from mlxmesh_generation.placement.mirror import CatalogueMirror
from mlxmesh_generation.placement.router import (
    BLOCK_TOKENS,
    RETRY_DELAY_S,
    PrefixAffinity,
    Prefixes,
    prefixes,
)
from mlxmesh_generation.placement.sequence import (
    EngineOutput,
    EngineSequence,
    SequenceRequest,
    SequenceSink,
)
from mlxmesh_generation.placement.spare import SETTLE_S, SpareWork, Yield, host_of
from mlxmesh_shared.errors import EngineLost, Internal, MeshError, NoReplica, QueueFull
from mlxmesh_shared.events import Publish, discard_event
from mlxmesh_shared.registry.convert import breaker_change
from mlxmesh_shared.registry.port import Instance, Registry
from mlxmesh_shared.resilience.breaker import Breaker, Permit
from mlxmesh_shared.resilience.retries import RetryDelayEstimator
from mlxmesh_shared.rpc.channels import OpenChannel, open_channel

USES_S = 600.0
"""How long it is remembered that a version was used."""
# The contract's limit.
MAX_USES = 1000


class BreakerSink:
    """Satisfies SequenceSink: reports to the engine's breaker, then forwards to the real sink."""

    def __init__(self, sink: SequenceSink, permit: Permit) -> None:
        self._sink = sink
        self._permit = permit

    def on_output(self, output: EngineOutput) -> None:
        # The breaker first: the generation may look for another engine at once.
        if output.failure is not None:
            self._permit.ended_by(output.failure)
        elif output.finish_reason is not None:
            self._permit.succeeded()
        else:
            self._permit.answered()
        self._sink.on_output(output)

    def on_lost(self, error: MeshError) -> None:
        if isinstance(error, EngineLost):
            self._permit.failed(at_once=True)
        else:
            self._permit.drop()
        self._sink.on_lost(error)


class BreakerSequence:
    """Satisfies EngineSequence: a dropped sequence does not count for or against its engine."""

    def __init__(self, sequence: EngineSequence, permit: Permit) -> None:
        self.sequence = sequence
        """The engine's own."""
        self._permit = permit

    @property
    def engine_id(self) -> str:
        return self.sequence.engine_id

    def cancel(self) -> None:
        self.sequence.cancel()

    def drop(self) -> None:
        self._permit.drop()
        self.sequence.drop()


class Engines:
    """A link to every registered engine; the link of a deregistered one closes when idle."""

    def __init__(
        self,
        registry: Registry,
        *,
        open_: OpenChannel = open_channel,
        publish: Publish = discard_event,
    ) -> None:
        self._registry = registry
        self._publish = publish
        self._open = open_
        # By engine id: its record, and the link to it.
        self._links: dict[str, tuple[Instance, EngineLink]] = {}
        # By model and version, and then by engine id: a placement reads its own version's only.
        self._by_version: dict[tuple[str, str], dict[str, EngineLink]] = {}
        # By engine id.
        self._breakers: dict[str, Breaker] = {}
        # By model and version: when a sequence was last placed, in time.monotonic().
        self._used_s: dict[tuple[str, int], float] = {}
        self._connected = asyncio.Event()
        self._affinity = PrefixAffinity()
        self._prefer_warm = True
        self._spare = SpareWork()
        # By model and version: how fast all of its engines together complete sequences.
        self._retry_delays: defaultdict[tuple[str, str], RetryDelayEstimator] = defaultdict(
            RetryDelayEstimator
        )
        # The same for background sequences.
        self._background_retry_delays: defaultdict[tuple[str, str], RetryDelayEstimator] = (
            defaultdict(RetryDelayEstimator)
        )

    def prefer_warm(self, preferred: bool) -> None:
        """Sets whether prompts prefer the engine that has their prefix cached."""
        self._prefer_warm = preferred

    async def run(self) -> None:
        """Follows the registry until cancelled; then every link is closed."""
        async with asyncio.TaskGroup() as tasks:
            async for instances in self._registry.watch("engine"):
                self._update({instance.instance_id: instance for instance in instances}, tasks)

    def place(
        self,
        version: ModelVersion,
        request: SequenceRequest,
        sink: SequenceSink,
        *,
        avoid: Collection[str] = (),
    ) -> EngineSequence:
        """See Placer."""
        links = self._serving(version)
        shared = request.shares_prefill_of
        if isinstance(shared, BreakerSequence):
            request = replace(request, shares_prefill_of=shared.sequence)
        chosen = self._engine_of(shared, links, avoid, background=request.request.flex)
        chosen = chosen or self._pick(version, request, links, avoid)
        self._spare.yield_host(self._host(chosen))
        self._used_s[version.name, version.version] = time.monotonic()
        permit = self._breakers[chosen].admit()
        sequence = links[chosen].submit(request, BreakerSink(sink, permit))
        return BreakerSequence(sequence, permit)

    # Texts to encode.

    def encoders(self, version: ModelVersion) -> int:
        """How many engines of a version are connected."""
        return sum(link.connected for link in self._serving(version).values())

    def pick_encoder(self, version: ModelVersion, avoid: Collection[str]) -> str:
        """The engine with the least work. Raises: NoReplica."""
        links = self._serving(version)
        replicas = [
            link.encoder_replica(ejected=not self._breakers[engine_id].ready)
            for engine_id, link in links.items()
        ]
        return router.pick(replicas, avoid=avoid)

    async def encode(
        self, engine_id: str, version: ModelVersion, work: EncodeWork, timeout_s: float | None
    ) -> EncodedPart:
        """Has an engine that was just picked encode texts; its breaker learns how that ended.

        Raises: EngineLost, and the engine's errors.
        """
        self._spare.yield_host(self._host(engine_id))
        self._used_s[version.name, version.version] = time.monotonic()
        permit = self._breakers[engine_id].admit()
        _, link = self._links[engine_id]
        try:
            encoded = await link.encode(work, timeout_s)
        except EngineLost:
            permit.failed(at_once=True)
            raise
        except MeshError as error:
            permit.ended_by(error)
            raise
        else:
            permit.succeeded()
        finally:
            permit.drop()
        return encoded

    # Spare sequences: satisfies SpareEngines.

    def has_room(self, model: str, version: int) -> bool:
        """See SpareEngines."""
        return self._spare_engine(model, version) is not None

    def place_spare(
        self, version: ModelVersion, request: SequenceRequest, sink: SequenceSink, end: Yield
    ) -> EngineSequence:
        """See SpareEngines."""
        chosen = self._spare_engine(version.name, version.version)
        if chosen is None:
            raise QueueFull(f"no engine of {version} is on a host without other work")
        permit = self._breakers[chosen].admit()
        _, link = self._links[chosen]
        self._spare.add(self._host(chosen), end)
        sequence = link.submit(request, BreakerSink(sink, permit), spare=True)
        return BreakerSequence(sequence, permit)

    def end_spare(self, end: Yield) -> None:
        """See SpareEngines."""
        for host in self._spare.hosts:
            self._spare.remove(host, end)

    def yield_to_others(self) -> None:
        """See SpareEngines."""
        hosts = self._spare.hosts
        if not hosts:
            return
        busy = self._busy_hosts(for_s=0.0)
        for host in hosts:
            if host in busy:
                self._spare.yield_host(host)

    def _spare_engine(self, model: str, version: int) -> str | None:
        """An engine of a version on a host that had no caller's sequence of late."""
        busy = self._busy_hosts(for_s=SETTLE_S)
        for engine_id, link in self._running(model, version).items():
            replica = self._replica(link)
            ready = replica.connected and not replica.ejected and replica.has_memory
            if ready and self._host(engine_id) not in busy:
                return engine_id
        return None

    def _busy_hosts(self, *, for_s: float) -> set[str]:
        """Where engines have sequences of callers, or had some less than for_s ago.

        They count from here and from other processes.
        """
        now_s = time.monotonic()
        return {
            host_of(instance.address)
            for instance, link in self._links.values()
            if link.idle_s(now_s) <= for_s
        }

    def _host(self, engine_id: str) -> str:
        return host_of(self._links[engine_id][0].address)

    def _engine_of(
        self,
        shared: EngineSequence | None,
        links: Mapping[str, EngineLink],
        avoid: Collection[str],
        *,
        background: bool,
    ) -> str | None:
        """The engine that has the prompt in work, if it can have another sequence."""
        if shared is None or shared.engine_id in avoid or shared.engine_id not in links:
            return None
        replica = self._replica(links[shared.engine_id], background=background)
        free = replica.connected and not replica.ejected and not replica.full
        return shared.engine_id if free else None

    def _pick(
        self,
        version: ModelVersion,
        request: SequenceRequest,
        links: Mapping[str, EngineLink],
        avoid: Collection[str],
    ) -> str:
        """Raises: NoReplica, QueueFull."""
        background = request.request.flex
        digest = request.adapter.digest if request.adapter is not None else ""
        prompt_prefixes = prefixes(request.prompt_token_ids, digest)
        try:
            chosen = router.pick(
                [self._replica(link, background=background) for link in links.values()],
                avoid=avoid,
                warm_tokens={} if background else self._warm_tokens(prompt_prefixes, digest, links),
                spread_by=prompt_prefixes[0] if prompt_prefixes else 0,
                session_id="" if background else request.request.session_id,
            )
        except QueueFull as error:
            by_version = self._background_retry_delays if background else self._retry_delays
            retry_delays = by_version[version.name, str(version.version)]
            error.retry_delay_s = retry_delays.schedule_retry(time.monotonic())
            raise
        self._affinity.note(prompt_prefixes, chosen)
        return chosen

    def _warm_tokens(
        self, prompt_prefixes: Prefixes, adapter_digest: str, links: Mapping[str, EngineLink]
    ) -> Mapping[str, int]:
        """What the engines have of a prompt; holding its adapter counts as one block."""
        holding = {
            engine_id: BLOCK_TOKENS
            for engine_id, link in links.items()
            if adapter_digest and adapter_digest in link.adapters
        }
        if not self._prefer_warm:
            return holding
        return holding | self._affinity.warm_tokens(prompt_prefixes)

    def breakers(self) -> Iterator[tuple[Instance, Breaker]]:
        """Every engine with its breaker."""
        for engine_id, (instance, _) in self._links.items():
            yield instance, self._breakers[engine_id]

    def recent_uses(self) -> list[VersionUse]:
        """When the versions of connected engines were last used from here, the latest first."""
        now_s = time.monotonic()
        running = {_version_of(i) for i, link in self._links.values() if link.running}
        for name, number in tuple(self._used_s):
            if (name, str(number)) in running:
                self._used_s[name, number] = now_s
        recent = {key: at for key, at in self._used_s.items() if now_s - at < USES_S}
        self._used_s = recent
        uses = [
            VersionUse(name, number, round((now_s - at_s) * 1000))
            for (name, number), at_s in recent.items()
        ]
        return sorted(uses, key=lambda use: use.idle_ms)[:MAX_USES]

    def known(self, version: ModelVersion) -> bool:
        """Whether there is an engine of this version, connected or not."""
        return bool(self._serving(version))

    async def wait_connected(self, version: ModelVersion, timeout_s: float) -> None:
        """Returns once an engine of this version is connected, or after timeout_s without one."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self.is_connected(version):
                    await self._connected.wait()
        except TimeoutError:
            return  # place() raises NoReplica

    def _replica(self, link: EngineLink, *, background: bool = False) -> router.Replica:
        ejected = not self._breakers[link.engine_id].ready
        return link.background_replica(ejected) if background else link.replica(ejected)

    def is_connected(self, version: ModelVersion) -> bool:
        """Whether an engine of this version is connected."""
        return any(link.connected for link in self._serving(version).values())

    def _serving(self, version: ModelVersion) -> Mapping[str, EngineLink]:
        return self._running(version.name, version.version)

    def _running(self, model: str, version: int) -> Mapping[str, EngineLink]:
        return self._by_version.get((model, str(version)), {})

    def _update(self, instances: dict[str, Instance], tasks: asyncio.TaskGroup) -> None:
        gone: list[str] = []
        for engine_id, (known, link) in list(self._links.items()):
            now = instances.get(engine_id)
            if now is None or now.address != known.address:
                del self._links[engine_id], self._breakers[engine_id]
                link.retire()
                gone.append(engine_id)
            else:
                self._links[engine_id] = (now, link)
        if gone:
            self._affinity.forget(gone)
        for engine_id in instances.keys() - self._links.keys():
            instance = instances[engine_id]
            breaker = Breaker(is_failure=_is_failure, on_change=partial(self._on_breaker, instance))
            link = EngineLink(
                engine_id=engine_id,
                address=instance.address,
                on_connected=partial(self._on_connected, breaker),
                open_=self._open,
                retry_delays=self._retry_delays[_version_of(instance)],
                background_retry_delays=self._background_retry_delays[_version_of(instance)],
            )
            self._links[engine_id] = (instance, link)
            self._breakers[engine_id] = breaker
            tasks.create_task(link.run(), name=f"link to {engine_id}")
        self._by_version = {}
        for engine_id, (instance, link) in self._links.items():
            self._by_version.setdefault(_version_of(instance), {})[engine_id] = link

    def _on_breaker(self, engine: Instance, breaker: Breaker) -> None:
        self._publish(breaker_change(engine, breaker), engine.instance_id)

    def _on_connected(self, breaker: Breaker) -> None:
        breaker.reconnected()
        self._connected.set()
        self._connected = asyncio.Event()


def _is_failure(error: MeshError) -> bool:
    return isinstance(error, EngineLost | Internal)


def _version_of(engine: Instance) -> tuple[str, str]:
    return engine.metadata.get("model", ""), engine.metadata.get("version", "")


# How often a generation that waits for a replica checks that the catalogue still wants one.
RECHECK_S = 1.0


class Replicas:
    """Satisfies Placer: connected engines, and those that the model service loads for requests."""

    def __init__(self, engines: Engines, catalogue: CatalogueMirror, demand: Demand) -> None:
        self._engines = engines
        self._catalogue = catalogue
        self._demand = demand

    def place(
        self,
        version: ModelVersion,
        request: SequenceRequest,
        sink: SequenceSink,
        *,
        avoid: Collection[str],
    ) -> EngineSequence:
        return self._engines.place(version, request, sink, avoid=avoid)

    def expected(self, version: ModelVersion) -> bool:
        """Whether there is a replica or the catalogue wants one."""
        return self._engines.known(version) or self._catalogue.wants(version)

    def connected(self, version: ModelVersion) -> bool:
        """Whether an engine of this version is connected."""
        return self._engines.is_connected(version)

    def loads_on_demand(self, version: ModelVersion) -> bool:
        """Whether a request may wait until the version is loaded."""
        return self._catalogue.loading(version).on_demand

    async def wait_connected(self, version: ModelVersion, timeout_s: float) -> None:
        """Returns once an engine of this version is connected, or after timeout_s without one."""
        await self._engines.wait_connected(version, timeout_s)

    async def wait_loaded(self, version: ModelVersion, timeout_s: float) -> None:
        """Has the version loaded, and returns once an engine of it is connected.

        Raises: NoReplica after timeout_s without one; why the version will not be loaded.
        """
        if not await self._demanded(version, timeout_s):
            raise NoReplica(
                f"{version} was not loaded within {timeout_s:.3g} s; it is still being loaded, so"
                " try again with a later deadline, or see `mlxmesh status`",
                retry_delay_s=RETRY_DELAY_S,
            )

    async def wait_for_replica(self, version: ModelVersion) -> None:
        if self.loads_on_demand(version):
            await self._demanded(version, RECHECK_S)
            return
        if not self.expected(version):
            raise EngineLost(f"the engine was lost, and {version} is no longer loaded")
        await self._engines.wait_connected(version, RECHECK_S)

    async def _demanded(self, version: ModelVersion, timeout_s: float) -> bool:
        """Whether an engine is connected within a time. Raises: why none will be."""
        if self._engines.is_connected(version):
            return True
        with self._demand.asking(version) as failed:
            waiting = self._engines.wait_connected(version, timeout_s)
            connected = asyncio.ensure_future(waiting)
            try:
                await asyncio.wait((connected, failed), return_when=asyncio.FIRST_COMPLETED)
            finally:
                connected.cancel()
            if self._engines.is_connected(version):
                return True
            if failed.done():
                raise copy(failed.result())  # each request chains its own
        return False
