"""A second reader of safetensors checkpoints, in plain Python and numpy: what the view must show.

It shares nothing with TensorPort. Formats: the kit's README; MXFP4: the kit's common.py. Conversions
are those of numpy and ml_dtypes, except one: ml_dtypes rounds float64 to bfloat16 by way of float32,
which rounds twice.
"""

import json
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

sys.dont_write_bytecode = True  # nothing may appear in the kit's folder
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "kit"))
from common import mxfp4_decode  # noqa: E402

PRECISIONS = ("float32", "float16", "bfloat16", "source")
BF16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = {
    "BOOL": np.dtype(np.bool_), "U8": np.dtype("u1"), "I8": np.dtype("i1"),
    "U16": np.dtype("<u2"), "I16": np.dtype("<i2"), "U32": np.dtype("<u4"), "I32": np.dtype("<i4"),
    "U64": np.dtype("<u8"), "I64": np.dtype("<i8"), "F16": np.dtype("<f2"), "BF16": BF16,
    "F32": np.dtype("<f4"), "F64": np.dtype("<f8"), "C64": np.dtype("<c8"),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn), "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
}
F8 = ("F8_E4M3", "F8_E5M2", "F8_E8M0")
FLOATS = ("F16", "BF16", "F32", "F64", *F8)
TARGETS = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2"), "bfloat16": BF16}


@dataclass(frozen=True)
class Stored:
    """A tensor as it lies in a file."""
    name: str
    dtype: str
    shape: tuple
    file: Path
    offset: int  # in the file
    nbytes: int

    def bytes(self):
        with open(self.file, "rb") as stream:
            stream.seek(self.offset)
            return stream.read(self.nbytes)

    def array(self):
        return np.frombuffer(self.bytes(), DTYPES[self.dtype]).reshape(self.shape)


def read_header(file):
    """The tensors of one safetensors file in the order of their data."""
    with open(file, "rb") as stream:
        length = struct.unpack("<Q", stream.read(8))[0]
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    tensors = [Stored(name, entry["dtype"], tuple(entry["shape"]), Path(file),
                      8 + length + entry["data_offsets"][0],
                      entry["data_offsets"][1] - entry["data_offsets"][0])
               for name, entry in header.items()]
    return sorted(tensors, key=lambda tensor: (tensor.offset, tensor.nbytes))


def float64_to_bfloat16(values):
    """Rounded once, to nearest even: first to float32 by rounding to odd, which keeps the 16 bits
    that follow bfloat16's from becoming a tie that was none."""
    with np.errstate(over="ignore", invalid="ignore"):
        near = values.astype("<f4")
    bits = near.view("<u4").copy()
    inexact = (near.astype("<f8") != values) & ~np.isnan(values)
    too_far = inexact & (np.abs(near.astype("<f8")) > np.abs(values))
    bits[too_far] -= 1  # towards zero; from infinity that is the largest float32
    bits[inexact] |= 1
    return bits.view("<f4").astype(BF16)


def convert(array, precision):
    """What `--precision` makes of a floating-point array."""
    target = TARGETS[precision]
    if array.dtype == np.float64 and target == BF16:
        return float64_to_bfloat16(array)
    with np.errstate(all="ignore"):
        return array.astype(target)


def find_files(path):
    """The safetensors files of a folder, of an index, or the one that `path` is; sorted."""
    index = path / "model.safetensors.index.json" if path.is_dir() else path
    if index.name.endswith(".index.json") and index.exists():
        files = json.loads(index.read_text())["weight_map"].values()
        return sorted({index.parent / file for file in files})
    return sorted(path.glob("*.safetensors")) if path.is_dir() else [path]


def is_pair(blocks, scales):
    """Blocks U8 [..., G, 16] and scales U8 [..., G]?"""
    return (blocks.dtype == scales.dtype == "U8" and len(blocks.shape) >= 2
            and blocks.shape == (*scales.shape, 16))


class Reference:
    """A checkpoint. `stored` has every tensor by name in the order of files and offsets; `pairs`
    has the decoded name of each MXFP4 pair with its blocks and scales."""

    def __init__(self, path):
        self.stored = {tensor.name: tensor for file in find_files(Path(path))
                       for tensor in read_header(file)}
        self.pairs = {}
        for name, blocks in self.stored.items():
            bare = name.removesuffix("_blocks")
            scales = self.stored.get(f"{bare}_scales")
            if bare != name and bare not in self.stored and scales and is_pair(blocks, scales):
                self.pairs[bare] = (blocks, scales)

    def names(self, packed=False):
        """The tensors that a view shows, in its order; a pair stands where its blocks are."""
        if packed:
            return list(self.stored)
        halves = {half.name for pair in self.pairs.values() for half in pair}
        decoded = {blocks.name: name for name, (blocks, _) in self.pairs.items()}
        return [decoded.get(name, name) for name in self.stored
                if name not in halves or name in decoded]

    def array(self, name, precision):
        """The tensor `name`, or the decoded pair of that name, as numpy shows it."""
        if name in self.pairs:
            blocks, scales = self.pairs[name]
            values = mxfp4_decode(blocks.array(), scales.array())
            return values if precision == "float32" else convert(
                values, "bfloat16" if precision == "source" else precision)
        tensor = self.stored[name]
        array = tensor.array()
        if precision == "source":
            return array.view("u1") if tensor.dtype in F8 else array
        return convert(array, precision) if tensor.dtype in FLOATS else array

    def is_copied(self, name, precision):
        """Shown byte for byte as stored?"""
        return name not in self.pairs and (
            self.stored[name].dtype not in FLOATS or precision == "source"
            or DTYPES[self.stored[name].dtype] == TARGETS[precision])

    def arrays(self, precision, packed=False):
        """All of them, one after the other: (name, array)."""
        return ((name, self.array(name, precision)) for name in self.names(packed))

    def dtype_name(self, name, precision):
        """What manifest.json calls the type shown; F8 keeps its own name in `source`."""
        if name in self.pairs:
            return "bfloat16" if precision == "source" else precision
        dtype = self.stored[name].dtype
        if dtype in FLOATS and precision != "source":
            return precision
        return DTYPES[dtype].name

    def parameters(self):
        halves = {half.name for pair in self.pairs.values() for half in pair}
        plain = sum(np.prod(tensor.shape, dtype=object) for name, tensor in self.stored.items()
                    if name not in halves)
        return int(plain) + sum(2 * blocks.nbytes for blocks, _ in self.pairs.values())


def reference(path):
    """The checkpoint at `path`: a folder or one safetensors file."""
    return Reference(path)


# ---------------------------------------------------------------- comparing

def is_nan(array):
    """Elementwise; False for types that have none."""
    if array.dtype.kind in "fc" or array.dtype == BF16:
        with np.errstate(invalid="ignore"):  # signalling ones
            return np.isnan(array)
    return np.zeros(array.shape, bool)


def same_bits(found, expected, nan_is_a_class=True):
    """None if two arrays have the same type, shape and bits; else where and how they differ."""
    if found.dtype != expected.dtype or found.shape != expected.shape:
        return f"{found.dtype} {found.shape} instead of {expected.dtype} {expected.shape}"
    found, expected = (np.ascontiguousarray(array).reshape(-1) for array in (found, expected))
    width = found.dtype.itemsize
    differ = (found.view("u1") != expected.view("u1")).reshape(-1, width).any(1)
    if nan_is_a_class:
        differ &= ~(is_nan(found) & is_nan(expected))
    if not differ.any():
        return None
    at = int(np.flatnonzero(differ)[0])
    return (f"{int(differ.sum())} of {differ.size} elements differ, the first at {at}: "
            f"{found[at]!r} (0x{found[at:at + 1].tobytes()[::-1].hex()}) instead of "
            f"{expected[at]!r} (0x{expected[at:at + 1].tobytes()[::-1].hex()})")
