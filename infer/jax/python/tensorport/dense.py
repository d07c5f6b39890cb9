"""Products with matrices as a checkpoint stores them, BF16 above all: XLA's own on the CPU first
writes them out as float32."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from tensorport import _ffi
from tensorport._batching import front_axis
from tensorport.mxfp4 import FLOATS, bias_of, check_product, dot


def _matmul_jnp(x, w, bias=None):
    common = jnp.promote_types(x.dtype, w.dtype)  # of BF16 with BF16, products are exact in float32
    return dot(x.astype(common), w.astype(common), bias).astype(x.dtype)


def _matmul_ffi(x, w, bias=None):
    result = ((*x.shape[:-1], w.shape[-2]), x.dtype)
    return _ffi.call("dense_matmul", [result], x, w, *(() if bias is None else (bias,)))[0]


@functools.cache
def _product(how: str):
    @jax.custom_batching.custom_vmap
    def product(x, w, bias):
        arguments = (x, w) + (() if bias is None else (bias,))
        if how == "jnp":
            return _matmul_jnp(*arguments)
        return _ffi.by_platform(_matmul_ffi, _matmul_jnp, *arguments)

    @product.def_vmap
    def rule(size, batched, x, w, bias):
        lead = w.ndim - 2 - batched[1]
        if not batched[1] and not batched[2]:
            return jnp.moveaxis(product(jnp.moveaxis(x, 0, lead), w, bias), lead, 0), True
        return product(*(front_axis(a, b, size) for a, b in zip((x, w, bias), batched))), True

    return product


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _matmul(how, x, w, bias):
    return _product(how)(x, w, bias)


def _matmul_forward(how, x, w, bias):
    return _matmul(how, x, w, bias), (x, w, bias)


def _matmul_backward(how, kept, gradient):
    return jax.vjp(_matmul_jnp, *kept)[1](gradient)


_matmul.defvjp(_matmul_forward, _matmul_backward)
_matmul_jit = jax.jit(_matmul, static_argnums=0)


def matmul(
    x: jax.Array, w: jax.Array, bias: jax.Array | None = None, *, implementation: str | None = None
) -> jax.Array:
    """x [..., K] in float32 or bfloat16 times w [N, K] in bfloat16, float16 or float32, plus bias
    [N]: [..., N] in x's dtype, summed in float32. Weights [*L, N, K] belong to the same axes of
    x [*L, ..., K]. Differentiable in all three. `implementation` as in tensorport.mxfp4."""
    x, w, bias = jnp.asarray(x), jnp.asarray(w), bias_of(bias)
    if w.dtype not in FLOATS:
        raise TypeError(f"w: expected bfloat16, float16 or float32, found {w.dtype}")
    check_product(x, w.shape, bias)
    return _matmul_jit(_ffi.choose(implementation), x, w, bias)
