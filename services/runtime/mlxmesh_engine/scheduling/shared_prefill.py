"""Which sequences wait for the prefill of another one with the same prompt, to get a copy. Pure."""

from collections.abc import Collection, Sequence

from mlxmesh_engine.scheduling.sequence import ActiveSequence


def leader_for(active: ActiveSequence, named: ActiveSequence | None) -> ActiveSequence | None:
    """The sequence whose prefill can serve `active` as well; None: it is prefilled by itself.

    Log-probabilities of a prompt are computed for each sequence that requests them.
    """
    if named is None or active.request.generated or active.needs_prompt_scores:
        return None
    # Always the first one of a chain, so that nobody waits for a sequence that waits.
    leader = named.leader or named
    same = leader.request.prefix_namespace == active.request.prefix_namespace
    if not same or leader.prefix_ids_of(leader.tokens) != active.prefix_ids_of(active.tokens):
        return None
    return leader


def follows(active: ActiveSequence, prefilling: Collection[ActiveSequence]) -> bool:
    """Whether it waits: its leader has a slot, and prompt tokens left to prefill."""
    return active.leader in prefilling and can_follow(active)


def own_prefills(prefilling: Sequence[ActiveSequence]) -> list[ActiveSequence]:
    """The sequences that do not wait for the prefill of another one with their prompt.

    A leader without a slot delays nobody: only one that is in prefill is sure to advance.
    """
    return [each for each in prefilling if not follows(each, prefilling)]


def can_follow(active: ActiveSequence) -> bool:
    """Whether it could get a copy: it has a leader, and its own prefill has not begun."""
    leader = active.leader
    return (
        leader is not None
        and active.remaining_prefill > 0
        and not active.prefill_started
        and not (active.isolated or leader.isolated)
    )
