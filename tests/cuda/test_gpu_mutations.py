"""A kernel with a line broken must not pass: for each row of gpu_mutations.py one file is patched, the
kernels are compiled with it, and what owns the line has to notice. That nothing is noticed where nothing is
broken is checked first, and a row whose line is gone is a failure, too."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "infer"))

from gpu_mutations import MUTATIONS  # noqa: E402
from run_support import ids, logits_of  # noqa: E402
from support import BUILD, convert, main, scratch, test  # noqa: E402

TOP = Path(os.environ.get("TP_TEST_SRCDIR") or Path(__file__).resolve().parents[2]).resolve()
FILES = sorted(path for path in (TOP / "cuda").iterdir() if path.suffix in (".c", ".h", ".cu", ".cuh"))
# The optimiser takes most of the time and shows nothing more.
FLAGS = ("-O0", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-w")
WATCHED = ("-fsanitize=thread",)
HARNESS = '"tests/cuda/harness.h"'
TIME_LIMIT = 60


def make_variables(*names):
    """As the build has them."""
    rule = "tp-print: ; @" + "; ".join(f"echo '$({name})'" for name in names)
    done = subprocess.run([os.environ.get("MAKE", "make"), "-s", "-C", str(BUILD), f"--eval={rule}", "tp-print"], capture_output=True,
                          text=True, check=True, env={k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))})
    return [line.split() for line in done.stdout.splitlines()]


CC, CXX, SANITIZERS, OWN = make_variables("CC", "CXX", "SANITIZER_CFLAGS", "tests_cuda_test_kernels_OBJECTS")


def run(*words):
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, timeout=TIME_LIMIT,
                          stdin=subprocess.DEVNULL)


def must(*words):
    done = run(*words)
    assert done.returncode == 0, done.stderr


def found_in(row):
    """The only file that has the row's line."""
    files = [path for path in FILES if row.file in (None, path.name) for _ in range(path.read_text().count(row.old))]
    assert len(files) == 1, f"{row.trap}: expected once in cuda/, found {len(files)} times: {row.old!r}"
    return files[0]


# ---------------------------------------------------------------- backends with a line broken

def compile_broken(row, folder):
    """The object that has the line in it, to be linked before all others."""
    path, source = found_in(row), folder / "source"
    for part in ("cuda", "tests"):  # includes lead to the copy, and from there to all that is not in it
        (source / part).mkdir(parents=True)
    for file in FILES:
        (source / "cuda" / file.name).symlink_to(file)
    broken = source / "cuda" / path.name
    broken.unlink()
    broken.write_text(path.read_text().replace(row.old, row.new))
    target = folder / "broken.o"
    includes = (f"-I{source}", f"-I{TOP}", f"-I{BUILD}")
    if path.suffix == ".c":
        must(*CC, "-std=gnu11", *FLAGS, *SANITIZERS, *includes, "-c", broken, "-o", target)
    else:  # a header may be in all kernels
        kernels = ("-x", "c++", f"-DTP_GPU_HARNESS={HARNESS}", "-c", broken) if path.suffix == ".cu" else ("-c", TOP / "tests/cuda/kernels.cpp")
        must(*CXX, "-std=c++17", *FLAGS, *WATCHED, *includes, *kernels, "-o", target)
    return target


def program_of(objects, folder):
    own, target = [BUILD / name for name in OWN], folder / "test-kernels"
    must(*CXX, *SANITIZERS, "-o", target, "-Wl,--allow-multiple-definition", *own, *objects, BUILD / "libcuda_kernels_watched.a",
         BUILD / "libcuda_harness.a", "-lm")
    return target


def plugin_of(objects, folder):
    target = folder / "plugin.so"
    must(*CXX, "-shared", *SANITIZERS, "-o", target, "-Wl,--allow-multiple-definition", *objects, "-Wl,--whole-archive",
         BUILD / "libcuda_harness.a", BUILD / "libcuda_kernels_watched.a", "-Wl,--no-whole-archive", "-lm")
    return target


# ---------------------------------------------------------------- what notices

def model_is_right(plugin, folder, model):
    view, prompt, expected = model
    how = ("--token-ids", ids(prompt), "-n", 3, "--temp", 0, "--ignore-eos", "--backend", "cuda", "--kv-type", "f32",
           "--activations", "f32")
    try:
        _, found = logits_of(view, folder, *how, env={**os.environ, "TENSORPORT_CUDA_PLUGIN": str(plugin)})
    except AssertionError:
        return False
    return np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max()


def survives(check, objects, folder, model):
    if check == "model":
        return model_is_right(plugin_of(objects, folder), folder, model)
    done = run(program_of(objects, folder), *check.split())
    assert done.returncode != 2, done.stderr
    return done.returncode == 0


def try_row(row, model):
    """None, or what is wrong."""
    with scratch() as folder:
        try:
            survived = survives(row.check, [compile_broken(row, folder)], folder, model)
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            return f"{row.trap}: {error}"
    return f"{row.trap}: broken, and nothing in \"{row.check}\" fails" if survived else None


def model_of(folder):
    """A view with a small window, a prompt far beyond it and beyond a tile of tokens, and the CPU's logits."""
    prompt = list(range(100, 170))
    must(BUILD / "tensorport", "synth", "-q", "--set", "sliding_window=9", folder / "checkpoint")
    view = convert(folder / "checkpoint", folder / "view", "--precision", "source", "--mxfp4", "packed")
    how = ("--token-ids", ids(prompt), "-n", 3, "--temp", 0, "--ignore-eos", "--backend", "cpu")
    return view, prompt, logits_of(view, folder, *how)[1]


# ---------------------------------------------------------------- tests

@test
def the_table_tells_each_line_once():
    for row in MUTATIONS:
        found_in(row)
        assert row.old != row.new, row


@test(limit=600)
def broken_lines_are_noticed():
    with scratch() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        model = model_of(folder)
        for check in ("model", " ".join(sorted({name for row in MUTATIONS if row.check != "model" for name in row.check.split()}))):
            assert survives(check, [], folder, model), f"fails although nothing is broken: {check}"
        faults = [fault for fault in pool.map(lambda row: try_row(row, model), MUTATIONS) if fault]
        print(f"# {len(MUTATIONS)} lines, {len(faults)} of them not held")
        assert not faults, "\n".join(faults)


if __name__ == "__main__":
    main()
