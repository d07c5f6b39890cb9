"""Layers of flax.nnx whose weights stay as a checkpoint has them: MXFP4, BF16, F16 or F32.

    layer = tensorport.nnx.Linear.load(view, "model.layers.0.self_attn.q_proj")
    layer = tensorport.nnx.Linear.quantize(flax_linear)     # MXFP4 made from a Flax layer

Matrices are Packed, a Variable of its own: optimisers that ask for nnx.Param leave them alone, and
gradients flow through to the inputs and to what is small (biases, norms, sinks), which are Params.
Each layer takes `implementation`, which goes to the kernels: None (the best there is), "ffi", "jnp"
or, where they have it, "native".

Orientation is the checkpoint's, [out, in], and [expert, out, in]; Flax has [in, out].
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from . import attention, dense, mxfp4
from .cache import LayerCache
from .mxfp4 import MXFP4Array
from .rope import apply_rope
from .view import View, as_jax

__all__ = ["MLP", "Attention", "Embedding", "Linear", "MoE", "Packed", "RMSNorm"]


class Packed(nnx.Variable):
    """A weight as stored: an array or an MXFP4Array. Not trained."""


def _param(values: Any) -> nnx.Param | None:
    """What is small is computed with in float32."""
    return None if values is None else nnx.Param(jnp.asarray(values, jnp.float32))


def _value(param: nnx.Param | None) -> jax.Array | None:
    return None if param is None else param.get_value()


def _optional(view: View, name: str, wanted: bool | None) -> Any:
    """The tensor if it is wanted, or (None) if it is there."""
    return view[name] if wanted or (wanted is None and name in view) else None


class RMSNorm(nnx.Module):
    """x / rms(x) * scale, in float32."""

    def __init__(self, scale: Any, eps: float) -> None:
        self.scale = nnx.Param(jnp.asarray(scale, jnp.float32))
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        mean = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        return x * jax.lax.rsqrt(mean + self.eps) * self.scale.get_value()


class Linear(nnx.Module):
    """x [..., in] to [..., out]. `weight` [out, in], `bias` [out] or None."""

    def __init__(self, weight: Any, bias: Any = None, *, implementation: str | None = None) -> None:
        if len(weight.shape) != 2:
            raise ValueError(f"weight: expected [out, in], found {tuple(weight.shape)}")
        self.weight = Packed(as_jax(weight))
        self.bias = _param(bias)
        self.out_features, self.in_features = weight.shape
        self.implementation = implementation

    @classmethod
    def load(cls, view: View, prefix: str, *, bias: bool | None = None, implementation: str | None = None) -> Linear:
        """prefix.weight and prefix.bias; `bias` None: if there is one."""
        return cls(view[f"{prefix}.weight"], _optional(view, f"{prefix}.bias", bias), implementation=implementation)

    @classmethod
    def quantize(cls, layer: nnx.Linear, *, implementation: str | None = None) -> Linear:
        """The layer in MXFP4; its `in_features` is a multiple of 32."""
        bias = None if layer.bias is None else layer.bias.get_value()
        return cls(mxfp4.quantize(layer.kernel.get_value().T), bias, implementation=implementation)

    def __call__(self, x: jax.Array) -> jax.Array:
        weight, bias = self.weight.get_value(), _value(self.bias)
        multiply = mxfp4.matmul if isinstance(weight, MXFP4Array) else dense.matmul
        return multiply(x, weight, bias, implementation=self.implementation)


class Embedding(nnx.Module):
    """Token ids to rows [hidden], float32; and, where the head is tied to it, back to logits."""

    def __init__(self, weight: Any, *, implementation: str | None = None) -> None:
        self.weight = Packed(as_jax(weight))
        self.num_embeddings, self.features = weight.shape
        self.implementation = implementation

    @classmethod
    def load(cls, view: View, prefix: str, *, implementation: str | None = None) -> Embedding:
        return cls(view[f"{prefix}.weight"], implementation=implementation)

    @classmethod
    def quantize(cls, layer: nnx.Embed, *, implementation: str | None = None) -> Embedding:
        """The layer in MXFP4; its `features` is a multiple of 32."""
        return cls(mxfp4.quantize(layer.embedding.get_value()), implementation=implementation)

    def __call__(self, ids: jax.Array) -> jax.Array:
        rows = self.weight.get_value()[ids]
        return mxfp4.dequantize(rows, jnp.float32) if isinstance(rows, MXFP4Array) else rows.astype(jnp.float32)

    def attend(self, x: jax.Array) -> jax.Array:
        """Logits [..., num_embeddings]."""
        weight = self.weight.get_value()
        multiply = mxfp4.matmul if isinstance(weight, MXFP4Array) else dense.matmul
        return multiply(x, weight, implementation=self.implementation)


class Attention(nnx.Module):
    """Causal attention of grouped queries, with sinks and a window where there are any.

    `q`, `k`, `v`, `o`: Linear layers to [heads * head_dim] and [kv_heads * head_dim], and back.
    """

    def __init__(self, q: Linear, k: Linear, v: Linear, o: Linear, *, head_dim: int, sinks: Any = None, window: int = 0,
                 implementation: str | None = None) -> None:
        self.q, self.k, self.v, self.o = q, k, v, o
        self.sinks = _param(sinks)
        self.head_dim, self.window, self.implementation = head_dim, window, implementation

    @classmethod
    def load(cls, view: View, prefix: str, *, head_dim: int, sinks: bool | None = None, window: int = 0,
             bias: bool | None = None, implementation: str | None = None) -> Attention:
        """prefix.q_proj, k_proj, v_proj, o_proj and prefix.sinks."""
        q, k, v, o = (Linear.load(view, f"{prefix}.{name}_proj", bias=bias, implementation=implementation) for name in "qkvo")
        return cls(q, k, v, o, head_dim=head_dim, sinks=_optional(view, f"{prefix}.sinks", sinks), window=window,
                   implementation=implementation)

    @classmethod
    def quantize(cls, layer: nnx.MultiHeadAttention, *, implementation: str | None = None) -> Attention:
        """The layer in MXFP4, for self attention; what Attention computes is causal."""
        def linear(part: Any, inputs: int) -> Linear:
            kernel = part.kernel.get_value()
            kernel = kernel.reshape(inputs, -1)
            bias = None if part.bias is None else part.bias.get_value().reshape(-1)
            return Linear(mxfp4.quantize(kernel.T), bias, implementation=implementation)
        width = layer.num_heads * layer.head_dim
        q, k, v = (linear(part, layer.in_features) for part in (layer.query, layer.key, layer.value))
        return cls(q, k, v, linear(layer.out, width), head_dim=layer.head_dim, implementation=implementation)

    def __call__(self, x: jax.Array, cos: jax.Array | None = None, sin: jax.Array | None = None) -> jax.Array:
        """Of a whole text x [T, hidden]. `cos`, `sin` [T, head_dim / 2]: without them nothing is rotated."""
        rows, length = x.shape[0], jnp.int32(0)
        cache = LayerCache.empty(rows, self.k.out_features // self.head_dim, self.head_dim)
        q, k, v = self._project(x, cos, sin)
        cache, keys, values, _ = cache.extend(k, v, length, jnp.int32(rows), 0)
        return self._attend(q, keys, values, jnp.arange(rows, dtype=jnp.int32))

    def step(self, x: jax.Array, cos: jax.Array, sin: jax.Array, cache: LayerCache, length: jax.Array,
             count: jax.Array) -> tuple[jax.Array, LayerCache]:
        """The tokens x [T, hidden] behind the `length` of the cache; the first `count` are no padding."""
        q, k, v = self._project(x, cos, sin)
        cache, keys, values, first = cache.extend(k, v, length, count, self.window)
        positions = length - first + jnp.arange(x.shape[0], dtype=jnp.int32)
        return self._attend(q, keys, values, positions), cache

    def _project(self, x: jax.Array, cos: Any, sin: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        q, k, v = (part(x).reshape(x.shape[0], -1, self.head_dim) for part in (self.q, self.k, self.v))
        return (q, k, v) if cos is None else (apply_rope(q, cos, sin), apply_rope(k, cos, sin), v)

    def _attend(self, q: jax.Array, keys: jax.Array, values: jax.Array, positions: jax.Array) -> jax.Array:
        out = attention.sink_attention(q, keys, values, _value(self.sinks), positions, window=self.window,
                                       implementation=self.implementation)
        return self.o(out.reshape(q.shape[0], -1))


class MLP(nnx.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, gate: Linear, up: Linear, down: Linear) -> None:
        self.gate, self.up, self.down = gate, up, down

    @classmethod
    def load(cls, view: View, prefix: str, *, bias: bool | None = None, implementation: str | None = None) -> MLP:
        """prefix.gate_proj, up_proj and down_proj."""
        return cls(*(Linear.load(view, f"{prefix}.{name}_proj", bias=bias, implementation=implementation)
                     for name in ("gate", "up", "down")))

    @classmethod
    def quantize(cls, gate: nnx.Linear, up: nnx.Linear, down: nnx.Linear, *, implementation: str | None = None) -> MLP:
        """The three layers in MXFP4."""
        return cls(*(Linear.quantize(layer, implementation=implementation) for layer in (gate, up, down)))

    def __call__(self, x: jax.Array, live: jax.Array | None = None) -> jax.Array:
        del live
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class MoE(nnx.Module):
    """GPT-OSS's mixture of experts: top-k of the router's logits, softmax over those chosen.

    `gate_up` [experts, 2 * inner, hidden], even rows gate, odd rows up; `down` [experts, hidden,
    inner]; MXFP4Array or plain. Biases [experts, 2 * inner] and [experts, hidden].
    """

    def __init__(self, router: Linear, gate_up: Any, gate_up_bias: Any, down: Any, down_bias: Any, *, k: int,
                 alpha: float = 1.702, limit: float = 7.0, implementation: str | None = None) -> None:
        self.router = router
        self.gate_up, self.down = Packed(as_jax(gate_up)), Packed(as_jax(down))
        self.gate_up_bias, self.down_bias = _param(gate_up_bias), _param(down_bias)
        self.k, self.alpha, self.limit, self.implementation = k, alpha, limit, implementation

    @classmethod
    def load(cls, view: View, prefix: str, *, k: int, alpha: float = 1.702, limit: float = 7.0,
             implementation: str | None = None) -> MoE:
        """prefix.router and prefix.experts. [expert, in, out], as transformers writes what is not MXFP4,
        becomes [expert, out, in]."""
        router = Linear.load(view, f"{prefix}.router", bias=True, implementation=implementation)
        gate_up, down = (view[f"{prefix}.experts.{name}_proj"] for name in ("gate_up", "down"))
        if isinstance(gate_up, np.ndarray) and isinstance(down, np.ndarray) and (
                gate_up.shape[-1] != router.in_features or down.shape[-2] != router.in_features):
            gate_up, down = gate_up.swapaxes(-1, -2), down.swapaxes(-1, -2)
        biases = [view[f"{prefix}.experts.{name}_proj_bias"] for name in ("gate_up", "down")]
        return cls(router, gate_up, biases[0], down, biases[1], k=k, alpha=alpha, limit=limit, implementation=implementation)

    @classmethod
    def quantize(cls, router: nnx.Linear, gate_up: jax.Array, gate_up_bias: jax.Array, down: jax.Array,
                 down_bias: jax.Array, *, k: int, implementation: str | None = None) -> MoE:
        """Experts in MXFP4, from arrays in the shapes above; the router stays as it is."""
        plain = Linear(router.kernel.get_value().T, None if router.bias is None else router.bias.get_value(),
                       implementation=implementation)
        return cls(plain, mxfp4.quantize(gate_up), gate_up_bias, mxfp4.quantize(down), down_bias, k=k,
                   implementation=implementation)

    def route(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The experts [T, k] of tokens x [T, hidden], best first, and their weights."""
        logits, experts = jax.lax.top_k(self.router(x), self.k)
        return experts.astype(jnp.int32), jax.nn.softmax(logits, axis=-1)

    def __call__(self, x: jax.Array, live: jax.Array | None = None) -> jax.Array:
        """[..., hidden] from and to. Tokens that are not `live` [...] go to no expert and give zeros."""
        tokens = x.reshape(-1, x.shape[-1])
        experts, weights = self.route(tokens)
        if live is not None:
            experts = jnp.where(live.reshape(-1, 1), experts, -1)
        gate_up, down = self.gate_up.get_value(), self.down.get_value()
        packed = isinstance(gate_up, MXFP4Array) and isinstance(down, MXFP4Array)
        compute: Any = mxfp4.moe if packed else _plain_moe
        out = compute(tokens, experts, weights, gate_up, _value(self.gate_up_bias), down, _value(self.down_bias),
                      alpha=self.alpha, limit=self.limit, implementation=self.implementation)
        return out.reshape(x.shape)


def _plain_moe(x: jax.Array, experts: jax.Array, weights: jax.Array, gate_up: jax.Array, gate_up_bias: jax.Array,
               down: jax.Array, down_bias: jax.Array, *, alpha: float, limit: float,
               implementation: str | None) -> jax.Array:
    """The same for experts that a view shows decoded: one after the other, each for all tokens."""
    del implementation

    def add(total: jax.Array, expert: jax.Array) -> tuple[jax.Array, None]:
        both = x @ _float32(gate_up, expert).T + gate_up_bias[expert]
        gate, up = jnp.minimum(both[:, 0::2], limit), jnp.clip(both[:, 1::2], -limit, limit)
        inner = gate * jax.nn.sigmoid(alpha * gate) * (up + 1)
        share = jnp.where(experts == expert, weights, 0).sum(-1, keepdims=True)
        out = inner @ _float32(down, expert).T + down_bias[expert]
        return total + jnp.where(share > 0, share * out, 0), None

    return jax.lax.scan(add, jnp.zeros_like(x), jnp.arange(gate_up_bias.shape[0]))[0]


def _float32(weights: Any, expert: jax.Array) -> jax.Array:
    one = weights[expert]
    return mxfp4.dequantize(one, jnp.float32) if isinstance(one, MXFP4Array) else one.astype(jnp.float32)
