"""The kernels of the CPU backend against the memory's bandwidth and the arithmetic's peak;
bench/infer_kernels measures, this only asks it."""

import json
import subprocess

from bench import Skipped
from measure import Line

# The weights of a token, and the products of a prompt, at the shapes of gpt-oss-20b.
CASES = ["decode BF16 ", "decode MXFP4 ", "prefill BF16 ", "prefill MXFP4 "]
DECODE_TARGET, PREFILL_TARGET = 0.95, 0.85
POOL_TARGET = 3.0  # microseconds


def _results(program, pairs, only):
    run = subprocess.run([program, "--runs", str(pairs), "--only", only], capture_output=True,
                         text=True, check=True)
    return [json.loads(text) for text in run.stdout.splitlines()]


def _target(result):
    if result["threads"] == 1 or result["case"].startswith("decode") and "batch 1" not in result["case"]:
        return None
    return DECODE_TARGET if result["case"].startswith("decode") else PREFILL_TARGET


def kernels(bench):
    if "infer_kernels" not in bench.programs:
        raise Skipped("bench/infer_kernels is not built")
    for result in _results(bench.programs["infer_kernels"], bench.pairs, "pool"):
        yield Line(f"{result['case']}, {result['threads']} threads", result["rates"], unit="us",
                   target=POOL_TARGET, at_most=True)
    for case in CASES:
        for result in _results(bench.programs["infer_kernels"], bench.pairs, case):
            pages = ", huge pages" * result["huge_pages"]
            yield Line(f"{result['case']}, {result['threads']} threads{pages}", result["rates"],
                       result["limits"], other=result["other"], unit=result["unit"],
                       target=_target(result))
