"""tensorport.nnx: the layers against Flax's own on decoded weights, under jit and grad, from a checkpoint and by
quantising."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax_support import checkpoint, main, mxfp4_decode, raises, read, tensorport, test
from tensorport import mxfp4
from tensorport.cache import LayerCache
from tensorport.nnx import MLP, Attention, Embedding, Linear, MoE, Packed, RMSNorm

RNG = np.random.default_rng(7)


def random(*shape, scale=1.0):
    return jnp.asarray(RNG.normal(size=shape) * scale, jnp.float32)


def decoded(packed):
    w = packed.get_value()
    return np.asarray(mxfp4_decode(np.asarray(w.blocks), np.asarray(w.scales)), np.float64)


def close(found, expected, tolerance=1e-5):
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape, (found.shape, expected.shape)
    error = np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30)
    assert error <= tolerance, error


def rounded(layer):
    """The Flax layer with its kernel rounded to MXFP4 on the way."""
    kernel = layer.kernel.get_value()
    flat = kernel.reshape(layer.kernel.get_value().shape[0], -1) if kernel.ndim == 3 else kernel
    layer.kernel.set_value(mxfp4.dequantize(mxfp4.quantize(flat.T), jnp.float32).T.reshape(kernel.shape))
    return layer


@test
def a_linear_layer_is_flax_s_rounded():
    for bias in (True, False):
        flax = nnx.Linear(96, 40, use_bias=bias, rngs=nnx.Rngs(1))
        if bias:
            flax.bias.set_value(random(40))
        layer = Linear.quantize(flax)
        assert (layer.in_features, layer.out_features) == (96, 40) and isinstance(layer.weight.get_value(), mxfp4.MXFP4Array)
        assert np.abs(decoded(layer.weight) - np.asarray(flax.kernel.get_value()).T).max() < 0.1
        for shape in ((96,), (5, 96), (2, 3, 96)):
            x = random(*shape)
            close(layer(x), rounded(flax)(x))
    raises(ValueError, lambda: Linear(jnp.zeros(3)), "[out, in]")
    raises(ValueError, lambda: Linear.quantize(nnx.Linear(33, 4, rngs=nnx.Rngs(0))), "32")


@test
def transformations_know_the_layers():
    """jit, grad, vmap; split and merge; optimisers see what is small, and no packed weight."""
    flax = nnx.Linear(64, 24, rngs=nnx.Rngs(2))
    layer, x, y = Linear.quantize(flax), random(6, 64), random(6, 24)
    weight = decoded(layer.weight)
    close(nnx.jit(lambda m, x: m(x))(layer, x), layer(x), 1e-6)
    close(jax.vmap(lambda one: layer(one))(x), layer(x), 1e-6)
    def loss(m, x):
        return ((m(x) - y) ** 2).sum()
    to_x = jax.grad(lambda x: loss(layer, x))(x)
    close(to_x, 2 * (np.asarray(layer(x), np.float64) - np.asarray(y)) @ weight)
    gradients = nnx.grad(loss)(layer, x)
    assert set(nnx.to_flat_state(gradients).paths) == {("bias",)}, gradients
    graph, small, packed = nnx.split(layer, nnx.Param, Packed)
    assert len(jax.tree.leaves(small)) == 1 and len(jax.tree.leaves(packed)) == 2
    close(nnx.merge(graph, small, packed)(x), layer(x), 0)
    before = [np.asarray(leaf) for leaf in jax.tree.leaves(packed)]
    optimiser = nnx.Optimizer(layer, optax.adam(0.1), wrt=nnx.Param)
    @nnx.jit
    def train(m, o, x):
        value, gradient = nnx.value_and_grad(loss)(m, x)
        o.update(m, gradient)
        return value
    values = [float(train(layer, optimiser, x)) for _ in range(20)]
    assert values[-1] < values[0]
    for old, new in zip(before, jax.tree.leaves(nnx.state(layer, Packed)), strict=True):
        assert np.array_equal(old, new)


@test
def an_embedding_is_flax_s_rounded():
    flax = nnx.Embed(50, 64, rngs=nnx.Rngs(3))
    layer, ids = Embedding.quantize(flax), jnp.array([[3, 0], [49, 3]])
    table = decoded(layer.weight)
    close(layer(ids), table[np.asarray(ids)], 0)
    x = random(4, 64)
    close(layer.attend(x), np.asarray(x, np.float64) @ table.T)
    plain = Embedding(flax.embedding.get_value().astype(jnp.bfloat16))
    close(plain(ids), np.asarray(plain.weight.get_value().astype(jnp.float32))[np.asarray(ids)], 0)
    assert plain(ids).dtype == layer(ids).dtype == jnp.float32


@test
def attention_is_flax_s_rounded():
    flax = nnx.MultiHeadAttention(num_heads=4, in_features=64, qkv_features=128, rngs=nnx.Rngs(4), decode=False)
    for part in (flax.query, flax.key, flax.value, flax.out):
        part.bias.set_value(random(*part.bias.get_value().shape))
    layer, x = Attention.quantize(flax), random(9, 64)
    for part, ours in ((flax.query, layer.q), (flax.key, layer.k), (flax.value, layer.v), (flax.out, layer.o)):
        part.kernel.set_value(jnp.asarray(decoded(ours.weight).T.reshape(part.kernel.get_value().shape), jnp.float32))
    close(layer(x), flax(x, mask=nnx.make_causal_mask(jnp.ones(9))))
    layer.window = 3
    mask = np.tril(np.ones((9, 9))) * (np.arange(9)[None] > np.arange(9)[:, None] - 3)
    close(layer(x), flax(x, mask=jnp.asarray(mask[None], bool)))
    gradient = nnx.grad(lambda m: m(x).sum())(layer)
    assert len(jax.tree.leaves(gradient)) == 4 and all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))


@test
def steps_of_any_size_see_the_same():
    """With and without a window, which the steps cross in every way; padding in between."""
    for window in (0, 1, 4):
        layer = Attention(*(Linear(random(64, 64, scale=0.2)) for _ in range(4)), head_dim=16, window=window,
                          sinks=random(4))
        x, angle = random(23, 64), RNG.uniform(0, 6, (64, 8))
        cos, sin = jnp.asarray(np.cos(angle), jnp.float32), jnp.asarray(np.sin(angle), jnp.float32)
        whole = layer(x, cos[:23], sin[:23])
        step = nnx.jit(lambda m, x, cos, sin, cache, length, count: m.step(x, cos, sin, cache, length, count))
        for sizes in ((1,) * 23, (5, 9, 9), (3, 20)):
            cache, at, rows = LayerCache.empty(window or 40, 4, 16), 0, []
            for size in sizes:
                padding = 2 * (size % 3)
                piece = jnp.concatenate([x[at:at + size], jnp.full((padding, 64), 1e3)])
                out, cache = step(layer, piece, cos[at:at + size + padding], sin[at:at + size + padding], cache,
                                  jnp.int32(at), jnp.int32(size))
                rows.append(out[:size])
                at += size
            close(jnp.concatenate(rows), whole)


@test
def mlp_and_norm_are_their_formulas():
    parts = [nnx.Linear(*sizes, rngs=nnx.Rngs(i)) for i, sizes in enumerate(((64, 96), (64, 96), (96, 64)))]
    layer, x = MLP.quantize(*parts), random(5, 64)
    gate, up, down = (rounded(part) for part in parts)
    close(layer(x), down(nnx.silu(gate(x)) * up(x)))
    norm, flax = RMSNorm(random(64), 1e-5), nnx.RMSNorm(64, epsilon=1e-5, rngs=nnx.Rngs(0))
    flax.scale.set_value(norm.scale.get_value())
    close(norm(x), flax(x), 1e-6)


def reference_moe(x, w, k, limit=7.0, alpha=1.702):
    """In float64, one token after the other."""
    out = np.zeros_like(x)
    for t, logits in enumerate(x @ w["router"].T + w["router_bias"]):
        chosen = np.argsort(-logits, kind="stable")[:k]
        share = np.exp(logits[chosen] - logits[chosen].max())
        for e, weight in zip(chosen, share / share.sum(), strict=True):
            both = w["gate_up"][e] @ x[t] + w["gate_up_bias"][e]
            gate, up = np.minimum(both[0::2], limit), np.clip(both[1::2], -limit, limit)
            out[t] += weight * (w["down"][e] @ (gate / (1 + np.exp(-alpha * gate)) * (up + 1)) + w["down_bias"][e])
    return out


@test
def a_mixture_is_its_formula():
    """Large enough that the clamp matters; packed and plain, quantised and off a checkpoint."""
    router = nnx.Linear(64, 6, rngs=nnx.Rngs(5))
    arrays = random(6, 192, 64), random(6, 192), random(6, 64, 96), random(6, 64)
    x = random(11, 64)
    packed = MoE.quantize(router, *arrays, k=3)
    w = {"router": np.asarray(router.kernel.get_value()).T, "router_bias": np.asarray(router.bias.get_value()),
         "gate_up": decoded(packed.gate_up), "gate_up_bias": arrays[1], "down": decoded(packed.down), "down_bias": arrays[3]}
    w = {name: np.asarray(value, np.float64) for name, value in w.items()}
    expected = reference_moe(np.asarray(x, np.float64), w, 3)
    plain = MoE(packed.router, jnp.asarray(w["gate_up"], jnp.bfloat16), arrays[1], jnp.asarray(w["down"], jnp.bfloat16),
                arrays[3], k=3)
    for layer in (packed, plain):
        close(layer(x), expected)
        close(nnx.jit(lambda m, x: m(x))(layer, x.reshape(1, 11, 64)), expected[None])
        live = jnp.arange(11) % 3 != 0
        close(layer(x, live), np.where(np.asarray(live)[:, None], expected, 0))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(nnx.grad(lambda m: m(x).sum())(packed)))


@test
def layers_come_off_a_checkpoint():
    tensors = {name: value.astype(np.float64) if value.dtype != np.uint8 else value
               for name, value in read(checkpoint("tiny")).items()}
    with tensorport.mount(checkpoint("tiny")) as mount:
        x, prefix = random(7, 128), "model.layers.1"
        for view in (mount.open(), mount.open("float32"), mount.open("bfloat16")):
            q = Linear.load(view, f"{prefix}.self_attn.q_proj")
            exact = np.asarray(x, np.float64)
            close(q(x), exact @ tensors[f"{prefix}.self_attn.q_proj.weight"].T + tensors[f"{prefix}.self_attn.q_proj.bias"])
            mlp, names = MoE.load(view, f"{prefix}.mlp", k=4), f"{prefix}.mlp.experts"
            w = {"router": tensors[f"{prefix}.mlp.router.weight"], "router_bias": tensors[f"{prefix}.mlp.router.bias"],
                 **{f"{name}_bias": tensors[f"{names}.{name}_proj_bias"] for name in ("gate_up", "down")},
                 **{name: mxfp4_decode(tensors[f"{names}.{name}_proj_blocks"], tensors[f"{names}.{name}_proj_scales"])
                    .astype(np.float64) for name in ("gate_up", "down")}}
            close(mlp(x), reference_moe(exact, w, 4))
            ids = jnp.array([5, 1087])
            close(Embedding.load(view, "model.embed_tokens")(ids), tensors["model.embed_tokens.weight"][np.asarray(ids)], 0)
            attention = Attention.load(view, f"{prefix}.self_attn", head_dim=64)
            assert attention.sinks is not None and attention(x).shape == (7, 128)
        raises(KeyError, lambda: Linear.load(view, "model.layers.9.q"), "model.layers.9.q.weight")
        raises(KeyError, lambda: Linear.load(view, "model.norm", bias=True), "model.norm.bias")
        raises(ValueError, lambda: Linear.load(view, "model.norm"), "[out, in]")


main()
