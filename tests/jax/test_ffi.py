"""The kernels that XLA calls, and the functions of the package that stand on them: against numpy, against
the same in jax.numpy, and called with everything that does not fit."""

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "infer"))

from support import BUILD, main, mxfp4_decode, test  # noqa: E402

PACKAGE = BUILD / "infer/jax/python"
LIBRARY = PACKAGE / "tensorport/tensorport-xla.so"
if not LIBRARY.exists():
    print("1..0 # SKIP configure found no xla/ffi/api/c_api.h: this build has no kernels for JAX")
    sys.exit(0)


def start_under_sanitizer():
    """A library with the address sanitizer wants its runtime loaded before anything else, and that the
    one of C++, whose exceptions it watches."""
    needed = subprocess.run(["ldd", LIBRARY], capture_output=True, text=True, check=True).stdout
    runtimes = [line.split()[2] for line in needed.splitlines() if re.match(r"\s*lib(asan|tsan)\.", line)]
    if runtimes and "LD_PRELOAD" not in os.environ:
        os.environ["LD_PRELOAD"] = ":".join([*runtimes, "libstdc++.so.6"])
        os.environ["ASAN_OPTIONS"] = "detect_leaks=0"  # of Python and XLA, which leak
        os.execv(sys.executable, [sys.executable, *sys.argv])


start_under_sanitizer()
os.environ.pop("TENSORPORT_XLA", None)
os.environ["TENSORPORT_XLA_CUDA"] = "/nowhere"  # which test_cuda_lowering.py is about
os.environ["JAX_PLATFORMS"] = "cpu"
# Every shape is compiled anew, which takes longer than all there is to compute.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
sys.path.insert(0, str(PACKAGE))
# What mostly compiles, and with a sanitizer says nothing new, is left out there.
costly = test if "LD_PRELOAD" not in os.environ else lambda function: function

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import ml_dtypes  # noqa: E402
import numpy as np  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P  # noqa: E402

from tensorport import _ffi, dense, mxfp4  # noqa: E402
from tensorport.attention import sink_attention  # noqa: E402

BF16 = np.dtype(ml_dtypes.bfloat16)
F32 = np.dtype(np.float32)
F16 = np.dtype(np.float16)
RANDOM = np.random.default_rng(7)
CLOSE = {F32: 1e-5, BF16: 2.0**-8}  # of BF16 half a step: sums that lie at a middle round either way


def normal(*shape, dtype=F32):
    return RANDOM.normal(size=shape).astype(dtype)


def packed(*shape):
    """Any codes, with scales about 1, as numpy knows them and as the package does."""
    blocks = RANDOM.integers(0, 256, size=(*shape[:-1], shape[-1] // 32, 16), dtype=np.uint8)
    scales = RANDOM.integers(122, 130, size=blocks.shape[:-1], dtype=np.uint8)
    return mxfp4_decode(blocks, scales).astype(np.float64), mxfp4.MXFP4Array(jnp.asarray(blocks), jnp.asarray(scales))


def same_bits(a, b):
    a, b = np.asarray(a), np.asarray(b)
    assert a.dtype == b.dtype and a.shape == b.shape, (a.dtype, a.shape, b.dtype, b.shape)
    raw = f"u{a.itemsize}"
    different = np.argwhere(a.view(raw) != b.view(raw))
    assert not len(different), f"{len(different)} differ, first at {different[0]}"


def close(found, expected, tolerance=None):
    """Within `tolerance` of the largest number."""
    dtype = np.asarray(found).dtype
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape, (found.shape, expected.shape)
    if found.size:
        worst = np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30)
        assert worst <= (tolerance or CLOSE[dtype]), f"off by {worst:.2g}"


def refused(says, function):
    try:
        jax.block_until_ready(function())
    except Exception as error:  # noqa: BLE001: XLA's is jax.errors.JaxRuntimeError, ours TypeError or ValueError
        for part in says:
            assert part in str(error), f"expected {part!r} in: {error}"
        return
    raise AssertionError(f"was accepted; expected {says}")


# ---------------------------------------------------------------- decoding and quantising

@test
def the_library_is_registered():
    assert _ffi.available() and _ffi.reason() is None, _ffi.reason()


@test
def the_package_says_why_it_has_no_library():
    program = ("import sys; sys.path.insert(0, sys.argv[1])\nfrom tensorport import _ffi, mxfp4\nimport jax.numpy as jnp\n"
               "print(_ffi.reason())\nw = mxfp4.quantize(jnp.ones((2, 32)))\nprint(mxfp4.matmul(jnp.ones(32), w))\n"
               "try: mxfp4.matmul(jnp.ones(32), w, implementation='ffi')\nexcept RuntimeError as error: print(error)")
    for library, says in (("/nowhere/x.so", "no library at /nowhere/x.so"), (__file__, "does not load")):
        environment = {**os.environ, "TENSORPORT_XLA": library, "LD_PRELOAD": ""}
        done = subprocess.run([sys.executable, "-c", program, str(PACKAGE)], capture_output=True, text=True, check=False,
                              env=environment)
        lines = done.stdout.splitlines()
        assert done.returncode == 0 and len(lines) == 3, done
        assert says in lines[0] and lines[1] == "[32. 32.]" and says in lines[2], lines


def every_byte_and_scale():
    scales = np.repeat(np.arange(256, dtype=np.uint8), 16).reshape(256, 16)
    blocks = np.tile(np.arange(256, dtype=np.uint8).reshape(16, 16), (256, 1, 1))
    return blocks, scales


@test
def decoding_is_exact_for_every_byte_and_scale():
    blocks, scales = every_byte_and_scale()
    w = mxfp4.MXFP4Array(jnp.asarray(blocks), jnp.asarray(scales))
    exact = mxfp4_decode(blocks, scales)
    for dtype, nan in ((F32, 0x7FC00000), (BF16, 0x7FC0), (F16, 0x7E00)):
        with np.errstate(over="ignore"):
            expected = exact.astype(dtype)
        expected = np.where(np.isnan(exact), np.array(nan, f"u{dtype.itemsize}").view(dtype), expected)
        for how in ("ffi", "jnp"):
            same_bits(mxfp4.dequantize(w, dtype, implementation=how), expected)


def quantized(x):
    """By the specification, in float64, which holds everything exactly."""
    with np.errstate(invalid="ignore"):  # NaN that signal
        values = np.asarray(x).astype(np.float64).reshape(*x.shape[:-1], -1, 32)
    largest = np.abs(values).max(axis=-1, initial=0)
    nan = np.isnan(largest)
    exponent = np.frexp(np.where(np.isfinite(largest), largest, 1))[1] - 1
    scales = np.where(largest == 0, 0, np.clip(exponent - 2 + 127, 0, 254))
    scales = np.where(np.isinf(largest), 253, scales)
    with np.errstate(invalid="ignore", over="ignore"):
        magnitude = np.abs(values) / np.exp2(scales[..., None] - 127.0)
        codes = sum((magnitude > limit) | ((magnitude == limit) & up) for limit, up in (
            (0.25, False), (0.75, True), (1.25, False), (1.75, True), (2.5, False), (3.5, True), (5, False)))
    codes = np.where(nan[..., None], 0, codes + 8 * np.signbit(values)).astype(np.uint8)
    return codes[..., 0::2] | codes[..., 1::2] << 4, np.where(nan, 255, scales).astype(np.uint8)


def hard_numbers():
    """Every BF16 and every F16 in some block, and float32 of all sizes next to each other."""
    every = np.arange(65536, dtype=np.uint16)
    yield every.view(BF16).reshape(-1, 64)
    yield RANDOM.permutation(every).view(BF16).reshape(-1, 32)
    yield RANDOM.permutation(every).view(F16).reshape(-1, 32)
    bits = RANDOM.integers(0, 2**32, size=(256, 96), dtype=np.uint32)
    yield bits.view(F32)
    near = bits & np.uint32(0x80FFFFFF) | np.repeat(np.arange(256, dtype=np.uint32), 96).reshape(256, 96) << 24 >> 1
    yield near.view(F32)
    yield (RANDOM.integers(-24, 25, size=(64, 64)) / 4).astype(F32)  # ties
    yield np.full((1, 32), 1e-42, F32)


@test
def quantising_follows_the_specification():
    for x in hard_numbers():
        blocks, scales = quantized(x)
        for how in ("ffi", "jnp"):
            w = mxfp4.quantize(jnp.asarray(x), implementation=how)
            same_bits(w.scales, scales)
            same_bits(w.blocks, blocks)


@test
def what_was_decoded_quantises_to_the_same_bytes():
    x = normal(7, 5, 96) * np.exp2(RANDOM.integers(-20, 20, size=(7, 5, 1))).astype(F32)
    w = mxfp4.quantize(x)
    for dtype in (F32, BF16):
        again = jax.jit(lambda w, dtype=dtype: mxfp4.quantize(mxfp4.dequantize(w, dtype)))(w)
        same_bits(again.blocks, w.blocks)
        same_bits(again.scales, w.scales)
    each = jax.vmap(jax.vmap(mxfp4.quantize))(x)
    same_bits(each.blocks, w.blocks)
    same_bits(jax.vmap(mxfp4.dequantize)(w), mxfp4.dequantize(w))


@test
def an_array_is_a_pytree_that_is_indexed_by_rows():
    exact, w = packed(3, 8, 64)
    assert (w.shape, w.ndim, w.dtype, len(w), w.nbytes) == ((3, 8, 64), 3, jnp.bfloat16, 3, 3 * 8 * 2 * 17)
    leaves, structure = jax.tree.flatten(w)
    assert [leaf.shape for leaf in leaves] == [(3, 8, 2, 16), (3, 8, 2)], leaves
    assert jax.tree.unflatten(structure, leaves).shape == w.shape
    same_bits(mxfp4.dequantize(w[1, 2:4], F32), exact[1, 2:4].astype(F32))
    same_bits(mxfp4.dequantize(jax.jit(lambda w, i: w[i])(w, 2), F32), exact[2].astype(F32))
    same_bits(mxfp4.dequantize(w[np.array([2, 0])], F32), exact[[2, 0]].astype(F32))
    for index in ((0, 0, 0), (..., 0)):
        refused(["columns"], lambda index=index: w[index])


# ---------------------------------------------------------------- products

LEADS = ((), (0,), (1,), (2,), (7,), (33,), (2, 3), (0, 4), (5, 0))


def hold_products(function, w, exact, leads, dtypes=(F32, BF16)):
    """Each with and without a bias, which is not compiled for x in both types."""
    bias = normal(exact.shape[0])
    for lead in leads:
        for dtype in dtypes:
            x = normal(*lead, exact.shape[1], dtype=dtype)
            added = bias if len(lead) != 1 else None
            for how in ("ffi", "jnp"):
                y = function(x, w, added, implementation=how)
                assert y.dtype == dtype
                close(y, x.astype(np.float64) @ exact.T + (0 if added is None else added))


@test
def products_of_odd_shapes():
    exact, w = packed(49, 160)
    hold_products(mxfp4.matmul, w, exact, LEADS)
    for rows, columns in ((1, 32), (3, 96), (24, 64), (130, 2880)):
        exact, w = packed(rows, columns)
        hold_products(mxfp4.matmul, w, exact, ((1,), (5,)))
    hold_products(mxfp4.matmul, w, exact, ((33,),))


@test
def dense_products_of_odd_shapes():
    w = normal(49, 160, dtype=BF16)
    hold_products(dense.matmul, w, w.astype(np.float64), LEADS)
    for stored in (BF16, F16, F32):
        for rows, columns in ((1, 1), (3, 33), (7, 95)):
            w = normal(rows, columns, dtype=stored)
            hold_products(dense.matmul, w, w.astype(np.float64), ((1,), (5,)), (F32,))
        hold_products(dense.matmul, w, w.astype(np.float64), ((33,), (2, 3)), (BF16,))


@test
def biases_in_bfloat16():
    exact, w = packed(49, 64)
    x, bias = normal(2, 64), normal(49, dtype=BF16)
    for how in ("ffi", "jnp"):
        close(mxfp4.matmul(x, w, bias, implementation=how), x @ exact.T + bias.astype(np.float64))
        close(dense.matmul(x, exact.astype(BF16), bias, implementation=how), x @ exact.T + bias.astype(np.float64))


@test
def products_without_columns_or_rows():
    for rows, columns in ((3, 0), (0, 32), (0, 0)):
        _, w = packed(rows, columns)
        for lead in ((), (2,), (33,)):
            x, bias = normal(*lead, columns), normal(rows)
            close(mxfp4.matmul(x, w, bias, implementation="ffi"), np.broadcast_to(bias, (*lead, rows)))
            close(dense.matmul(x, normal(rows, columns), bias, implementation="ffi"), np.broadcast_to(bias, (*lead, rows)))


@test
def weights_with_leading_axes():
    exact, w = packed(2, 3, 40, 64)
    x, bias = normal(2, 3, 5, 64), normal(2, 3, 40)
    expected = np.einsum("abmk,abnk->abmn", x, exact) + bias[:, :, None]
    for how in ("ffi", "jnp"):
        close(mxfp4.matmul(x, w, bias, implementation=how), expected)
        close(dense.matmul(x, exact.astype(BF16), bias, implementation=how), expected)
        nested = jax.vmap(jax.vmap(lambda x, w, b, how=how: mxfp4.matmul(x, w, b, implementation=how)))
        close(nested(x, w, bias), expected)
        one = jax.vmap(lambda w, how=how: mxfp4.matmul(x[0, 0], w, implementation=how))(w[0])
        close(one, np.einsum("mk,bnk->bmn", x[0, 0], exact[0]))


@costly
def vmap_over_any_argument():
    exact, w = packed(40, 64)
    x, biases = normal(4, 6, 64), normal(6, 40)
    for how in ("ffi", "jnp"):
        def product(x, b, how=how):
            return mxfp4.matmul(x, w, b, implementation=how)
        close(jax.vmap(product, (1, 0))(x, biases), (np.moveaxis(x, 1, 0) @ exact.T) + biases[:, None])
        close(jax.vmap(product, (None, 0))(x, biases), (x @ exact.T)[None] + biases[:, None, None])
        close(jax.vmap(product, (0, None), 1)(x, biases[0]), np.moveaxis(x @ exact.T + biases[0], 0, 1))


@test
def vmap_over_x_alone_leaves_the_weights_as_they_are():
    _, w = packed(40, 64)
    text = str(jax.jit(jax.vmap(lambda x: mxfp4.matmul(x, w, implementation="ffi"))).lower(normal(9, 64)).as_text())
    calls = re.findall(r"custom_call @tensorport_mxfp4_matmul.*", text)
    assert len(calls) == 1 and "9x64xf32" in calls[0] and "40x2x16xui8" in calls[0], calls


@test
def another_platform_gets_jax_numpy():
    _, w = packed(40, 64)
    product = jax.jit(lambda x: mxfp4.matmul(x, w, implementation="ffi"))
    for platform, there in (("cpu", True), ("tpu", False), ("cuda", False)):
        text = jax.export.export(product, platforms=[platform], disabled_checks=[
            jax.export.DisabledSafetyCheck.custom_call("tensorport_mxfp4_matmul")])(normal(2, 64)).mlir_module()
        assert ("tensorport_mxfp4_matmul" in text) == there, platform


@test
def native_products_are_given_to_xla_in_its_own_types():
    """As far as a machine without such a device can tell."""
    _, w = packed(64, 128)
    product = jax.jit(lambda x: mxfp4.matmul(x, w, implementation="native"))
    assert jax.eval_shape(jax.vmap(product), normal(3, 5, 128)).shape == (3, 5, 64)
    text = jax.export.export(product, platforms=["cuda"], disabled_checks=[
        jax.export.DisabledSafetyCheck.custom_call("__op$block_scaled_dot")])(normal(5, 128)).mlir_module()
    assert "tensor<1x64x128xf4E2M1FN>, tensor<1x5x4xf8E8M0FNU>, tensor<1x64x4xf8E8M0FNU>" in text, text
    refused(["[N, K]"], lambda: mxfp4.matmul(normal(2, 1, 128), packed(2, 64, 128)[1], implementation="native"))


@costly
def gradients_of_products():
    exact, w = packed(40, 64)
    for dtype in (F32, BF16):
        x, bias, dy = normal(3, 5, 64, dtype=dtype), normal(40), normal(3, 5, 40, dtype=dtype)
        for how in ("ffi", "jnp"):
            _, pull = jax.vjp(lambda x, b, how=how: mxfp4.matmul(x, w, b, implementation=how), x, bias)
            to_x, to_bias = pull(jnp.asarray(dy))
            assert to_x.dtype == dtype
            close(to_x, dy.astype(np.float64) @ exact)
            close(to_bias, dy.astype(np.float64).sum((0, 1)))
    each = jax.jit(jax.vmap(jax.grad(lambda x: mxfp4.matmul(x, w).sum())))(normal(4, 64))
    close(each, np.tile(exact.sum(0), (4, 1)))
    v = normal(40, 64)
    to_w = jax.grad(lambda v: dense.matmul(jnp.ones((3, 64)), v).sum())(v)
    close(to_w, np.full((40, 64), 3))


@test
def products_under_shard_map_and_sharded_jit():
    exact, w = packed(64, 96)
    x, bias = normal(16, 96), normal(64)
    mesh = Mesh(np.array(jax.devices()), ("d",))
    def product(x, w, b):
        return mxfp4.matmul(x, w, b, implementation="ffi")
    expected = x @ exact.T + bias
    rows = jax.shard_map(product, mesh=mesh, in_specs=(P(), P("d"), P("d")), out_specs=P(None, "d"))
    close(jax.jit(rows)(x, w, bias), expected)
    tokens = jax.shard_map(product, mesh=mesh, in_specs=(P("d"), P(), P()), out_specs=P("d"))
    close(jax.jit(tokens)(x, w, bias), expected)
    to_x = jax.jit(jax.grad(lambda x: rows(x, w, bias).sum()))(x)
    close(to_x, np.tile(exact.sum(0), (16, 1)))
    placed = jax.device_put(w, NamedSharding(mesh, P("d")))
    close(jax.jit(product)(x, placed, bias), expected)


@test
def threads_call_at_the_same_time():
    exact, w = packed(96, 320)
    xs = [normal(n, 320) for n in (1, 2, 7, 33)]
    product = jax.jit(lambda x: mxfp4.matmul(x, w, implementation="ffi"))
    expected = [np.asarray(product(x)) for x in xs]
    for x, y in zip(xs, expected):
        close(y, x @ exact.T)
    faults = []

    def work(i):
        try:
            for _ in range(50):
                same_bits(product(xs[i % 4]), expected[i % 4])
        except AssertionError as fault:
            faults.append(fault)
    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults, faults[0]


@test(limit=60)
def a_child_after_fork_has_threads_of_its_own():
    program = ("import os, sys; sys.path.insert(0, sys.argv[1])\nimport threading, jax, numpy as np, jax.numpy as jnp\n"
               "from tensorport import mxfp4\nw = mxfp4.quantize(jnp.ones((512, 512)))\nx = jnp.ones((1, 512))\n"
               "f = jax.jit(lambda x: mxfp4.matmul(x, w, implementation='ffi'))\nf(x).block_until_ready()\n"
               "stop = False\n"
               "def work():\n  while not stop: f(x).block_until_ready()\n"
               "thread = threading.Thread(target=work); thread.start()\n"
               "for i in range(5):\n"
               "  child = os.fork()\n"
               "  if child == 0:\n    y = np.asarray(f(x)); os._exit(0 if (y == 512).all() else 9)\n"
               "  assert os.waitpid(child, 0)[1] == 0\n"
               "stop = True; thread.join(); print('done')")
    environment = {**os.environ, "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program, str(PACKAGE)], capture_output=True, text=True, check=False,
                          timeout=50, env=environment)
    assert done.stdout == "done\n" and done.returncode == 0, done


@test
def results_do_not_depend_on_neighbours():
    _, w = packed(200, 320)
    x = normal(40, 320)
    whole = np.asarray(mxfp4.matmul(x, w, implementation="ffi"))
    for i in (0, 1, 17, 39):
        same_bits(mxfp4.matmul(x[i], w, implementation="ffi"), whole[i])


@test
def subnormal_numbers_are_kept_by_every_thread():
    """XLA's own arithmetic flushes them."""
    ones = np.full((4096, 1, 16), 0x22, np.uint8)
    w = mxfp4.MXFP4Array(jnp.asarray(ones), jnp.full((4096, 1), 127 + 20, jnp.uint8))
    x = jax.device_put(np.full((3, 32), 2.0**-130, F32))
    for _ in range(20):
        same_bits(mxfp4.matmul(x, w, implementation="ffi"), np.full((3, 4096), 2.0**-105, F32))


# ---------------------------------------------------------------- experts

def layer_of_experts(n_experts, hidden, inner, scale=1.0):
    gate_up, packed_gate_up = packed(n_experts, 2 * inner, hidden)
    down, packed_down = packed(n_experts, hidden, inner)
    biases = normal(n_experts, 2 * inner) * scale, normal(n_experts, hidden)
    return (gate_up, biases[0], down, biases[1]), (packed_gate_up, biases[0], packed_down, biases[1])


def mixture(x, experts, weights, gate_up, gate_up_bias, down, down_bias, alpha=1.702, limit=7.0):
    """In float64, as the model's description has it."""
    y = np.zeros(x.shape)
    for t, k in np.ndindex(experts.shape):
        e = experts[t, k]
        if not 0 <= e < len(gate_up):
            continue
        pairs = gate_up[e] @ x[t].astype(np.float64) + (0 if gate_up_bias is None else gate_up_bias[e])
        gate, up = np.minimum(pairs[0::2], limit), np.clip(pairs[1::2], -limit, limit)
        inner = gate / (1 + np.exp(-alpha * gate)) * (up + 1)
        y[t] += weights[t, k] * (down[e] @ inner + (0 if down_bias is None else down_bias[e]))
    return y


@test
def experts_against_float64():
    plain, layer = layer_of_experts(6, 96, 64)
    for tokens, chosen, dtypes in ((1, 1, [F32]), (1, 4, [BF16]), (2, 3, [F32]), (9, 2, [F32]), (40, 4, [F32, BF16])):
        for dtype in dtypes:
            x = normal(tokens, 96, dtype=dtype)
            experts = RANDOM.integers(0, 6, size=(tokens, chosen)).astype(np.int32)
            weights = RANDOM.uniform(size=(tokens, chosen)).astype(F32)
            expected = mixture(x, experts, weights, *plain)
            for how in ("ffi", "jnp"):
                y = mxfp4.moe(x, experts, weights, *layer, implementation=how)
                assert y.dtype == dtype
                close(y, expected)
    assert np.abs(plain[0][0] @ np.asarray(x[0], np.float64)).max() > 14, "the clamps are not reached"


@test
def clamps_and_the_order_of_gate_and_up():
    """One token, one expert, H = I = 32: x is the first unit vector, so a column says what comes in."""
    codes = np.zeros((1, 64, 32), np.uint8)
    codes[0, :, 0] = RANDOM.integers(0, 16, size=64)
    blocks = (codes[..., 0::2] | codes[..., 1::2] << 4).reshape(1, 64, 1, 16)
    gate_up = mxfp4.MXFP4Array(jnp.asarray(blocks), jnp.full((1, 64, 1), 129, jnp.uint8))  # up to +-24
    exact = mxfp4_decode(blocks, np.full((1, 64, 1), 129, np.uint8)).astype(np.float64)
    identity = mxfp4.quantize(np.eye(32, dtype=F32)[None])
    x = np.eye(32, dtype=F32)[:1]
    experts, weights = np.zeros((1, 1), np.int32), np.ones((1, 1), F32)
    for alpha, limit in ((1.702, 7.0), (1.0, 3.0), (1.702, 100.0)):
        expected = mixture(x, experts, weights, exact, None, np.eye(32)[None], None, alpha, limit)
        for how in ("ffi", "jnp"):
            close(mxfp4.moe(x, experts, weights, gate_up, None, identity, None, alpha=alpha, limit=limit,
                            implementation=how), expected)


@test
def experts_elsewhere_add_nothing():
    plain, layer = layer_of_experts(8, 64, 32)
    x, weights = normal(13, 64), RANDOM.uniform(size=(13, 4)).astype(F32)
    experts = RANDOM.integers(-2**31, 2**31 - 1, size=(13, 4)).astype(np.int32)
    experts[:, 1:3] = RANDOM.integers(-2, 11, size=(13, 2))
    experts[5] = -1
    for tokens in (1, 13):
        expected = mixture(x[:tokens], experts[:tokens], weights, *plain)
        for how in ("ffi", "jnp"):
            close(mxfp4.moe(x[:tokens], experts[:tokens], weights[:tokens], *layer, implementation=how), expected)
    # So a layer falls into shards that are summed.
    experts = RANDOM.integers(0, 8, size=(13, 4)).astype(np.int32)

    def share(x, *layer):
        mine = experts - jax.lax.axis_index("d")
        return jax.lax.psum(mxfp4.moe(x, mine, weights, *layer, implementation="ffi"), "d")
    mesh = Mesh(np.array(jax.devices()), ("d",))
    sharded = jax.jit(jax.shard_map(share, mesh=mesh, in_specs=(P(), *[P("d")] * 4), out_specs=P()))
    close(sharded(x, *layer), mixture(x, experts, weights, *plain))


@costly
def experts_in_every_shape_of_call():
    plain, layer = layer_of_experts(6, 64, 96)
    x, weights = normal(3, 7, 64), RANDOM.uniform(size=(3, 7, 2)).astype(F32)
    experts = RANDOM.integers(0, 6, size=(3, 7, 2)).astype(np.int32)
    expected = np.stack([mixture(*each, *plain) for each in zip(x, experts, weights)])
    for how in ("ffi", "jnp"):
        def layer_of(x, experts, weights, layer, how=how):
            return mxfp4.moe(x, experts, weights, *layer, implementation=how)
        close(jax.jit(jax.vmap(layer_of, (0, 0, 0, None)))(x, experts, weights, layer), expected)
        twice = jax.tree.map(lambda a: jnp.stack([a, a]), layer)
        close(jax.vmap(layer_of, (None, None, None, 0))(x[0], experts[0], weights[0], twice), np.stack([expected[0]] * 2))
        for tokens, k in ((0, 2), (3, 0)):
            y = mxfp4.moe(x[0, :tokens], np.zeros((tokens, k), np.int32), np.zeros((tokens, k), F32), *layer, implementation=how)
            close(y, np.zeros((tokens, 64)))
        one = mxfp4.moe(x[0], experts[0], weights[0], layer[0], None, layer[2], layer[3].astype(BF16), implementation=how)
        close(one, mixture(x[0], experts[0], weights[0], plain[0], None, plain[2], plain[3].astype(BF16).astype(float)))
    many = normal(1100, 64), RANDOM.integers(0, 6, size=(1100, 2)).astype(np.int32), np.ones((1100, 2), F32)
    close(mxfp4.moe(*many, *layer, implementation="ffi"), mixture(*many, *plain))


@costly
def gradients_of_experts():
    plain, layer = layer_of_experts(4, 64, 32)
    x, weights = normal(3, 64) / 8, RANDOM.uniform(size=(3, 2)).astype(F32)
    experts = np.array([[0, 1], [3, 3], [9, 2]], np.int32)
    direction = normal(3, 64)
    for how in ("ffi", "jnp"):
        def total(x, weights, how=how):
            return mxfp4.moe(x, experts, weights, *layer, implementation=how).sum()
        to_x, to_weights = jax.grad(total, (0, 1))(x, weights)
        step = 1e-6
        ahead = mixture(x + step * direction.astype(float), experts, weights, *plain).sum()
        behind = mixture(x - step * direction.astype(float), experts, weights, *plain).sum()
        slope = (ahead - behind) / (2 * step)
        assert abs((np.asarray(to_x, float) * direction).sum() - slope) <= 1e-3 * max(abs(slope), 1), how
        each = [mixture(x, experts, np.eye(6)[i].reshape(3, 2), *plain).sum() for i in range(6)]
        close(to_weights, np.reshape(each, (3, 2)), 1e-4)


# ---------------------------------------------------------------- attention

def attention(q, keys, values, sinks, positions, window=0, scale=None):
    """In float64, one query and head at a time."""
    mixed = np.zeros(q.shape)
    group = q.shape[1] // keys.shape[1]
    scale = q.shape[2] ** -0.5 if scale is None else scale
    for t, head in np.ndindex(q.shape[:2]):
        p = int(positions[t])
        if not 0 <= p < len(keys):
            continue
        seen = slice(0 if window == 0 else max(0, p + 1 - window), p + 1)
        scores = scale * keys[seen, head // group].astype(float) @ q[t, head].astype(float)
        largest = max(scores.max(), -np.inf if sinks is None else float(sinks[head]))
        shares = np.exp(scores - largest)
        total = shares.sum() + (0 if sinks is None else np.exp(float(sinks[head]) - largest))
        mixed[t, head] = shares @ values[seen, head // group].astype(float) / total
    return mixed


@test
def attention_against_float64():
    cases = (  # heads, KV heads, head size, capacity, positions
        (8, 2, 64, 300, [299]), (8, 1, 64, 260, [254, 255, 256, 257]), (6, 3, 20, 333, range(290, 333)),
        (4, 4, 33, 40, [0, 1, 39]), (2, 1, 128, 600, [599, 3, 4, 5, 0]), (16, 2, 64, 200, range(126, 131)))
    for heads, kv_heads, size, capacity, positions in cases:
        positions = np.array(positions, np.int32)
        for dtype in (F32, BF16):
            keys, values = normal(capacity, kv_heads, size, dtype=dtype), normal(capacity, kv_heads, size, dtype=dtype)
            q = normal(len(positions), heads, size, dtype=dtype)
            for window in (0, 1, 127, 128, 129) if dtype == F32 else (128,):
                sinks = normal(heads) * 3 if window != 127 else None
                expected = attention(q, keys, values, sinks, positions, window)
                found = sink_attention(q, keys, values, sinks, positions, window=window, implementation="ffi")
                assert found.dtype == dtype
                close(found, expected)
            close(sink_attention(q, keys, values, sinks, positions, window=window, implementation="jnp"), expected)
    close(sink_attention(q, keys, values, sinks, positions, scale=0.3), attention(q, keys, values, sinks, positions, scale=0.3))


@costly
def a_window_counts_the_token_itself():
    """All keys alike: with a window of n the mean of the last n values."""
    capacity = 200
    values = np.arange(capacity, dtype=F32).reshape(capacity, 1, 1) * np.ones((1, 1, 16), F32)
    keys, q = np.zeros_like(values), np.zeros((1, 1, 16), F32)
    for window in (1, 127, 128, 129):
        for how in ("ffi", "jnp"):
            mean = sink_attention(q, keys, values, None, np.array([190], np.int32), window=window, implementation=how)[0, 0, 0]
            assert abs(float(mean) - (190 - (window - 1) / 2)) < 1e-3, (window, mean)


@test
def positions_outside_see_nothing_and_what_lies_behind_is_not_seen():
    keys, values, q = normal(40, 2, 16), normal(40, 2, 16), normal(6, 4, 16)
    keys[30:], values[30:] = np.nan, np.nan
    positions = np.array([-1, 40, 29, -2**31, 2**31 - 1, 0], np.int32)
    for sinks in (None, normal(4)):
        for how in ("ffi", "jnp"):
            found = sink_attention(q, keys, values, sinks, positions, implementation=how)
            close(found, attention(q, keys, values, sinks, positions))


@costly
def attention_of_batches():
    q, keys, values = normal(3, 5, 4, 16), normal(3, 50, 2, 16, dtype=BF16), normal(3, 50, 2, 16, dtype=BF16)
    positions, sinks = RANDOM.integers(-1, 50, size=(3, 5)).astype(np.int32), normal(4)
    expected = np.stack([attention(*each[:3], sinks, each[3]) for each in zip(q, keys, values, positions)])
    for how in ("ffi", "jnp"):
        def attend(q, k, v, p, how=how):
            return sink_attention(q, k, v, sinks, p, implementation=how)
        close(attend(q, keys, values, positions), expected)
        close(jax.jit(jax.vmap(attend))(q, keys, values, positions), expected)
        one = np.stack([attention(a, keys[0], values[0], sinks, p) for a, p in zip(q, positions)])
        close(jax.vmap(attend, (0, None, None, 0))(q, keys[0], values[0], positions), one)
        close(attend(q, keys[0], values[0], positions), one)
        close(jax.vmap(jax.vmap(attend, (0, None, None, 0)))(q[:, :, None], keys, values, positions[:, :, None])[:, :, 0], expected)
        close(attend(q[:, :0], keys, values, positions[:, :0]), expected[:, :0])


@test
def attention_with_its_heads_on_devices():
    q, keys, values, sinks = normal(5, 16, 16), normal(40, 8, 16), normal(40, 8, 16), normal(16)
    positions = np.arange(30, 35, dtype=np.int32)
    mesh = Mesh(np.array(jax.devices()), ("d",))
    heads = P(None, "d")
    attend = jax.shard_map(lambda *a: sink_attention(*a, window=9, implementation="ffi"), mesh=mesh,
                           in_specs=(heads, heads, heads, P("d"), P()), out_specs=heads)
    close(jax.jit(attend)(q, keys, values, sinks, positions), attention(q, keys, values, sinks, positions, 9))


@costly
def gradients_of_attention():
    q, keys, values, sinks = normal(3, 4, 16), normal(20, 2, 16), normal(20, 2, 16), normal(4)
    positions = np.array([4, -1, 19], np.int32)
    weights = normal(3, 4, 16)
    found = {}
    for how in ("ffi", "jnp"):
        def total(q, k, v, s, how=how):
            return (weights * sink_attention(q, k, v, s, positions, window=7, implementation=how)).sum()
        found[how] = jax.grad(total, (0, 1, 2, 3))(q, keys, values, sinks)
        assert all(np.isfinite(g).all() for g in found[how])
    for a, b in zip(found["ffi"], found["jnp"]):
        close(a, b)
    direction, step = normal(3, 4, 16), 1e-5
    def at(q):
        return (weights * attention(q, keys, values, sinks, positions, 7)).sum()
    slope = (at(q + step * direction.astype(float)) - at(q - step * direction.astype(float))) / (2 * step)
    assert abs((found["ffi"][0] * direction).sum() - slope) < 1e-3 * max(1, abs(slope))


# ---------------------------------------------------------------- what does not fit

def raw(name, results, *arguments, **attributes):
    results = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in results]
    return jax.ffi.ffi_call(f"tensorport_{name}", results, vmap_method="sequential")(*arguments, **attributes)


def u8(*shape):
    return np.zeros(shape, np.uint8)


def i32(*shape):
    return np.zeros(shape, np.int32)


def f32(*shape):
    return np.zeros(shape, F32)


@test
def handlers_refuse_what_does_not_fit():
    y = [((2, 8), F32)]
    good = f32(2, 64), u8(8, 2, 16), u8(8, 2)
    raw("mxfp4_matmul", y, *good)
    for results, arguments, says in (
        (y, good[:2], ["expected 3 to 4 arguments, found 2"]),
        (y * 2, good, ["expected 1 results, found 2"]),
        (y, (i32(2, 64), *good[1:]), ["argument \"x\"", "int32"]),
        (y, (f32(2, 65), *good[1:]), ["argument \"x\": expected shape [2, 64], found [2, 65]"]),
        (y, (f32(64), *good[1:]), ["result \"y\""]),
        (y, (f32(), *good[1:]), ["at least 1 axes"]),
        (y, (good[0], f32(8, 2, 16), good[2]), ["argument \"blocks\": expected uint8"]),
        (y, (good[0], u8(8, 2, 15), good[2]), ["[8, 2, 16]", "[8, 2, 15]"]),
        (y, (good[0], u8(8, 3, 16), good[2]), ["argument \"blocks\""]),
        (y, (good[0], good[1], u8(8)), ["at least 2 axes"]),
        (y, (*good, f32(9)), ["argument \"bias\": expected shape [8], found [9]"]),
        (y, (*good, u8(8)), ["argument \"bias\""]),
        ([((2, 9), F32)], good, ["result \"y\": expected shape [2, 8], found [2, 9]"]),
        ([((2, 8), BF16)], good, ["result \"y\": expected float32, found bfloat16"]),
        (y, (good[0], u8(3, 8, 2, 16), u8(3, 8, 2)), ["expected shape [3, 64]"]),
    ):
        refused(["INVALID_ARGUMENT", "mxfp4_matmul", *says], lambda r=results, a=arguments: raw("mxfp4_matmul", r, *a))
    refused(["INVALID_ARGUMENT", "at most 16 axes"], lambda: raw("mxfp4_matmul", y, f32(*[1] * 17), *good[1:]))


@test
def a_dimension_that_memory_cannot_hold():
    """XLA itself falls over products that overflow; of what it lets through, nothing is multiplied."""
    nothing = jnp.zeros((0, 2**58), jnp.uint8)
    refused(["INVALID_ARGUMENT", "\"scales\": its size is more than memory can hold"], lambda: raw(
        "mxfp4_matmul", [((2, 8), F32)], f32(2, 64), u8(8, 2, 16), nothing))


@test
def the_other_handlers_refuse_as_well():
    refused(["dense_matmul", "argument \"w\": expected", "uint8"], lambda: raw("dense_matmul", [((2, 3), F32)], f32(2, 4), u8(3, 4)))
    refused(["dense_matmul", "[2, 4]", "[2, 5]"], lambda: raw("dense_matmul", [((2, 3), F32)], f32(2, 5), f32(3, 4)))
    refused(["mxfp4_quantize", "[2, 64]", "[2, 33]"], lambda: raw(
        "mxfp4_quantize", [((2, 2, 16), np.uint8), ((2, 2), np.uint8)], f32(2, 33)))
    refused(["mxfp4_quantize", "expected 2 results"], lambda: raw("mxfp4_quantize", [((2, 2, 16), np.uint8)], f32(2, 64)))
    refused(["mxfp4_dequantize", "at least 1 axes"], lambda: raw("mxfp4_dequantize", [((32,), F32)], u8(16), u8()))
    refused(["mxfp4_dequantize", "int32"], lambda: raw("mxfp4_dequantize", [((32,), np.int32)], u8(1, 16), u8(1)))

    attributes = {"alpha": np.float32(1), "limit": np.float32(7)}
    good = f32(2, 32), i32(2, 1), f32(2, 1), u8(3, 128, 1, 16), u8(3, 128, 1), u8(3, 32, 2, 16), u8(3, 32, 2)
    biases, y = (f32(3, 128), f32(3, 32)), [((2, 32), F32)]
    raw("mxfp4_moe", y, *good, *biases, **attributes)
    for change, says in (
        ({0: f32(2, 64)}, ["\"x\"", "[2, 32]"]), ({1: f32(2, 1)}, ["\"experts\"", "int32"]), ({1: i32(2, 2)}, ["\"weights\"", "[2, 2]"]),
        ({1: i32(2)}, ["\"experts\"", "2 axes"]), ({2: f32(3, 1)}, ["\"weights\""]), ({3: u8(3, 127, 1, 16), 4: u8(3, 127, 1)}, ["\"gate_up_scales\""]),
        ({5: u8(2, 32, 2, 16), 6: u8(2, 32, 2)}, ["\"down_scales\"", "[3, 32, 2]"]), ({7: f32(3, 127)}, ["\"gate_up_bias\""]),
        ({8: f32(32, 3)}, ["\"down_bias\""]), ({6: u8(3, 32, 3)}, ["\"down\""]),
    ):
        arguments = [change.get(i, argument) for i, argument in enumerate((*good, *biases))]
        refused(["INVALID_ARGUMENT", "mxfp4_moe", *says], lambda a=arguments: raw("mxfp4_moe", y, *a, **attributes))
    refused(["both biases or none"], lambda: raw("mxfp4_moe", y, *good, biases[0], **attributes))
    refused(["attribute \"limit\" is missing"], lambda: raw("mxfp4_moe", y, *good, alpha=np.float32(1)))
    refused(["attribute \"alpha\": expected a float32"], lambda: raw("mxfp4_moe", y, *good, alpha=np.int64(1), limit=np.float32(1)))

    attributes = {"window": np.int64(0), "scale": np.float32(1)}
    good, y = (f32(3, 4, 16), f32(9, 2, 16), f32(9, 2, 16), i32(3), f32(4)), [((3, 4, 16), F32)]
    raw("sink_attention", y, *good, **attributes)
    for change, says in (
        ({0: f32(3, 5, 16)}, ["\"mixed\""]), ({1: f32(9, 3, 16), 2: f32(9, 3, 16)}, ["multiple of the caches' 3 heads"]),
        ({1: f32(9, 0, 16), 2: f32(9, 0, 16)}, ["0 heads"]), ({1: f32(9, 2, 15)}, ["\"keys\""]), ({2: f32(8, 2, 16)}, ["\"values\""]),
        ({2: normal(9, 2, 16, dtype=BF16)}, ["\"values\": expected float32"]), ({3: i32(4)}, ["\"positions\""]), ({3: f32(3)}, ["int32"]),
        ({4: f32(5)}, ["\"sinks\""]), ({0: f32(4, 16)}, ["at least 3 axes"]), ({1: f32(2, 16), 2: f32(2, 16)}, ["at least 3 axes"]),
    ):
        arguments = [change.get(i, argument) for i, argument in enumerate(good)]
        refused(["INVALID_ARGUMENT", "sink_attention", *says], lambda a=arguments: raw("sink_attention", y, *a, **attributes))
    refused(["expected 0 or more, found -1"], lambda: raw("sink_attention", y, *good, window=np.int64(-1), scale=np.float32(1)))


@test
def functions_refuse_before_xla_is_asked():
    _, w = packed(8, 64)
    for function, says in (
        (lambda: mxfp4.matmul(normal(2, 65), w), ["[2, 65]", "[8, 64]"]),
        (lambda: mxfp4.matmul(np.zeros((2, 64), np.int32), w), ["float32 or bfloat16", "int32"]),
        (lambda: mxfp4.matmul(normal(2, 64), w, normal(9)), ["bias", "[8]", "[9]"]),
        (lambda: mxfp4.matmul(normal(2, 64), w, implementation="fast"), ["'ffi'", "'fast'"]),
        (lambda: mxfp4.matmul(normal(2, 64), mxfp4.MXFP4Array(w.blocks, w.scales[:7])), ["[8, 2, 16]", "[7, 2]"]),
        (lambda: mxfp4.quantize(normal(2, 33)), ["multiple of 32", "[2, 33]"]),
        (lambda: mxfp4.quantize(np.zeros((2, 32), np.int8)), ["int8"]),
        (lambda: mxfp4.dequantize(w, np.float64), ["float64"]),
        (lambda: dense.matmul(normal(2, 64), np.zeros((8, 64), np.int8)), ["int8"]),
        (lambda: sink_attention(normal(1, 3, 8), normal(4, 2, 8), normal(4, 2, 8), None, i32(1)), ["multiple"]),
        (lambda: sink_attention(normal(1, 2, 8), normal(4, 2, 8), normal(4, 2, 8), None, i32(1), window=-1), ["window"]),
    ):
        refused(says, function)


main()
