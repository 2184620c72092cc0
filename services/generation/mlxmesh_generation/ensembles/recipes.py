"""What each recipe does: a coroutine that asks members, and gives one answer to a stream."""

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from math import inf
from typing import Any, Protocol

from mlxmesh_generation.domain.ensemble import BestOf, Cascade, Fallback, Recipe, Vote
from mlxmesh_generation.domain.request import Event
from mlxmesh_generation.ensembles.answer import Answer
from mlxmesh_generation.ensembles.asking import Asking, Attempt
from mlxmesh_generation.ensembles.confidence import shortcoming
from mlxmesh_generation.ensembles.failures import leaves_to_others, nobody_answered
from mlxmesh_generation.ensembles.voting import canonical, elect
from mlxmesh_shared.errors import Cancelled, DeadlineExceeded, MeshError

FIRST_TOKEN_TIMEOUT = "FIRST_TOKEN_TIMEOUT"  # noqa: S105 - a reason
AGREED, OUTVOTED, OUTSCORED = "AGREED", "OUTVOTED", "OUTSCORED"
Answers = Sequence[tuple[Attempt, Answer]]


class Stream(Protocol):
    """Where the one answer goes."""

    def give(self, attempt: Attempt, events: Sequence[Event]) -> None:
        """Emits the events of an answer that has ended."""
        ...

    async def pass_on(self, attempt: Attempt, events: Sequence[Event]) -> None:
        """Emits the first events of an answer, and each later one as it comes.

        Raises: the error of its generation.
        """
        ...


async def run_recipe(recipe: Recipe, asking: Asking, stream: Stream) -> None:
    """Raises: the error for the caller."""
    match recipe:
        case Fallback():
            await _fall_back(recipe, asking, stream)
        case Cascade():
            await _cascade(recipe, asking, stream)
        case Vote():
            await _vote(recipe, asking, stream)
        case BestOf():
            await _best_of(recipe, asking, stream)


async def _fall_back(recipe: Fallback, asking: Asking, stream: Stream) -> None:
    *others, last = recipe.models
    for model in others:
        attempt = asking.add(model)
        limit = asyncio.timeout(recipe.first_token_timeout_s)
        try:
            async with limit:
                events = await asking.first_output(attempt, patient=False)
        except TimeoutError:
            if not limit.expired():
                raise
            _give_up(attempt)
        except MeshError as error:
            _note_failure(asking, attempt, error)
        else:
            await stream.pass_on(attempt, events)
            return
    await _answer_at_last(asking.add(last), asking, stream)


def _give_up(attempt: Attempt) -> None:
    """Ends an attempt that took too long for its first token."""
    attempt.reason = FIRST_TOKEN_TIMEOUT
    if attempt.member is not None:
        attempt.member.close(DeadlineExceeded("it had no token within the ensemble's time"))


async def _cascade(recipe: Cascade, asking: Asking, stream: Stream) -> None:
    *others, last = recipe.models
    for model in others:
        attempt = asking.add(model)
        try:
            answer = await asking.hold(attempt, logprobs=recipe.min_mean_logprob is not None)
        except MeshError as error:
            _note_failure(asking, attempt, error)
            continue
        attempt.score = answer.mean_logprob if recipe.min_mean_logprob is not None else None
        attempt.reason = shortcoming(answer, recipe, asking.request)
        if not attempt.reason or asking.cancelled:
            stream.give(attempt, answer.events)
            return
    await _answer_at_last(asking.add(last), asking, stream)


async def _answer_at_last(attempt: Attempt, asking: Asking, stream: Stream) -> None:
    """Passes on the last model's answer, whatever it is."""
    try:
        events = await asking.begin(attempt)
    except MeshError as error:
        _note_failure(asking, attempt, error)
        raise nobody_answered(asking.attempts) from error
    await stream.pass_on(attempt, events)


async def _vote(recipe: Vote, asking: Asking, stream: Stream) -> None:
    answers = await _hold_all(recipe, asking)
    if asking.cancelled:
        stream.give(answers[0][0], answers[0][1].events)
        return
    pattern = recipe.answer_pattern
    votes = await asyncio.to_thread(lambda: [canonical(answer, pattern) for _, answer in answers])
    place, numbers = elect(votes)
    for (attempt, _), vote, number in zip(answers, votes, numbers, strict=True):
        agreed = vote is not None and vote == votes[place]
        attempt.reason = AGREED if agreed else OUTVOTED
        attempt.score = number
    chosen, answer = answers[place]
    stream.give(chosen, answer.events)


async def _best_of(recipe: BestOf, asking: Asking, stream: Stream) -> None:
    answers = await _hold_all(recipe, asking)
    if asking.cancelled:
        stream.give(answers[0][0], answers[0][1].events)
        return
    failures: list[MeshError] = []

    async def score(attempt: Attempt, answer: Answer) -> None:
        try:
            attempt.score = await asking.score(recipe.judge, answer)
            attempt.reason = OUTSCORED
        except MeshError as error:
            if not leaves_to_others(error):
                raise
            attempt.reason = error.reason
            failures.append(error)

    await _all(score(*each) for each in answers)
    if len(failures) == len(answers):
        raise _judge_failed(recipe, failures[0])
    scores = [-inf if attempt.score is None else attempt.score for attempt, _ in answers]
    chosen, answer = answers[scores.index(max(scores))]
    stream.give(chosen, answer.events)


def _judge_failed(recipe: BestOf, error: MeshError) -> MeshError:
    message = f"the judge {recipe.judge} could score no answer: {error.message}"
    return type(error)(message, field="model", retry_delay_s=error.retry_delay_s)


async def _hold_all(recipe: Vote | BestOf, asking: Asking) -> Answers:
    """The answers of those that answered, in the order in which they were begun; at least one."""
    attempts = [
        asking.add(model, sample) for model in recipe.models for sample in range(recipe.samples)
    ]
    answers: dict[Attempt, Answer] = {}

    async def hold(attempt: Attempt) -> None:
        try:
            answers[attempt] = await asking.hold(attempt)
        except MeshError as error:
            _note_failure(asking, attempt, error)

    await _all(map(hold, attempts))
    if not answers:
        raise nobody_answered(attempts)
    return [(attempt, answers[attempt]) for attempt in attempts if attempt in answers]


def _note_failure(asking: Asking, attempt: Attempt, error: MeshError) -> None:
    """Leaves it to the others. Raises: the error if they cannot help."""
    if asking.cancelled:
        raise Cancelled("the generation was cancelled") from error
    attempt.error, attempt.reason = error, error.reason
    if not leaves_to_others(error):
        raise error


async def _all(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Runs all at once. Raises: the first error, after the others were ended."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
