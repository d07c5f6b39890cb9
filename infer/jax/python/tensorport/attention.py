"""Attention to a KV cache with grouped heads, a sliding window and sinks, as GPT-OSS has it.

Batches: leading axes. q [..., T, heads, d] goes with caches [..., capacity, kv_heads, d] and
positions [..., T] of the same leading axes, or of none (one cache for all); `sinks` [heads] has none.
vmap adds such an axis. A query at a position outside 0 .. capacity - 1 sees nothing and comes out as
zeros, so a batch of texts of different lengths is padded with positions of -1.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from tensorport import _ffi
from tensorport._batching import front_axis
from tensorport.mxfp4 import bias_of, check_x


def _attention_jnp(q, keys, values, positions, sinks=None, *, window, scale):
    """All [*L, ...], in float32."""
    kv_heads, capacity = keys.shape[-2], keys.shape[-3]
    group = q.shape[-2] // kv_heads
    grouped = q.astype(jnp.float32).reshape(*q.shape[:-2], kv_heads, group, q.shape[-1])
    high = jax.lax.Precision.HIGHEST
    scores = scale * jnp.einsum("...tngd,...snd->...ngts", grouped, keys.astype(jnp.float32), precision=high)
    at = jnp.arange(capacity)
    inside = (positions >= 0) & (positions < capacity)
    seen = (at <= positions[..., None]) & inside[..., None]
    if window > 0:
        seen &= at > positions[..., None] - window
    scores = jnp.where(seen[..., None, None, :, :], scores, -jnp.inf)
    largest = scores.max(axis=-1, keepdims=True, initial=-jnp.inf)
    if sinks is not None:
        sinks = sinks.astype(jnp.float32).reshape(kv_heads, group, 1, 1)
        largest = jnp.maximum(largest, sinks)
    largest = jax.lax.stop_gradient(jnp.where(jnp.isfinite(largest), largest, 0))
    shares = jnp.exp(scores - largest)
    total = shares.sum(axis=-1, keepdims=True)
    if sinks is not None:
        total += jnp.exp(sinks - largest)
    shares = shares / jnp.where(total == 0, 1, total)
    # What nobody sees may be anything, NaN too: 0 * NaN would not be 0.
    visible = jnp.where(seen.any(axis=-2)[..., None, None], values.astype(jnp.float32), 0)
    mixed = jnp.einsum("...ngts,...snd->...tngd", shares, visible, precision=high)
    return mixed.reshape(q.shape).astype(q.dtype)


def _attention_ffi(q, keys, values, positions, sinks=None, *, window, scale):
    arguments = (q, keys, values, positions) + (() if sinks is None else (sinks,))
    attributes = {"window": np.int64(window), "scale": np.float32(scale)}
    return _ffi.call("sink_attention", [(q.shape, q.dtype)], *arguments, **attributes)[0]


@functools.cache
def _attention(how: str, window: int, scale: float):
    plain = functools.partial(_attention_jnp, window=window, scale=scale)
    fast = functools.partial(_attention_ffi, window=window, scale=scale)

    @jax.custom_batching.custom_vmap
    def attention(q, keys, values, positions, sinks):
        arguments = (q, keys, values, positions) + (() if sinks is None else (sinks,))
        return plain(*arguments) if how == "jnp" else _ffi.by_platform(fast, plain, *arguments)

    @attention.def_vmap
    def rule(size, batched, q, keys, values, positions, sinks):
        arguments = (q, keys, values, positions, sinks)
        if batched[4]:
            every = tuple(front_axis(a, b, size) for a, b in zip(arguments, batched))
            return jax.lax.map(lambda a: attention(*a), every), True
        q, positions = front_axis(q, batched[0], size), front_axis(positions, batched[3], size)
        if batched[1] or batched[2]:
            keys, values = front_axis(keys, batched[1], size), front_axis(values, batched[2], size)
            return attention(q, keys, values, positions, sinks), True
        # One cache for all: they are more queries of it.
        lead, tokens = keys.ndim - 3, q.shape[-3]
        q, positions = jnp.moveaxis(q, 0, lead), jnp.moveaxis(positions, 0, lead)
        flat = attention(
            q.reshape(*q.shape[:lead], size * tokens, *q.shape[-2:]),
            keys,
            values,
            positions.reshape(*positions.shape[:lead], size * tokens),
            sinks,
        )
        return jnp.moveaxis(flat.reshape(q.shape), lead, 0), True

    return attention


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _attend(how, window, scale, q, keys, values, positions, sinks):
    return _attention(how, window, scale)(q, keys, values, positions, sinks)


def _attend_forward(how, window, scale, *arguments):
    return _attend(how, window, scale, *arguments), arguments


def _attend_backward(how, window, scale, kept, gradient):
    q, keys, values, positions, sinks = kept

    def plain(q, keys, values, sinks):
        return _attention_jnp(q, keys, values, positions, sinks, window=window, scale=scale)

    to_q, to_keys, to_values, to_sinks = jax.vjp(plain, q, keys, values, sinks)[1](gradient)
    return to_q, to_keys, to_values, None, to_sinks


_attend.defvjp(_attend_forward, _attend_backward)
_attend_jit = jax.jit(_attend, static_argnums=(0, 1, 2))


def _check(q, keys, values, sinks, positions) -> None:
    check_x(q)
    if keys.dtype != values.dtype or keys.dtype not in (jnp.float32, jnp.bfloat16):
        raise TypeError(f"caches: expected both float32 or both bfloat16, found {keys.dtype}, {values.dtype}")
    heads = q.shape[-2] if q.ndim >= 3 else 0
    if (
        q.ndim < 3
        or keys.shape != values.shape
        or keys.shape[:-3] != q.shape[:-3]
        or keys.shape[-1:] != q.shape[-1:]
        or positions.shape != q.shape[:-2]
        or keys.shape[-2] == 0
        or heads % keys.shape[-2] != 0
    ):
        raise ValueError(
            "expected q [..., T, heads, d], caches [..., capacity, kv_heads, d] and positions [..., T], heads "
            f"a multiple of kv_heads; found {list(q.shape)}, {list(keys.shape)}, {list(values.shape)} and "
            f"{list(positions.shape)}"
        )
    if sinks is not None and sinks.shape != (heads,):
        raise ValueError(f"sinks: expected {[heads]}, found {list(sinks.shape)}")


def sink_attention(
    q: jax.Array,
    k_cache: jax.Array,
    v_cache: jax.Array,
    sinks: jax.Array | None,
    positions: jax.Array,
    *,
    window: int = 0,
    scale: float | None = None,
    implementation: str | None = None,
) -> jax.Array:
    """What queries q [T, heads, d] at `positions` (int32 [T]) mix of a cache's values: [T, heads, d].

    k_cache and v_cache [capacity, kv_heads, d] hold position p in row p, up to the last position
    asked for; what lies behind it is not looked at. A query sees itself and what is before it, with
    `window` only that many keys, itself included. Head h reads KV head h * kv_heads // heads. `sinks`
    [heads] are logits that join each softmax without a value. `scale` is 1 / sqrt(d) unless given.
    q is float32 or bfloat16, which the result is, too; the caches likewise; all sums in float32."""
    q, k_cache, v_cache = jnp.asarray(q), jnp.asarray(k_cache), jnp.asarray(v_cache)
    positions, sinks = jnp.asarray(positions, jnp.int32), bias_of(sinks)
    if q.ndim > k_cache.ndim == 3 and k_cache.shape == v_cache.shape:  # one cache for all
        flat = (math.prod(q.shape[:-2]), *q.shape[-2:])
        mixed = sink_attention(
            q.reshape(flat),
            k_cache,
            v_cache,
            sinks,
            jnp.broadcast_to(positions, q.shape[:-2]).reshape(flat[0]),
            window=window,
            scale=scale,
            implementation=implementation,
        )
        return mixed.reshape(q.shape)
    _check(q, k_cache, v_cache, sinks, positions)
    if window < 0:
        raise ValueError(f"window: expected 0 (none) or more, found {window}")
    how = _ffi.choose(implementation)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return _attend_jit(how, int(window), float(scale), q, k_cache, v_cache, positions, sinks)
