"""Text from a model: a prompt in chunks, then one token after the other.

A prompt is cut into chunks of 512 tokens, the last of which is padded to 16, 128 or 512, so that there
are four shapes to compile at most, the single token's among them. Each is one call under jit, the
choice of the token included; the KV cache is donated, the weights are arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from .cache import Cache
from .sampling import Rules, Sampler, Sampling, choose, new_sampler, note

if TYPE_CHECKING:
    from .gpt_oss import Transformer

__all__ = ["Generation", "Generator"]

_CHUNKS = (16, 128, 512)


class Generation(NamedTuple):
    """`tokens` of the continuation, and why it ended: "eos" (its last token says so), "length" or
    "context"."""

    tokens: list[int]
    stop: str


def _chunks(n: int) -> list[tuple[int, int]]:
    """(tokens, tokens with padding) of each chunk."""
    largest = _CHUNKS[-1]
    out = [(largest, largest)] * (n // largest)
    rest = n % largest
    return out + [(rest, next(size for size in _CHUNKS if size >= rest))] if rest else out


def _capacity(needed: int) -> int:
    """Rounded up, so that texts of other lengths need no other program."""
    rounded = 256
    while rounded < needed:
        rounded = rounded * 2 if rounded < 4096 else rounded + 4096
    return rounded


class Generator:
    """What generates with one model. It keeps what was compiled; a cache belongs to one text."""

    def __init__(self, model: Transformer, cache_dtype: Any = jnp.float32) -> None:
        self.config = model.config
        self.cache_dtype = cache_dtype
        self._new_cache = model.cache
        graph, state = nnx.split(model)
        self._weights, structure = jax.tree.flatten(state)  # a flat list is the quickest argument

        def rebuild(weights: list[jax.Array]) -> Transformer:
            return nnx.merge(graph, jax.tree.unflatten(structure, weights))

        def read(weights: list[jax.Array], cache: Cache, tokens: jax.Array, count: jax.Array) -> tuple[jax.Array, Cache]:
            hidden, cache = rebuild(weights).step(tokens, cache, count)
            return hidden[count - 1], cache

        def first(weights: list[jax.Array], hidden: jax.Array, rules: Rules, sampler: Sampler,
                  position: jax.Array) -> tuple[jax.Array, Sampler]:
            return choose(rebuild(weights).logits(hidden), rules, sampler, position)

        def following(weights: list[jax.Array], cache: Cache, token: jax.Array, rules: Rules,
                      sampler: Sampler) -> tuple[jax.Array, Cache, Sampler]:
            model = rebuild(weights)
            hidden, cache = model.step(token[None], cache, jnp.int32(1))
            token, sampler = choose(model.logits(hidden[0]), rules, sampler, cache.length)
            return token, cache, sampler

        self._read = jax.jit(read, donate_argnums=1)
        self._first = jax.jit(first, static_argnums=2, donate_argnums=3)
        self._following = jax.jit(following, static_argnums=3, donate_argnums=(1, 4))
        self._note = jax.jit(note, donate_argnums=0)

    def generate(self, prompt_ids: Iterable[int], max_tokens: int = 256, *, temperature: float | None = None,
                 top_k: int | None = None, top_p: float | None = None, min_p: float | None = None,
                 repetition_penalty: float | None = None, seed: int = 0, on_token: Callable[[int], object] | None = None,
                 stop_ids: Iterable[int] | None = None) -> Generation:
        """Continues the prompt. What is None is as generation_config.json recommends; `stop_ids` None are
        its end-of-text ids. `on_token` is called with each token when it is known."""
        ids = self._checked(prompt_ids)
        given = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p,
                 "repetition_penalty": repetition_penalty, "seed": seed}
        sampling = Sampling(**{**asdict(self.config.sampling), **{k: v for k, v in given.items() if v is not None}})
        stops = frozenset(self.config.eos_tokens if stop_ids is None else stop_ids)
        room = self.config.context - len(ids)
        n = min(max_tokens, room)
        tokens: list[int] = []
        for token in self._tokens(ids, n, sampling):
            tokens.append(token)
            if on_token is not None:
                on_token(token)
            if token in stops:
                return Generation(tokens, "eos")
        return Generation(tokens, "context" if room < max_tokens else "length")

    def _checked(self, prompt_ids: Iterable[int]) -> np.ndarray:
        ids = np.asarray(prompt_ids if isinstance(prompt_ids, np.ndarray) else list(prompt_ids))
        if ids.ndim != 1 or ids.size == 0 or ids.dtype.kind not in "iu":
            raise ValueError(f"prompt: expected at least one token id, found {ids.dtype} {ids.shape}")
        if ids.min() < 0 or ids.max() >= self.config.vocab_size:
            i = int(np.argmax((ids < 0) | (ids >= self.config.vocab_size)))
            raise ValueError(f"prompt: expected ids below {self.config.vocab_size}, found {ids[i]} at index {i}")
        if len(ids) > self.config.context:
            raise ValueError(f"prompt: expected at most {self.config.context} tokens, the model's context, found {len(ids)}")
        return ids.astype(np.int32)

    def _tokens(self, ids: np.ndarray, n: int, sampling: Sampling) -> Iterable[int]:
        if n <= 0:
            return
        rules, sampler = new_sampler(sampling, self.config.vocab_size)
        padded = sum(size for _, size in _chunks(len(ids)))
        cache = self._new_cache(_capacity(max(len(ids) + n, padded)), self.cache_dtype)
        hidden, at = None, 0
        for count, size in _chunks(len(ids)):
            chunk = jnp.asarray(np.pad(ids[at:at + count], (0, size - count)))
            hidden, cache = self._read(self._weights, cache, chunk, np.int32(count))
            if rules.penalty:
                sampler = self._note(sampler, chunk, np.int32(count))
            at += count
        token, sampler = self._first(self._weights, hidden, rules, sampler, np.int32(len(ids)))
        yield int(token)
        for _ in range(n - 1):
            token, cache, sampler = self._following(self._weights, cache, token, rules, sampler)
            yield int(token)
