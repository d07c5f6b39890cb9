"""tensorport.open and tensorport.mount: the arrays are those of the checkpoint, nothing is read before it is
used, and a shard is read by its own bytes."""

import gc
import json
import os
import shutil
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax_support import (BUILD, KIT, LIBRARY, PACKAGE, Mount, checkpoint, convert, main, mxfp4_decode, python, raises,
                         read, scratch, tensorport, test, wait_for, write_view)
from safetensors import safe_open
from tensorport.mxfp4 import MXFP4Array
from tensorport.shards import read_region

BF16 = ml_dtypes.bfloat16
EXPERTS = "model.layers.0.mlp.experts.gate_up_proj"


def same(found, expected):
    """Type, shape and bytes."""
    assert found.dtype == expected.dtype and found.shape == expected.shape, (found.dtype, found.shape, expected.dtype,
                                                                            expected.shape)
    assert np.ascontiguousarray(found).tobytes() == np.ascontiguousarray(expected).tobytes()


def names_of(tensors):
    return {name.removesuffix("_blocks") for name in tensors if not name.endswith("_scales")}


def check_packed(view, tensors):
    assert set(view) == set(view.keys()) == names_of(tensors) and len(view) == len(names_of(tensors))
    for name, array in view.items():
        assert name in view and view.info(name).name == name
        assert view.info(name).shape == array.shape and view.info(name).nbytes == array.nbytes
        if isinstance(array, MXFP4Array):
            same(array.blocks, tensors[f"{name}_blocks"])
            same(array.scales, tensors[f"{name}_scales"])
            assert view.info(name).dtype == "mxfp4" and len(view.info(name).files) == 2
        else:
            same(array, tensors[name])
            assert view.info(name).dtype == array.dtype.name and not array.flags.writeable


def check_decoded(view, tensors, dtype):
    assert set(view) == names_of(tensors)
    for name, array in view.items():
        expected = tensors.get(name)
        if expected is None:
            expected = mxfp4_decode(tensors[f"{name}_blocks"], tensors[f"{name}_scales"])
        same(array, expected.astype(dtype))


# ---------------------------------------------------------------- what is there

@test
def a_mount_shows_the_checkpoint_s_tensors():
    tensors = read(checkpoint("tiny"))
    with Mount(checkpoint("tiny")) as mount:
        with tensorport.open(mount.path) as view:
            check_packed(view, tensors)
            assert isinstance(view[EXPERTS], MXFP4Array) and view["model.norm.weight"].dtype == BF16
            assert list(view)[0] == next(iter(names_of([mount.manifest()["tensors"][0]["name"]])))
            assert view.json("config.json")["model_type"] == "gpt_oss" and "packed" in repr(view)
        check_decoded(tensorport.open(str(mount.path), view="float32"), tensors, np.float32)
        check_decoded(tensorport.open(mount.path, view="bfloat16"), tensors, BF16)
        check_decoded(tensorport.open(mount.path, view="root"), tensors, np.float32)
        raises(FileNotFoundError, lambda: tensorport.open(mount.path, view="float8"), "float8", "packed")


@test
def a_tree_has_the_names_dots():
    with scratch() as folder:
        arrays = {name: np.full(2, i, np.float32) for i, name in enumerate(("a", "a.b", "a.b.c", "d.e", "f"))}
        view = tensorport.open(write_view(folder / "view", arrays, {}))
        tree = view.tree()
        assert sorted(tree) == ["a", "d", "f"] and sorted(tree["a"]) == ["", "b"] and sorted(tree["a"]["b"]) == ["", "c"]
        assert tree["a"][""][0] == 0 and tree["a"]["b"][""][0] == 1 and tree["a"]["b"]["c"][0] == 2
        assert tree["d"]["e"][0] == 3 and tree["f"][0] == 4


@test
def whatever_convert_writes_opens():
    source = checkpoint("tiny")
    tensors = read(source)
    with scratch() as folder:
        for form in ("numpy-direct", "msgpack", "jax-pickle", "safetensors"):
            made = convert(source, folder / form, "--format", form, "--precision", "float32")
            check_decoded(tensorport.open(made), tensors, np.float32)
        packed = convert(source, folder / "packed", "--precision", "source", "--mxfp4", "packed")
        check_packed(tensorport.open(packed), tensors)
        raises(FileNotFoundError, lambda: tensorport.open(packed, view="float32"), "view='root'")
        with Mount(source, "--precision", "bfloat16") as mount:
            shutil.copytree(mount.path, folder / "copy")
        check_decoded(tensorport.open(folder / "copy"), tensors, BF16)


@test
def odd_names_types_and_shapes_are_right():
    """Scalars, no elements, 8-bit floats, names that are no file names; judged by safetensors."""
    for name in ("dtypes", "shapes", "names", "values"):
        path = KIT / f"files/edge/{name}.safetensors"
        if not path.exists():
            raise AssertionError(path)
        with tensorport.mount(path) as mount, safe_open(path, framework="numpy") as file:
            view = mount.open()
            for each in view:
                array = view[each]
                if array.dtype.name.startswith("float8"):
                    continue  # safetensors has no numpy type for them
                same(array, file.get_tensor(each))


@test
def what_is_in_pieces_is_joined():
    with scratch() as folder:
        data = np.arange(40, dtype=np.float32)
        raw = data.tobytes()
        (folder / "x.bin").write_bytes(b"?" * 3 + raw[:20] + b"??" + raw[20:])
        entry = {"name": "x", "file": "x.bin", "shape": [5, 8], "dtype": "float32", "nbytes": 160,
                 "chunks": [{"offset": 3, "nbytes": 20}, {"offset": 25, "nbytes": 140}]}
        other = {**entry, "name": "t", "transposed": True, "shape": [5, 2], "nbytes": 40, "offset": 25}
        del other["chunks"]
        (folder / "manifest.json").write_text(json.dumps({"format_version": 1, "tensors": [entry, other]}))
        view = tensorport.open(folder)
        same(view["x"], data.reshape(5, 8))
        same(view["t"], data[5:15].reshape(5, 2).T)
        assert view.info("t").shape == (2, 5)


# ---------------------------------------------------------------- what is read

@test
def opening_reads_the_manifest_alone():
    with tensorport.mount(checkpoint("small")) as mount:
        def stats_now():
            return json.loads((mount.path / ".tensorport/stats.json").read_bytes())
        before = time.monotonic()
        view = tensorport.open(mount.path)
        seconds = time.monotonic() - before
        stats = stats_now()
        manifest = os.path.getsize(mount.path / ".tensorport/views/packed/manifest.json")
        assert stats["requests"]["bytes_read"] == manifest and seconds < 0.3, (stats["requests"], manifest, seconds)
        assert [view.info(name).nbytes for name in view] and stats["cache"]["fills"] == 0
        view.tree()  # looks at every header, and at a page of the large files each
        found = stats_now()["requests"]["bytes_read"] - manifest
        files = sum(len(view.info(name).files) for name in view)
        assert found <= files * 2 * 4096 + 65536, (found, files)
        whole = view.load()
        assert stats_now()["requests"]["bytes_read"] >= whole > 10 * found


@test
def arrays_are_the_file_s_pages():
    """No copy on the way into JAX; jit takes them as arguments."""
    with tensorport.mount(checkpoint("small")) as mount:
        view = tensorport.open(mount.path)
        for name in ("lm_head.weight", EXPERTS):
            for leaf, ours in zip(jax.tree.leaves(view[name]), jax.tree.leaves(tensorport.view.as_jax(view[name])),
                                  strict=True):
                assert leaf.ctypes.data % 64 == 0 and ours.unsafe_buffer_pointer() == leaf.ctypes.data
        head = tensorport.view.as_jax(view["lm_head.weight"])
        add = jax.jit(lambda w: w.astype(jnp.float32).sum())
        assert np.isclose(add(head), view["lm_head.weight"].astype(np.float64).sum(), atol=1)
        assert len(add.lower(head).as_text()) < 4000
        kept = view["lm_head.weight"]
        view.close()
    assert kept[0].tobytes() == np.asarray(head)[0].tobytes()  # the mount is gone; its pages are not


# ---------------------------------------------------------------- what is wrong

@test
def what_is_wrong_is_said():
    with scratch() as folder:
        raises(FileNotFoundError, lambda: tensorport.open(folder / "none"), "none", "no such folder")
        raises(FileNotFoundError, lambda: tensorport.open(folder), "manifest.json", "none")
        raises(FileNotFoundError, lambda: tensorport.open(checkpoint("tiny")), "tensorport.mount")
        good = write_view(folder / "good", {"model.norm.weight": np.zeros(8, np.float32), "b": np.zeros((3, 4))}, {})
        view = tensorport.open(good)
        raises(KeyError, lambda: view["model.norm.weigth"], "near: model.norm.weight", "among 2")
        raises(KeyError, lambda: view[3], "3")
        assert "c" not in view and view.get("c") is None
        raises(FileNotFoundError, lambda: view.json("config2.json"), "config2.json")
        raises(KeyError, lambda: view.load(["c"]), "c")
        for change, says in (
                (lambda d: d[:-1], "truncated"), (lambda d: d + b"x", "found a file of"), (lambda d: d[:50], "b"),
                (lambda d: d.replace(b"(3, 4)", b"(4, 3)"), "expected shape (3, 4)"),
                (lambda d: d.replace(b"False", b"True "), "Fortran"), (lambda d: d.replace(b"<f8", b"<i8"), "float64"),
                (lambda d: b"", "b"), (lambda d: b"x" * len(d), "magic")):
            bad = folder / "bad"
            shutil.copytree(good, bad)
            (bad / "shard_000/1.npy").write_bytes(change((good / "shard_000/1.npy").read_bytes()))
            view = tensorport.open(bad)
            raises(ValueError, lambda: view["b"], "1.npy", says)
            assert view["model.norm.weight"].sum() == 0  # the others are not touched by it
            shutil.rmtree(bad)


@test
def a_manifest_is_not_trusted():
    entry = {"name": "x", "file": "x.npy", "shape": [2], "dtype": "float32", "nbytes": 8}
    cases = {"file": [("/etc/passwd", "file"), ("../x", "file"), ("a/../../x", "file"), ("", "file"), (3, "file")],
             "shape": [([-2], "whole"), ([2.0], "whole"), ([True], "whole"), ("2", "list"), (None, "list")],
             "dtype": [("float31", "float31"), (None, "str")], "nbytes": [(9, "expected 8"), (None, "expected 8")],
             "name": [(None, "name"), (3, "name")], "offset": [(-1, "offset"), ("0", "offset")],
             "chunks": [([], "8 bytes together"), ([{"offset": 0, "nbytes": 9}], "8 bytes"), ([3], "pieces"), (4, "list")]}
    with scratch() as folder:
        def no(top, *says):
            (folder / "manifest.json").write_text(top if isinstance(top, str) else json.dumps(top))
            raises(ValueError, lambda: tensorport.open(folder), "manifest.json", *says)
        for field, values in cases.items():
            for value, says in values:
                no({"format_version": 1, "tensors": [{**entry, field: value}]}, says)
        no({"format_version": 2, "tensors": []}, "newer")
        no({"format_version": 1}, "tensors")
        no({"format_version": 1, "tensors": [entry, entry]}, "twice")
        no({"format_version": 1, "tensors": [[]]}, "object")
        no("[1]", "object")
        no("{")
        no("[" * 100_000)
        (folder / "manifest.json").write_text(json.dumps({"format_version": 1, "tensors": [{**entry, "offset": 4}]}))
        (folder / "x.npy").write_bytes(b"short")
        raises(ValueError, lambda: tensorport.open(folder)["x"], "truncated")


# ---------------------------------------------------------------- shards

@test
def regions_are_read_by_their_bytes():
    """Every region of some arrays is what numpy cuts out, and each byte of it is read once and no other."""
    asked = []
    read_some = os.preadv

    def recording(fd, buffers, offset):
        asked.append((offset, sum(map(len, buffers))))
        return read_some(fd, buffers, offset)
    with scratch() as folder:
        for shape in ((), (7,), (4, 6), (3, 4, 5), (2, 3, 1, 4), (0, 3)):
            array = np.random.default_rng(1).integers(0, 1000, shape).astype(np.int16)
            (folder / "x").write_bytes(b"head!" + array.tobytes())
            rng = np.random.default_rng(2)
            with open(folder / "x", "rb") as file:
                for _ in range(40):
                    ends = [sorted(rng.integers(0, n + 1, 2)) for n in shape]
                    index = tuple(slice(None) if rng.integers(3) == 0 else slice(*map(int, end)) for end in ends)
                    asked.clear()
                    os.preadv = recording
                    try:
                        found = read_region(file.fileno(), 5, shape, array.dtype, index)
                    finally:
                        os.preadv = read_some
                    same(found, array[index])
                    touched = sorted(at for offset, n in asked for at in range(offset, offset + n))
                    cells = np.arange(array.size).reshape(shape)[index].reshape(-1)
                    assert touched == sorted(5 + 2 * c + b for c in cells.tolist() for b in (0, 1))
        with open(folder / "x", "rb") as file:
            raises(EOFError, lambda: read_region(file.fileno(), 1, (2000,), np.dtype(np.int8), (slice(None),)), "end")


SHARDED = """
import os, sys
import jax, numpy as np, tensorport
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
assert len(jax.devices()) == 8
mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"))
view = tensorport.open(sys.argv[1])
asked, real = [], os.preadv
def preadv(fd, buffers, offset):
    asked.append((os.readlink(f"/proc/self/fd/{fd}"), offset, sum(map(len, buffers))))
    return real(fd, buffers, offset)
os.preadv = preadv
def total(ranges):
    return sum(n for _, _, n in ranges), len({(f, at) for f, offset, n in ranges for at in range(offset, offset + n)})
name = "lm_head.weight"
for spec, parts in ((P("a", "b"), 8), (P("a"), 4), (P(None, "b"), 2), (P(("a", "b")), 8), (P(), 1)):
    asked.clear()
    array = view.load_sharded(name, NamedSharding(mesh, spec))
    assert array.dtype == "bfloat16" and np.array_equal(np.asarray(array), view[name])
    size = view.info(name).nbytes
    read, different = total(asked)
    assert different == size and read == size, (spec, read, different, size)  # replicas are read once
    assert {s.data.nbytes for s in array.addressable_shards} == {size // parts}
experts = "model.layers.0.mlp.experts.gate_up_proj"
for spec in (P("a"), P("a", "b"), P("a", None, "b"), P(None, None, "a"), P()):
    asked.clear()
    array = view.load_sharded(experts, NamedSharding(mesh, spec))
    info = view.info(experts)
    assert total(asked) == (info.nbytes, info.nbytes)
    assert np.array_equal(np.asarray(array.blocks), view[experts].blocks)
    assert np.array_equal(np.asarray(array.scales), view[experts].scales)
    assert array.scales.sharding.spec == spec
def cut(info):
    return NamedSharding(mesh, P("a") if info.shape[0] % 4 == 0 else P())
asked.clear()
every = view.load_sharded(None, cut)
assert list(every) == list(view) and total(asked)[0] == sum(view.info(n).nbytes for n in view)
one = view.load_sharded([name], jax.sharding.SingleDeviceSharding(jax.devices()[3]))
assert list(one) == [name] and one[name].devices() == {jax.devices()[3]}
print("done")
"""


@test
def devices_read_their_shards():
    """8 of them, simulated; every byte that is asked for is in a shard."""
    with Mount(checkpoint("tiny")) as mount:
        assert python(SHARDED, mount.path, XLA_FLAGS="--xla_force_host_platform_device_count=8") == "done\n"


# ---------------------------------------------------------------- the package

@test
def pip_installs_the_built_tree():
    with scratch() as folder:
        shutil.copytree(PACKAGE, folder / "source")
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation",
                        "--disable-pip-version-check", "--target", folder / "site", folder / "source"], check=True)
        files = {path.name for path in (PACKAGE / "tensorport").iterdir()} - {"__pycache__"}
        assert {path.name for path in (folder / "site/tensorport").iterdir()} >= files
        program = "import tensorport as t, sys; print(t.__file__, len(t.open(sys.argv[1])), t._ffi.available())"
        view = write_view(folder / "view", {"a": np.zeros(3, np.float32)}, {})
        found = python(program, view, PYTHONPATH=folder / "site").split()
        assert found == [str(folder / "site/tensorport/__init__.py"), "1", str(LIBRARY.exists())], found


# ---------------------------------------------------------------- mounting

def mounts():
    with open("/proc/self/mountinfo", encoding="utf-8") as table:
        return [line.split(" ")[4] for line in table if "tensorport" in line]


@test
def a_mount_ends_with_its_block():
    with tensorport.mount(checkpoint("tiny")) as mount:
        path, view = mount.path, mount.open()
        assert path.is_dir() and str(path) in mounts() and len(view) == len(tensorport.open(mount))
        kept = tensorport.view.as_jax(view["model.norm.weight"])
    assert not path.exists() and str(path) not in mounts()
    assert kept.shape == view["model.norm.weight"].shape  # used beyond the mount: the child serves on
    process = mount._process
    assert process is None
    mount.unmount()
    with scratch() as folder:
        try:
            with tensorport.mount(checkpoint("tiny"), folder, precision="bfloat16", include=["*.norm.weight"]) as mount:
                assert mount.path == folder.resolve()
                assert mount.open("root")["model.norm.weight"].dtype == BF16
                assert len(mount.open("root")) == 1
                raise KeyError("mine")
        except KeyError as error:
            assert error.args == ("mine",)
        assert folder.is_dir() and not list(folder.iterdir()) and str(folder) not in mounts()
    del kept, view
    gc.collect()


@test
def a_mount_ends_with_the_interpreter():
    program = """
import sys, tensorport
mount = tensorport.mount(sys.argv[1])
view = tensorport.open(mount)
array = view["model.norm.weight"]
print(mount.path)
if sys.argv[2] == "raise": raise SystemExit(0)
if sys.argv[2] == "wait":
    sys.stdout.flush()
    sys.stdin.read()
"""
    for how in ("end", "raise"):
        path = python(program, checkpoint("tiny"), how).strip()
        assert path and path not in mounts() and not os.path.exists(path)
    with subprocess.Popen([sys.executable, "-c", program, str(checkpoint("tiny")), "wait"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(PACKAGE)}) as process:
        path = process.stdout.readline().strip()
        assert path in mounts()
        process.kill()  # nothing of its own runs any more
    wait_for(lambda: path not in mounts() and not os.path.exists(path), "the mount of a killed process to end")


@test
def why_a_mount_failed_is_said():
    left = set(os.listdir("/tmp"))
    with scratch() as folder:
        message = raises(tensorport.MountError, lambda: tensorport.mount(folder / "none"), "none")
        assert "\n" not in message
        raises(tensorport.MountError, lambda: tensorport.mount(folder), folder)
        raises(tensorport.MountError, lambda: tensorport.mount(checkpoint("tiny"), precision="float31"), "float31")
        raises(tensorport.MountError, lambda: tensorport.mount(checkpoint("tiny"), no_such_option=True), "no-such-option")
        before = os.environ["TENSORPORT_MOUNT"]
        try:
            os.environ["TENSORPORT_MOUNT"] = str(folder / "program")
            raises(tensorport.MountError, lambda: tensorport.mount(checkpoint("tiny")), "program", "No such file")
            del os.environ["TENSORPORT_MOUNT"]
            path, os.environ["PATH"] = os.environ["PATH"], str(BUILD)
            with tensorport.mount(checkpoint("tiny")) as mount:  # from PATH
                assert len(mount.open()) > 0
            os.environ["PATH"] = path
        finally:
            os.environ["TENSORPORT_MOUNT"] = before
    assert not {name for name in set(os.listdir("/tmp")) - left if name.startswith("tensorport-") and "test" not in name
                and "scratch" not in name and os.path.isdir(f"/tmp/{name}") and not os.listdir(f"/tmp/{name}")}


main()
