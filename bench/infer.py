"""`tpinfer bench` on a whole checkpoint in the shape of gpt-oss-20b, off a mount, and llama.cpp's
llama-bench beside it with the same weights: a round of ours, a round of theirs, and so on."""

import json
import os
import subprocess
from pathlib import Path

from bench import Skipped
from measure import Line

PROMPT, TOKENS, BATCH = 512, 64, 4
ROUNDS = 5  # at most: each takes minutes
MIB = 1 << 20
# What is wanted.
BANDWIDTH, BATCH_GAIN = 0.95, 2.0
PREFILL_F32, PREFILL_BF16, PREFILL_AVX2 = 1.8, 3.3, 0.5
FIRST_TOKEN, PRIVATE = 2.0, 1024  # seconds; MiB beside keys and values

# One `tpinfer bench` each: what it is asked, and the instructions it must do with.
OURS = {
    "f32": (["-p", PROMPT, "-n", TOKENS], None),
    "batch": (["-p", 0, "-n", TOKENS, "-b", BATCH], None),
    "bf16": (["-p", PROMPT, "-n", 0, "--activations", "bf16"], None),
    "avx2": (["-p", PROMPT, "-n", 0], "avx2"),
}


class Ours:
    def __init__(self, bench, folder):
        self.program = bench.programs["tpinfer"]
        self.mount = bench.mounts.tensorport(folder)
        self.files = sorted((self.mount.path / ".tensorport/views/packed").glob("shard_*/*.npy"))

    def measure(self):
        """The JSON of each."""
        return {name: self._run(*what) for name, what in OURS.items()}

    def _run(self, options, instructions):
        environment = {**os.environ, **({"TENSORPORT_ISA": instructions} if instructions else {})}
        command = [self.program, "bench", self.mount.path, "-r", 1, "--json", "-", *options]
        run = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE,
                             env=environment)
        whole = json.loads(run.stdout)
        return {**whole, **{case["case"]: case for case in whole["cases"]}}


class Llama:
    def __init__(self, bench, threads):
        self.program, self.files = bench.options.llama_bench, [bench.options.gguf]
        self.threads = threads

    def measure(self):
        """Tokens a second: (prefill, decode)."""
        command = [self.program, "-m", self.files[0], "-p", PROMPT, "-n", TOKENS, "-t",
                   self.threads, "-r", 1, "-o", "json"]
        run = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL)
        rates = {result["n_prompt"]: result["avg_ts"] for result in json.loads(run.stdout)}
        return rates[PROMPT], rates[0]


def _each_file(files, work):
    for path in files:
        file = os.open(path, os.O_RDONLY)
        try:
            work(file)
        finally:
            os.close(file)


def _warm(file):
    buffer = bytearray(8 * MIB)
    while os.readv(file, [buffer]) > 0:
        pass


class Memory:
    """The page cache: where it cannot hold both sides' files, the other's go before one's turn."""

    def __init__(self, sides):
        total = sum(path.stat().st_size for side in sides for path in side.files)
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        self.sides, self.holds_all = sides, total < 0.8 * memory

    def turn_of(self, side):
        for other in self.sides:
            if other is not side and not self.holds_all:
                _each_file(other.files,
                           lambda file: os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED))
        _each_file(side.files, _warm)


def _rounds(bench, folder):
    """Lists of what both measured; theirs is empty without them."""
    ours, theirs = [], []
    we = Ours(bench, folder)
    sides = [we]
    if bench.options.llama_bench:
        sides.append(Llama(bench, we._run(["-p", 1, "-n", 0], None)["settings"]["threads"]))
    memory = Memory(sides)
    for _ in range(min(bench.pairs, ROUNDS)):
        for side, results in zip(sides, (ours, theirs)):
            memory.turn_of(side)
            results.append(side.measure())
    bench.mounts.close(we.mount)
    return ours, theirs


def _machine_lines(ours):
    """Against what the machine does."""
    def each(name, case, *keys):
        figures = [result[name][case] for result in ours]
        return [[figure[key] for figure in figures] for key in keys]

    for name, batch in (("f32", 1), ("batch", BATCH)):
        rates, limits, experts = each(name, "decode", "gb_per_second", "read_gb_per_second",
                                      "experts_per_layer")
        yield Line(f"20b, decode, batch {batch}", rates, limits,
                   other="read loop", target=BANDWIDTH if batch == 1 else None,
                   note=f"{experts[0]:.1f} experts a layer")
    for name in ("f32", "bf16", "avx2"):
        rates, limits = each(name, "prefill", "gflop_per_second", "peak_gflop_per_second")
        yield Line(f"20b, prefill {PROMPT}, {name}", rates, limits,
                   other="registers", unit="GFLOP/s")
    yield Line("20b, load and first token", [result["f32"]["first_token_seconds"] for result in ours],
               unit="s", target=FIRST_TOKEN, at_most=True)
    yield Line("20b, memory beside keys and values", [
        max(case["memory"]["private_bytes"] - case["reserved_cache_bytes"]
            for whole in result.values() for case in whole["cases"]) / MIB for result in ours],
        unit="MiB", target=PRIVATE, at_most=True)


def _rate(results, name, case):
    return [result[name][case]["tokens_per_second"]["median"] for result in results]


def infer(bench):
    folder, options = bench.options.model_20b, bench.options
    if folder is None:
        raise Skipped("no checkpoint was given with --model-20b")
    if (options.llama_bench is None) != (options.gguf is None):
        raise Skipped("--llama-bench and --gguf belong together")
    ours, theirs = _rounds(bench, Path(folder))
    yield from _machine_lines(ours)
    one, unit = _rate(ours, "f32", "decode"), "tokens/s"
    yield Line(f"20b, decode, batch {BATCH}", _rate(ours, "batch", "decode"), one, other="batch 1",
               unit=unit, target=BATCH_GAIN)
    yield Line(f"20b, prefill {PROMPT}, AVX2", _rate(ours, "avx2", "prefill"),
               _rate(ours, "f32", "prefill"), other="best", unit=unit, target=PREFILL_AVX2)
    prefill, decode = map(list, zip(*theirs)) if theirs else ([], [])
    other = "llama.cpp"
    for name, target in (("f32", PREFILL_F32), ("bf16", PREFILL_BF16)):
        yield Line(f"20b, prefill {PROMPT}, {name}", _rate(ours, name, "prefill"), prefill,
                   other=other, unit=unit, target=target if theirs else None)
    yield Line("20b, decode, batch 1", one, decode, other=other, unit=unit,
               target=1.0 if theirs else None)
