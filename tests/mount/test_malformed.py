"""Checkpoints that are wrong: refused at once with one line that says what was expected and what
was found, in little memory, and nothing is mounted. And those that look wrong but are to be taken."""

import json
import os
import shutil
import socket
import struct
from pathlib import Path

import robust
from compare import check_view
from generate import safetensors_bytes, write_file, write_shards
from harness import KIT, Mount, main, reference, scratch, test
from robust import MIB, NOBODY, SANITIZER, SLOW, WRAPPER, check_one_line, refused

MALFORMED = KIT / "files" / "malformed"
INDEX = "model.safetensors.index.json"
SECONDS, MEMORY = 2, 64 * MIB

# Valid all the same, or a matter of MXFP4.
TAKEN = ("leading_space", "leading_newline", "extra_field", "scales_other_shard")
MISFITS = ("blocks_1d", "blocks_dtype", "blocks_not_16", "blocks_without_scales", "scales_dtype",
           "scales_same_count", "scales_without_blocks", "scales_wrong_shape")

# What the message has to contain, by the first part of the name that fits.
TENSOR_T, TENSOR_B = 'tensor "t"', 'tensor "b"'
PARTS = {
    "empty_file": ["expected at least 8 bytes, found 0"],
    "seven_bytes": ["expected at least 8 bytes, found 7"],
    "length_short": ["JSON", "expected", "found the end"],
    "length_zero": ["JSON", "expected an object, found the end"],
    "length_": ["length of the header", "expected at most", "found"],
    "header_cut": ["length of the header", "expected at most", "found"],
    "data_cut": [TENSOR_T, "expected at most 23"],
    "data_extra": ["expected", "29", "found 24"],
    "no_tensors_data": ["expected", "24", "found 0"],
    "json_": ["expected an object, found"],
    "metadata_": ["__metadata__", "expected", "found"],
    "duplicate_": [TENSOR_T, "once", "found it twice"],
    "no_shards": ["expected", "model.safetensors", "found none"],
    "no_": [TENSOR_T, "expected the fields", "found no "],
    "entry_null": [TENSOR_T, "expected an object, found null"],
    "dtype_": [TENSOR_T, "dtype", "expected", "found"],
    "deep_nesting": [TENSOR_T, "expected", "found"],
    "shape_too": [TENSOR_T, "expected", "bytes", "found 24"],
    "shape_": [TENSOR_T, "shape", "expected", "found"],
    "bytes_overflow": [TENSOR_T, "shape", "expected", "found"],
    "dim_2_64": [TENSOR_T, "shape", "expected", "found 18446744073709551616"],
    "offsets_": [TENSOR_T, "data_offsets", "expected"],
    "gap": [TENSOR_B, "gap", "expected"],
    "overlap": [TENSOR_B, "overlap", "expected"],
    "same_place": [TENSOR_B, "overlap", "expected"],
    "index_missing_shard": [INDEX, "model-00002-of-00002.safetensors", "No such file"],
    "index_missing_tensor": [INDEX, 'tensor "b.weight"', "model-00001-of-00002.safetensors"],
    "index_unlisted_tensor": [INDEX, "weight_map", "no tensor"],
    "index_traversal": [INDEX, TENSOR_B, "expected a file in the folder", "etc/passwd"],
    "index_absolute": [INDEX, TENSOR_B, "expected a file in the folder", "/etc/passwd"],
    "index_no_weight_map": [INDEX, "weight_map", "found none"],
    "index_": [INDEX, "expected", "found"],
    "one_bad_shard": ["model-00002-of-00002.safetensors", "length of the header", "found 64"],
    "same_name_two_shards": ['tensor "a.weight"', "model-00001-of-00002.safetensors",
                             "model-00002-of-00002.safetensors"],
    "": ["JSON", "expected", "found"],
}


def check_cheap(result, seconds=SECONDS, memory=MEMORY):
    assert result.seconds <= seconds * SLOW, f"took {result.seconds} s: {result.stderr}"
    if not SANITIZER and not WRAPPER:
        assert result.rss <= memory, f"took {result.rss >> 20} MiB: {result.stderr}"


def refused_cheaply(source, *parts, **how):
    result = refused(source, *parts, **how)
    check_cheap(result)
    return result


def tensors(*names):
    return {name: ("F32", (2,), bytes(range(8))) for name in names}


def write_index(folder, weight_map, text=None):
    folder.mkdir(exist_ok=True)
    (folder / INDEX).write_text(text or json.dumps({"weight_map": weight_map}))
    return folder


def check_taken(source, names=None, warnings=0):
    """Mounts and shows what the independent reader sees."""
    with Mount(source) as mount:
        if names is not None:
            assert sorted(t["name"] for t in mount.manifest()["tensors"]) == sorted(names)
        lines = mount.stderr().splitlines()
        assert len(lines) == warnings, mount.stderr()
        assert all(line.startswith("tensorport-mount: warning: ") for line in lines), lines
        return mount.stderr()


# ---------------------------------------------------------------- the kit's files

@test
def every_malformed_file_of_the_kit_is_refused():
    listed = json.loads((MALFORMED / "manifest.json").read_text())
    names = {case["path"].rstrip("/") for case in listed["cases"]}
    assert names == {path.name for path in MALFORMED.iterdir()} - {"manifest.json"}
    n = 0
    for name in sorted(names):
        stem = name.removesuffix(".safetensors")
        if stem in TAKEN or stem in MISFITS:
            continue
        parts = PARTS[max((key for key in PARTS if stem.startswith(key)), key=len)]
        refused_cheaply(MALFORMED / name, name, *parts)
        n += 1
    assert n >= 65, n


@test
def malformed_file_is_refused_under_any_name_and_in_any_folder():
    for name in ("shape_overflow", "gap", "header_cut", "not_json"):
        with scratch() as folder:
            shutil.copy(MALFORMED / f"{name}.safetensors", folder / "model.safetensors")
            refused_cheaply(folder, str(folder), "model.safetensors")
            (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
            refused_cheaply(folder / "pytorch_model.bin", "pytorch_model.bin")


@test
def daemon_refuses_in_the_same_words():
    for name in ("shape_overflow.safetensors", "index_traversal", "no_shards"):
        in_front = refused(MALFORMED / name)
        behind = refused(MALFORMED / name, foreground=False)
        assert in_front.stderr == behind.stderr


@test
def odd_files_of_the_kit_are_taken():
    for name in TAKEN[:3]:
        file = MALFORMED / f"{name}.safetensors"
        with Mount(file) as mount:
            check_view(mount.path, reference(file), "float32")
            assert mount.stderr() == ""
    with Mount(MALFORMED / "scales_other_shard") as mount:
        check_view(mount.path, reference(MALFORMED / "scales_other_shard"), "float32")
        assert mount.stderr() == ""


@test
def misfits_of_mxfp4_are_shown_as_stored_with_one_warning():
    for name in MISFITS:
        stored = reference(MALFORMED / name)
        with Mount(MALFORMED / name) as mount:
            text = mount.stderr()
            check_one_line(text, "warning: ", "model.safetensors", "down_proj", "MXFP4")
            assert "like 0 more" not in text, text
            for tensor in mount.manifest()["tensors"]:
                assert tensor["name"].endswith(("_blocks", "_scales")), tensor
                assert (mount.path / tensor["file"]).stat().st_size > 0
            check_view(mount.path, stored, "float32")


@test
def misfits_of_mxfp4_are_fatal_where_the_config_says_mxfp4():
    for name in MISFITS:
        with scratch() as folder:
            shutil.copytree(MALFORMED / name, folder / name)
            config = folder / name / "config.json"
            config.write_text('{"quantization_config": {"quant_method": "mxfp4"}}')
            refused_cheaply(folder / name, "model.safetensors",
                            'tensor "model.layers.0.mlp.experts.down_proj', "MXFP4")
            config.write_text('{"quantization_config": {"quant_method": "awq"},'
                              ' "quant_method": "mxfp4"}')
            with Mount(folder / name) as mount:
                assert mount.stderr().count("\n") == 1


@test
def one_warning_stands_for_many_misfits():
    with scratch() as folder:
        write_file(folder / "model.safetensors", {
            f"l.{i}.w_blocks": ("U8", (2, 16), bytes(32)) for i in range(20)})
        with Mount(folder) as mount:
            check_one_line(mount.stderr(), 'tensor "l.0.w_blocks"', "19 more")


# ---------------------------------------------------------------- what is not a file

@test
def sources_that_are_not_there_or_no_files():
    with scratch() as folder:
        refused_cheaply(folder, str(folder), "expected", "found none")
        refused_cheaply(folder / "nowhere", "nowhere", "No such file or directory")
        refused_cheaply(folder / "nowhere/at/all", "nowhere/at/all", "No such file or directory")
        os.mkfifo(folder / "fifo")
        refused_cheaply(folder / "fifo", "fifo", "expected a folder or a .safetensors file")
        refused_cheaply("/dev/zero", "/dev/zero", "expected a folder or a .safetensors file")
        (folder / "loop").symlink_to("loop")
        refused_cheaply(folder / "loop", "loop", "symbolic links")
        refused_cheaply("", "No such file")
        refused_cheaply(folder / ("x" * 300), "File name too long")


def make_fifo(path):
    os.mkfifo(path)


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as stream:
        stream.bind(str(path))


def make_loop(path):
    path.symlink_to(path.name)


def make_dangling(path):
    path.symlink_to("nowhere")


def make_device(path):
    path.symlink_to("/dev/zero")


ODDITIES = {"fifo": make_fifo, "socket": make_socket, "folder": Path.mkdir, "loop": make_loop,
            "dangling": make_dangling, "device": make_device}


@test
def shards_that_are_no_regular_files_are_refused():
    for make in ODDITIES.values():
        for name in ("model.safetensors", "model-00002-of-00002.safetensors"):
            with scratch() as folder:
                if name != "model.safetensors":
                    write_file(folder / "model-00001-of-00002.safetensors", tensors("a"))
                make(folder / name)
                refused_cheaply(folder, str(folder), name)
                write_index(folder, {"a": name})
                refused_cheaply(folder, INDEX, name)


@test
def index_that_is_no_regular_file_is_never_taken_as_absent():
    for make in ODDITIES.values():
        with scratch() as folder:
            write_file(folder / "model.safetensors", tensors("a"))
            make(folder / INDEX)
            refused_cheaply(folder, str(folder), INDEX)


@test
def single_file_that_dangles_is_never_taken_as_absent():
    with scratch() as folder:
        write_file(folder / "other.safetensors", tensors("a"))
        make_dangling(folder / "model.safetensors")
        refused_cheaply(folder, "model.safetensors", "No such file")


@test
def config_that_is_no_regular_file_is_warned_of():
    for name, make in ODDITIES.items():
        with scratch() as folder:
            write_file(folder / "model.safetensors", tensors("a"))
            make(folder / "config.json")
            text = check_taken(folder, ["a"], warnings=1)
            assert "config.json" in text, f"{name}: {text}"


@test
def other_files_that_are_not_regular_are_left_out():
    with scratch() as folder:
        write_file(folder / "model.safetensors", tensors("a"))
        for name, make in ODDITIES.items():
            make(folder / name)
        (folder / "linked.txt").symlink_to("text.txt")
        (folder / "text.txt").write_text("text")
        with Mount(folder) as mount:
            assert sorted(os.listdir(mount.path)) == ["linked.txt", "manifest.json", "shard_000",
                                                      "text.txt"]
            assert (mount.path / "linked.txt").read_text() == "text"


@test
def files_without_permission_are_refused():
    with scratch() as folder, robust.program_for_everyone():
        folder.chmod(0o755)
        write_file(folder / "model.safetensors", tensors("a"))
        mount_point = folder / "mnt"
        mount_point.mkdir()
        os.chown(mount_point, NOBODY, NOBODY)
        as_nobody = {"mount_point": mount_point, "prefix": robust.prefix_of(NOBODY)}
        (folder / "model.safetensors").chmod(0)
        refused_cheaply(folder, "model.safetensors", "Permission denied", **as_nobody)
        refused_cheaply(folder / "model.safetensors", "model.safetensors", "Permission denied",
                        **as_nobody)
        (folder / "model.safetensors").chmod(0o644)
        write_index(folder, {"a": "model.safetensors"})
        (folder / INDEX).chmod(0)
        refused_cheaply(folder, INDEX, "Permission denied", **as_nobody)
        inner = folder / "inner"
        shutil.copytree(folder, inner, ignore=shutil.ignore_patterns("mnt"))
        inner.chmod(0)
        refused_cheaply(inner, "inner", "Permission denied", **as_nobody)


@test
def other_file_without_permission_is_left_out():
    with scratch() as folder, robust.program_for_everyone():
        folder.chmod(0o755)
        write_file(folder / "model.safetensors", tensors("a"))
        (folder / "secret.txt").touch(0)
        (folder / "secret.txt").chmod(0)
        with Mount(folder, wrapper=as_nobody_with_mount_point()) as mount:
            check_one_line(mount.stderr(), "warning: ", "secret.txt", "Permission denied", "left out")


def as_nobody_with_mount_point():
    """Files of root without permission stay closed to root that gave the power away."""
    return ["setpriv", "--bounding-set", "-dac_override,-dac_read_search",
            "--inh-caps", "-dac_override,-dac_read_search", *WRAPPER]


# ---------------------------------------------------------------- links and folders

@test
def shards_of_a_hub_cache_work():
    with scratch() as folder:
        blobs, snapshot = folder / "hub/blobs", folder / "hub/snapshots/0123456789abcdef"
        blobs.mkdir(parents=True)
        snapshot.mkdir(parents=True)
        write_shards(folder / "plain", [tensors("a", "b"), tensors("c")])
        (folder / "plain/config.json").write_text("{}")
        for i, file in enumerate(sorted((folder / "plain").iterdir())):
            file.rename(blobs / f"{i:040x}")
            (snapshot / file.name).symlink_to(f"../../blobs/{i:040x}")
        for source in (snapshot, snapshot / INDEX):
            with Mount(source) as mount:
                check_view(mount.path, reference(snapshot), "float32")
                assert mount.stderr() == ""


@test
def source_may_be_a_link_itself():
    with scratch() as folder:
        write_file(folder / "real.safetensors", tensors("a"))
        (folder / "link.safetensors").symlink_to("real.safetensors")
        check_taken(folder / "link.safetensors", ["a"])
        (folder / "linked").symlink_to(folder)
        check_taken(folder / "linked" / "real.safetensors", ["a"])


@test
def index_may_name_files_in_folders():
    with scratch() as folder:
        (folder / "sub/dir").mkdir(parents=True)
        write_file(folder / "sub/dir/x.safetensors", tensors("a"))
        write_file(folder / "y.safetensors", tensors("b"))
        write_index(folder, {"a": "sub/dir/x.safetensors", "b": "y.safetensors"})
        check_taken(folder, ["a", "b"])


@test
def index_may_not_lead_out_of_its_folder():
    with scratch() as folder:
        write_file(folder / "x", tensors("a"))
        (folder / "model/sub").mkdir(parents=True)
        for file in ("sub/../../x", "../x", "sub/../..//x", "..", "./../x", "/x", str(folder / "x"), "",
                     "sub/..", "x\0y"):
            write_index(folder / "model", {"a": file})
            refused_cheaply(folder / "model", INDEX, 'tensor "a"', "expected a file in the folder")


@test
def dots_in_names_are_no_way_out():
    with scratch() as folder:
        for i, file in enumerate(("..x", "x..", "...", ".x", "a..b/x")):
            path = folder / str(i) / file
            path.parent.mkdir(parents=True)
            write_file(path, tensors("a"))
            write_index(folder / str(i), {"a": file})
            check_taken(folder / str(i), ["a"])


# ---------------------------------------------------------------- the index

@test
def index_that_disagrees_is_refused():
    with scratch() as folder:
        write_file(folder / "x.safetensors", tensors("a", "b"))
        write_file(folder / "y.safetensors", tensors("c"))
        good = {"a": "x.safetensors", "b": "x.safetensors", "c": "y.safetensors"}
        check_taken(write_index(folder, good), good)
        cases = [
            ({**good, "c": "x.safetensors"}, ['tensor "c"', "x.safetensors"]),
            ({**good, "a": "y.safetensors"},
             ['tensor "a"', "expected in y.safetensors, found in x.safetensors"]),
            ({"a": "x.safetensors", "b": "x.safetensors", "d": "y.safetensors"},
             ['"c"', "y.safetensors"]),
            ({"a": "x.safetensors", "c": "y.safetensors"},
             ['tensor "b"', "x.safetensors", "weight_map"]),
            ({**good, "d": "y.safetensors"}, ['tensor "d"', "y.safetensors"]),
            ({**good, "d": "z.safetensors"}, ["z.safetensors", "No such file"]),
            ({}, ["weight_map"]),
        ]
        for weight_map, parts in cases:
            refused_cheaply(write_index(folder, weight_map), INDEX, *parts)


@test
def index_with_duplicate_keys_is_refused():
    with scratch() as folder:
        write_file(folder / "x.safetensors", tensors("a"))
        for text, part in (
                ('{"weight_map":{"a":"x.safetensors","a":"x.safetensors"}}', 'tensor "a"'),
                ('{"weight_map":{"a":"x.safetensors","\\u0061":"x.safetensors"}}', 'tensor "a"'),
                ('{"weight_map":{"a":"x.safetensors"},"weight_map":{"a":"x"}}', "weight_map")):
            refused_cheaply(write_index(folder, None, text), INDEX, part, "twice")


@test
def index_of_odd_texts_is_refused():
    with scratch() as folder:
        write_file(folder / "x.safetensors", tensors("a"))
        for text in ("", " ", "[]", "null", '"weight_map"', '{"weight_map":null}',
                     '{"weight_map":{"a":null}}', '{"weight_map":{"a":"x.safetensors"}',
                     '{"weight_map":{"a":"x.safetensors"}} {}',
                     '{"weight_map":{"a":"x.safetensors",}}', "{'weight_map':{}}", "\0", "[" * 100_000,
                     '{"metadata":' + "[" * 100_000):
            (folder / INDEX).write_text(text)
            refused_cheaply(folder, INDEX, "expected", "found")
        (folder / INDEX).write_bytes(b'{"weight_map":{"\xff":"x.safetensors"}}')
        refused_cheaply(folder, INDEX, "expected UTF-8")


@test
def huge_index_is_refused_or_taken_quickly():
    with scratch() as folder:
        write_file(folder / "x.safetensors", tensors("a"))
        with open(folder / INDEX, "wb") as stream:
            stream.truncate(1 << 40)
        refused_cheaply(folder, INDEX, "expected at most 100000000 bytes, found 1099511627776")
        many = [f"model.layers.{i // 100}.part.{i % 100}.weight" for i in range(50_000)]
        write_file(folder / "x.safetensors", {name: ("U8", (1,), b"x") for name in many})
        write_index(folder, dict.fromkeys(many, "x.safetensors"))
        check_taken(folder, many)
        write_index(folder, dict.fromkeys([*many, "one.more"], "x.safetensors"))
        result = refused(folder, INDEX, 'tensor "one.more"', "x.safetensors")
        check_cheap(result)


# ---------------------------------------------------------------- headers at the limit

HEADER_MAX = 100_000_000


def write_header(path, text, fill, length, data=b""):
    """A header of `length` bytes: `text` and then `fill` over and over."""
    with open(path, "wb") as stream:
        stream.write(struct.pack("<Q", length) + text)
        left = length - len(text)
        block = fill * (MIB // len(fill))
        while left > 0:
            stream.write(block[:left])
            left -= len(block[:left])
        stream.write(data)


@test
def giant_headers_cost_their_own_size_at_most():
    entry = b'{"t":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}'
    with scratch() as folder:
        file = folder / "model.safetensors"
        for text, fill, parts in (
                (b"", b" ", ["JSON", "found the end"]),
                (b"", b"\0", ["JSON", "expected an object"]),
                (b"", b"[", ["JSON", "expected an object, found '['"]),
                (b"", b'{"a":', ["JSON", "expected"]),
                (b'{"__metadata__":{"a":"', b"a", ["JSON", "expected", "the end"]),
                (b'{"t":{"x":', b"[", ['tensor "t"', "expected"]),
                (b'{"t":{"dtype":"', b"F", ['"t"', "expected", "the end"])):
            write_header(file, text, fill, HEADER_MAX - 1)
            result = refused(folder, "model.safetensors", *parts)
            check_cheap(result, memory=HEADER_MAX + 32 * MIB)
        write_header(file, entry, b" ", HEADER_MAX, b"data")
        with Mount(folder) as mount:
            assert (mount.path / "shard_000/t.npy").read_bytes().endswith(b"data")
        write_header(file, entry, b" ", HEADER_MAX + 1, b"data")
        refused_cheaply(folder, "length of the header", "expected at most 100000000, found 100000001")


@test
def sparse_giants_cost_nothing():
    with scratch() as folder:
        file = folder / "model.safetensors"
        with open(file, "wb") as stream:
            stream.truncate(1 << 42)
        refused_cheaply(folder, "expected an object, found the end")  # a header of no bytes
        size = 1 << 42
        text = json.dumps({"t": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
        with open(file, "r+b") as stream:
            stream.write(struct.pack("<Q", len(text)) + text)
            stream.truncate(8 + len(text) + size - 1)
        refused_cheaply(folder, 'tensor "t"', f"expected at most {size - 1}")
        with open(file, "r+b") as stream:
            stream.truncate(8 + len(text) + size)
        with open(folder / "notes.txt", "wb") as stream:
            stream.truncate(1 << 41)
        with Mount(folder) as mount:
            shown = mount.path / "shard_000/t.npy"
            assert shown.stat().st_size == size + 128
            with open(shown, "rb") as stream:
                stream.seek(size)
                assert stream.read() == bytes(128)
            assert (mount.path / "notes.txt").stat().st_size == 1 << 41


@test
def many_tensors_in_one_header_do_not_take_long():
    with scratch() as folder:
        names = [f"t{i}" for i in range(100_000)]
        data = {name: ("U8", (1,), b"x") for name in names}
        contents = safetensors_bytes(data)
        (folder / "model.safetensors").write_bytes(contents[:-1])
        check_cheap(refused(folder, 'tensor "t99999"', "expected"), memory=128 * MIB)
        (folder / "model.safetensors").write_bytes(contents)
        with Mount(folder) as mount:
            assert len(os.listdir(mount.path / "shard_000")) == len(names)


# ---------------------------------------------------------------- messages

@test
def messages_stay_one_line_whatever_the_names():
    bad = {"dtype": "U8", "shape": [1], "data_offsets": [0, 2]}
    for name in ("new\nline", "bell\a\x1b[31m", "nul\0byte", "\x7f\x80", "%s%n", "", "quote\""):
        with scratch() as folder:
            text = json.dumps({name: bad}).encode()
            (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"ab")
            result = refused_cheaply(folder, "model.safetensors", "tensor", "expected 1", "found 2")
            assert all(c >= " " or c == "\n" for c in result.stderr), repr(result.stderr)


@test
def long_names_do_not_hide_what_is_wrong():
    long = "x" * 5000
    with scratch() as folder:
        write_file(folder / "1.safetensors", tensors(long))
        write_file(folder / "2.safetensors", tensors(long))
        refused_cheaply(folder, 'tensor "xxx', "1.safetensors and 2.safetensors")
        write_index(folder, {long: "1.safetensors", "y": "2.safetensors"})
        refused_cheaply(folder, 'tensor "xxx')
        (folder / "2.safetensors").unlink()
        write_index(folder, {"y": "1.safetensors"})
        refused_cheaply(folder, INDEX, 'tensor "xxx', "1.safetensors", "weight_map")
        write_index(folder, {long: "../1.safetensors"})
        refused_cheaply(folder, INDEX, 'tensor "xxx', "expected a file in the folder",
                        "../1.safetensors")
        write_index(folder, {long: "1.safetensors", long + "y": "1.safetensors"})
        refused_cheaply(folder, INDEX, 'tensor "xxx', "not in 1.safetensors")
        entry = f'"{long}":"1.safetensors"'
        write_index(folder, None, f'{{"weight_map":{{{entry},{entry}}}}}')
        refused_cheaply(folder, INDEX, 'tensor "xxx', "twice")
        (folder / INDEX).unlink()
        write_file(folder / "1.safetensors", {f"{long}_blocks": ("U8", (2, 16), bytes(32))})
        with Mount(folder) as mount:
            check_one_line(mount.stderr(), "1.safetensors", 'tensor "xxx', "partner", "is missing")
        (folder / "config.json").write_text('{"quantization_config": {"quant_method": "mxfp4"}}')
        refused_cheaply(folder, "1.safetensors", 'tensor "xxx', "partner", "is missing")


@test
def long_paths_do_not_hide_what_is_wrong():
    with scratch() as folder:
        deep = folder.joinpath(*["d" * 200] * 4)
        deep.mkdir(parents=True)
        shutil.copy(MALFORMED / "gap.safetensors", deep / "model.safetensors")
        refused_cheaply(deep, "model.safetensors", TENSOR_B, "gap")
        refused_cheaply(deep / "nowhere", "nowhere", "No such file or directory")


# ---------------------------------------------------------------- other files

@test
def broken_config_is_warned_of():
    texts = ("", "{", "not json", '{"a":1}}', "[" * 5000, "\0", '{"quantization_config"')
    for text in texts:
        with scratch() as folder:
            write_file(folder / "model.safetensors", tensors("a"))
            (folder / "config.json").write_text(text)
            with Mount(folder) as mount:
                check_one_line(mount.stderr(), "warning: ", "config.json", "expected JSON")
                assert (mount.path / "config.json").read_text() == text, "shown as it is"


@test
def odd_configs_are_taken():
    for text in ("[]", "null", "{}", '"mxfp4"', '{"quantization_config":[]}',
                 '{"quantization_config":{"quant_method":5}}', '{"quantization_config":"mxfp4"}'):
        with scratch() as folder:
            write_file(folder / "model.safetensors", {"w_blocks": ("U8", (2, 16), bytes(32))})
            (folder / "config.json").write_text(text)
            check_taken(folder, ["w_blocks"], warnings=1)


@test
def huge_config_is_warned_of():
    with scratch() as folder:
        write_file(folder / "model.safetensors", tensors("a"))
        with open(folder / "config.json", "wb") as stream:
            stream.truncate(1 << 40)
        with Mount(folder) as mount:
            check_one_line(mount.stderr(), "warning: ", "config.json", "expected at most")


@test
def files_whose_names_the_view_needs_are_left_out_with_a_warning():
    reserved = ("manifest.json", "shard_000", "shard_001", ".tensorport", "XXH3SUMS", "SHA256SUMS")
    with scratch() as folder:
        write_file(folder / "model.safetensors", tensors("a", "b"))
        for name in (*reserved, "shard_002", "shard_0", "shard_0000", "README.md"):
            (folder / name).write_text("mine")
        with Mount(folder, "--shard-size", "0.0000001") as mount:
            lines = mount.stderr().splitlines()
            for name in reserved:
                assert sum(f": {name}: " in line and "left out" in line for line in lines) == 1, lines
            assert (mount.path / ".tensorport").is_dir()
            assert (mount.path / "manifest.json").read_text() != "mine"
            listed = sorted(os.listdir(mount.path))
            assert listed == sorted(["manifest.json", "shard_000", "shard_001", "shard_002", "shard_0",
                                     "shard_0000", "README.md"]), listed
            assert (mount.path / "shard_002").read_text() == "mine"


@test
def other_files_may_have_any_name():
    names = [b"new\nline", b"\xff\xfe", b"%s", b" ", b"x" * 255, "中文.json".encode(), b"-f", b"a\\b"]
    with scratch() as folder:
        write_file(folder / "model.safetensors", tensors("a"))
        for name in names:
            Path(os.fsdecode(bytes(folder) + b"/" + name)).write_bytes(name)
        with Mount(folder) as mount:
            found = set(os.listdir(bytes(mount.path))) - {b"manifest.json", b"shard_000"}
            assert found == set(names), found
            for name in names:
                with open(bytes(mount.path) + b"/" + name, "rb") as stream:
                    assert stream.read() == name


if __name__ == "__main__":
    main()
