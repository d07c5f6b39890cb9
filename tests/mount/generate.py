"""Writes checkpoints for tests: any bytes under any dtype and shape, in any number of shards."""

import json
import math
import random
import struct

import ml_dtypes
import numpy as np

from reference import DTYPES

WIDTH = {name: dtype.itemsize for name, dtype in DTYPES.items()}


def safetensors_bytes(tensors, padding=0):
    """A file of {name: (dtype, shape, bytes)}; `padding` spaces end its header, so that the data
    need not be aligned."""
    header, at = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        assert len(data) == math.prod(shape) * WIDTH[dtype], name
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header, ensure_ascii=False).encode() + b" " * padding
    return struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values())


def write_file(path, tensors, padding=0):
    path.write_bytes(safetensors_bytes(tensors, padding))
    return path


def write_shards(folder, shards, padding=0):
    """A checkpoint folder of several files and their index, from a list of dictionaries."""
    folder.mkdir(parents=True, exist_ok=True)
    weight_map = {}
    for i, tensors in enumerate(shards):
        file = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        write_file(folder / file, tensors, padding)
        weight_map.update({name: file for name in tensors})
    total = sum(len(data) for tensors in shards for _, _, data in tensors.values())
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}))
    return folder


# ---------------------------------------------------------------- random ones

# Sizes around 32 (an MXFP4 block, a vector), and those that no vector length divides.
DIMENSIONS = (0, 1, 1, 2, 3, 4, 5, 7, 8, 13, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127, 255, 257)
SYLLABLES = ("layer", "w", "mlp", "é", "中文", "😀", "a b", "x/y", "Ω", "0", "q_proj", "~", "e\u0301",
             "bias", "\\", "'", "norm")


class Generator:
    """Random checkpoints: the same for the same seed."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.used = set()

    def name(self):
        while True:
            parts = self.random.choices(SYLLABLES, k=self.random.randint(1, 5))
            name = self.random.choice("._").join(parts)
            if name not in self.used and not name.endswith(("_blocks", "_scales")):
                self.used.add(name)
                return name

    def shape(self, limit):
        """At most `limit` elements."""
        shape = []
        for _ in range(self.random.randint(0, 5)):
            dimension = self.random.choice(DIMENSIONS)
            if math.prod(shape) * dimension <= limit:
                shape.append(dimension)
        return tuple(shape)

    def data(self, dtype, shape):
        """Random bits, NaN and subnormals among them; half of the floats are of everyday size, for
        random bits of the wide types hardly ever stay finite in the narrow ones."""
        n = math.prod(shape)
        if dtype == "BOOL":
            return bytes(self.random.choices((0, 1), k=n))
        if dtype in ("F64", "F32", "BF16") and self.random.random() < 0.5:
            values = np.random.default_rng(self.random.getrandbits(32)).normal(size=n)
            exponents = self.random.choice((0, 4, 8))
            return (values ** (1 + exponents)).astype(DTYPES[dtype]).tobytes()
        return self.random.randbytes(n * WIDTH[dtype])

    def tensor(self, limit=20_000):
        dtype = self.random.choice(list(WIDTH))
        shape = self.shape(limit)
        return dtype, shape, self.data(dtype, shape)

    def large(self):
        """Longer than a few cache tiles in every precision, and odd."""
        dtype = self.random.choice(("BF16", "F16", "F32", "F64", "F8_E4M3"))
        shape = (self.random.randint(500, 900), self.random.randrange(1201, 1701, 2))
        return dtype, shape, self.data(dtype, shape)

    def pair(self, large=False):
        """Blocks and scales."""
        leading = (3, 1001, 17) if large else (*self.shape(40)[:3], self.random.choice(DIMENSIONS))
        scales = self.random.randbytes(math.prod(leading))
        return (("U8", (*leading, 16), self.random.randbytes(16 * len(scales))),
                ("U8", leading, scales))

    def shards(self, n_shards, n_tensors, n_pairs):
        """A list of dictionaries for write_shards(); no shard is empty."""
        tensors = {self.name(): self.tensor() for _ in range(n_tensors)}
        tensors[self.name()] = self.large()
        for i in range(n_pairs):
            name = self.name()
            tensors[f"{name}_blocks"], tensors[f"{name}_scales"] = self.pair(large=i == 0)
        names = list(tensors)
        self.random.shuffle(names)  # blocks and scales come apart
        shards = [{} for _ in range(n_shards)]
        for i, name in enumerate(names):
            shard = i if i < n_shards else self.random.randrange(n_shards)
            shards[shard][name] = tensors[name]
        return shards


def hard_float64(n, seed):
    """Values a hair away from the ties between two bfloat16, float16 or float32: rounding by way of
    another type gets these wrong."""
    numbers = np.random.default_rng(seed)
    values = []
    for dtype in (np.dtype(ml_dtypes.bfloat16), np.dtype("<f2"), np.dtype("<f4")):
        unsigned = f"<u{dtype.itemsize}"
        infinity = int(np.array(np.inf, dtype).view(unsigned))
        low = numbers.integers(0, infinity - 1, n).astype(unsigned)
        near, far = (bits.view(dtype).astype("<f8") for bits in (low, (low + 1).astype(unsigned)))
        tie = (near + far) / 2  # exact in float64
        values += [tie, np.nextafter(tie, 0), np.nextafter(tie, np.inf), tie * (1 + 2.0 ** -30),
                   tie * (1 - 2.0 ** -30)]
    values = np.concatenate(values)
    return np.concatenate([values, -values])
