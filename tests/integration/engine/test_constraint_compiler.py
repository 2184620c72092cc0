"""Compiles grammars: once each, within limits, and hostile ones without harm."""

import asyncio
import json
import os
import signal
import traceback
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from mlxmesh_engine.constraints.compiler import ConstraintCompiler
from mlxmesh_engine.constraints.limits import ConstraintLimits
from mlxmesh_engine.scheduling.request import FreePrefix, GrammarKind
from mlxmesh_shared.errors import (
    ConstraintFailed,
    ConstraintInvalid,
    ConstraintTooComplex,
    FeatureNotSupported,
    InvalidArgument,
    MeshError,
    ServiceUnavailable,
)
from tests.fakes.constrained_rig import compiler_for, constrained, write_text_model
from tests.fakes.tiny_model import EOS
from tests.fakes.tokenizer_files import word_piece

SLOW_SCHEMA = json.dumps({"type": "integer", "multipleOf": 99_999_989})
JSON, REGEX, LARK = GrammarKind.JSON_SCHEMA, GrammarKind.REGEX, GrammarKind.LARK


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text_model(tmp_path_factory.mktemp("text"))


@pytest.fixture
async def subject(model_dir: Path) -> AsyncIterator[ConstraintCompiler]:
    compiler = compiler_for(model_dir)
    yield compiler
    compiler.close()


async def test_equal_grammars_are_compiled_once(subject: ConstraintCompiler) -> None:
    request = constrained(1, REGEX, "[a-c]+")
    walkers = await asyncio.gather(*(subject.walker(request) for _ in range(8)))
    assert subject.compilations == 1
    assert len({id(walker.matcher) for walker in walkers}) == 8
    await subject.walker(request)
    assert subject.compilations == 1


async def test_refusals_are_remembered_too(subject: ConstraintCompiler) -> None:
    for _ in range(2):
        with pytest.raises(ConstraintInvalid, match="unclosed group"):
            await subject.walker(constrained(1, REGEX, "(a"))
    assert subject.compilations == 1


async def test_a_compilation_that_took_too_long_is_tried_again(model_dir: Path) -> None:
    compiler = compiler_for(model_dir, ConstraintLimits(compile_timeout_s=0.2))
    try:
        for _ in range(2):
            with pytest.raises(ConstraintTooComplex, match=r"takes longer than 0\.2 s"):
                await compiler.walker(constrained(1, JSON, SLOW_SCHEMA))
        assert compiler.compilations == 2
    finally:
        compiler.close()


async def test_a_remembered_refusal_does_not_keep_the_requests(
    subject: ConstraintCompiler,
) -> None:
    frames: list[int] = []
    for _ in range(4):
        with pytest.raises(ConstraintInvalid) as caught:
            await subject.walker(constrained(1, REGEX, "(a"))
        frames.append(len(list(traceback.walk_tb(caught.value.__traceback__))))
    assert frames[1] == frames[3]


async def test_the_cache_forgets_the_least_recently_used(model_dir: Path) -> None:
    compiler = compiler_for(model_dir, ConstraintLimits(cache_bytes=4_000_000))
    try:
        for at in range(80):
            await compiler.walker(constrained(1, REGEX, f"a{{{at + 1}}}"))
            assert compiler.cached_bytes <= 4_000_000
        await compiler.walker(constrained(1, REGEX, "a{1}"))
        assert compiler.compilations == 81
    finally:
        compiler.close()


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        (JSON, '{"properties": {"a": {"not": {}}}}', r'\["not"\] \(at /properties/a/not\)'),
        (JSON, '{"type": "strange"}', r"Invalid type: strange \(at /type\)"),
        (JSON, '{"type": "string", "format": "x"}', r"Unknown format: x \(at /format\)"),
        (JSON, '{"$ref": "http://localhost/x"}', "not present"),
        (JSON, '{"x-guidance": {"lenient": true}, "not": {}}', "not"),
        (JSON, "false", "allows nothing"),
        (JSON, "[1]", "object"),
        (JSON, "{", "not JSON"),
        (REGEX, "(?=a)b", "^the regular expression cannot be used: look-around"),
        (JSON, '{"type": "string", "pattern": "(["}', "regex parse error: unclosed"),
        (LARK, "start: missing", "unknown name"),
        (LARK, "", "no start rule"),
        (LARK, "begin: /a/", "no start rule"),
        (LARK, "start: <|nothing|>", "unknown special token"),
    ],
)
async def test_what_cannot_be_compiled_is_refused_with_the_reason(
    subject: ConstraintCompiler, kind: GrammarKind, text: str, words: str
) -> None:
    with pytest.raises(ConstraintInvalid, match=words) as caught:
        await subject.walker(constrained(1, kind, text))
    assert caught.value.field == f"constraint.{kind.value}"
    assert len(caught.value.message) < 600


def rules(count: int) -> str:
    chain = "\n".join(f"a{at}: a{at + 1}" for at in range(count))
    return f'start: a0\n{chain}\na{count}: "x"'


HOSTILE = {
    "stack overflow by rules": (LARK, rules(20_000)),
    "stack overflow by references": (
        JSON,
        json.dumps(
            {
                "$defs": {f"d{at}": {"$ref": f"#/$defs/d{at + 1}"} for at in range(7000)}
                | {"d7000": {}},
                "$ref": "#/$defs/d0",
            }
        ),
    ),
    "time": (JSON, SLOW_SCHEMA),
    "time by conjunction": (
        JSON,
        json.dumps(
            {"allOf": [{"type": "string", "pattern": f"(a|b)*a(a|b){{{n}}}"} for n in range(5, 25)]}
        ),
    ),
    "parentheses": (LARK, "start: " + "(" * 100_000 + '"a"' + ")" * 100_000),
    "groups": (REGEX, "(" * 100_000 + "a" + ")" * 100_000),
    "doubling terminals": (
        LARK,
        "start: A0\n" + "\n".join(f"A{n}: A{n + 1} A{n + 1}" for n in range(40)) + '\nA40: "x"',
    ),
    "many alternatives": (
        JSON,
        json.dumps(
            {
                "allOf": [
                    {"anyOf": [{"properties": {f"a{i}_{j}": {"type": "string"}}} for j in range(3)]}
                    for i in range(14)
                ]
            }
        ),
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_grammars_are_refused_by_name(model_dir: Path, name: str) -> None:
    kind, text = HOSTILE[name]
    compiler = compiler_for(model_dir, ConstraintLimits(compile_timeout_s=2.0))
    try:
        with pytest.raises((ConstraintTooComplex, ConstraintInvalid)) as caught:
            await compiler.walker(constrained(1, kind, text))
        assert caught.value.field == f"constraint.{kind.value}"
        # The engine goes on.
        await compiler.walker(constrained(2, REGEX, "a"))
    finally:
        compiler.close()


async def test_one_callers_hostile_grammars_leave_a_thread_to_others(model_dir: Path) -> None:
    compiler = compiler_for(model_dir, ConstraintLimits(compile_timeout_s=1.0))
    try:
        hostile = [
            asyncio.create_task(
                compiler.walker(
                    replace(
                        constrained(at, JSON, json.dumps({"multipleOf": 99_999_989, "x": at})),
                        caller="hostile",
                    )
                )
            )
            for at in range(6)
        ]
        await asyncio.sleep(0)
        await compiler.walker(replace(constrained(9, REGEX, "a+"), caller="friendly"))
        assert sum(task.done() for task in hostile) < len(hostile)
        for task in hostile:
            task.cancel()
        await asyncio.wait(hostile)
    finally:
        compiler.close()


async def test_closing_ends_running_trials(model_dir: Path) -> None:
    compiler = compiler_for(model_dir, ConstraintLimits(compile_timeout_s=300.0))
    await compiler.walker(constrained(1, REGEX, "a"))
    hostile = asyncio.create_task(compiler.walker(constrained(2, JSON, SLOW_SCHEMA)))
    while compiler.trial_pids:
        await asyncio.sleep(0)  # until its trial runs
    compiler.close()
    with pytest.raises(ServiceUnavailable):
        await hostile


async def test_a_killed_trial_process_is_replaced(subject: ConstraintCompiler) -> None:
    await subject.walker(constrained(1, REGEX, "a"))
    [pid] = subject.trial_pids
    os.kill(pid, signal.SIGKILL)
    await asyncio.to_thread(os.waitid, os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    await subject.walker(constrained(1, REGEX, "b"))
    assert subject.trial_pids != [pid]


async def test_a_cancelled_compilation_is_compiled_for_the_next(
    subject: ConstraintCompiler,
) -> None:
    first = asyncio.create_task(subject.walker(constrained(1, REGEX, "[x-z]+")))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    await subject.walker(constrained(2, REGEX, "[x-z]+"))


async def test_equal_grammars_are_compiled_once_also_after_a_cancelled_one(
    subject: ConstraintCompiler,
) -> None:
    await subject.walker(constrained(1, REGEX, "warm"))
    request = constrained(1, REGEX, "[x-z]{3}")
    first = asyncio.create_task(subject.walker(request))
    while subject.trial_pids and not first.done():
        await asyncio.sleep(0)  # until its trial runs; a short one may have ended unseen
    first.cancel()
    await asyncio.wait([first])
    others = [asyncio.create_task(subject.walker(request))]
    while not others[0].done():
        others.append(asyncio.create_task(subject.walker(request)))
        await asyncio.sleep(0.001)
    await asyncio.gather(*others)
    assert subject.compilations == 2


async def test_output_that_does_not_follow_the_grammar_cannot_be_resumed(
    subject: ConstraintCompiler,
) -> None:
    with pytest.raises(InvalidArgument, match="do not follow") as caught:
        await subject.walker(constrained(1, REGEX, "[a-c]+", generated=(5, 6)))
    assert caught.value.field == "generated_token_ids"


async def test_a_model_without_a_usable_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    words = word_piece(tmp_path / "words")
    for directory in (tmp_path / "none", words):
        compiler = compiler_for(directory)
        try:
            with pytest.raises(FeatureNotSupported, match="this model's tokenizer"):
                await compiler.walker(constrained(1, REGEX, "a"))
            # A prefix is about token ids only.
            await compiler.walker(constrained(2, prefix=FreePrefix((7,))))
        finally:
            compiler.close()


async def test_a_vocabulary_smaller_than_the_tokenizer_is_refused(model_dir: Path) -> None:
    compiler = compiler_for(model_dir, vocab_size=100)
    try:
        with pytest.raises(FeatureNotSupported, match="vocab"):
            await compiler.walker(constrained(1, REGEX, "a"))
    finally:
        compiler.close()


async def test_a_walker_reports_that_it_got_stuck(subject: ConstraintCompiler) -> None:
    import numpy as np

    walker = await subject.walker(constrained(1, REGEX, "abc"))
    walker.consume(5)
    mask = np.zeros(16, np.int32)
    with pytest.raises(ConstraintFailed, match="got stuck"):
        walker.complete(mask)
    assert (mask == -1).all()


async def test_an_end_before_the_grammar_is_complete_is_an_error(
    subject: ConstraintCompiler,
) -> None:
    walker = await subject.walker(constrained(1, REGEX, "abc"))
    walker.consume(EOS)
    assert walker.error


async def test_a_grammar_that_matches_nothing_is_refused(subject: ConstraintCompiler) -> None:
    with pytest.raises(MeshError) as caught:
        await subject.walker(constrained(1, JSON, '{"$ref": "#"}'))
    assert caught.value.field == "constraint.json_schema"
