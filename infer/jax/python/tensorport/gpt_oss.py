"""GPT-OSS in Flax nnx, on the weights as they lie in a mount; Llama and Mistral by the same code.

    x = embedding[token]
    for each layer:
        x += o . attention(q . norm(x), k . norm(x), v . norm(x))
        x += experts(norm(x))  or  down . (silu(gate . norm(x)) * up . norm(x))
    logits = head . norm(x)

    model = tensorport.gpt_oss.load("/mnt/jax")
    answer = model.generate(prompt_ids, max_tokens=100)

Every number is from config.json. On the CPU the matrices are the mount's own pages: the model has no
memory of its own but norms, biases and the KV cache. Layers are unrolled, not scanned: a scan would
want the weights in one array, which they are not.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from .cache import Cache, LayerCache
from .config import ModelConfig, read_config
from .generate import Generation, Generator
from .nnx import MLP, Attention, Embedding, Linear, MoE, RMSNorm
from .rope import rope_tables
from .text import Tokenizer
from .view import View, open_view

__all__ = ["Layer", "Model", "Transformer", "load"]


class Layer(nnx.Module):
    """One layer: attention, then experts or MLP, each behind a norm and added to what came in."""

    def __init__(self, view: View, i: int, config: ModelConfig, implementation: str | None) -> None:
        prefix, how = f"model.layers.{i}", {"implementation": implementation}
        self.input_norm = RMSNorm(view[f"{prefix}.input_layernorm.weight"], config.rms_norm_eps)
        self.attention = Attention.load(view, f"{prefix}.self_attn", head_dim=config.head_dim, sinks=config.sinks,
                                        window=config.windows[i], bias=config.attention_bias, **how)
        self.mlp_norm = RMSNorm(view[f"{prefix}.post_attention_layernorm.weight"], config.rms_norm_eps)
        self.mlp = (MoE.load(view, f"{prefix}.mlp", k=config.n_experts_per_token, alpha=config.swiglu_alpha,
                             limit=config.swiglu_limit, **how)
                    if config.n_experts else MLP.load(view, f"{prefix}.mlp", bias=config.mlp_bias, **how))

    def __call__(self, x: jax.Array, cos: jax.Array, sin: jax.Array, cache: LayerCache, length: jax.Array,
                 count: jax.Array) -> tuple[jax.Array, LayerCache]:
        attended, cache = self.attention.step(self.input_norm(x), cos, sin, cache, length, count)
        x = x + attended
        live = None if x.shape[0] == 1 else jnp.arange(x.shape[0]) < count  # padding needs no expert
        return x + self.mlp(self.mlp_norm(x), live), cache


class Transformer(nnx.Module):
    """The whole model, of any of the architectures that config.py knows."""

    def __init__(self, view: View, config: ModelConfig, implementation: str | None = None) -> None:
        _check(view, config)
        self.config = config
        self.embedding = Embedding.load(view, "model.embed_tokens", implementation=implementation)
        self.layers = nnx.List([Layer(view, i, config, implementation) for i in range(config.n_layers)])
        self.final_norm = RMSNorm(view["model.norm.weight"], config.rms_norm_eps)
        self.head = None if config.tied else Linear.load(view, "lm_head", bias=False, implementation=implementation)

    # ---- computing

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Logits [T, vocabulary] of a whole text [T]."""
        count = tokens.shape[0]
        hidden, _ = self.step(tokens, self.cache(count), jnp.int32(count))
        return self.logits(hidden)

    def cache(self, capacity: int, dtype: Any = jnp.float32) -> Cache:
        """An empty cache for texts of up to `capacity` tokens, padding included."""
        c = self.config
        cos, sin = rope_tables(c.rope, capacity)
        layers = tuple(LayerCache.empty(min(window, capacity) if window else capacity, c.n_kv_heads, c.head_dim, dtype)
                       for window in c.windows)
        return Cache(jnp.int32(0), layers, jnp.asarray(cos), jnp.asarray(sin))

    def step(self, tokens: jax.Array, cache: Cache, count: jax.Array) -> tuple[jax.Array, Cache]:
        """The residual stream [T, hidden] after all layers, of tokens [T] that follow those in the cache;
        the first `count` of them are no padding. cache.length + T must not exceed its capacity."""
        length = cache.length
        cos, sin = (jax.lax.dynamic_slice_in_dim(table, length, tokens.shape[0]) for table in (cache.cos, cache.sin))
        x, layers = self.embedding(tokens), []
        for layer, of_layer in zip(self.layers, cache.layers, strict=True):
            x, of_layer = layer(x, cos, sin, of_layer, length, count)
            layers.append(of_layer)
        return x, Cache(length + count, tuple(layers), cache.cos, cache.sin)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """[..., vocabulary] from the residual stream."""
        x = self.final_norm(hidden)
        return self.embedding.attend(x) if self.head is None else self.head(x)


def _shapes(c: ModelConfig) -> dict[str, tuple[int, ...]]:
    """What the tensors of the model must be called, and their shapes."""
    hidden, width, kv, inner = c.hidden_size, c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim, c.intermediate_size
    attention = {"q": (width, hidden), "k": (kv, hidden), "v": (kv, hidden), "o": (hidden, width)}
    layer: dict[str, tuple[int, ...]] = {"input_layernorm.weight": (hidden,), "post_attention_layernorm.weight": (hidden,)}
    for name, shape in attention.items():
        layer[f"self_attn.{name}_proj.weight"] = shape
        if c.attention_bias:
            layer[f"self_attn.{name}_proj.bias"] = shape[:1]
    if c.sinks:
        layer["self_attn.sinks"] = (c.n_heads,)
    if c.n_experts:
        layer |= {"mlp.router.weight": (c.n_experts, hidden), "mlp.router.bias": (c.n_experts,),
                  "mlp.experts.gate_up_proj": (c.n_experts, 2 * inner, hidden),
                  "mlp.experts.gate_up_proj_bias": (c.n_experts, 2 * inner),
                  "mlp.experts.down_proj": (c.n_experts, hidden, inner), "mlp.experts.down_proj_bias": (c.n_experts, hidden)}
    else:
        for name, shape in {"gate": (inner, hidden), "up": (inner, hidden), "down": (hidden, inner)}.items():
            layer[f"mlp.{name}_proj.weight"] = shape
            if c.mlp_bias:
                layer[f"mlp.{name}_proj.bias"] = shape[:1]
    shapes = {f"model.layers.{i}.{name}": shape for i in range(c.n_layers) for name, shape in layer.items()}
    shapes |= {"model.embed_tokens.weight": (c.vocab_size, hidden), "model.norm.weight": (hidden,)}
    return shapes if c.tied else shapes | {"lm_head.weight": (c.vocab_size, hidden)}


def _check(view: View, config: ModelConfig) -> None:
    """Every tensor is there, in its shape; decoded experts may have their last dimensions exchanged."""
    for name, expected in _shapes(config).items():
        info = view.info(name)
        turned = info.dtype != "mxfp4" and name.endswith(("experts.gate_up_proj", "experts.down_proj"))
        if info.shape != expected and not (turned and info.shape == (expected[0], expected[2], expected[1])):
            raise ValueError(f"{view.path}: {name}: expected {list(expected)} by config.json, found {list(info.shape)}")
        if info.dtype not in ("mxfp4", "bfloat16", "float16", "float32"):
            raise ValueError(f"{view.path}: {name}: expected floats or MXFP4, found {info.dtype}")


class Model:
    """A Transformer with its tokenizer, to generate with.

    `module` is the nnx module: what there is to jit, differentiate, or take apart.
    """

    def __init__(self, module: Transformer, tokenizer: Tokenizer | None = None, cache_dtype: Any = jnp.float32) -> None:
        self.module = module
        self.config = module.config
        self.tokenizer = tokenizer
        self._generator = Generator(module, cache_dtype)

    def __call__(self, tokens: Any) -> jax.Array:
        """Logits [T, vocabulary] of a whole text [T], not under jit."""
        return self.module(jnp.asarray(tokens, jnp.int32))

    def generate(self, prompt: str | Iterable[int], max_tokens: int = 256, **options: Any) -> Generation:
        """Continues a text or token ids: see Generator.generate, whose options these are."""
        return self._generator.generate(self.encode(prompt) if isinstance(prompt, str) else prompt, max_tokens, **options)

    def encode(self, text: str) -> list[int]:
        return self._needed().encode(text)

    def decode(self, tokens: Iterable[int]) -> str:
        return self._needed().decode(tokens)

    def _needed(self) -> Tokenizer:
        if self.tokenizer is None:
            raise ValueError("the view has no tokenizer.json: this model takes and gives token ids only")
        return self.tokenizer


def load(path: str | os.PathLike[str] | View, *, implementation: str | None = None, preload: bool = True,
         cache_dtype: Any = jnp.float32) -> Model:
    """The model of a mount, of a copy, or of an open view.

    `preload` brings the weights into the page cache and maps them before the first token, which
    would otherwise wait for them. KeyError for a tensor that is missing, ValueError for what does
    not fit config.json.
    """
    view = path if isinstance(path, View) else open_view(path)
    generation = view.json("generation_config.json") if view.has_file("generation_config.json") else None
    config = read_config(view.json("config.json"), generation)
    if preload:
        view.load()
    tokenizer = Tokenizer(view.path) if view.has_file("tokenizer.json") else None
    return Model(Transformer(view, config, implementation), tokenizer, cache_dtype)
