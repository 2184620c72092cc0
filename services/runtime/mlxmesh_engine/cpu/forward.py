"""The forward pass of a `Decoder` over tokens of several sequences at once.

Every product is computed once for all tokens, whatever the lengths of the sequences; only the
attention goes sequence by sequence. Nothing is padded.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from mlxmesh_engine.cpu.attention import attend
from mlxmesh_engine.cpu.blocks import Attention, Block, Decoder, Norm, QueryGrowth, Rotation
from mlxmesh_engine.cpu.cache import CachedTokens, HostCache, RowKeysValues
from mlxmesh_engine.cpu.kv_format import FULL, KvFormat, head_bytes
from mlxmesh_engine.cpu.products import Floats
from mlxmesh_engine.cpu.units import run_unit

Complexes = NDArray[np.complex64]


class Interrupted(Exception):
    """A pass ended early and left its rows as they were."""


class DecoderPass:
    """Computes hidden states and scores; appends keys and values to the rows of a cache."""

    interrupt: Callable[[], bool] | None = None
    """Checked before and after each layer: whether `hidden` must end; None for never."""

    def __init__(self, decoder: Decoder, kv_format: KvFormat = FULL) -> None:
        self._decoder = decoder
        self._kv_format = kv_format
        layers, attention = len(decoder.blocks), decoder.blocks[0].attention
        self._kv_shape = (layers, attention.kv_heads, attention.head_dims)
        self.token_bytes = (
            2 * layers * attention.kv_heads * head_bytes(kv_format, attention.head_dims)
        )
        """The size of one token's keys and values."""

    def new_cache(self, prefixes: Sequence[CachedTokens | None]) -> HostCache:
        """A cache with a row for each prefix; None for an empty row."""
        rows = [RowKeysValues(*self._kv_shape, self._kv_format) for _ in prefixes]
        for row, prefix in zip(rows, prefixes, strict=True):
            if prefix is not None:
                row.load(prefix)
        return HostCache(rows, self.token_bytes)

    def hidden(self, sequences: Sequence[Sequence[int]], rows: Sequence[RowKeysValues]) -> Floats:
        """The last hidden states (tokens, features) of the next tokens of each row, in order.

        Raises: Interrupted.
        """
        decoder, step = self._decoder, Step(sequences, rows)
        decoder.adapters.tokens.begin(step.counts)
        tokens = np.array([token for row in sequences for token in row], np.int64)
        hidden = decoder.embedding.weight_rows(tokens)
        if decoder.embedding_scale != 1.0:
            hidden = hidden * np.float32(decoder.embedding_scale)
        for layer, block in enumerate(decoder.blocks):
            self._check(step)
            _run_block(block, hidden, step, layer)
        self._check(step)  # the scores of many rows take as long as a layer
        return hidden

    def _check(self, step: "Step") -> None:
        """Raises: Interrupted."""
        if self.interrupt is not None and self.interrupt():
            step.undo()
            raise Interrupted

    def scores(self, hidden: Floats) -> Floats:
        """The scores (tokens, vocab) for the token after each of these."""
        decoder = self._decoder
        normed = normalize(decoder.final_norm, hidden)
        if decoder.score_scale != 1.0:
            normed = normed * np.float32(decoder.score_scale)
        scores = decoder.head(normed)
        if (cap := decoder.score_softcap) is not None:
            scores = np.tanh(scores / np.float32(cap)) * np.float32(cap)
        return scores


class Step:
    """The tokens of one pass: which rows they extend, and where."""

    def __init__(self, sequences: Sequence[Sequence[int]], rows: Sequence[RowKeysValues]) -> None:
        self.rows = rows
        self.counts = [len(tokens) for tokens in sequences]
        self.starts = [row.tokens for row in rows]
        self._rotations: dict[Rotation, Complexes] = {}
        self._positions = np.concatenate(
            [
                np.arange(start, start + count)
                for start, count in zip(self.starts, self.counts, strict=True)
            ]
        )
        for row, count in zip(rows, self.counts, strict=True):
            row.reserve(count)
            row.tokens += count

    def undo(self) -> None:
        """Forgets the tokens of the pass."""
        for row, start in zip(self.rows, self.starts, strict=True):
            row.tokens = start

    def rotation(self, rotation: Rotation) -> Complexes:
        """Cos + i sin of each token and pair: (tokens, 1, pairs)."""
        if rotation not in self._rotations:
            angles = self._positions[:, None] * rotation.frequencies
            turned = (rotation.scale * np.exp(1j * angles)).astype(np.complex64)
            self._rotations[rotation] = turned[:, None]
        return self._rotations[rotation]

    def growth(self, growth: QueryGrowth) -> Floats:
        """The factor of each token's queries: (tokens, 1, 1)."""
        periods = self._positions // growth.period_tokens
        return (1 + growth.beta * np.log1p(periods)).astype(np.float32)[:, None, None]

    def append(self, keys: Floats, values: Floats, layer: int) -> None:
        """Stores the keys and values (tokens, kv heads, dims) of the pass in their rows."""
        kv_format, at = self.rows[0].kv_format, 0
        encoded = [*kv_format.encode(keys), *kv_format.encode(values)]
        for row, start, count in zip(self.rows, self.starts, self.counts, strict=True):
            row.write(layer, start, [part[at : at + count] for part in encoded])
            at += count


def normalize(norm: Norm, values: Floats) -> Floats:
    """RMS norm over the last axis; returns a new array."""
    squares = np.einsum("...i,...i->...", values, values)
    squares *= np.float32(1 / values.shape[-1])
    squares += np.float32(norm.epsilon)
    np.sqrt(squares, out=squares)
    normed = values / squares[..., None]
    if norm.gain is not None:
        normed *= norm.gain
    return normed


def _run_block(block: Block, hidden: Floats, step: Step, layer: int) -> None:
    """Adds the block's attention and unit to `hidden`."""
    attended = _attend(block.attention, _normed(block.attention_norm, hidden), step, layer)
    if block.attention_output_norm is not None:
        attended = normalize(block.attention_output_norm, attended)
    hidden += attended
    output = run_unit(block.unit, _normed(block.unit_norm, hidden))
    if block.unit_output_norm is not None:
        output = normalize(block.unit_output_norm, output)
    hidden += output


def _normed(norm: Norm | None, values: Floats) -> Floats:
    return values if norm is None else normalize(norm, values)


def _attend(attention: Attention, normed: Floats, step: Step, layer: int) -> Floats:
    heads = attention.inputs(normed).reshape(len(normed), -1, attention.head_dims)
    rotated = attention.heads + attention.kv_heads
    queries, keys = heads[:, : attention.heads], heads[:, attention.heads : rotated]
    if not attention.norms_after_rotation:
        _normalize_queries_and_keys(attention, queries, keys)
    if attention.rotation is not None:
        turn = step.rotation(attention.rotation)
        pairs = heads[:, :rotated].view(np.complex64)[..., : turn.shape[-1]]
        np.multiply(pairs, turn, out=pairs)
    if attention.norms_after_rotation:
        _normalize_queries_and_keys(attention, queries, keys)
    if attention.query_growth is not None:
        queries *= step.growth(attention.query_growth)
    step.append(keys, heads[:, rotated:], layer)
    return attention.output(attend(attention, queries, step.rows, step.counts, layer))


def _normalize_queries_and_keys(attention: Attention, queries: Floats, keys: Floats) -> None:
    if attention.query_norm is not None:
        queries[...] = _normalize_heads(attention.query_norm, queries)
    if attention.key_norm is not None:
        keys[...] = _normalize_heads(attention.key_norm, keys)


def _normalize_heads(norm: Norm, heads: Floats) -> Floats:
    """Each head's norm, or one norm over all heads if the gain has their size."""
    if norm.gain is None or len(norm.gain) == heads.shape[-1]:
        return normalize(norm, heads)
    return normalize(norm, heads.reshape(len(heads), -1)).reshape(heads.shape)
