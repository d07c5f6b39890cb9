#!/usr/bin/env python3
"""Measures TensorPort and says whether it is as fast as it is meant to be. See README.md."""

import argparse
import contextlib
import fnmatch
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import codec
import decode
import exports
import infer
import kernels
import loads
import model
import pack
import reads
import report
import tokenizer
from bench import MEMORY_FOLDER, Bench, Skipped
from checkpoints import MIB, bytes_needed
from machine import Busy, describe


@dataclass
class Case:
    name: str
    lines: Callable  # of a Bench; yields Lines, or raises Skipped


CASES = [
    Case("direct", reads.direct_sequential),
    Case("first-pass", reads.buffered_first_pass),
    Case("second-pass", reads.buffered_second_pass),
    Case("mmap", reads.mapped),
    Case("random", reads.random_reads),
    Case("two-readers", reads.two_files),
    Case("small-blocks", reads.small_blocks),
    Case("cache", reads.cache_pays),
    Case("disk", reads.disk_source),
    Case("codecs", codec.codecs),
    Case("kernels", kernels.kernels),
    Case("decode", decode.decode),
    Case("pack", pack.pack),
    Case("20b", model.model_20b),
    Case("infer", infer.infer),
    Case("copied", loads.copied),
    Case("converted", loads.converted),
    Case("page-faults", loads.page_faults),
    Case("convert", exports.convert),
    Case("convert-disk", exports.convert_to_disk),
    Case("verify", exports.verify),
    Case("tokenizer", tokenizer.tokenizer),
]


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build-dir", type=Path, default=Path("."),
                        help="where the project was built (default: here)")
    parser.add_argument("--quick", action="store_true", help="256 MiB tensors, 3 pairs")
    parser.add_argument("--pairs", type=int, help="of measurements (default 11)")
    parser.add_argument("--only", action="append", metavar="PATTERN",
                        help="cases whose name matches; may be repeated: see --list")
    parser.add_argument("--list", action="store_true", help="the cases' names")
    parser.add_argument("--source", choices=["memory", "disk"],
                        help="where most cases keep the checkpoint (default: memory if it fits)")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()),
                        help="a folder on a disk (default: %(default)s)")
    parser.add_argument("--model-20b", type=Path, metavar="DIR",
                        help="a checkpoint of gpt-oss-20b's shape: 'tensorport synth --preset 20b'")
    parser.add_argument("--llama-bench", type=Path, metavar="PROGRAM", help="llama.cpp's")
    parser.add_argument("--gguf", type=Path, metavar="FILE",
                        help="the same weights for it: write_gguf.py makes it")
    parser.add_argument("--model-mid", type=Path, metavar="DIR",
                        help="the same with --preset mid (default: made for the run)")
    parser.add_argument("--tokenizer", type=Path, metavar="FILE",
                        help="a tokenizer.json (default: o200k if it is at hand, else the kit's)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures")
    parser.add_argument("--plot", type=Path, metavar="FILE.png",
                        help="the ratios (needs matplotlib)")
    options = parser.parse_args(arguments)
    options.size = 256 * MIB if options.quick else 1024 * MIB
    options.pairs = options.pairs or (3 if options.quick else 11)
    return options


def find_programs(build):
    programs = {"tensorport-mount": build / "tensorport-mount", "nullfs": build / "bench/nullfs",
                "reader": build / "bench/reader", "codec": build / "bench/codec",
                "blocks": build / "bench/blocks", "decode": build / "bench/decode",
                "infer_kernels": build / "bench/infer_kernels",
                "tokenizer": build / "bench/tokenizer", "tpinfer": build / "tpinfer"}
    for path in programs.values():
        if not os.access(path, os.X_OK):
            sys.exit(f"{path} is missing: run 'make' first, or give --build-dir")
    if os.access(build / "tensorport", os.X_OK):
        programs["tensorport"] = build / "tensorport"
    return {name: str(path.resolve()) for name, path in programs.items()}


def choose_source(options):
    """Memory, if the checkpoint and the mounts' pages fit: a disk's noise is not ours."""
    if options.source is None:
        fits = (MEMORY_FOLDER.is_dir() and
                shutil.disk_usage(MEMORY_FOLDER).free > 1.2 * bytes_needed(options.size))
        options.source = "memory" if fits else "disk"


def run_case(bench, case, lines, left_out):
    try:
        for line in case.lines(bench):
            lines.append(line)
            report.print_line(line)
    except Skipped as reason:
        left_out.append((case.name, str(reason)))
    except (OSError, LookupError, RuntimeError, subprocess.SubprocessError) as failure:
        left_out.append((case.name, f"failed: {failure}"))
    else:
        return
    report.print_left_out(*left_out[-1])


def chosen(options):
    patterns = options.only or ["*"]
    found = [case for case in CASES
             if any(fnmatch.fnmatch(case.name, pattern) for pattern in patterns)]
    if not found:
        sys.exit(f"no case is called {' or '.join(patterns)}: see --list")
    return found


def run(options):
    lines, left_out, busy = [], [], Busy()
    cases = chosen(options)
    programs = find_programs(options.build_dir)
    choose_source(options)
    machine = describe(options, programs)
    report.print_machine(machine)
    with Bench(options, programs) as bench:
        for case in cases:
            run_case(bench, case, lines, left_out)
    machine["busy"] = busy.shares()
    report.print_end(machine, lines, left_out)
    if options.json:
        whole = {"machine": machine, "lines": [line.as_json() for line in lines],
                 "left_out": [{"case": name, "why": why} for name, why in left_out]}
        options.json.write_text(json.dumps(whole, indent=1) + "\n")
    if options.plot:
        report.plot(lines, options.plot)
    return any(reason.startswith("failed") for _, reason in left_out)


def main():
    options = parse(sys.argv[1:])
    if options.list:
        print("\n".join(case.name for case in CASES))
        return
    # So that the mounts are taken away then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(run(options))


if __name__ == "__main__":
    main()
