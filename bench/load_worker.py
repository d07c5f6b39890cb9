"""Loads tensors with NumPy or JAX as a user's program does; started by loads.py, alone in its
process so that the libraries' threads and memory disturb no other case.

On stdin: a JSON object {"pairs": N, "sides": [side, side], "kit": folder}. A side is
{"how": H, "drop": bool, "tensors": [...]}, a tensor {"path": its .npy} or, to convert,
{"source": safetensors file, "scales": that of the scales, "name": N, "kind": "BF16" or "MXFP4"}.
Prints a list of figures, in GB/s of arrays, for each side, and the page faults of each side's
last round.
"""

import json
import os
import resource
import sys
import time

import numpy as np

from measure import in_turns


def load_numpy(tensor):
    return np.load(tensor["path"])


def load_jax(tensor):
    import jax.numpy as jnp
    return jnp.load(tensor["path"]).block_until_ready()


def touch(tensor):
    """Memory of the tensor's size, touched: what numpy.load needs besides the bytes."""
    array = np.empty(os.path.getsize(tensor["path"]), np.uint8)
    array.fill(1)
    return array


def convert(tensor):
    """What one writes without TensorPort: the safetensors library and vectorised NumPy."""
    import ml_dtypes  # noqa: F401 (makes NumPy know bfloat16)
    from safetensors import safe_open

    def get(part, file):
        with safe_open(file, framework="numpy") as parts:
            return parts.get_tensor(part)

    if tensor["kind"] == "BF16":
        return get(tensor["name"], tensor["source"]).astype(np.float32)
    from common import mxfp4_decode
    return mxfp4_decode(get(tensor["name"] + "_blocks", tensor["source"]),
                        get(tensor["name"] + "_scales", tensor["scales"]))


HOW = {"numpy": load_numpy, "jax": load_jax, "touch": touch, "convert": convert}


def drop_pages(path):
    file = os.open(path, os.O_RDONLY)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)


def measure(side):
    """A function that goes through the side's tensors once, and gives the rate."""
    load = HOW[side["how"]]

    def once():
        if side["drop"]:
            for tensor in side["tensors"]:
                drop_pages(tensor["path"])
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        start = time.perf_counter()
        total = sum(load(tensor).nbytes for tensor in side["tensors"])
        elapsed = time.perf_counter() - start
        side["faults"] = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        return total / elapsed / 1e9

    return once


def check(sides):
    """A fast way to the wrong numbers is worth nothing: both sides give the same bits."""
    for ours, others in zip(*(side["tensors"] for side in sides)):
        a, b = (np.asarray(HOW[side["how"]](tensor)) for side, tensor in zip(sides, (ours, others)))
        if a.shape != b.shape or a.tobytes() != b.tobytes():
            sys.exit(f"{ours} and {others} are not the same array")


def main():
    task = json.load(sys.stdin)
    sys.path.insert(0, task["kit"])
    sides = task["sides"]
    if "touch" not in (side["how"] for side in sides):
        check(sides)
    figures = in_turns(task["pairs"], *map(measure, sides))
    print(json.dumps({"figures": figures, "faults": [side["faults"] for side in sides]}))


if __name__ == "__main__":
    main()
