"""numpy.load and jax.numpy.load off the mount: against files that were copied from it, and
against doing the conversion in Python."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from bench import Read, Skipped
from measure import Line

HERE = Path(__file__).parent
KIT = HERE.parent / "tests" / "kit"  # has the MXFP4 decoder in NumPy
LIKE_A_COPY = 0.9
BF16_FASTER, MXFP4_FASTER = 1.5, 10


def need(*modules):
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise Skipped(f"{sys.executable} has no {', '.join(missing)}")


def side(how, tensors, drop=False):
    return {"how": how, "drop": drop, "tensors": tensors}


def ask_worker(bench, *sides):
    """(our figures, the others', page faults of both)"""
    task = {"pairs": bench.pairs, "sides": sides, "kit": str(KIT)}
    result = subprocess.run([sys.executable, "-B", str(HERE / "load_worker.py")], text=True,
                            input=json.dumps(task), stdout=subprocess.PIPE, check=True,
                            env=dict(os.environ, JAX_PLATFORMS="cpu"))
    answer = json.loads(result.stdout)
    return *answer["figures"], answer["faults"]


class Model:
    """A `mid` checkpoint: the one given, or one that is made for the run."""

    def __init__(self, bench):
        self.bench = bench
        self.folder = bench.options.model_mid or self._make()

    def _make(self):
        program = self.bench.programs.get("tensorport")
        if program is None:
            raise Skipped("no checkpoint was given with --model-mid, and the program 'tensorport' "
                          "that makes one is not built")
        folder = self.bench.folder(self.bench.options.source) / "mid"
        subprocess.run([program, "synth", "--quiet", "--preset=mid", str(folder)], check=True)
        return folder

    def mount(self, *options):
        return self.bench.mounts.tensorport(self.folder, *options)

    def tensors(self, mount):
        return json.loads((mount.path / "manifest.json").read_text())["tensors"]

    def copy(self, mount):
        """`cp -r` of the mount, in the page cache."""
        folder = self.bench.folder("disk") / "copy"
        needed = sum(tensor["nbytes"] for tensor in self.tensors(mount))
        if shutil.disk_usage(folder.parent).free < 1.2 * needed:
            raise Skipped(f"{folder.parent} has no room for a copy")
        subprocess.run(["cp", "-r", str(mount.path), str(folder)], check=True)
        return folder

    def close(self, *mounts):
        for mount in mounts:
            self.bench.mounts.close(mount)


def at(folder, tensors):
    return [{"path": str(folder / tensor["file"])} for tensor in tensors]


def against_copy(bench, model, precision, *loaders):
    mount = model.mount("--precision", precision)
    copy = model.copy(mount)
    tensors = model.tensors(mount)
    for library, how in loaders:
        ours, others = side(how, at(mount.path, tensors)), side(how, at(copy, tensors))
        a, b, _ = ask_worker(bench, ours, others)
        yield Line(f"{library}.load of mid, {precision}, warm", a, b, other="cp -r",
                   target=LIKE_A_COPY)
    shutil.rmtree(copy)
    model.close(mount)


def copied(bench):
    need("numpy")
    loaders = [("np", "numpy")]
    if importlib.util.find_spec("jax"):
        loaders.append(("jnp", "jax"))
    model = Model(bench)
    for precision in ("float32", "bfloat16"):
        yield from against_copy(bench, model, precision, *loaders)
    if len(loaders) == 1:
        raise Skipped(f"jnp.load: {sys.executable} has no jax")


def kind(tensor):
    return tensor["source"].get("dtype", "MXFP4")


def conversion(model, tensor):
    """What load_worker.py needs to do it; blocks and scales may be in different files."""
    source = tensor["source"]
    return {"source": str(model.folder / source.get("blocks", source)["file"]),
            "scales": str(model.folder / source.get("scales", source)["file"]),
            "name": tensor["name"], "kind": kind(tensor)}


def converted(bench):
    """Ours read for the first time (decoded meanwhile), through the mount's page cache and past
    it; and read again, when the mount has kept what Python converts each time."""
    need("numpy", "ml_dtypes", "safetensors")
    if not (KIT / "common.py").exists():
        raise Skipped(f"{KIT}/common.py is missing: it decodes MXFP4 in NumPy")
    model = Model(bench)
    buffered, direct = model.mount(), model.mount("--direct-io")
    ways = [("warm", buffered, False), ("first pass", buffered, True), ("direct-io", direct, False)]
    for name, target in (("BF16", BF16_FASTER), ("MXFP4", MXFP4_FASTER)):
        tensors = [tensor for tensor in model.tensors(buffered) if kind(tensor) == name]
        python = side("convert", [conversion(model, tensor) for tensor in tensors])
        for way, mount, drop in ways:
            a, b, _ = ask_worker(bench, side("numpy", at(mount.path, tensors), drop), python)
            yield Line(f"np.load of mid's {name} as float32, {way}", a, b, other="in Python",
                       target=target)
    model.close(buffered, direct)


def page_faults(bench):
    """How much of a load is the kernel finding fresh memory: no file system can help that."""
    read = Read(direct_io=False)
    mount = bench.tensorport(read)
    size = mount.file(read.tensor).stat().st_size
    tensors = [{"path": str(mount.file(read.tensor))}]
    for manner in ("fresh", "touch"):
        a, faults = [], 0
        for _ in range(bench.pairs):
            result = bench.reader([tensors[0]["path"]], "--manner", manner)
            a.append(size / result["seconds"] / 1e9)
            faults = result["minor_faults"]
        what = {"fresh": "second pass into fresh memory", "touch": "touching fresh memory alone"}
        yield Line(what[manner], a, note=f"{faults} minor faults")
    need("numpy")
    a, b, faults = ask_worker(bench, side("numpy", tensors), side("touch", tensors))
    yield Line("np.load, warm", a, b, other="touching",
               note=f"{faults[0]} and {faults[1]} minor faults; NumPy asks for huge pages")
    bench.drop_pages(read)
