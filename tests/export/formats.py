"""Reading what `tensorport convert --format ...` writes, with the programs that it is for."""

import json
import pickle
import warnings

import numpy as np
import safetensors
from flax.serialization import msgpack_restore

from reference import DTYPES, F8, reference, same_bits

EXTENSION = {"msgpack": ".msgpack", "jax-pickle": ".pkl", "safetensors": ".safetensors"}
STEM = {"msgpack": "flax_model", "jax-pickle": "model", "safetensors": "model"}
DTYPE_OF = {dtype.name: name for name, dtype in DTYPES.items()}


def containers(folder, format):
    """The files with tensors, checked to be numbered as they should."""
    found = sorted(path.name for path in folder.glob("*" + EXTENSION[format]))
    stem, extension = STEM[format], EXTENSION[format]
    n = len(found)
    assert found == ([stem + extension] if n == 1 else
                     [f"{stem}-{i + 1:05}-of-{n:05}{extension}" for i in range(n)]), found
    assert (folder / f"{stem}{extension}.index.json").exists() == (n > 1)
    return [folder / name for name in found]


def read_pickle(path):
    with warnings.catch_warnings(), open(path, "rb") as stream:
        warnings.simplefilter("error")
        return pickle.load(stream)


def read_safetensors(path):
    with safetensors.safe_open(path, framework="np") as file:
        assert file.metadata() == {"format": "pt"}
        names = set(file.keys())
    tensors = {name: np.frombuffer(entry["data"], DTYPES[entry["dtype"]]).reshape(entry["shape"])
               for name, entry in safetensors.deserialize(path.read_bytes())}
    assert tensors.keys() == names
    return tensors


def read_container(path, format):
    if format == "msgpack":
        return msgpack_restore(path.read_bytes())
    return read_pickle(path) if format == "jax-pickle" else read_safetensors(path)


def read(folder, format):
    """{name: array} of all containers; the index says where they are."""
    tensors, places = {}, {}
    for path in containers(folder, format):
        part = read_container(path, format)
        assert not part.keys() & tensors.keys()
        tensors.update(part)
        places.update(dict.fromkeys(part, path.name))
    index = folder / f"{STEM[format]}{EXTENSION[format]}.index.json"
    if index.exists():
        expected = {"metadata": {"total_size": sum(a.nbytes for a in tensors.values())},
                    "weight_map": dict(sorted(places.items()))}
        found = json.loads(index.read_text())
        assert found == expected
        assert list(found["weight_map"]) == sorted(places, key=str.encode)
    return tensors


def expected_array(source, name, format, precision):
    """What the format should hold for a tensor of the reference."""
    array = source.array(name, precision)
    stored = source.stored.get(name)
    is_f8 = name not in source.pairs and stored.dtype in F8 and precision == "source"
    if format == "safetensors":
        if name in source.pairs and array.ndim == 3:
            return np.swapaxes(array, 1, 2)
        return array.view(DTYPES[stored.dtype]) if is_f8 else array
    if format == "msgpack":
        return array.view(DTYPES[stored.dtype]) if is_f8 else array
    return array.view("V2") if array.dtype.name == "bfloat16" else array


def check_tensors(folder, format, checkpoint, precision, packed=False):
    """Every tensor is there with its type, shape and bits."""
    source, found = reference(checkpoint), read(folder, format)
    names = source.names(packed)
    if packed:
        source.pairs = {}
    assert sorted(found) == sorted(names)
    for name in names:
        expected = expected_array(source, name, format, precision)
        array = found[name]
        if expected.dtype == np.dtype("V2"):  # its NaN is to be compared as what it is
            assert array.dtype == expected.dtype, (name, array.dtype)
            array, expected = (a.view(DTYPES["BF16"]) for a in (array, expected))
        difference = same_bits(array, expected)
        assert difference is None, f"{name}: {difference}"
    check_manifest(folder, format, found)


def check_manifest(folder, format, tensors):
    """The bytes of each tensor are where it says."""
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["format"] == format and manifest["format_version"] == 1
    assert sorted(entry["name"] for entry in manifest["tensors"]) == sorted(tensors)
    for entry in manifest["tensors"]:
        array = tensors[entry["name"]]
        assert entry["shape"] == list(array.shape), entry
        assert entry["nbytes"] == array.nbytes, entry
        assert array.dtype == "V2" or DTYPE_OF[array.dtype.name] == DTYPE_OF[entry["dtype"]] \
            or (entry["dtype"].startswith("float8") and array.dtype == "u1"), entry
        assert entry.get("transposed", False) == (
            format == "safetensors" and "blocks" in entry["source"] and array.ndim == 3)
        runs = entry.get("chunks", [{"offset": entry.get("offset"), "nbytes": entry["nbytes"]}])
        with open(folder / entry["file"], "rb") as stream:
            data = b""
            for run in runs:
                stream.seek(run["offset"])
                data += stream.read(run["nbytes"])
        assert data == array.tobytes(), entry["name"]
