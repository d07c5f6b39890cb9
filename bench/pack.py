"""Packed checkpoints: how fast they are made and undone, and what reading them costs.

The weights are BF16 with a normal distribution, as trained layers have them: random bits, which the
other cases read, do not shrink.
"""

import json
import os
import shutil
import struct
import subprocess
import time

from bench import GB, MEMORY_FOLDER, Read, Skipped
from checkpoints import MIB
from loads import need
from measure import Line, in_turns
from reads import NOT_SLOWER

PACK, UNPACK, RATIO = 0.8, 2.0, 1.3  # targets: GB/s of original bytes on one core, and size
PATTERN = 32 * MIB  # of random weights, again and again: LZ4 looks back 64 KiB
RANDOM = 20000      # reads of 4 KiB in one figure


def write_weights(folder, nbytes):
    import numpy as np

    bits = (np.random.default_rng(1).standard_normal(PATTERN // 2, "f4") * np.float32(0.02)).view("u4")
    pattern = ((bits + 0x7fff + (bits >> 16 & 1)) >> 16).astype("u2").tobytes()
    header = json.dumps({"w": {"dtype": "BF16", "shape": [nbytes // 8192, 4096],
                               "data_offsets": [0, nbytes]}}).encode()
    folder.mkdir()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for _ in range(nbytes // PATTERN):
            file.write(pattern)


class Weights:
    """A plain checkpoint and its packed twin, in memory."""

    def __init__(self, bench):
        need("numpy")
        if "tensorport" not in bench.programs:
            raise Skipped("tensorport is not built")
        self.bench, self.nbytes = bench, bench.size // 4
        if shutil.disk_usage(MEMORY_FOLDER).free < 4 * self.nbytes:
            raise Skipped(f"{MEMORY_FOLDER} has less than {4 * self.nbytes >> 20} MiB")
        self.folder = bench.folder("memory")
        self.plain, self.packed, self.out = (self.folder / name for name in ("plain", "packed", "out"))
        write_weights(self.plain, self.nbytes)
        self.run("pack", self.plain, self.packed)

    def run(self, command, source, target, workers=1):
        """GB/s of original bytes, on as many processors as workers."""
        shutil.rmtree(target, ignore_errors=True)
        processors = sorted(os.sched_getaffinity(0))[:workers]
        start = time.perf_counter()
        subprocess.run([self.bench.programs["tensorport"], command, "-q", "-w", str(workers), source,
                        target], check=True,
                       preexec_fn=lambda: os.sched_setaffinity(0, processors))
        return self.nbytes / (time.perf_counter() - start) / GB

    def copy(self):
        """cp of the original, which is what writing it to memory costs without any work."""
        shutil.rmtree(self.out, ignore_errors=True)
        processors = sorted(os.sched_getaffinity(0))[:1]
        start = time.perf_counter()
        subprocess.run(["cp", "-r", self.plain, self.out], check=True,
                       preexec_fn=lambda: os.sched_setaffinity(0, processors))
        return self.nbytes / (time.perf_counter() - start) / GB

    def read(self, folder, read, *options):
        mount = self.bench.mounts.tensorport(folder, "--precision", read.precision, "--direct-io",
                                             *options)
        result = self.bench.reader([mount.file("w")], "--manner", read.manner, "--block",
                                   str(read.block), "--count", str(read.count))
        return result["bytes"] / result["seconds"] / GB


def in_memory(bench):
    """Blocks alone, on one core: what packing is worth without the kernel's copies."""
    for isa in ("avx512", "avx2", "scalar"):
        run = subprocess.run([bench.programs["blocks"]], check=True, stdout=subprocess.PIPE,
                             env={**os.environ, "TENSORPORT_ISA": isa})
        result = json.loads(run.stdout)
        if result["isa"] != isa:
            continue  # this machine has none such
        fast = isa != "scalar"
        yield Line(f"pack, blocks in memory, {isa}", [result["pack_gb_s"]],
                   target=PACK if fast else None)
        yield Line(f"unpack, blocks in memory, {isa}", [result["unpack_gb_s"]],
                   target=UNPACK if fast else None)
        if isa == "avx512" or not fast:
            yield Line(f"pack, size of normal bf16, {isa}", [result["ratio"]], unit="times smaller",
                       target=RATIO)


def commands(weights):
    """With the kernel's reads and writes of tmpfs, of which cp has as many as unpack."""
    pairs = weights.bench.pairs
    two = min(2, len(os.sched_getaffinity(0)))
    for command, source, target in (("pack", weights.plain, PACK), ("unpack", weights.packed, None)):
        one, more, copy = in_turns(pairs, lambda: weights.run(command, source, weights.out),
                                   lambda: weights.run(command, source, weights.out, two),
                                   weights.copy)
        yield Line(f"tensorport {command}, one core", one, target=target)
        yield Line(f"tensorport {command}, one core", one, copy, other="cp")
        yield Line(f"tensorport {command}, {two} cores", more, one, other="one core")
    shutil.rmtree(weights.out, ignore_errors=True)


def reads(weights):
    pairs = weights.bench.pairs
    sequential = Read(precision="float32")
    for precision in ("float32", "bfloat16"):
        read = sequential.but(precision=precision)
        packed, plain, without = in_turns(
            pairs, lambda: weights.read(weights.packed, read), lambda: weights.read(weights.plain, read),
            lambda: weights.read(weights.packed, read, "--cache-size", "0"))
        yield Line(f"packed, direct 1 MiB, bf16 to {precision}", packed, plain, other="plain")
        yield Line(f"packed, direct 1 MiB, bf16 to {precision}", packed, without, other="no cache",
                   target=NOT_SLOWER)
    read = sequential.but(manner="random", block=4096, count=RANDOM)
    roomy = ("--cache-size", str(2 * weights.nbytes))
    weights.read(weights.packed, read.but(count=10 * RANDOM), *roomy)  # what is read again stays
    packed, plain, without = in_turns(
        pairs, lambda: weights.read(weights.packed, read, *roomy),
        lambda: weights.read(weights.plain, read),
        lambda: weights.read(weights.packed, read, "--cache-size", "0"))
    yield Line("packed, direct random 4 KiB, bf16 to float32", packed, plain, other="plain")
    yield Line("packed, direct random 4 KiB, bf16 to float32", packed, without, other="no cache",
               target=1.2)


def pack(bench):
    yield from in_memory(bench)
    weights = Weights(bench)
    yield from commands(weights)
    yield from reads(weights)
