"""The kernels in C: where their libraries are, and whether XLA has them.

One library holds handlers for the CPU, another those for CUDA. Each is looked for at $TENSORPORT_XLA
or $TENSORPORT_XLA_CUDA, beside this package, and where `make install` put it. `available()` says
whether that for the CPU is registered, `reason()` why it is not, `available_on_cuda()` whether the
other is, too. On other platforms, and without the libraries, every operation has a form in plain
jax.numpy.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

LIBRARIES = {"cpu": "tensorport-xla.so", "CUDA": "tensorport-xla-cuda.so"}
VARIABLES = {"cpu": "TENSORPORT_XLA", "CUDA": "TENSORPORT_XLA_CUDA"}
INTERFACE = 1
HANDLERS = (
    "dense_matmul",
    "mxfp4_dequantize",
    "mxfp4_matmul",
    "mxfp4_moe",
    "mxfp4_quantize",
    "sink_attention",
)
IMPLEMENTATIONS = (None, "ffi", "jnp")


def _places(platform: str) -> list[Path]:
    if VARIABLES[platform] in os.environ:
        return [Path(os.environ[VARIABLES[platform]])]
    places = [Path(__file__).parent / LIBRARIES[platform]]
    try:
        from tensorport import _installed  # written by the build: the directory of `make install`

        places.append(Path(_installed.PKGLIBDIR) / LIBRARIES[platform])
    except ImportError:
        pass
    return places


def _load(platform: str) -> str | None:
    """Registers a platform's handlers; says why not. JAX keeps them until it has such devices."""
    places = _places(platform)
    path = next((place for place in places if place.exists()), None)
    if path is None:
        return "no library at " + " nor ".join(map(str, places))
    try:
        library = ctypes.CDLL(str(path))
        interface = library.tensorport_xla_interface()
    except (OSError, AttributeError) as error:
        return f"{path} does not load: {error}"
    if interface != INTERFACE:
        return f"{path} is another version's: expected interface {INTERFACE}, found {interface}"
    for name in HANDLERS:
        handler = getattr(library, f"tensorport_{name}")
        jax.ffi.register_ffi_target(f"tensorport_{name}", jax.ffi.pycapsule(handler), platform=platform)
    return None


_lock = threading.Lock()


@functools.cache
def _state(platform: str) -> tuple[str | None]:
    return (_load(platform),)


def reason(platform: str = "cpu") -> str | None:
    """Why there are no kernels in C, or None if there are."""
    with _lock:
        return _state(platform)[0]


def available() -> bool:
    """Whether XLA knows the kernels in C, for the CPU at least."""
    return reason() is None


def available_on_cuda() -> bool:
    """Whether it knows them for CUDA, too: asked for where there is a library for the CPU."""
    return reason("CUDA") is None


def choose(implementation: str | None, others: tuple[str, ...] = ()) -> str:
    """What an operation's `implementation` stands for: "ffi", "jnp" or one of `others`."""
    if implementation is None:
        return "ffi" if available() else "jnp"
    if implementation not in IMPLEMENTATIONS + others:
        allowed = ", ".join(repr(name) for name in IMPLEMENTATIONS + others)
        raise ValueError(f"implementation: expected one of {allowed}, found {implementation!r}")
    if implementation == "ffi" and not available():
        raise RuntimeError(f"implementation 'ffi' is not there: {reason()}")
    return implementation


def _varying_alike(arguments: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """Under shard_map, some arguments are the same on all devices and others are not; a call of ours
    takes them all as the latter."""
    axes = [jax.typeof(argument).manual_axis_type.varying for argument in arguments]
    every = frozenset().union(*axes)
    return tuple(
        jax.lax.pcast(argument, tuple(every - its), to="varying") if its != every else argument
        for argument, its in zip(arguments, axes)
    )


def call(
    name: str,
    results: list[tuple[tuple[int, ...], Any]],
    *arguments: jax.Array,
    vmap_method: str = "sequential",
    **attributes: Any,
) -> list[jax.Array]:
    """One handler, on arrays as they are: infer/jax/handlers.h says what each takes. `results`: shapes
    and dtypes."""
    like, mesh = jax.typeof(arguments[0]), jax.sharding.get_abstract_mesh()
    shapes = [
        jax.ShapeDtypeStruct(
            shape,
            dtype,
            sharding=None if mesh.empty else jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()),
            manual_axis_type=like.manual_axis_type,
        )
        for shape, dtype in results
    ]
    return jax.ffi.ffi_call(f"tensorport_{name}", shapes, vmap_method=vmap_method)(*arguments, **attributes)


def by_platform(ffi: Callable[..., Any], plain: Callable[..., Any], *arguments: jax.Array) -> Any:
    """`ffi` where the computation is compiled for a CPU, or for CUDA and there are kernels for it;
    `plain` elsewhere."""
    fast = {"cpu": ffi, "cuda": ffi} if available_on_cuda() else {"cpu": ffi}
    return jax.lax.platform_dependent(*_varying_alike(arguments), **fast, default=plain)
