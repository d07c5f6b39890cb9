"""Loads tensors off a mount with jax.numpy and checks them against the checkpoint's own bytes.

    try_mount.py MODEL MOUNTPOINT

The check is independent of TensorPort: json and struct read the safetensors header, numpy and
ml_dtypes decode. Up to a dozen tensors are looked at, small ones of every kind first.
"""

import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

jax.config.update("jax_enable_x64", True)  # show 64-bit tensors as they are

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
STORED = {"BF16": ml_dtypes.bfloat16, "F16": np.float16, "F32": np.float32, "F64": np.float64,
          "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
          "F8_E8M0": ml_dtypes.float8_e8m0fnu, "BOOL": np.bool_, "C64": np.complex64,
          **{f"{letter}{bits}": np.dtype(f"{kind}{bits}")
             for letter, kind in (("I", "int"), ("U", "uint")) for bits in (8, 16, 32, 64)}}
BYTES_MAX = 64 << 20  # larger tensors are left to the user's patience


def read_source(folder: Path, source: dict) -> np.ndarray:
    with open(folder / source["file"], "rb") as f:
        f.seek(source["offset"])
        return np.frombuffer(f.read(source["nbytes"]), np.uint8)


def expected(folder: Path, tensor: dict) -> np.ndarray:
    """The tensor as float32 or as stored, decoded here from the checkpoint."""
    source = tensor["source"]
    if "blocks" not in source:
        return read_source(folder, source).view(STORED[source["dtype"]]).reshape(tensor["shape"])
    codes = read_source(folder, source["blocks"]).reshape(-1, 16)
    scales = read_source(folder, source["scales"]).astype(np.int32)
    values = np.stack([E2M1[codes & 15], E2M1[codes >> 4]], axis=-1).reshape(-1, 32)
    with np.errstate(over="ignore"):
        factors = np.ldexp(np.float32(1), scales - 127)
        factors[scales == 255] = np.nan
        return (values * factors[:, None]).reshape(tensor["shape"])


def choose(tensors: list) -> list:
    """A few tensors of every stored type, small ones first."""
    kinds = {}
    for tensor in sorted(tensors, key=lambda t: t["nbytes"]):
        kind = "MXFP4" if "blocks" in tensor["source"] else tensor["source"]["dtype"]
        if tensor["nbytes"] <= BYTES_MAX:
            kinds.setdefault(kind, []).append(tensor)
    return [t for kind in kinds.values() for t in (kind[:2] + kind[-2:])[:4]][:12]


def main() -> None:
    model, mount = Path(sys.argv[1]), Path(sys.argv[2])
    folder = model if model.is_dir() else model.parent
    manifest = json.loads((mount / "manifest.json").read_text())
    chosen = choose(manifest["tensors"])
    for tensor in chosen:
        start = time.perf_counter()
        array = jnp.load(mount / tensor["file"])
        seconds = time.perf_counter() - start
        wanted = expected(folder, tensor)
        with np.errstate(over="ignore"):
            same = np.array_equal(np.asarray(array).astype(wanted.dtype), wanted,
                                  equal_nan=wanted.dtype.kind in "fcV")
        print(f"  {'ok' if same else 'WRONG':5} {tensor['name']:55.55} {array.dtype!s:9} "
              f"{str(array.shape):18} {1000 * seconds:7.2f} ms")
        if not same:
            sys.exit(f"{tensor['file']} differs from what {folder} holds")
    print(f"{len(chosen)} of {len(manifest['tensors'])} tensors loaded and equal to the checkpoint's")


main()
