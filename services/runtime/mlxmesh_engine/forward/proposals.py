"""Opens the configured source of proposals; loads a draft model and checks that it fits."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tokenizers import Tokenizer

from mlxmesh_engine.forward.draft import DraftModel, DraftSpeculation
from mlxmesh_engine.forward.loader import LoadedModel
from mlxmesh_engine.scheduling.capacity import kv_memory
from mlxmesh_engine.speculation.speculation import NgramSpeculation, NoSpeculation, Speculation
from mlxmesh_shared.errors import InvalidArgument

_log = logging.getLogger(__name__)
_TOKENIZER = "tokenizer.json"


def open_speculation(speculative: str, loaded: LoadedModel) -> Speculation:
    """speculative: off, ngram or draft.

    Off for models whose caches cannot be cut, since they cannot forget rejected tokens, and for
    models that see: the positions of their tokens are not those of the sequence.
    """
    if speculative == "off":
        return NoSpeculation()
    if not _can_speculate(loaded):
        _log.info("speculation is off: this model's caches cannot be cut at a token, or it sees")
        return NoSpeculation()
    return NgramSpeculation() if loaded.draft is None else DraftSpeculation(loaded.draft)


def with_draft(
    loaded: LoadedModel,
    load_draft: Callable[[], LoadedModel],
    *,
    model_dir: Path,
    draft_model_dir: Path,
    available_bytes: Callable[[], int],
    kv_cache_bytes: int | None,
) -> LoadedModel:
    """The model with its draft model, whose weights, keys and values count as its own.

    Raises: InvalidArgument if the two do not have the same tokens, or the draft model's cache
    cannot be cut; whatever loading raises.
    """
    if not _can_speculate(loaded):
        return loaded
    check_same_tokens(model_dir, draft_model_dir)
    draft = load_draft()
    if draft.vocab_size != loaded.vocab_size:
        raise _not_fitting(
            draft_model_dir, f"has {draft.vocab_size} tokens, the model {loaded.vocab_size}"
        )
    if not draft.model.new_cache([None]).cuttable:
        raise _not_fitting(draft_model_dir, "has a cache that cannot be cut at a token")
    return replace(
        loaded,
        draft=DraftModel(draft.model, draft.batching, draft.context_tokens),
        weights_bytes=loaded.weights_bytes + draft.weights_bytes,
        kv=kv_memory(
            token_bytes=loaded.kv.token_bytes + draft.kv.token_bytes,
            context_tokens=loaded.context_tokens,
            available_bytes=available_bytes(),
            configured_bytes=kv_cache_bytes,
        ),
    )


def check_same_tokens(model_dir: Path, draft_model_dir: Path) -> None:
    """Raises: InvalidArgument if a token's number means another text in the other model."""
    mine, other = (folder / _TOKENIZER for folder in (model_dir, draft_model_dir))
    for path in (mine, other):
        if not path.is_file():
            raise _not_fitting(
                draft_model_dir, f"cannot be compared: {path.parent} has no {_TOKENIZER}"
            )
    if mine.read_bytes() == other.read_bytes():
        return
    try:
        vocabularies = [Tokenizer.from_file(str(path)).get_vocab() for path in (mine, other)]
    except Exception as error:
        raise _not_fitting(
            draft_model_dir, f"has a tokenizer that cannot be read: {error}"
        ) from error
    if vocabularies[0] != vocabularies[1]:
        raise _not_fitting(draft_model_dir, "has another tokenizer than the model")


def _can_speculate(loaded: LoadedModel) -> bool:
    return loaded.image_reader is None and loaded.model.new_cache([None]).cuttable


def _not_fitting(draft_model_dir: Path, why: str) -> InvalidArgument:
    return InvalidArgument(
        f"the draft model {draft_model_dir.name} {why}; choose one of the same family, or set "
        "speculative to ngram",
        field="draft_model_dir",
    )
