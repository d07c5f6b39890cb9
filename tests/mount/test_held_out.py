"""Checkpoints that nobody has seen before: random types, ranks, odd and empty shapes, awkward names,
MXFP4 pairs of odd leading shapes with blocks and scales in different shards, unaligned data. In every
precision, decoded and packed, bit for bit.

TP_TEST_SEED is the first seed (default 1000), TP_TEST_CHECKPOINTS how many there are.
"""

import json
import math
import os
from fractions import Fraction

import numpy as np
import safetensors

from compare import HIDDEN_VIEWS, check_view
from generate import Generator, hard_float64, write_file, write_shards
from harness import Mount, main, reference, scratch, test
from reference import BF16, PRECISIONS, float64_to_bfloat16

SEED = int(os.environ.get("TP_TEST_SEED") or 1000)
N_CHECKPOINTS = int(os.environ.get("TP_TEST_CHECKPOINTS") or 12)


def check_everything(source, *options, env=None):
    """The main view in `source` precision, which no hidden view has, and the hidden ones; the main
    view of the other combinations."""
    ref = reference(source)
    with Mount(source, "--precision", "source", *options, env=env) as mount:
        check_view(mount.path, ref, "source")
        for name, (precision, packed) in HIDDEN_VIEWS.items():
            check_view(mount.path / ".tensorport/views" / name, ref, precision, packed)
    for precision in PRECISIONS[:3]:
        with Mount(source, "--precision", precision, "--mxfp4", "packed", *options, env=env) as mount:
            check_view(mount.path, ref, precision, packed=True)


def accepted_by_the_official_library(source, ref):
    """Else the test would ask for what nobody promised."""
    for file in sorted({tensor.file for tensor in ref.stored.values()}):
        with safetensors.safe_open(file, "numpy") as opened:
            expected = {tensor.name for tensor in ref.stored.values() if tensor.file == file}
            assert set(opened.keys()) == expected, file


def check_generated(seed, *options, env=None):
    print("# seed", seed, *options, *(env or {}).values())
    generator = Generator(seed)
    choose = generator.random
    with scratch() as folder:
        shards = generator.shards(choose.randint(1, 5), choose.randint(10, 60), choose.randint(2, 8))
        source = write_shards(folder / "model", shards, padding=choose.randint(0, 70))
        accepted_by_the_official_library(source, reference(source))
        check_everything(source, *options, env=env)


@test
def generated_checkpoints():
    for seed in range(SEED, SEED + N_CHECKPOINTS):
        check_generated(seed)


@test
def generated_checkpoints_in_small_pieces():
    """Little cache, one thread, many shards, no page cache."""
    check_generated(SEED + 100, "--cache-size", "2M", "--direct-io", "--shard-size", "0.0002")
    check_generated(SEED + 101, "--threads", "1", "--cache-size", "0")


@test
def generated_checkpoints_with_each_instruction_set():
    with open("/proc/cpuinfo", encoding="ascii") as stream:
        flags = stream.read()
    for name, flag in (("scalar", ""), ("avx2", "avx2"), ("avx512", "avx512bw")):
        if flag in flags:
            check_generated(SEED + 200, env={"TENSORPORT_ISA": name})


# ---------------------------------------------------------------- one thing at a time

def random_bytes(seed, n):
    return np.random.default_rng(seed).bytes(n)


@test
def pairs_of_every_leading_shape():
    """Blocks in the one shard, scales in the other, in different orders."""
    shapes = [(1,), (7,), (1, 1), (3, 5), (5, 1, 7), (2, 3, 5, 7), (1, 2, 1, 3, 1, 1), (0,), (3, 0), (0, 5, 2),
              (257, 33), (1, 40_961)]
    blocks, scales = {}, {}
    for i, shape in enumerate(shapes):
        n = math.prod(shape)
        blocks[f"m.{i}.w_blocks"] = ("U8", (*shape, 16), random_bytes(i, 16 * n))
        scales[f"m.{i}.w_scales"] = ("U8", shape, random_bytes(100 + i, n))
    scales = dict(reversed(scales.items()))
    for quantized in (False, True):
        with scratch() as folder:
            source = write_shards(folder / "model", [blocks, scales], padding=3)
            if quantized:
                (source / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "mxfp4"}}))
            assert len(reference(source).pairs) == len(shapes)
            check_everything(source)


@test
def names_that_only_look_like_pairs():
    """Shown as stored, for nothing says that the checkpoint is MXFP4."""
    tensors = {
        "alone_blocks": ("U8", (2, 16), random_bytes(1, 32)),
        "lonely_scales": ("U8", (2,), random_bytes(2, 2)),
        "wide_blocks": ("U8", (2, 32), random_bytes(3, 64)),
        "wide_scales": ("U8", (2,), random_bytes(4, 2)),
        "typed_blocks": ("I8", (2, 16), random_bytes(5, 32)),
        "typed_scales": ("I8", (2,), random_bytes(6, 2)),
        "both": ("F32", (2,), random_bytes(7, 8)),
        "both_blocks": ("U8", (2, 16), random_bytes(8, 32)),
        "both_scales": ("U8", (2,), random_bytes(9, 2)),
        "_blocks": ("U8", (3, 16), random_bytes(10, 48)),
        "blocks": ("U8", (3, 16), random_bytes(11, 48)),
        "scales": ("U8", (3,), random_bytes(12, 3)),
        "good_blocks": ("U8", (3, 16), random_bytes(13, 48)),
        "good_scales": ("U8", (3,), random_bytes(14, 3)),
    }
    with scratch() as folder:
        source = write_file(folder / "odd.safetensors", tensors)
        assert list(reference(source).pairs) == ["good"]
        check_everything(source)


@test
def lengths_around_every_vector_and_tile():
    """Tails: each length up to 130 elements, and those around a megabyte of output."""
    tile = 1 << 20
    lengths = [*range(0, 131), *(tile // 4 + d for d in (-33, -32, -31, -1, 0, 1, 31, 32, 33)),
               *(tile // 2 + d for d in (-65, -1, 0, 1, 65))]
    widths = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1}
    with scratch() as folder:
        shards = [{f"{dtype}.{n}": (dtype, (n,), random_bytes(n, n * width)) for n in lengths}
                  for dtype, width in widths.items()]
        check_everything(write_shards(folder / "model", shards, padding=1))


@test
def npy_headers_of_every_length():
    """numpy pads them to 64 bytes, with room for the first dimension to grow: one digit more or less
    matters at one length in 64."""
    shapes = [(first, *[1] * ones, 10 ** digits) for first in (0, 1) for ones in range(30) for digits in range(3)]
    shapes += [(n,) for n in (0, 9, 10, 99_999, 100_000)]
    tensors = {f"t{i}": ("U8", shape, random_bytes(i, math.prod(shape))) for i, shape in enumerate(shapes)}
    with scratch() as folder:
        check_everything(write_file(folder / "headers.safetensors", tensors))


@test
def one_file_under_any_name():
    tensors = {"t": ("BF16", (3,), random_bytes(1, 6))}
    with scratch() as folder:
        for name in ("model.safetensors", "pytorch lora é.safetensors", "a,b\\c.safetensors"):
            source = write_file(folder / name, tensors)
            check_everything(source)
            with Mount(source) as mount:
                assert mount.manifest()["source"] == name
        source = folder / "folder"
        source.mkdir()
        write_file(source / "model.safetensors", tensors)
        check_everything(source)
        check_everything(write_shards(folder / "sharded", [tensors]) / "model.safetensors.index.json")


# ---------------------------------------------------------------- the reference itself

def exactly_rounded(value):
    """To bfloat16 by exact arithmetic: the nearest of three neighbours, of two as near the even."""
    guess = int(np.array(value, "<f4").view("<u4")) >> 16
    neighbours = [bits for bits in (guess - 1, guess, guess + 1) if 0 <= bits & 0x7FFF <= 0x7F80]

    def distance(bits):
        if bits & 0x7FFF == 0x7F80:  # infinity stands where the next power of two would be
            near = Fraction(2) ** 128 * (-1 if bits >> 15 else 1)
        else:
            near = Fraction(float(np.array(bits, "<u2").view(BF16)))
        return abs(near - Fraction(value)), bits & 1
    return min(neighbours, key=distance)


@test
def the_reference_rounds_float64_exactly():
    with np.errstate(over="ignore"):
        values = np.concatenate([hard_float64(150, seed=2), [3.3961e38, 3.39e38, 1e300, 2.0 ** -134, 1e-41]])
        found = float64_to_bfloat16(values).view("<u2")
        for value, bits in zip(values, found):
            if value != 0:  # the sign of zero has no neighbours
                assert exactly_rounded(float(value)) == bits, (value, hex(bits))


main()
