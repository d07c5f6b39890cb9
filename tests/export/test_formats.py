"""`tensorport convert --format msgpack|jax-pickle|safetensors`: real readers find in the files what
an independent reader finds in the checkpoint."""

import hashlib
import json
import os
import pickle
import pickletools

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import safetensors
from flax.serialization import msgpack_restore, msgpack_serialize
from support import KIT, checkpoint, main, must, reference, scratch, tensorport, test

from formats import EXTENSION, check_tensors, containers, read, read_container
from generate import Generator, write_shards

FORMATS = tuple(EXTENSION)
PRECISIONS = ("float32", "float16", "bfloat16", "source")
SEED = int(os.environ.get("TP_TEST_SEED") or 4)
CODES = {"MARK", "STOP", "PROTO", "POP", "MEMOIZE", "BINGET", "EMPTY_DICT", "SETITEM", "REDUCE", "STACK_GLOBAL",
         "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "BYTEARRAY8", "EMPTY_TUPLE", "TUPLE1",
         "TUPLE2", "TUPLE3", "TUPLE", "BININT1", "BININT2", "BININT", "LONG1"}


def convert(source, out, format, *options):
    must("convert", source, out, "--format", format, "--quiet", *options)
    return out


def convert_in_small_shards(source, out, format, *options):
    """It warns of the tensors that are larger."""
    done = tensorport("convert", source, out, "--format", format, "--quiet", "--shard-size", "0.003",
                      *options)
    assert done.returncode == 0 and "stands alone in shard" in done.stderr, done
    return out


@test
def all_formats_hold_the_checkpoint_in_every_precision():
    for name in ("tiny", "llama"):
        for format in FORMATS:
            for precision in PRECISIONS:
                for packed in (False, True):
                    with scratch() as room:
                        out = convert(checkpoint(name), room / "out", format, "--precision", precision,
                                      "--mxfp4", "packed" if packed else "decode")
                        check_tensors(out, format, checkpoint(name), precision, packed)


@test
def several_shards_hold_the_checkpoint():
    for format in FORMATS:
        with scratch() as room:
            out = convert(checkpoint("small"), room / "out", format, "--precision", "bfloat16",
                          "--shard-size", "0.03")
            assert len(containers(out, format)) > 3
            check_tensors(out, format, checkpoint("small"), "bfloat16")


@test
def unseen_checkpoints_are_right():
    for seed in range(SEED, SEED + 3):
        with scratch() as room:
            source = write_shards(room / "in", Generator(seed).shards(3, 30, 4), padding=seed % 5)
            for format in FORMATS:
                for precision in PRECISIONS:
                    out = convert_in_small_shards(source, room / f"{format}-{precision}", format,
                                                  "--precision", precision)
                    check_tensors(out, format, source, precision)
                out = convert(source, room / f"{format}-packed", format, "--mxfp4=packed",
                              "--precision=source")
                check_tensors(out, format, source, "source", packed=True)


@test
def float32_is_the_default_but_for_safetensors():
    with scratch() as room:
        for format in FORMATS:
            out = convert(checkpoint("tiny"), room / format, format)
            check_tensors(out, format, checkpoint("tiny"),
                          "source" if format == "safetensors" else "float32")


@test
def float16_losses_are_those_of_the_mount():
    with scratch() as room:
        source = write_shards(room / "in", Generator(SEED + 300).shards(2, 40, 4))
        losses = set()
        for format in ("numpy-direct", *FORMATS):
            done = json.loads(must("convert", source, room / format, "--format", format, "--precision",
                                   "float16", "--progress", "json").splitlines()[-1])
            losses.add((done["float16_overflowed"], done["float16_became_zero"]))
        (overflowed, became_zero), = losses
        assert overflowed > 0 and became_zero > 0


@test
def msgpack_is_what_flax_writes():
    with scratch() as room:
        source = write_shards(room / "in", Generator(SEED + 100).shards(2, 40, 2))
        for precision in ("float32", "source"):
            out = convert(source, room / precision, "msgpack", "--precision", precision)
            content = (out / "flax_model.msgpack").read_bytes()
            assert msgpack_serialize(msgpack_restore(content)) == content


@test
def safetensors_are_what_the_library_writes():
    with scratch() as room:
        source = write_shards(room / "in", Generator(SEED + 200).shards(2, 60, 2))
        for precision in ("float32", "source"):
            out = convert(source, room / precision, "safetensors", "--precision", precision)
            path = out / "model.safetensors"
            tensors = read_container(path, "safetensors")
            specs = {name: safetensors.TensorSpec(dtype=array.dtype.name, shape=list(array.shape),
                                                  data_ptr=array.ctypes.data, data_len=array.nbytes)
                     for name, array in tensors.items()}
            assert safetensors.serialize(specs, {"format": "pt"}) == path.read_bytes()


@test
def transformers_has_the_same_in_memory():
    """The golden comes from transformers itself: tests/kit/make_hf_state.py."""
    for name in ("tiny", "small"):
        golden = json.loads((KIT / "goldens/hf_state" / f"{name}.json").read_text())["tensors"]
        with scratch() as room:
            out = convert(checkpoint(name), room / "out", "safetensors", "--shard-size", "0.03")
            found = {tensor: {"shape": list(array.shape), "dtype": array.dtype.name,
                              "sha256": hashlib.sha256(array.tobytes()).hexdigest()}
                     for tensor, array in read(out, "safetensors").items()}
            assert found == golden
            config = json.loads((out / "config.json").read_text())
            was = json.loads((checkpoint(name) / "config.json").read_text())
            del was["quantization_config"]
            assert config == {**was, "torch_dtype": "bfloat16"}


@test
def pickles_name_nothing_but_numpy_and_copy_nothing():
    with scratch() as room:
        out = convert(checkpoint("tiny"), room / "out", "jax-pickle", "--precision", "bfloat16")
        content = (out / "model.pkl").read_bytes()
        codes = list(pickletools.genops(content))
        assert {code.name for code, _, _ in codes} <= CODES
        assert codes[0][1] == 5
        strings = [argument for code, argument, _ in codes if code.name == "SHORT_BINUNICODE"]
        assert strings[:2] == ["numpy", "ndarray"]
        assert sum(code.name == "STACK_GLOBAL" for code, _, _ in codes) == 1
        tensors = pickle.loads(content)
        names = reference(checkpoint("tiny")).names()
        assert list(tensors) == names  # in the checkpoint's order
        for array in tensors.values():
            assert type(array) is np.ndarray and array.flags.writeable and array.flags.c_contiguous
            assert type(array.base) is bytearray  # what pickle read is what the array shows
        weight = jnp.asarray(tensors["model.norm.weight"].view(ml_dtypes.bfloat16))
        assert weight.dtype == jnp.bfloat16


@test
def other_files_are_copied():
    with scratch() as room:
        for format in FORMATS:
            out = convert(checkpoint("small"), room / format, format, "--shard-size", "0.05")
            names = {path.name for path in out.iterdir()}
            for path in checkpoint("small").iterdir():
                if path.suffix == ".safetensors" or path.name == "model.safetensors.index.json":
                    continue
                names.remove(path.name)
                if path.name != "config.json" or format != "safetensors":
                    assert (out / path.name).read_bytes() == path.read_bytes(), path.name
            rest = {"manifest.json", "XXH3SUMS", *(path.name for path in containers(out, format))}
            assert len(names - rest) == 1, names  # the index


@test
def manifest_has_what_the_view_has():
    new = {"file", "offset", "chunks", "transposed"}
    view = json.loads(must("inspect", "--json", "--precision", "bfloat16", checkpoint("tiny")))
    with scratch() as room:
        for format in FORMATS:
            out = convert(checkpoint("tiny"), room / format, format, "--precision", "bfloat16")
            found = json.loads((out / "manifest.json").read_text())
            assert found.pop("format") == format
            for entry, was in zip(found["tensors"], view["tensors"], strict=True):
                if entry.get("transposed"):
                    entry["shape"][1:] = reversed(entry["shape"][1:])
                assert {key: value for key, value in entry.items() if key not in new} \
                    == {key: value for key, value in was.items() if key not in new}
            assert {**found, "tensors": []} == {**view, "tensors": []}


main()
