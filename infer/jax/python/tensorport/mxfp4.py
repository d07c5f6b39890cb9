"""MXFP4 weights as a checkpoint stores them: quantise, decode, multiply, a layer of experts.

A block is 32 columns: 16 bytes, low nibble first, of E2M1 codes that share a scale, an E8M0 byte.
Products are of the weights exactly as stored with x as it comes, summed in float32; only the result
is rounded to x's dtype. The forms in C and in jax.numpy differ by the order of sums and nothing else.
Everything works under jit, vmap and shard_map, and is differentiable in x (in biases and routing
weights, too); the weights are bytes, which have no gradient.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tensorport import _ffi
from tensorport._batching import collapse, front_axis, restore

BLOCK = 32
BLOCK_BYTES = 16
VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # of the codes 0 to 7; 8 more are negative
FLOATS = (jnp.float32, jnp.bfloat16, jnp.float16)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class MXFP4Array:
    """A matrix [..., N, K] in MXFP4, or several: blocks uint8 [..., N, K/32, 16] and scales uint8
    [..., N, K/32], the two tensors of a checkpoint. A pytree; what is in it may be anything that
    jax takes for an array."""

    blocks: Any
    scales: Any
    dtype: Any = dataclasses.field(default=jnp.bfloat16, metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.scales.shape[:-1], BLOCK * self.scales.shape[-1])

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Of the blocks and scales."""
        return math.prod(self.blocks.shape) + math.prod(self.scales.shape)

    def __getitem__(self, index: Any) -> MXFP4Array:
        """Of the leading axes (and of rows): the columns stay whole."""
        indices = index if isinstance(index, tuple) else (index,)
        if sum(i is not None and i is not Ellipsis for i in indices) >= self.ndim or Ellipsis in indices:
            raise IndexError(f"an MXFP4Array of shape {self.shape} is indexed by all but its columns")
        return MXFP4Array(self.blocks[index], self.scales[index], self.dtype)

    def __len__(self) -> int:
        return self.shape[0]


def _check(w: MXFP4Array) -> None:
    blocks, scales = w.blocks, w.scales
    if blocks.dtype != jnp.uint8 or scales.dtype != jnp.uint8:
        raise TypeError(f"expected blocks and scales in uint8, found {blocks.dtype} and {scales.dtype}")
    if blocks.shape != (*scales.shape, BLOCK_BYTES):
        raise ValueError(
            "expected blocks [..., K/32, 16] and scales [..., K/32], "
            f"found {list(blocks.shape)} and {list(scales.shape)}"
        )


def check_x(x: jax.Array) -> None:
    if x.dtype not in (jnp.float32, jnp.bfloat16):
        raise TypeError(f"x: expected float32 or bfloat16, found {x.dtype}")


# ---- quantise ----


def _bits(x: jax.Array) -> jax.Array:
    """The bits as float32, subnormal numbers included: XLA's CPU flushes them in arithmetic."""
    if x.dtype == jnp.bfloat16:
        return jax.lax.bitcast_convert_type(x, jnp.uint16).astype(jnp.uint32) << 16
    return jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)


def _threshold(scale: jax.Array, exponent: int, mantissa: int) -> jax.Array:
    """The bits of (1 + mantissa / 8) * 2^exponent, scaled; what only infinity is above where that is
    beyond float32."""
    field = scale.astype(jnp.int32) + exponent
    significand = jnp.uint32(8 + mantissa) << 20
    normal = (field.astype(jnp.uint32) << 23) + (jnp.uint32(mantissa) << 20)
    normal = jnp.minimum(normal, jnp.uint32(0x7F7FFFFF))
    return jnp.where(field > 0, normal, significand >> jnp.clip(1 - field, 0, 31).astype(jnp.uint32))


def _quantize_jnp(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    bits = _bits(x).reshape(*x.shape[:-1], x.shape[-1] // BLOCK, BLOCK)
    magnitude = bits & 0x7FFFFFFF
    largest = magnitude.max(axis=-1, keepdims=True, initial=0)
    nan = largest > 0x7F800000
    scale = jnp.where(nan, 255, jnp.maximum((largest >> 23).astype(jnp.int32) - 2, 0))
    code = jnp.zeros(bits.shape, jnp.uint32)
    # Between neighbours, ties to the even code: 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.
    middles = ((-2, 0), (-1, 4), (0, 2), (0, 6), (1, 2), (1, 6), (2, 2))
    for below, (exponent, mantissa) in enumerate(middles):
        limit = _threshold(scale, exponent, mantissa)
        code += (magnitude > limit if below % 2 == 0 else magnitude >= limit).astype(jnp.uint32)
    code = jnp.where(nan, 0, code | bits >> 31 << 3)
    blocks = (code[..., 0::2] | code[..., 1::2] << 4).astype(jnp.uint8)
    return blocks, scale[..., 0].astype(jnp.uint8)


def _quantize_ffi(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    scales = (*x.shape[:-1], x.shape[-1] // BLOCK)
    results = [((*scales, BLOCK_BYTES), jnp.uint8), (scales, jnp.uint8)]
    return tuple(_ffi.call("mxfp4_quantize", results, x, vmap_method="broadcast_all"))


@functools.partial(jax.jit, static_argnums=0)
def _quantize(how: str, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    x = jax.lax.stop_gradient(x)
    if how == "jnp":
        return _quantize_jnp(x)
    return _ffi.by_platform(_quantize_ffi, _quantize_jnp, x)


def quantize(x: jax.Array, *, implementation: str | None = None) -> MXFP4Array:
    """x [..., K] in float32, bfloat16 or float16, K a multiple of 32, to the nearest MXFP4: shared
    exponent from each block's largest magnitude, ties to even, saturating (OCP MX 1.0, section
    6.3). A NaN makes its block NaN. What `dequantize` gave of such an array gives the same bytes."""
    x = jnp.asarray(x)
    if x.dtype not in FLOATS:
        raise TypeError(f"x: expected float32, bfloat16 or float16, found {x.dtype}")
    if x.ndim < 1 or x.shape[-1] % BLOCK != 0:
        raise ValueError(f"x: expected [..., K] with K a multiple of {BLOCK}, found {list(x.shape)}")
    dtype = x.dtype if x.dtype != jnp.float16 else jnp.bfloat16
    return MXFP4Array(*_quantize(_ffi.choose(implementation), x), np.dtype(dtype))


# ---- decode ----


def _dequantize_jnp(blocks: jax.Array, scales: jax.Array, dtype: Any) -> jax.Array:
    """By the bits: arithmetic would flush scales of 2^-127 to zero on some devices."""
    codes = jnp.stack([blocks & 15, blocks >> 4], axis=-1).reshape(*scales.shape, BLOCK).astype(jnp.uint32)
    scale = scales[..., None].astype(jnp.int32)
    code, sign = codes & 7, codes >> 3 << 31
    field = scale + (code >> 1).astype(jnp.int32) - 1  # of codes 2 to 7; 1 is half of 2
    half = jnp.where(code == 1, 0, code & 1)
    normal = (field.astype(jnp.uint32) << 23) | (half << 22)
    subnormal = jnp.where(field == 0, (2 + half) << 21, jnp.uint32(1 << 21))
    bits = jnp.where(field > 254, jnp.uint32(0x7F800000), jnp.where(field > 0, normal, subnormal))
    bits = jnp.where(scale == 255, jnp.uint32(0x7FC00000), jnp.where(code == 0, 0, bits) | sign)
    bits = bits.reshape(*scales.shape[:-1], scales.shape[-1] * BLOCK)
    if dtype == jnp.bfloat16:
        return jax.lax.bitcast_convert_type((bits >> 16).astype(jnp.uint16), jnp.bfloat16)
    return jax.lax.bitcast_convert_type(bits, jnp.float32).astype(dtype)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _dequantize(how: str, blocks: jax.Array, scales: jax.Array, dtype: Any) -> jax.Array:
    def ffi(blocks, scales):
        shape = (*scales.shape[:-1], scales.shape[-1] * BLOCK)
        return _ffi.call(
            "mxfp4_dequantize", [(shape, dtype)], blocks, scales, vmap_method="broadcast_all"
        )[0]

    plain = functools.partial(_dequantize_jnp, dtype=dtype)
    return plain(blocks, scales) if how == "jnp" else _ffi.by_platform(ffi, plain, blocks, scales)


def dequantize(w: MXFP4Array, dtype: Any = jnp.bfloat16, *, implementation: str | None = None) -> jax.Array:
    """The weights [..., N, K]: exact in bfloat16 and float32, where only what lies beyond their
    range becomes infinite, rounded in float16. A scale of 255 is NaN."""
    _check(w)
    dtype = np.dtype(dtype)
    if dtype not in FLOATS:
        raise TypeError(f"dtype: expected float32, bfloat16 or float16, found {dtype}")
    how = _ffi.choose(implementation)
    return _dequantize(how, jnp.asarray(w.blocks), jnp.asarray(w.scales), dtype)


# ---- multiply ----


def dot(x: jax.Array, w: jax.Array, bias: jax.Array | None) -> jax.Array:
    """x [*L, ..., K] times w [*L, N, K], in float32: the form in jax.numpy of every product."""
    lead = w.ndim - 2
    flat = x.reshape(*x.shape[:lead], math.prod(x.shape[lead:-1]), x.shape[-1])
    batch = tuple(range(lead))
    y = jax.lax.dot_general(
        flat,
        w,
        (((lead + 1,), (lead + 1,)), (batch, batch)),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
    if bias is not None:
        y += bias[..., None, :].astype(jnp.float32)
    return y.reshape(*x.shape[:-1], w.shape[-2]).astype(x.dtype)


def _matmul_jnp(x, blocks, scales, bias=None):
    return dot(x, _dequantize_jnp(blocks, scales, x.dtype), bias)


def _matmul_ffi(x, blocks, scales, bias=None):
    result = ((*x.shape[:-1], blocks.shape[-3]), x.dtype)
    return _ffi.call("mxfp4_matmul", [result], x, blocks, scales, *(() if bias is None else (bias,)))[0]


def _matmul_native(x, blocks, scales, bias=None):
    """UNTESTED on a device with tensor cores for FP4: nobody here had one. The operands go to XLA
    in its own types; x becomes MXFP4, too, since such a device multiplies FP4 by FP4. So the result
    carries x's rounding to 4 bits: this is for throughput."""
    rounded = MXFP4Array(*_quantize_jnp(x.reshape(-1, x.shape[-1])))

    def operand(blocks, scales):
        codes = jax.lax.bitcast_convert_type(blocks, jnp.float4_e2m1fn)
        values = codes.reshape(1, scales.shape[-2], scales.shape[-1] * BLOCK)
        return values, jax.lax.bitcast_convert_type(scales, jnp.float8_e8m0fnu)[None]

    (a, a_scales), (b, b_scales) = operand(rounded.blocks, rounded.scales), operand(blocks, scales)
    y = jax.nn.scaled_matmul(a, b, a_scales, b_scales, preferred_element_type=jnp.float32)[0]
    if bias is not None:
        y += bias.astype(jnp.float32)
    return y.reshape(*x.shape[:-1], blocks.shape[-3]).astype(x.dtype)


@functools.cache
def _product(how: str):
    """The product as vmap sees it: who maps over x alone gets more rows of x, not more weights."""

    @jax.custom_batching.custom_vmap
    def product(x, blocks, scales, bias):
        arguments = (x, blocks, scales) + (() if bias is None else (bias,))
        if how == "jnp":
            return _matmul_jnp(*arguments)
        if how == "native":
            return _matmul_native(*arguments)
        return _ffi.by_platform(_matmul_ffi, _matmul_jnp, *arguments)

    @product.def_vmap
    def rule(size, batched, x, blocks, scales, bias):
        x_batched, blocks_batched, scales_batched, bias_batched = batched
        lead = scales.ndim - 2 - scales_batched
        if not (blocks_batched or scales_batched or bias_batched):
            # After the axes that x shares with the weights.
            return jnp.moveaxis(product(jnp.moveaxis(x, 0, lead), blocks, scales, bias), lead, 0), True
        if not (blocks_batched or scales_batched):
            y = product(jnp.moveaxis(x, 0, lead), blocks, scales, None) if x_batched else product(
                x, blocks, scales, None)
            y = jnp.moveaxis(y, lead, 0) if x_batched else y[None]
            extra = y.ndim - bias.ndim
            shape = (*bias.shape[:-1], *([1] * extra), bias.shape[-1])
            return (y.astype(jnp.float32) + bias.reshape(shape).astype(jnp.float32)).astype(x.dtype), True
        if how == "native":
            return jax.lax.map(lambda a: _matmul_native(*a[:3], bias=a[3]), tuple(
                front_axis(a, b, size) for a, b in zip((x, blocks, scales, bias), batched))), True
        return product(*(front_axis(a, b, size) for a, b in zip((x, blocks, scales, bias), batched))), True

    return product


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _matmul(how, x, blocks, scales, bias):
    return _product(how)(x, blocks, scales, bias)


def _matmul_forward(how, x, blocks, scales, bias):
    return _matmul(how, x, blocks, scales, bias), (x, blocks, scales, bias)


def _matmul_backward(how, kept, gradient):
    x, blocks, scales, bias = kept
    if how == "native":
        how = "jnp"
    w = _dequantize(how, blocks, scales, x.dtype)
    _, pull = jax.vjp(lambda x, bias: dot(x, w, bias), x, bias)
    gradient_x, gradient_bias = pull(gradient)
    return gradient_x, None, None, gradient_bias


_matmul.defvjp(_matmul_forward, _matmul_backward)
_matmul_jit = jax.jit(_matmul, static_argnums=0)


def check_product(x: jax.Array, shape: tuple[int, ...], bias: jax.Array | None) -> None:
    """That x [*L, ..., K] goes with weights [*L, N, K] and a bias [*L, N]."""
    check_x(x)
    lead = len(shape) - 2
    if lead < 0 or x.ndim <= lead or x.shape[-1] != shape[-1] or x.shape[:lead] != shape[:lead]:
        raise ValueError(
            f"expected x [*L, ..., K] for weights [*L, N, K], found {list(x.shape)} and {list(shape)}"
        )
    if bias is not None and bias.shape != shape[:-1]:
        raise ValueError(f"bias: expected {list(shape[:-1])}, found {list(bias.shape)}")


def bias_of(bias: Any) -> jax.Array | None:
    if bias is None:
        return None
    bias = jnp.asarray(bias)
    return bias if bias.dtype in (jnp.float32, jnp.bfloat16) else bias.astype(jnp.float32)


def matmul(
    x: jax.Array, w: MXFP4Array, bias: jax.Array | None = None, *, implementation: str | None = None
) -> jax.Array:
    """x [..., K] in float32 or bfloat16 times w [N, K], plus bias [N]: [..., N] in x's dtype.

    Weights with leading axes [*L, N, K] belong to the same axes of x [*L, ..., K]; then bias is
    [*L, N]. `implementation`: None chooses, "ffi" insists on the kernels in C (on other platforms
    than theirs it is jax.numpy all the same), "jnp" on jax.numpy; "native" hands XLA its own
    float4_e2m1fn, for devices that compute in it: untested, and rounds x to MXFP4 as well."""
    x, bias = jnp.asarray(x), bias_of(bias)
    _check(w)
    check_product(x, w.shape, bias)
    how = _ffi.choose(implementation, ("native",))
    if how == "native" and w.ndim != 2:
        raise ValueError(f"implementation 'native' takes weights [N, K], found {list(w.shape)}")
    return _matmul_jit(how, x, jnp.asarray(w.blocks), jnp.asarray(w.scales), bias)


# ---- a layer of experts ----


def _swiglu(pairs, alpha, limit):
    """GPT-OSS: even columns are the gate, odd ones the other half, each clamped in its own way."""
    gate = jnp.minimum(pairs[..., 0::2], limit)
    up = jnp.clip(pairs[..., 1::2], -limit, limit)
    return (up + 1) * gate * jax.nn.sigmoid(alpha * gate)


def _expert(x, weights, alpha, limit):
    """x [n, H] through one expert, in float32."""
    gate_up, gate_up_scales, down, down_scales, gate_up_bias, down_bias = weights
    pairs = dot(x, _dequantize_jnp(gate_up, gate_up_scales, jnp.float32), gate_up_bias)
    return dot(_swiglu(pairs, alpha, limit), _dequantize_jnp(down, down_scales, jnp.float32), down_bias)


def _moe_jnp(x, experts, weights, *tensors, alpha, limit):
    tensors = tensors + (None,) * (6 - len(tensors))
    n_experts, y = tensors[0].shape[0], x.astype(jnp.float32)
    here = (experts >= 0) & (experts < n_experts)
    weights = jnp.where(here, weights, 0)
    if n_experts == 0 or x.shape[0] == 0:
        return jnp.zeros_like(x)
    if experts.size <= n_experts:  # few tokens: their experts alone are decoded
        def slot(token, expert):
            chosen = jax.tree.map(lambda t: t[expert], tensors)
            return _expert(y[token][None], chosen, alpha, limit)[0]

        tokens = jnp.broadcast_to(jnp.arange(x.shape[0])[:, None], experts.shape)
        flat = (tokens.reshape(-1), jnp.where(here, experts, 0).reshape(-1))
        outputs = jax.lax.map(lambda pair: slot(*pair), flat)
        outputs = outputs.reshape(*experts.shape, x.shape[-1])
        used = jnp.where(here[..., None], outputs, 0) * weights[..., None]
        return used.sum(axis=1).astype(x.dtype)

    def add_expert(total, numbered):
        number, chosen = numbered
        mine = experts == number
        share = jnp.where(mine, weights, 0).sum(axis=1)[:, None]
        added = jnp.where(mine.any(axis=1)[:, None], _expert(y, chosen, alpha, limit), 0)
        return total + share * added, None

    total, _ = jax.lax.scan(add_expert, jnp.zeros_like(y), (jnp.arange(n_experts), tensors))
    return total.astype(x.dtype)


def _moe_ffi(x, *arguments, alpha, limit):
    attributes = {"alpha": np.float32(alpha), "limit": np.float32(limit)}
    return _ffi.call("mxfp4_moe", [(x.shape, x.dtype)], x, *arguments, **attributes)[0]


@functools.cache
def _mixture(how: str, alpha: float, limit: float):
    plain = functools.partial(_moe_jnp, alpha=alpha, limit=limit)
    fast = functools.partial(_moe_ffi, alpha=alpha, limit=limit)

    @jax.custom_batching.custom_vmap
    def mixture(x, experts, weights, tensors):
        arguments = (x, experts, weights, *tensors)
        return plain(*arguments) if how == "jnp" else _ffi.by_platform(fast, plain, *arguments)

    @mixture.def_vmap
    def rule(size, batched, x, experts, weights, tensors):
        routed = (x, experts, weights)
        if any(batched[3]):
            every = jax.tree.map(lambda a, b: front_axis(a, b, size), (*routed, tensors), tuple(batched))
            return jax.lax.map(lambda a: mixture(*a), every), True
        routed = [front_axis(a, b, size) for a, b in zip(routed, batched)]
        return restore(mixture(*(collapse(a) for a in routed), tensors), size), True

    return mixture


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _moe(how, alpha, limit, x, experts, weights, tensors):
    return _mixture(how, alpha, limit)(x, experts, weights, tensors)


def _moe_forward(how, alpha, limit, x, experts, weights, tensors):
    return _moe(how, alpha, limit, x, experts, weights, tensors), (x, experts, weights, tensors)


def _moe_backward(how, alpha, limit, kept, gradient):
    x, experts, weights, tensors = kept
    packed, biases = tensors[:4], tensors[4:]

    def plain(x, weights, biases):
        return _moe_jnp(x, experts, weights, *packed, *biases, alpha=alpha, limit=limit)

    gradient_x, gradient_weights, gradient_biases = jax.vjp(plain, x, weights, biases)[1](gradient)
    return gradient_x, None, gradient_weights, (None,) * 4 + tuple(gradient_biases)


_moe.defvjp(_moe_forward, _moe_backward)
_moe_jit = jax.jit(_moe, static_argnums=(0, 1, 2))


def _check_moe(x, experts, weights, gate_up, gate_up_bias, down, down_bias) -> None:
    check_x(x)
    if x.ndim != 2 or experts.ndim != 2 or experts.shape[0] != x.shape[0] or weights.shape != experts.shape:
        raise ValueError(
            "expected x [T, H], experts [T, k] and weights [T, k], "
            f"found {list(x.shape)}, {list(experts.shape)} and {list(weights.shape)}"
        )
    hidden, inner = x.shape[1], down.shape[-1]
    n_experts = gate_up.shape[0]
    for name, array, shape in (
        ("gate_up", gate_up, (n_experts, 2 * inner, hidden)),
        ("gate_up_bias", gate_up_bias, (n_experts, 2 * inner)),
        ("down", down, (n_experts, hidden, inner)),
        ("down_bias", down_bias, (n_experts, hidden)),
    ):
        if array is not None and array.shape != shape:
            raise ValueError(f"{name}: expected {list(shape)}, found {list(array.shape)}")


def moe(
    x: jax.Array,
    experts: jax.Array,
    weights: jax.Array,
    gate_up: MXFP4Array,
    gate_up_bias: jax.Array | None,
    down: MXFP4Array,
    down_bias: jax.Array | None,
    *,
    alpha: float = 1.702,
    limit: float = 7.0,
    implementation: str | None = None,
) -> jax.Array:
    """The experts of GPT-OSS: tokens x [T, H] in float32 or bfloat16, each through the k experts
    (int32 [T, k]) that a router chose for it, added with weights (float32 [T, k]): [T, H].

    gate_up [E, 2 I, H] and its bias [E, 2 I] have the gate in even rows and the other half in odd
    ones; down [E, H, I], its bias [E, H]. gate = min(gate, limit), up is clamped to +-limit, and
    what goes down is (up + 1) * gate * sigmoid(alpha * gate). All in float32 up to the result.

    An expert outside 0 .. E - 1 is one that is elsewhere and adds nothing: with the experts sharded,
    each device computes `experts - its first` and the results are summed by psum."""
    x, experts, weights = jnp.asarray(x), jnp.asarray(experts, jnp.int32), jnp.asarray(weights, jnp.float32)
    gate_up_bias, down_bias = bias_of(gate_up_bias), bias_of(down_bias)
    _check(gate_up)
    _check(down)
    _check_moe(x, experts, weights, gate_up, gate_up_bias, down, down_bias)
    tensors = tuple(map(jnp.asarray, (gate_up.blocks, gate_up.scales, down.blocks, down.scales)))
    if gate_up_bias is not None or down_bias is not None:
        tensors += tuple(
            jnp.zeros(w.shape[:2], jnp.float32) if bias is None else bias
            for bias, w in ((gate_up_bias, gate_up), (down_bias, down))
        )
    return _moe_jit(_ffi.choose(implementation), float(alpha), float(limit), x, experts, weights, tensors)
