"""Compares a mounted (or copied) view with the reference, tensor by tensor; and what else several
tests ask of a tree."""

import errno
import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from reference import BF16, same_bits

# The views below .tensorport/views, and what `--precision` and `--mxfp4` would say.
HIDDEN_VIEWS = {"float32": ("float32", False), "float16": ("float16", False),
                "bfloat16": ("bfloat16", False), "packed": ("source", True)}
PIECE = 1 << 20  # bytes compared at a time: they stay in the processor's cache


def npy_header(array):
    """The bytes that numpy.save writes before the data."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(array))
    return stream.getvalue()


def npy_bytes(array):
    """What numpy.save writes."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def check_bytes(path, expected, is_copied):
    """The file is what numpy.save writes for `expected`. NaN is compared as a class, unless the
    data are copied from the checkpoint: then every bit counts."""
    header, flat = npy_header(expected), expected.reshape(-1)
    if expected.nbytes <= PIECE:
        assert npy_bytes(expected) == header + expected.tobytes(), "numpy.save does something else"
    size = path.stat().st_size
    assert size == len(header) + expected.nbytes, f"{path}: {size} bytes"
    room = np.empty(max(1, PIECE // flat.itemsize), flat.dtype)
    with open(path, "rb", buffering=0) as stream:
        found = stream.read(len(header))
        assert found == header, f"{path}: header {found} is not {header}"
        for at in range(0, flat.size, room.size):
            wanted = flat[at:at + room.size]
            found = room[:wanted.size]
            read_fully(stream, found.view("u1"))
            if not np.array_equal(found.view("u1"), wanted.view("u1")):
                fault = same_bits(found, wanted, nan_is_a_class=not is_copied)
                assert fault is None, f"{path}: in the elements from {at} on {fault}"
        assert stream.read(1) == b"", f"{path}: goes on after {size} bytes"


def read_fully(stream, target):
    """readinto() may stop early, at what the kernel has in one go."""
    view = memoryview(target)
    while len(view) > 0:
        n = stream.readinto(view)
        assert n > 0, f"{stream.name}: ends {len(view)} bytes early"
        view = view[n:]


def load_numpy(path):
    return np.load(path, allow_pickle=False)


def load_mapped(path):
    return np.load(path, mmap_mode="r", allow_pickle=False)


def load_jax(path):
    import jax.numpy as jnp  # takes a second: only for those who need it
    return np.asarray(jnp.load(path))


LOADERS = (load_numpy, load_mapped, load_jax)


def check_loaded(path, expected, load):
    found = load(path)
    if load is not load_jax and expected.dtype == BF16:
        assert found.dtype == np.dtype("V2"), f"{path}: numpy sees {found.dtype}"
        found = found.view(BF16)
    fault = same_bits(found, expected)
    assert fault is None, f"{path}: {load.__name__}: {fault}"


def check_tensor(path, reference, name, precision, loaders=()):
    expected = reference.array(name, precision)
    check_bytes(path, expected, reference.is_copied(name, precision))
    for load in loaders:
        check_loaded(path, expected, load)


def check_view(root, reference, precision, packed=False, loaders=(), wanted=lambda name: True):
    """Every tensor of the view below `root` for whose name `wanted` holds; returns how many."""
    manifest = json.loads((root / "manifest.json").read_bytes())
    assert (manifest["precision"], manifest["mxfp4"]) == (precision, "packed" if packed else "decode")
    files = {tensor["name"]: tensor["file"] for tensor in manifest["tensors"]}
    names = reference.names(packed)
    assert sorted(files) == sorted(names), f"{root}: shows {sorted(files)}, not {sorted(names)}"
    names = [name for name in names if wanted(name)]

    def check(name):
        check_tensor(root / files[name], reference, name, precision, loaders)

    with ThreadPoolExecutor(2) as pool:  # one decodes while the other waits for the daemon
        return len(list(pool.map(check, names)))


# ---------------------------------------------------------------- trees

def walk(root):
    """All paths below `root`, relative, sorted; what is not listed is not among them."""
    paths = []
    for folder, folders, files in os.walk(root, onerror=raise_it):
        paths += [Path(folder, name).relative_to(root) for name in folders + files]
    return sorted(paths)


def raise_it(error):
    raise error


def fails_with(code, function, *arguments):
    try:
        function(*arguments)
    except OSError as error:
        assert error.errno == code, f"{error}, expected {errno.errorcode[code]}"
    else:
        raise AssertionError(f"{function} succeeded, expected {errno.errorcode[code]}")
