"""`tensorport convert --format msgpack|jax-pickle|safetensors` at the edges: names, shapes and sizes
that nobody has, config.json of every kind, and transposing in any ranges."""

import json
import math
import os
import pickle
import random
import struct
import subprocess

import numpy as np
from flax.serialization import msgpack_restore
from support import BUILD, checkpoint, main, must, reference, refused, scratch, tensorport, test

from formats import EXTENSION, check_tensors, containers, read, read_pickle
from generate import safetensors_bytes, write_file, write_shards
from reference import read_header

FORMATS = tuple(EXTENSION)
PLAN_DUMP = BUILD / "tests/export/plan-dump"
SEED = int(os.environ.get("TP_TEST_SEED") or 4)


def convert(source, out, format, *options):
    must("convert", source, out, "--format", format, "--quiet", *options)
    return out


def plan_dump(source, out, format, piece, panel=0):
    out.mkdir()
    subprocess.run([PLAN_DUMP, source, out, format, str(piece), str(panel)], check=True)
    return out


def pair(name, leading, seed=0):
    """Blocks and scales."""
    numbers = random.Random(seed)
    scales = numbers.randbytes(math.prod(leading))
    return {f"{name}_blocks": ("U8", (*leading, 16), numbers.randbytes(16 * len(scales))),
            f"{name}_scales": ("U8", tuple(leading), scales)}


def write_folder(folder, tensors, config=None):
    folder.mkdir()
    write_file(folder / "model.safetensors", tensors)
    if config is not None:
        (folder / "config.json").write_bytes(config)
    return folder


# ---------------------------------------------------------------- names and shapes

@test
def names_may_be_anything():
    names = ["", "a\0b", "\0", "\"\\/\n\t\x01\x7f", "é😀\u2028", "n" * 31, "n" * 32, "n" * 255, "n" * 256,
             "😀" * 100, "n" * 65535, "n" * 65536, "__class__", "chunks", "a.b", "a_b"]
    tensors = {name: ("F32", (2,), struct.pack("<2f", i, -i)) for i, name in enumerate(names)}
    with scratch() as room:
        source = write_file(room / "in.safetensors", tensors)
        for format in FORMATS:
            check_tensors(convert(source, room / format, format), format, source, "float32")


@test
def shapes_may_be_anything_that_numpy_has():
    shapes = [(), (0,), (1,) * 15, (1,) * 16, (1,) * 64, (2,) * 4, (127,), (128,), (255,), (256,), (65535,),
              (65536,), (0, 2**31 - 1), (0, 2**31), (2**32, 0), (0, 2**40, 3), (2**60, 0), (3, 0, 5)]
    tensors = {str(shape): ("U8", shape, bytes(math.prod(shape))) for shape in shapes}
    with scratch() as room:
        source = write_file(room / "in.safetensors", tensors)
        for format in FORMATS:
            check_tensors(convert(source, room / format, format), format, source, "source")


@test
def shapes_that_numpy_has_not_are_refused():
    for shape, says in (((1,) * 65, "at most 64 dimensions, found 65"),
                        ((2**63, 0), "other dimensions are larger than numpy allows"),
                        ((0, 2**40, 2**40), "other dimensions are larger than numpy allows")):
        with scratch() as room:
            source = write_file(room / "in.safetensors",
                                {"fine": ("U8", (1,), b"1"), "bad": ("U8", shape, bytes(math.prod(shape)))})
            for format in ("msgpack", "jax-pickle"):
                refused("convert", source, room / "out", "--format", format, says=["bad", says, "--exclude"])
                assert not (room / "out").exists()
                convert(source, room / format, format, "--exclude", "bad")
            kept = read_header(convert(source, room / "out", "safetensors") / "model.safetensors")
            assert {tensor.name: tensor.shape for tensor in kept} == {"fine": (1,), "bad": shape}


@test
def names_with_a_meaning_are_refused():
    with scratch() as room:
        source = write_file(room / "in.safetensors",
                            {"__msgpack_chunked_array__": ("U8", (1,), b"1"), **pair("__metadata__", (1, 1))})
        refused("convert", source, room / "out", "--format", "msgpack", says=["__msgpack_chunked_array__"])
        refused("convert", source, room / "out", "--format", "safetensors", says=["__metadata__"])
        assert not (room / "out").exists()
        check_tensors(convert(source, room / "out", "jax-pickle"), "jax-pickle", source, "float32")


@test
def experts_with_too_many_rows_are_refused():
    with scratch() as room:
        source = write_file(room / "in.safetensors", pair("tall", (1, 2**19 + 1, 1)))
        refused("convert", source, room / "out", "--format", "safetensors", says=["tall", "524289", "packed"])
        convert(source, room / "out", "safetensors", "--mxfp4=packed")


@test
def seventy_thousand_tensors():
    tensors = {f"t{i:05}": ("U8", (1,), bytes([i % 251])) for i in range(70_000)}
    with scratch() as room:
        source = write_file(room / "in.safetensors", tensors)
        for format in FORMATS:
            found = read(convert(source, room / format, format, "--shard-size", "100"), format)
            assert all(found[name].tobytes() == data for name, (_, _, data) in tensors.items())
            assert len(found) == len(tensors)


@test
def empty_checkpoints_make_one_empty_container():
    with scratch() as room:
        source = write_file(room / "in.safetensors", {})
        for format in FORMATS:
            out = convert(source, room / format, format)
            assert read(out, format) == {} and len(containers(out, format)) == 1
        nothing = convert(checkpoint("tiny"), room / "out", "msgpack", "--include", "nothing")
        assert read(nothing, "msgpack") == {}


# ---------------------------------------------------------------- sizes

def sparse_file(path, name, dtype, n, marks):
    """A tensor of n bytes, all zero but for `marks` {offset: bytes}, without writing the zeros."""
    head = json.dumps({name: {"dtype": dtype, "shape": [n], "data_offsets": [0, n]}}).encode()
    with open(path, "wb") as stream:
        stream.write(struct.pack("<Q", len(head)) + head)
        start = stream.tell()
        stream.truncate(start + n)
        for offset, data in marks.items():
            stream.seek(start + offset)
            stream.write(data)
    return path


@test
def msgpack_cuts_arrays_above_a_gibibyte_as_flax_does():
    n = 2**30 + 5
    marks = {0: b"first", 2**30 - 3: b"border", n - 2: b"la"}
    expected = np.zeros(n, np.uint8)
    for offset, data in marks.items():
        expected[offset:offset + len(data)] = list(data)
    with scratch() as room:
        source = sparse_file(room / "in.safetensors", "big", "U8", n, marks)
        out = convert(source, room / "out", "msgpack")
        content = (out / "flax_model.msgpack").read_bytes()
        entry, = json.loads((out / "manifest.json").read_text())["tensors"]
        assert [run["nbytes"] for run in entry["chunks"]] == [2**30, 5] and "offset" not in entry
        last = entry["chunks"][1]["offset"]
        assert content[last:last + 5] == expected[-5:].tobytes()
        restored = msgpack_restore(content)
        assert restored.keys() == {"big"} and np.array_equal(restored["big"], expected)
        exact = sparse_file(room / "exact.safetensors", "exact", "U8", 2**30, {})
        out = plan_dump(exact, room / "exact", "msgpack", 0)
        with open(out / "flax_model.msgpack", "rb") as stream:
            assert stream.read(8) == b"\x81\xa5exact\xc9"  # one entry, an extension: not cut


class Holes:
    """A file for pickle.load() whose long reads leave the buffer, which is new and zero, alone."""

    def __init__(self, stream):
        self.stream, self.read, self.readline = stream, stream.read, stream.readline

    def readinto(self, buffer):
        if len(buffer) < 2**20:
            return self.stream.readinto(buffer)
        self.stream.seek(len(buffer), os.SEEK_CUR)
        return len(buffer)


@test
def pickles_hold_arrays_above_four_gibibytes():
    n = 2**32 + 4096 + 3
    with scratch() as room:
        source = sparse_file(room / "in.safetensors", "big", "U8", n, {})
        out = plan_dump(source, room / "out", "jax-pickle", 0)
        with open(out / "model.pkl", "rb") as stream:
            big = pickle.load(Holes(stream))["big"]
        assert big.shape == (n,) and big.dtype == "u1" and big.nbytes == len(big.base) == n
        entry, = json.loads((out / "manifest.json").read_text())["tensors"]
        assert (out / "model.pkl").stat().st_size == entry["offset"] + n + 4  # tuple, call, item, end


# ---------------------------------------------------------------- transposing

@test
def experts_are_transposed_in_any_ranges():
    """Of one byte and more; and with room for one strip, or some, or all."""
    numbers = random.Random(SEED)
    shapes = [(1, 1, 1), (3, 5, 2), (2, 31, 3), (2, 32, 1), (1, 33, 4), (2, 64, 7), (1, 257, 5), (4, 100, 3),
              (0, 4, 4), (3, 0, 2), (2, 3, 0)]
    with scratch() as room:
        tensors = {}
        for i, shape in enumerate(shapes):
            tensors.update(pair(f"t{i}", shape, seed=SEED + i))
        source = write_file(room / "in.safetensors", tensors)
        whole = convert(source, room / "whole", "safetensors")
        check_tensors(whole, "safetensors", source, "source")
        expected = (whole / "model.safetensors").read_bytes()
        for i, (piece, panel) in enumerate([(64, 0), (300, 1), (1000, 600), (5000, 1), (5000, 2500),
                                            (100_000, 4096), (numbers.randint(200, 2000),
                                                              numbers.randint(1, 5000))]):
            out = plan_dump(source, room / str(i), "safetensors", piece, panel)
            assert (out / "model.safetensors").read_bytes() == expected, (piece, panel)
        source = write_file(room / "small.safetensors", pair("t", (2, 7, 3), seed=SEED))
        expected = (convert(source, room / "small", "safetensors") / "model.safetensors").read_bytes()
        for piece in (1, 2, 5):
            out = plan_dump(source, room / f"small-{piece}", "safetensors", piece, 400)
            assert (out / "model.safetensors").read_bytes() == expected, piece


@test
def matrices_larger_than_what_is_held_are_transposed():
    """Blocks of 20 MiB in one matrix: two panels of the default size."""
    with scratch() as room:
        source = write_file(room / "in.safetensors", pair("big", (1, 10_000, 131)))
        out = convert(source, room / "out", "safetensors", "--workers", "3")
        check_tensors(out, "safetensors", source, "source")


@test
def only_experts_are_transposed():
    with scratch() as room:
        source = write_file(room / "in.safetensors", {
            **pair("flat", (3, 2)), **pair("line", (4,)), **pair("deep", (2, 3, 4, 2)), **pair("expert", (2, 3, 4)),
            "plain": ("F32", (2, 3, 4), bytes(96))})
        found = read(convert(source, room / "out", "safetensors"), "safetensors")
        assert {name: array.shape for name, array in found.items()} == {
            "flat": (3, 64), "line": (128,), "deep": (2, 3, 4, 64), "expert": (2, 128, 3), "plain": (2, 3, 4)}
        check_tensors(room / "out", "safetensors", source, "source")


# ---------------------------------------------------------------- config.json

QUANT = '"quantization_config": {"quant_method": "mxfp4", "modules": ["a", {"b": "}"}]}'
CONFIGS = [  # before, after with precision source
    ('{"a": 1, %s, "b": 2}' % QUANT, '{"a": 1, "b": 2, "torch_dtype": "bfloat16"}'),
    ('{%s, "b": 2}' % QUANT, '{"b": 2,"torch_dtype": "bfloat16"}'),
    ('{"b": 2, %s}' % QUANT, '{"b": 2,"torch_dtype": "bfloat16"}'),
    ('{%s}' % QUANT, '{"torch_dtype": "bfloat16"}'),
    (' {\r\n\t"b": 2,\r\n\t%s\r\n}\r\n' % QUANT, ' {\r\n\t"b": 2,\r\n\t"torch_dtype": "bfloat16"\r\n}\r\n'),
    ('{\n  "torch_dtype": "bfloat16",\n  %s ,\n  "n": 12345678901234567890, "e": 1.50e-07 }' % QUANT,
     '{\n  "torch_dtype": "bfloat16" ,\n  "n": 12345678901234567890, "e": 1.50e-07 }'),
    ('{"dtype": null, %s}' % QUANT, '{"dtype": "bfloat16"}'),
    ('{%s, "x": {"dtype": "float16", %s}, %s}' % (QUANT, QUANT, QUANT),
     '{"x": {"dtype": "float16", %s},"torch_dtype": "bfloat16"}' % QUANT),
    ('{"\\u0071uantization_config": {"quant_method": "mxfp4"}, "é\\n": "\\u00e9"}',
     '{"é\\n": "\\u00e9","torch_dtype": "bfloat16"}'),
    ('{"quantization_config": {"quant_method": "fp8"}, "a": 1}', None),  # not ours to remove
    ('{"quantization_config": null}', None), ('{}', None), ('[]', None), ('', None), ('{"a": ', None),
    ('{"torch_dtype": "float16", "a": [1e400]}', None),
]


@test
def config_loses_its_quantization_and_nothing_else():
    tensors = pair("model.x", (2, 3, 4))
    for before, after in CONFIGS:
        with scratch() as room:
            source = write_folder(room / "in", tensors, before.encode())
            done = tensorport("convert", source, room / "out", "--format", "safetensors", "--quiet")
            assert done.returncode == 0, done
            found = (room / "out/config.json").read_bytes().decode()
            assert found == (before if after is None else after), (before, found)
            convert_packed = tensorport("convert", source, room / "packed", "--format", "safetensors",
                                        "--quiet", "--mxfp4", "packed")
            assert convert_packed.returncode == 0
            assert (room / "packed/config.json").read_bytes().decode() == before
            tensorport("convert", source, room / "pickle", "--format", "jax-pickle", "--quiet")
            assert (room / "pickle/config.json").read_bytes().decode() == before


@test
def config_names_the_precision():
    cases = [('{"a": 1}', '{"a": 1,"torch_dtype": "%s"}'), ('{}', '{"torch_dtype": "%s"}'),
             ('{"torch_dtype": "bfloat16", "z": 0}', '{"torch_dtype": "%s", "z": 0}'),
             ('{"dtype":"bfloat16","torch_dtype":null}', '{"dtype":"%s","torch_dtype":"%s"}')]
    tensors = {"x": ("BF16", (2,), bytes(4))}
    for before, after in cases:
        for precision in ("float32", "float16", "bfloat16"):
            with scratch() as room:
                source = write_folder(room / "in", tensors, before.encode())
                out = convert(source, room / "out", "safetensors", "--precision", precision)
                assert (out / "config.json").read_text() == after.replace("%s", precision)


@test
def large_or_missing_config_is_no_trouble():
    with scratch() as room:
        large = b'{"a": "' + b"x" * (17 << 20) + b'"}'
        source = write_folder(room / "in", {"x": ("BF16", (2,), bytes(4))}, large)
        done = tensorport("convert", source, room / "out", "--format", "safetensors", "--precision", "float32")
        assert done.returncode == 0 and (room / "out/config.json").read_bytes() == large
        source = write_folder(room / "none", {"x": ("BF16", (2,), bytes(4))})
        assert not (convert(source, room / "out2", "safetensors") / "config.json").exists()


@test
def other_weights_of_the_same_name_are_left_out():
    """A reader would take them for part of the model."""
    with scratch() as room:
        source = write_shards(room / "in", [{"x": ("F32", (1,), bytes(4))}, {"y": ("F32", (1,), bytes(4))}])
        stray = {"model.safetensors": safetensors_bytes({}), "model-extra.safetensors": b"?", "flax_model.msgpack": b"?",
                 "flax_model.msgpack.index.json": b"{}", "model.pkl": b"?", "modelling.safetensors": b"?"}
        for name, content in stray.items():
            (source / name).write_bytes(content)
        for format, own in (("msgpack", {"flax_model.msgpack", "flax_model.msgpack.index.json"}),
                            ("jax-pickle", {"model.pkl"}),
                            ("safetensors", {"model.safetensors", "model-extra.safetensors"})):
            done = tensorport("convert", source, room / format, "--format", format, "--quiet",
                              "--precision", "source")
            assert done.returncode == 0, done
            for name, content in stray.items():
                assert (f"{name}: the format needs this name itself" in done.stderr) == (name in own), done
                if name not in own:
                    assert (room / format / name).read_bytes() == content
            (room / format / "modelling.safetensors").unlink()
            (room / format / "model-extra.safetensors").unlink(missing_ok=True)
            (room / format / "model.safetensors").rename(room / "x") if format != "safetensors" else None
            check_tensors(room / format, format, source, "source")


@test
def workers_make_no_difference():
    with scratch() as room:
        for format in FORMATS:
            made = [convert(checkpoint("small"), room / f"{format}-{n}", format, "--workers", n,
                            "--precision", "bfloat16", "--shard-size", "0.03") for n in (1, 5)]
            one, five = ({path.name: path.read_bytes() for path in out.iterdir()} for out in made)
            assert one == five


main()
