"""Runs clang-tidy with .clang-tidy's list over cuda/, decode/, fs/ and infer/, one process for each processor.

    tidy.py BUILD-DIRECTORY     (for its config.h)
"""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
AVX2 = ["-mavx2", "-mf16c", "-mfma", "-mbmi2"]
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq"]
ISA_FLAGS = {"bitshuffle_avx2.c": AVX2, "bitshuffle_avx512.c": AVX512,
             "codec_avx2.c": AVX2, "codec_avx512.c": AVX512,
             "kernels_avx2.c": AVX2, "kernels_avx512.c": [*AVX512, "-mfma"],
             "products_avx512_bf16.c": [*AVX512, "-mfma", "-mavx512bf16"]}


def xla_flags(build):
    """Where configure found XLA's header, if it did."""
    makefile = (build / "Makefile").read_text()
    return re.search(r"^XLA_CPPFLAGS = (.*)$", makefile, re.M)[1].split()


def tidy(path, build, xla):
    flags = ["-std=gnu11", "-D_GNU_SOURCE", "-D_FILE_OFFSET_BITS=64", f"-I{TOP}", f"-I{build}",
             "-I/usr/include/fuse3", '-DTP_BINDIR=""', '-DTP_SBINDIR=""',
             '-DTP_PLUGIN_DIRECTORY=""', *ISA_FLAGS.get(path.name, []), *xla]
    run = subprocess.run(["clang-tidy", "--quiet", str(path), "--", *flags], text=True,
                         capture_output=True)
    return run.stdout if run.returncode != 0 else ""


def main():
    build = Path(sys.argv[1]).resolve()
    xla = xla_flags(build)
    left_out = {"codec_neon.c", "device_cuda.c"}  # for another machine
    if len(xla) < 2:
        left_out.add("frame.c")
    paths = [p for folder in ("cuda", "decode", "fs", "infer") for p in sorted((TOP / folder).rglob("*.c"))
             if p.name not in left_out]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        faults = [text for text in pool.map(lambda p: tidy(p, build, xla), paths) if text]
    print("\n".join(faults) if faults else f"{len(paths)} files are tidy")
    sys.exit(bool(faults))


main()
