"""What the rules for vmap have in common."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def front_axis(array: jax.Array | None, batched: bool, size: int) -> jax.Array | None:
    """With the mapped axis in front, also where it had none."""
    if array is None or batched:
        return array
    return jnp.broadcast_to(array, (size, *array.shape))


def collapse(array: jax.Array) -> jax.Array:
    """[size, n, ...] to [size * n, ...]"""
    return array.reshape(array.shape[0] * array.shape[1], *array.shape[2:])


def restore(array: jax.Array, size: int) -> jax.Array:
    """[size * n, ...] to [size, n, ...]"""
    return array.reshape(size, array.shape[0] // max(size, 1), *array.shape[1:])
