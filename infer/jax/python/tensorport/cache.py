"""The KV cache: keys and values of the tokens so far, in bounded memory.

A layer that sees all keys has room for `capacity` tokens. One with a window keeps the last `window`
of them, in order: at token n its first row is that of position max(0, n - window). Attention only
sees how far keys and queries are apart, so a window's rows may be counted from there.

Everything has a fixed shape. A step of T tokens, of which the last may be padding, writes T rows; the
padding's are overwritten by the next step before anything sees them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["Cache", "LayerCache"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LayerCache:
    """Of one layer: keys and values [rows, kv_heads, head_dim]."""

    keys: jax.Array
    values: jax.Array

    @staticmethod
    def empty(rows: int, kv_heads: int, head_dim: int, dtype: Any = jnp.float32) -> LayerCache:
        return LayerCache(*(jnp.zeros((rows, kv_heads, head_dim), dtype) for _ in range(2)))

    def extend(self, keys: jax.Array, values: jax.Array, length: jax.Array, count: jax.Array,
               window: int) -> tuple[LayerCache, jax.Array, jax.Array, jax.Array]:
        """Adds T rows, of which `count` are no padding, behind the `length` that were there.

        Gives the cache for the next step, the rows to attend to now (keys, values), and what to
        subtract from a position to get its row.
        """
        if window == 0:
            both = self._write(keys, values, length)
            return both, both.keys, both.values, jnp.zeros_like(length)
        rows, kept = self.keys.shape[0], jnp.maximum(length - self.keys.shape[0], 0)
        room = jax.tree.map(lambda a: jnp.pad(a, ((0, keys.shape[0]), (0, 0), (0, 0))), self)
        both = room._write(keys, values, length - kept)
        shift = jnp.maximum(length + count - rows, 0) - kept
        last = jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, shift, rows), both)
        return last, both.keys, both.values, kept

    def _write(self, keys: jax.Array, values: jax.Array, row: jax.Array) -> LayerCache:
        return LayerCache(*(jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), row, 0)
                            for old, new in ((self.keys, keys), (self.values, values))))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    """Of all layers, and what belongs to positions: how many tokens there are, cosines and sines."""

    length: jax.Array  # int32
    layers: tuple[LayerCache, ...]
    cos: jax.Array  # [capacity, head_dim / 2]
    sin: jax.Array

    @property
    def capacity(self) -> int:
        return self.cos.shape[0]
