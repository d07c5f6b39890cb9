"""The mounted tree apart from the tensors' values: the manifest, names, listings and lookups, what
is hidden, what a copy gives."""

import errno
import filecmp
import json
import os
import shutil
import stat
import subprocess
from pathlib import Path

from compare import fails_with, npy_header, walk
from generate import write_file
from harness import KIT, Mount, checkpoint, main, reference, scratch, test

EDGE = KIT / "files/edge"
HIDDEN = ".tensorport"


# ---------------------------------------------------------------- the manifest

def describe(tensor):
    return {"dtype": tensor.dtype, "file": tensor.file.name, "offset": tensor.offset,
            "nbytes": tensor.nbytes}


def expected_entry(ref, name, precision):
    array = ref.array(name, precision)
    if name in ref.pairs:
        source = dict(zip(("blocks", "scales"), map(describe, ref.pairs[name])))
    else:
        source = describe(ref.stored[name])
    return {"name": name, "shape": list(array.shape), "dtype": ref.dtype_name(name, precision),
            "nbytes": array.nbytes, "source": source}, len(npy_header(array)) + array.nbytes


def check_manifest(root, source, precision, packed):
    ref = reference(source)
    manifest = json.loads((root / "manifest.json").read_bytes())
    tensors = manifest.pop("tensors")
    assert manifest == {
        "format_version": 1, "source": Path(source).name, "precision": precision,
        "mxfp4": "packed" if packed else "decode", "shard_size": 1_800_000_000,
        "total_size": sum(tensor["nbytes"] for tensor in tensors),
        "total_parameters": ref.parameters()}, manifest
    for tensor in tensors:
        file = tensor.pop("file")
        entry, size = expected_entry(ref, tensor["name"], precision)
        assert tensor == entry, f"{tensor} instead of {entry}"
        assert (root / file).stat().st_size == size, file
    assert len(tensors) == len(ref.names(packed))
    places = [(s["file"], s["offset"]) for s in
              (tensor["source"].get("blocks", tensor["source"]) for tensor in tensors)]
    assert places == sorted(places), "not in the checkpoint's order"


@test
def manifest_describes_every_tensor():
    for source in (checkpoint("tiny"), checkpoint("llama"), *sorted(EDGE.glob("*.safetensors"))):
        for precision, packed in (("float16", False), ("source", False), ("bfloat16", True)):
            with Mount(source, "--precision", precision, "--mxfp4",
                       "packed" if packed else "decode") as mount:
                check_manifest(mount.path, source, precision, packed)
        with Mount(source) as mount:
            check_manifest(mount.path, source, "float32", False)
            check_manifest(mount.path / HIDDEN / "views/packed", source, "source", True)


@test
def manifest_leads_to_the_stored_bytes():
    """Followed without the reference reader: in the packed view a file's data are those bytes."""
    for source in (checkpoint("tiny"), EDGE / "dtypes.safetensors", EDGE / "odd_offsets.safetensors"):
        with Mount(source, "--precision", "source", "--mxfp4", "packed") as mount:
            for tensor in mount.manifest()["tensors"]:
                place = tensor["source"]
                file = source / place["file"] if source.is_dir() else source
                with open(file, "rb") as stream:
                    stream.seek(place["offset"])
                    stored = stream.read(place["nbytes"])
                shown = (mount.path / tensor["file"]).read_bytes()
                assert len(stored) == place["nbytes"] and shown.endswith(stored), tensor["name"]


@test
def manifest_depends_on_source_and_options_only():
    with scratch() as folder:
        copy = shutil.copytree(checkpoint("tiny"), folder / "elsewhere" / "tiny")
        with Mount(checkpoint("tiny")) as one, Mount(copy, "--cache-size", "0") as two:
            assert (one.path / "manifest.json").read_bytes() == (two.path / "manifest.json").read_bytes()


@test
def tree_and_manifest_name_the_same_files():
    for name, n_decoded, n_packed in (("tiny", 71, 79), ("small", 105, 117), ("mid", 275, 307),
                                      ("llama", None, None)):
        with Mount(checkpoint(name)) as mount:
            for view, n in ((mount.path, n_decoded), (mount.path / HIDDEN / "views/packed", n_packed)):
                listed = [str(path) for path in walk(view) if path.suffix == ".npy"]
                manifest = json.loads((view / "manifest.json").read_bytes())
                assert sorted(tensor["file"] for tensor in manifest["tensors"]) == sorted(listed)
                assert n is None or len(listed) == n, f"{name}: {len(listed)} files"


# ---------------------------------------------------------------- names

def check_name(name, file_name, plain_names):
    raw = file_name.encode()  # which half a character would not survive
    assert len(raw) <= 255 and b"/" not in raw and b"\0" not in raw, file_name
    assert file_name.endswith(".npy"), file_name
    plain = name.replace(".", "_") + ".npy"
    is_safe = len(plain.encode()) <= 255 and not set("/\0") & set(plain)
    if is_safe and plain_names.count(plain) == 1:
        assert file_name == plain, f"{name!r} is shown as {file_name!r}"
    else:
        assert file_name != plain, f"{name!r} is shown as {file_name!r}"


@test
def long_names_are_cut_between_characters():
    names = ["x" * i + letter * 130 for i in range(4) for letter in ("é", "中", "😀")]
    tensors = {name: ("U8", (1,), b"1") for name in names}
    with scratch() as folder, Mount(write_file(folder / "long.safetensors", tensors)) as mount:
        for name in os.listdir(mount.path / "shard_000"):
            check_name("?", name, [])  # no tensor is called so: only the rules for all names


@test
def names_are_safe_unique_and_stable():
    source = EDGE / "names.safetensors"
    with Mount(source) as one, Mount(source, "--precision", "float16", "--exclude", "a.b") as two:
        files = {tensor["name"]: Path(tensor["file"]).name for tensor in one.manifest()["tensors"]}
        filtered = {tensor["name"]: Path(tensor["file"]).name for tensor in two.manifest()["tensors"]}
    assert sorted(files) == sorted(reference(source).names())
    assert len(set(files.values())) == len(files)
    plain_names = [name.replace(".", "_") + ".npy" for name in files]
    for name, file_name in files.items():
        check_name(name, file_name, plain_names)
    del files["a.b"]
    assert filtered == files, "a name depends on which other tensors are shown"


# ---------------------------------------------------------------- listing and looking up

def check_listing(folder):
    with os.scandir(folder) as entries:
        entries = {entry.name: (entry.inode(), entry.is_dir(follow_symlinks=False)) for entry in entries}
    for name, (inode, is_directory) in entries.items():
        status = os.lstat(os.path.join(folder, name))
        assert (status.st_ino, stat.S_ISDIR(status.st_mode)) == (inode, is_directory), (folder, name)
    return entries


@test
def listings_agree_with_lookups():
    """Looked up first in one mount, listed first in the other: the order must not matter."""
    for source in (checkpoint("tiny"), EDGE / "names.safetensors", EDGE / "no_tensors.safetensors"):
        with Mount(source) as mount:
            listed = walk(mount.path)
            for folder, _, _ in os.walk(mount.path):
                check_listing(folder)
            for folder in (HIDDEN, f"{HIDDEN}/views", f"{HIDDEN}/views/packed"):
                check_listing(mount.path / folder)
        with Mount(source) as mount:
            for path in listed:
                os.lstat(mount.path / path)
            assert walk(mount.path) == listed


@test
def large_folders_are_listed_once_each():
    """A listing that takes many requests; some names are as long as names can be."""
    tensors = {f"t{i}" + "n" * (i % 250): ("U8", (1,), bytes([i % 256])) for i in range(5000)}
    with scratch() as folder, Mount(write_file(folder / "many.safetensors", tensors)) as mount:
        names = os.listdir(mount.path / "shard_000")
        assert len(names) == len(set(names)) == len(tensors)
        assert set(names) == {Path(tensor["file"]).name for tensor in mount.manifest()["tensors"]}
        assert len(check_listing(mount.path / "shard_000")) == len(tensors)


@test
def wrong_names_are_not_found():
    with Mount(checkpoint("tiny")) as mount:
        wrong = ["x", "shard_001", "shard_00", "shard_0000", "shard_", "shard_-01", "shard_ 00",
                 "shard_000x", "manifest.json/", "MANIFEST.JSON", "shard_000/manifest.json",
                 "shard_000/lm_head_weight", "shard_000/lm_head.weight.npy", "shard_000/.tensorport",
                 ".tensorport/x", ".tensorport/views/x", ".tensorport/views/source",
                 ".tensorport/views/packed/.tensorport", ".tensorport/views/packed/shard_001",
                 "model.safetensors.index.json", "lm_head_weight.npy", "\n", "%s", "shard_000/" + "x" * 255]
        for path in wrong:
            fails_with(errno.ENOTDIR if path.endswith("/") else errno.ENOENT, os.stat, f"{mount.path}/{path}")
        assert not list(mount.path.glob("*.safetensors"))
        fails_with(errno.ENOTDIR, os.stat, f"{mount.path}/manifest.json/x")
        fails_with(errno.ENOTDIR, os.listdir, f"{mount.path}/shard_000/lm_head_weight.npy")
        fails_with(errno.EISDIR, (mount.path / "shard_000").read_bytes)
        fails_with(errno.EINVAL, os.readlink, mount.path / "manifest.json")


@test
def the_hidden_folder_is_found_but_never_listed():
    with Mount(checkpoint("tiny")) as mount:
        assert HIDDEN not in os.listdir(mount.path)
        found = subprocess.run(["find", mount.path], capture_output=True, text=True, check=True).stdout
        assert HIDDEN not in found and "manifest.json" in found
        hidden = mount.path / HIDDEN
        assert sorted(os.listdir(hidden)) == ["XXH3SUMS", "metrics", "stats.json", "views"]
        assert sorted(os.listdir(hidden / "views")) == ["bfloat16", "float16", "float32", "packed"]
        assert HIDDEN not in os.listdir(mount.path)  # now that it was looked up
        for view in (hidden / "views").iterdir():
            assert HIDDEN not in os.listdir(view)


@test
def other_files_are_as_they_are():
    with scratch() as folder:
        source = shutil.copytree(checkpoint("tiny"), folder / "tiny")
        (source / "empty.txt").touch()
        (source / ".hidden").write_bytes(b"\0\xff" * 100_000)
        (source / "folder").mkdir()
        (source / "manifest.json").write_text("the view has its own")
        (source / "link.json").symlink_to(source / "config.json")
        with Mount(source) as mount:
            expected = {path.name for path in source.iterdir() if path.is_file()}
            expected -= {path.name for path in source.glob("*.safetensors*")} | {"manifest.json"}
            shown = {path.name for path in mount.path.iterdir() if path.is_file()}
            assert shown == expected | {"manifest.json"}, shown ^ expected
            for name in expected:
                assert (mount.path / name).read_bytes() == (source / name).read_bytes(), name
            assert mount.manifest()["format_version"] == 1
            assert "manifest.json" in mount.stderr()  # the warning


@test
def a_hub_cache_of_links_gives_the_same_tree():
    with scratch() as folder, Mount(checkpoint("tiny")) as direct:
        snapshot = folder / "snapshots/tiny"
        snapshot.mkdir(parents=True)
        for i, file in enumerate(sorted(checkpoint("tiny").iterdir())):
            shutil.copyfile(file, folder / f"blob{i}")
            shutil.copystat(file, folder / f"blob{i}")
            (snapshot / file.name).symlink_to(folder / f"blob{i}")
        with Mount(snapshot) as linked:
            same_trees(direct.path, linked.path)


# ---------------------------------------------------------------- copies

def same_trees(one, two):
    paths = walk(one)
    assert paths == walk(two)
    files = [path for path in paths if (one / path).is_file()]
    for path in files:
        assert filecmp.cmp(one / path, two / path, shallow=False), path
    return len(files)


@test
def a_copy_equals_every_mount():
    with scratch() as folder:
        with Mount(checkpoint("tiny")) as mount:
            subprocess.run(["cp", "-r", f"{mount.path}/.", folder / "copy"], check=True)
            assert same_trees(mount.path, folder / "copy") > 70
        with Mount(checkpoint("tiny"), "--direct-io", "--cache-size", "1M") as mount:
            same_trees(mount.path, folder / "copy")
            subprocess.run(["diff", "-r", mount.path, folder / "copy"], check=True)




main()
