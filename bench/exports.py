"""`tensorport convert` and `verify`, against cp, cat and Python."""

import json
import shutil
import subprocess
import sys
import time

from bench import GB, Skipped
from loads import HERE, KIT, Model, conversion, kind, need
from measure import Line, in_turns

LIKE_CP, LIKE_CP_ON_DISK, FASTER_THAN_PYTHON, LIKE_READING = 0.7, 0.9, 4, 0.8
FORMATS = ["numpy-direct", "msgpack", "jax-pickle", "safetensors"]


def program(bench):
    if "tensorport" not in bench.programs:
        raise Skipped("the program 'tensorport' is not built")
    return str(bench.programs["tensorport"])


def size_of(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class Output:
    """A folder that is written anew again and again, in memory or on the disk."""

    def __init__(self, bench, where):
        self.parent = bench.folder(where)
        self.where = where

    def timed(self, make, name="out"):
        """Seconds that make(folder) takes; on a disk until all of it is there."""
        folder = self.parent / name
        shutil.rmtree(folder, ignore_errors=True)
        start = time.perf_counter()
        make(folder)
        if self.where == "disk":
            subprocess.run(["sync", "-f", str(self.parent)], check=True)
        return time.perf_counter() - start


def convert_with(bench, model, *options):
    def make(folder):
        subprocess.run([program(bench), "convert", "--quiet", *options, str(model.folder), str(folder)],
                       check=True)
    return make


def copy_of(folder):
    return lambda to: subprocess.run(["cp", "-r", str(folder), str(to)], check=True)


def python_way(bench, model):
    """Rates of arrays written; the interpreter's start does not count."""
    need("numpy", "ml_dtypes", "safetensors")
    mount = model.mount()
    tensors = [dict(conversion(model, tensor), file=tensor["file"])
               for tensor in model.tensors(mount) if kind(tensor) in ("BF16", "MXFP4")]
    total = sum(tensor["nbytes"] for tensor in model.tensors(mount))
    model.close(mount)

    def once(output):
        shutil.rmtree(output.parent / "python", ignore_errors=True)
        task = {"kit": str(KIT), "output": str(output.parent / "python"), "tensors": tensors}
        result = subprocess.run([sys.executable, "-B", str(HERE / "convert_worker.py")], text=True,
                                input=json.dumps(task), stdout=subprocess.PIPE, check=True)
        shutil.rmtree(output.parent / "python")
        return total / json.loads(result.stdout)["seconds"] / GB
    return once


def convert(bench):
    """In memory: the rates are those of the programs."""
    model, output = Model(bench), Output(bench, "memory")
    model_folder = bench.folder("memory") / "model"
    shutil.copytree(model.folder, model_folder)
    model.folder = model_folder
    finished = output.parent / "finished"
    convert_with(bench, model)(finished)
    total = size_of(finished)

    def ours():
        return total / output.timed(convert_with(bench, model)) / GB

    def theirs():
        return total / output.timed(copy_of(finished)) / GB

    a, b = in_turns(bench.pairs, ours, theirs)
    yield Line("convert mid to float32, in memory", a, b, other="cp -r", target=LIKE_CP)
    python = python_way(bench, model)
    shutil.rmtree(finished)
    a, b = in_turns(bench.pairs, ours, lambda: python(output))
    yield Line("convert mid to float32, in memory", a, b, other="in Python", target=FASTER_THAN_PYTHON)
    for name in FORMATS[1:]:
        yield compare_formats(bench, model, output, name)
    shutil.rmtree(output.parent)


def compare_formats(bench, model, output, name):
    def rate(*options):
        seconds = output.timed(convert_with(bench, model, "--precision", "bfloat16", *options))
        return size_of(output.parent / "out") / seconds / GB
    a, b = in_turns(bench.pairs, lambda: rate("--format", name), rate)
    return Line(f"convert mid to bfloat16, {name}", a, b, other="numpy-direct")


def convert_to_disk(bench):
    """The source in the page cache; until everything is on the disk."""
    model, output = Model(bench), Output(bench, "disk")
    finished = bench.folder("memory") / "finished"
    options = ("--precision", "bfloat16")  # half the bytes: disks here are throttled
    convert_with(bench, model, *options)(finished)
    total = size_of(finished)
    a, b = in_turns(bench.pairs,
                    lambda: total / output.timed(convert_with(bench, model, *options)) / GB,
                    lambda: total / output.timed(copy_of(finished)) / GB)
    yield Line("convert mid to bfloat16, to disk", a, b, other="cp -r", target=LIKE_CP_ON_DISK)
    shutil.rmtree(finished)
    shutil.rmtree(output.parent)


def verify(bench):
    model = Model(bench)
    folder = bench.folder("memory") / "out"
    convert_with(bench, model)(folder)
    total = size_of(folder)
    files = [str(path) for path in sorted(folder.rglob("*")) if path.is_file()]

    def timed(*command):
        start = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        return total / (time.perf_counter() - start) / GB

    def reading():
        with open("/dev/null", "wb") as null:
            start = time.perf_counter()
            subprocess.run(["cat", *files], stdout=null, check=True)
            return total / (time.perf_counter() - start) / GB
    a, b = in_turns(bench.pairs, lambda: timed(program(bench), "verify", "--quiet", str(folder)), reading)
    yield Line("verify mid as float32, checksums", a, b, other="cat", target=LIKE_READING)
    a, b = in_turns(bench.pairs, lambda: timed(program(bench), "verify", "--quiet", "--source",
                                               str(model.folder), str(folder)), reading)
    yield Line("verify mid as float32, against the source", a, b, other="cat")
    shutil.rmtree(folder)
