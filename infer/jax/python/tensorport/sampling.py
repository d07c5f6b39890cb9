"""Choosing the next token from logits, under jit.

In this order: the repetition penalty, temperature, top-k, top-p, min-p, then a draw. Nothing is
sorted: what top-k and top-p keep begins at a logit, which is found by halving the range of float32
(32 sums over the vocabulary). Equal logits stay or go together. The draw of a position depends on
the seed and the position only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["Rules", "Sampler", "Sampling", "choose", "new_sampler", "note"]

_ROW = 512  # of the vocabulary, for the draw


@dataclass(frozen=True)
class Sampling:
    """How to choose. temperature 0: the likeliest; top_k 0, top_p 1, min_p 0, repetition_penalty 1: no
    effect."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, good in (("temperature", self.temperature >= 0), ("top_k", self.top_k >= 0),
                           ("top_p", 0 <= self.top_p <= 1), ("min_p", 0 <= self.min_p <= 1),
                           ("repetition_penalty", self.repetition_penalty > 0)):
            if not good:
                raise ValueError(f"{name}: out of range: {getattr(self, name)}")


class Rules(NamedTuple):
    """Which steps there are: what is compiled. Their numbers are arguments."""

    draws: bool
    top_k: bool
    top_p: bool
    min_p: bool
    penalty: bool


class Sampler(NamedTuple):
    """What the choice depends on beside the logits."""

    seen: jax.Array  # bool [vocabulary]: tokens of the text so far
    temperature: jax.Array
    top_k: jax.Array
    top_p: jax.Array
    min_p: jax.Array
    penalty: jax.Array
    key: jax.Array


def new_sampler(sampling: Sampling, vocabulary: int) -> tuple[Rules, Sampler]:
    s = sampling
    draws = s.temperature > 0 and s.top_k != 1
    rules = Rules(draws, draws and 0 < s.top_k < vocabulary, draws and s.top_p < 1, draws and s.min_p > 0,
                  s.repetition_penalty != 1)
    return rules, Sampler(jnp.zeros(vocabulary, bool), jnp.float32(s.temperature or 1), jnp.int32(s.top_k),
                          jnp.float32(s.top_p), jnp.float32(s.min_p), jnp.float32(s.repetition_penalty),
                          jax.random.key(s.seed % 2**63))


def note(sampler: Sampler, tokens: jax.Array, count: jax.Array) -> Sampler:
    """The first `count` of the tokens are in the text now."""
    n = sampler.seen.shape[0]
    ids = jnp.where(jnp.arange(tokens.shape[0]) < count, tokens, n)  # beyond the end: dropped
    return sampler._replace(seen=sampler.seen.at[ids].set(True, mode="drop"))


def choose(logits: jax.Array, rules: Rules, sampler: Sampler, position: jax.Array) -> tuple[jax.Array, Sampler]:
    """The token (int32) for `position`, from logits [vocabulary]; it is noted."""
    logits = jnp.where(jnp.isnan(logits), -jnp.inf, logits.astype(jnp.float32))
    if rules.penalty:
        penalised = jnp.where(logits > 0, logits / sampler.penalty, logits * sampler.penalty)
        logits = jnp.where(sampler.seen, penalised, logits)
    token = _draw(logits, rules, sampler, position) if rules.draws else jnp.argmax(logits)
    token = token.astype(jnp.int32)
    return token, note(sampler, token[None], jnp.int32(1)) if rules.penalty else sampler


def _draw(logits: jax.Array, rules: Rules, sampler: Sampler, position: jax.Array) -> jax.Array:
    weights = jnp.exp((logits - jnp.max(logits)) / sampler.temperature)  # of the likeliest: 1
    order = _ordered(logits)
    if rules.top_k:
        weights = _keep(weights, order, lambda kept: jnp.sum(kept) >= sampler.top_k)
    if rules.top_p:
        wanted = sampler.top_p * jnp.sum(weights)
        weights = _keep(weights, order, lambda kept: jnp.sum(jnp.where(kept, weights, 0)) >= wanted)
    if rules.min_p:
        weights = jnp.where(weights >= sampler.min_p, weights, 0)
    return _pick(weights, jax.random.uniform(jax.random.fold_in(sampler.key, position)))


def _ordered(x: jax.Array) -> jax.Array:
    """uint32 in the order of the float32 values."""
    bits = jax.lax.bitcast_convert_type(x + 0.0, jnp.uint32)  # -0 becomes 0
    return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))


def _keep(weights: jax.Array, order: jax.Array, enough: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """The weights from the highest rank on at which what is kept is enough; the likeliest always is."""
    def bit(i: jax.Array, least: jax.Array) -> jax.Array:
        higher = least | (jnp.uint32(1) << (31 - i).astype(jnp.uint32))
        return jnp.where(enough(order >= higher), higher, least)
    least = jax.lax.fori_loop(0, 32, bit, jnp.uint32(0))
    return jnp.where(order >= jnp.minimum(least, jnp.max(order)), weights, 0)


def _pick(weights: jax.Array, uniform: jax.Array) -> jax.Array:
    """The index at which the weights' sum passes `uniform` of the whole: first the row, then in it."""
    n = weights.shape[0]
    rows = jnp.pad(weights, (0, -n % _ROW)).reshape(-1, _ROW)
    row, rest = _pass(jnp.sum(rows, axis=1), uniform)
    column, _ = _pass(rows[row], rest)
    return row * _ROW + column


def _pass(weights: jax.Array, uniform: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where the sum passes, and how far into that weight, from 0 to 1. Never at a weight of 0."""
    sums = jnp.cumsum(weights)
    target = uniform * sums[-1]
    last = jnp.max(jnp.where(weights > 0, jnp.arange(weights.shape[0]), 0))  # where rounding would go beyond
    i = jnp.minimum(jnp.argmax((sums > target) & (weights > 0)), last)
    i = jnp.where(jnp.any(sums > target), i, last)
    into = (target - (sums[i] - weights[i])) / weights[i]
    return i, jnp.clip(into, 0, 1 - 2.0**-24)
