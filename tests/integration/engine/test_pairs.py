"""All features of an engine at once: every sequence is what it is alone with none of them.

The cases are generated pairwise: those of an engine, and those of a sequence. Each engine runs all
sequences in one batch, so that each pair of an engine's feature and a sequence's occurs as well.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from functools import cache, cached_property
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest

from mlxmesh_engine.forward.draft import DraftModel
from mlxmesh_engine.prefixes.directory import PrefixDirectory
from mlxmesh_engine.scheduling.request import (
    Constraint,
    FinishReason,
    LogprobOptions,
    Logprobs,
    SequenceRequest,
)
from mlxmesh_engine.speculation.speculation import NoSpeculation, Speculation
from tests.fakes.adapter_rig import Adapter, write_adapter
from tests.fakes.constrained_rig import VOCAB_SIZE, ConstrainedRig
from tests.fakes.engine_rig import STREAM, Rig, load_model
from tests.fakes.feature_cases import (
    ENGINE_VALUES,
    ENGINES,
    FORWARDS,
    GRAMMARS,
    ROW_VALUES,
    ROWS,
    SAMPLINGS,
    EngineCase,
    RowCase,
)
from tests.fakes.speculation import CheapDraft, CheapNgrams, KnownSpeculation
from tests.fakes.tiny_model import EOS
from tests.fakes.tokenizer_files import byte_level
from tests.matrix.examination import MAX_TOKENS, Prompt, Reference, prompt, write_architecture

# The order of a sum may round a key or value of 8 bits to its neighbour.
LOGPROB_TOLERANCE = {"full": 1e-3, "8bit": 2e-2}
OUTPUT_TOKENS = 2 * MAX_TOKENS
SHARED = prompt(1, 8) * 8
"""What all prompts begin with; it repeats itself, so that look-up finds something to propose."""
LEADERS, EARLIER = 100, 1000
"""Added to the ids of those whose prefill is shared, and of those that ran before."""


@dataclass(frozen=True)
class Answer:
    """The whole output of a sequence."""

    tokens: Sequence[int]
    reason: FinishReason | None
    logprobs: Logprobs | None


class Served:
    """A model with two adapters, and what each sequence is alone."""

    def __init__(
        self,
        folder: Path,
        forward: str,
        kv: str,
        compiled: Callable[..., list[SequenceRequest]],
    ) -> None:
        architecture, cpu_forward = FORWARDS[forward]
        self._kv = kv
        self._load = lambda: load_model(self._path, cpu_forward=cpu_forward, kv_cache_type=kv)
        self._path = write_text_architecture(folder / architecture, architecture)
        self._compiled = compiled
        self.loaded = self._load()
        self._base = Reference(self._path)
        self._adapters: dict[str, Adapter | None] = {
            "none": None,
            "one": write_adapter(folder / "one", self._path, seed=1),
            "two": write_adapter(folder / "two", self._path, seed=2, rank=7, peft=True),
        }

    @cached_property
    def answers(self) -> dict[int, Answer]:
        """Of all rows, one after another, with nothing on; the greedy ones are mlx-lm's own."""
        rig, found = Rig(self.loaded), dict[int, Answer]()
        for number, row in ROWS.items():
            rig.submit(*self.requests({number: replace(row, resumed=0)}, plain=True)).run()
            assert rig.last(number).error is None, rig.last(number).error
            tokens = rig.tokens(number)
            if row.sampling == "greedy" and row.constraint == "none":
                self.check_with_mlx_lm(row.adapter, prompt_of(number), tokens)
            found[number] = Answer(tokens, rig.last(number).finish_reason, rig.logprobs(number)[1])
        return found

    def check_with_mlx_lm(self, adapter: str, asked: Prompt, tokens: Sequence[int]) -> None:
        """With fewer bits, the tokens are others."""
        if self._kv != "full":
            return
        found = self._adapters[adapter]
        reference = found.reference if found is not None else self._base
        reference.check(asked, tokens[:MAX_TOKENS])

    def requests(self, rows: dict[int, RowCase], *, plain: bool = False) -> list[SequenceRequest]:
        """Of these rows, with those that some follow before them."""
        found: list[SequenceRequest] = []
        for number, row in rows.items():
            asked = self._request(number, row)
            if not plain:
                leader = (STREAM, LEADERS + number) if row.sharing else None
                asked = replace(
                    asked,
                    background=row.background,
                    isolated=row.isolated,
                    shares_prefill_of=leader,
                )
                if leader is not None:
                    first = self.simple(leader[1], asked.prompt, row.adapter)
                    found.append(replace(first, background=row.background))
            found.append(asked)
        return self._compiled(*found)

    def simple(self, number: int, asked: Prompt, adapter: str) -> SequenceRequest:
        """Of a greedy sequence that only has an adapter."""
        found = self._adapters[adapter]
        source = found.source if found is not None else None
        return SequenceRequest(
            (STREAM, number),
            asked,
            MAX_TOKENS,
            adapter=source,
            prefix_namespace=bytes.fromhex(source.digest) if source is not None else b"",
        )

    def _request(self, number: int, row: RowCase) -> SequenceRequest:
        constrained = row.constraint != "none"
        return replace(
            self.simple(number, prompt_of(number), row.adapter),
            max_tokens=OUTPUT_TOKENS,
            generated=tuple(self.answers[number].tokens[: row.resumed]) if row.resumed else (),
            sampling=SAMPLINGS[row.sampling],
            end_token_ids=frozenset({EOS}) if constrained else frozenset(),
            constraint=Constraint(GRAMMARS[row.constraint]) if constrained else None,
            logprobs=LogprobOptions(top=row.logprobs) if row.logprobs else None,
        )

    def warm_up(self, rig: Rig) -> Rig:
        """Lets two sequences of each adapter leave the prefix that all share."""
        for at, adapter in enumerate([*self._adapters] * 2):
            asked = self.simple(EARLIER + at, SHARED + prompt(EARLIER + at, 5), adapter)
            rig.submit(asked).run()
        return rig

    @cached_property
    def _draft(self) -> DraftModel:
        loaded = self._load()
        return DraftModel(loaded.model, loaded.batching, loaded.context_tokens)

    def speculation(self, name: str) -> Speculation:
        match name:
            case "known":
                known = {number: answer.tokens for number, answer in self.answers.items()}
                return KnownSpeculation(known, VOCAB_SIZE)
            case "ngram":
                return measured(CheapNgrams())
            case "draft":
                return measured(CheapDraft(self._draft))
            case _:
                return NoSpeculation()


def measured(source: Speculation) -> Speculation:
    """One that knows what plain steps cost, and so proposes from the first step on."""
    for rows in range(1, 65):
        source.record_step(0.01, rows=rows, proposed=0, accepted=0)
    return source


def write_text_architecture(folder: Path, architecture: str) -> Path:
    """With a byte-level tokenizer."""
    # Keys and values with fewer bits need heads of 32.
    heads: dict[str, Any] = {"hidden_size": 128, "head_dim": 32} if architecture == "llama" else {}
    write_architecture(folder, architecture, vocab_size=VOCAB_SIZE, eos_token_id=EOS, **heads)
    return byte_level(folder)


def prompt_of(number: int) -> Prompt:
    return SHARED + prompt(number, 3 + number)


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str, str], Served]]:
    """The model of each forward pass; they have the same tokens, so one compiler is enough."""
    path = write_text_architecture(tmp_path_factory.mktemp("compiler"), "llama")
    compiler = ConstrainedRig(path)

    @cache
    def of(forward: str, kv: str) -> Served:
        return Served(tmp_path_factory.mktemp("model"), forward, kv, compiler.compiled)

    yield of
    compiler.close()


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Callable[[], PrefixDirectory]]:
    """Opens the same prefixes on disk again, once everything is written."""
    opened: list[PrefixDirectory] = []

    def reopen() -> PrefixDirectory:
        if opened:
            opened.pop().close(30)
        opened.append(PrefixDirectory(tmp_path / "prefixes", 2**30, lambda: "m"))
        assert opened[0].wait_opened(30)
        return opened[0]

    yield reopen
    for each in opened:
        each.close(30)


@pytest.mark.parametrize("case", ENGINES, ids=str)
def test_every_sequence_is_what_it_is_alone(
    case: EngineCase,
    served: Callable[[str, str], Served],
    directory: Callable[[], PrefixDirectory],
) -> None:
    model = served(case.forward, case.kv)

    def start() -> Rig:
        return Rig(
            model.loaded,
            prefix_cache_bytes=0 if case.prefixes == "none" else 2**26,
            prefix_directory=directory() if case.prefixes == "disk" else None,
            speculation=model.speculation(case.speculation),
            clock=time.monotonic,
        )

    rig = start()
    if case.prefixes != "none":
        model.warm_up(rig)
    if case.prefixes == "disk":
        rig = start()
    rig.submit(*model.requests(ROWS)).run()
    for number, row in ROWS.items():
        check(rig, number, row, model.answers[number], LOGPROB_TOLERANCE[case.kv])
        if row.sharing:
            model.check_with_mlx_lm(row.adapter, prompt_of(number), rig.tokens(LEADERS + number))
        if case.prefixes != "none":
            assert cached_tokens(rig, number) >= len(SHARED)
    assert (rig.loop.proposed_tokens > 0) == (case.speculation != "off")
    assert (rig.loop.prefix_disk.hits > 0) == (case.prefixes == "disk")


def check(rig: Rig, number: int, row: RowCase, expected: Answer, tolerance: float) -> None:
    assert rig.last(number).error is None, (row, rig.last(number).error)
    assert [*expected.tokens[: row.resumed], *rig.tokens(number)] == expected.tokens, row
    assert rig.last(number).finish_reason is expected.reason, row
    found, wanted = rig.logprobs(number)[1], expected.logprobs
    assert (found is not None) == (wanted is not None) == (row.logprobs > 0)
    if found is not None and wanted is not None:
        chosen = wanted.chosen[row.resumed :]
        assert found.chosen == pytest.approx(chosen, abs=tolerance), row
        assert found.top == pytest.approx(
            wanted.top[row.resumed * row.logprobs :], abs=tolerance
        ), row


def cached_tokens(rig: Rig, number: int) -> int:
    return [each.cached_tokens for each in rig.updates[number] if each.cached_tokens is not None][
        -1
    ]


def test_the_generated_cases_hold_each_pair() -> None:
    assert missing(ROW_VALUES, map(astuple, ROWS.values())) == []
    engines = [astuple(each) for each in ENGINES]
    for values in ENGINE_VALUES:
        assert missing(values, engines) == []


def missing(values: Sequence[Sequence[Any]], cases: Iterable[tuple[Any, ...]]) -> list[Any]:
    """The pairs of values that no case has."""
    found = list(cases)
    return [
        (one, other)
        for first, second in combinations(range(len(values)), 2)
        for one, other in product(values[first], values[second])
        if not any((case[first], case[second]) == (one, other) for case in found)
    ]
