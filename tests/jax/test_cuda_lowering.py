"""What the package compiles for CUDA: calls of the handlers where there is a library of them, and plain
jax.numpy where there is none or another version's. No GPU is needed to look at what would be compiled."""

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "infer"))

from support import BUILD, main, test  # noqa: E402

PACKAGE = BUILD / "infer/jax/python"
CPU = PACKAGE / "tensorport/tensorport-xla.so"
CUDA = PACKAGE / "tensorport/tensorport-xla-cuda.so"
if not CPU.exists():
    print("1..0 # SKIP configure found no xla/ffi/api/c_api.h: this build has no kernels for JAX")
    sys.exit(0)

HANDLERS = ("dense_matmul", "mxfp4_dequantize", "mxfp4_matmul", "mxfp4_moe", "mxfp4_quantize", "sink_attention")

# Prints, for a platform, which of the handlers are called.
PROGRAM = """
import sys
import jax, jax.numpy as jnp
from tensorport import _ffi, attention, dense, mxfp4

def everything(x, w, positions, experts):
    packed = mxfp4.quantize(w)
    q = x.reshape(1, 2, 2, 32)
    tensors = [mxfp4.quantize(jnp.ones(shape)) for shape in ((3, 128, 64), (3, 64, 64))]
    return (mxfp4.matmul(x, packed), mxfp4.dequantize(packed), dense.matmul(x, w),
            mxfp4.moe(x, experts, jnp.ones(experts.shape), tensors[0], None, tensors[1], None),
            attention.sink_attention(q, q, q, None, positions))

shapes = [jax.ShapeDtypeStruct(*s) for s in (((2, 64), jnp.float32), ((64, 64), jnp.float32),
                                             ((1, 2), jnp.int32), ((2, 1), jnp.int32))]
text = jax.jit(everything).trace(*shapes).lower(lowering_platforms=(sys.argv[1],)).as_text()
print(*(name for name in _ffi.HANDLERS if f"@tensorport_{name}" in text))
print(_ffi.reason("CUDA"))
"""


def under_sanitizer():
    """A library with the address sanitizer wants its runtime loaded first, and that the one of C++."""
    needed = subprocess.run(["ldd", CPU], capture_output=True, text=True, check=True).stdout
    runtimes = re.findall(r"=> (\S*/lib(?:asan|tsan)\.\S*)", needed)
    return {"LD_PRELOAD": ":".join([*runtimes, "libstdc++.so.6"]), "ASAN_OPTIONS": "detect_leaks=0"} if runtimes else {}


def called(platform, **environment):
    """The names of the handlers that are called, and why there are none for CUDA."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, platform], capture_output=True, text=True, check=False, timeout=60,
                          env={**os.environ, "PYTHONPATH": str(PACKAGE), "JAX_PLATFORMS": "cpu", **under_sanitizer(), **environment})
    assert done.returncode == 0, done.stderr
    names, reason = done.stdout.splitlines()
    return tuple(names.split()), reason


@test
def handlers_are_called_on_cuda_where_they_are():
    """The library for the CPU in the place of the other: it has the same names."""
    assert called("cuda", TENSORPORT_XLA_CUDA=str(CPU)) == (HANDLERS, "None")
    assert called("cpu", TENSORPORT_XLA_CUDA=str(CPU))[0] == HANDLERS


@test
def plain_jax_is_compiled_for_cuda_where_they_are_not():
    names, reason = called("cuda", TENSORPORT_XLA_CUDA="/nowhere/tensorport-xla-cuda.so")
    assert names == () and reason == "no library at /nowhere/tensorport-xla-cuda.so", (names, reason)
    assert called("cpu", TENSORPORT_XLA_CUDA="/nowhere")[0] == HANDLERS
    names, reason = called("cuda", TENSORPORT_XLA_CUDA="/proc/self/exe")
    assert names == () and "does not load" in reason, (names, reason)


@test
def no_other_platform_gets_them():
    assert called("rocm", TENSORPORT_XLA_CUDA=str(CPU))[0] == ()


@test
def the_library_loads_without_a_gpu():
    """Where it was built: all handlers are there, and nothing looks for a device before it is called."""
    if not CUDA.exists():
        print("# not built: configure found no CUDA toolkit")
        return
    library = ctypes.CDLL(str(CUDA))
    assert library.tensorport_xla_interface() == 1
    assert all(getattr(library, f"tensorport_{name}") for name in HANDLERS)
    assert called("cuda") == (HANDLERS, "None")


main()
