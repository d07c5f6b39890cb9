"""`tensorport inspect --stats` against numpy: every figure of every tensor, over all types, odd
values, shapes and sizes; and that neither workers nor instruction sets can be seen in a digit."""

import fcntl
import json
import os
import pty
import struct
import termios
import warnings
from pathlib import Path

import ml_dtypes
import numpy as np

from support import KIT, checkpoint, main, must, reference, refused, scratch, tensorport, test
from generate import Generator, hard_float64, write_file, write_shards
from reference import FLOATS

warnings.filterwarnings("ignore")  # infinities and NaN are what we want to see
TOLERANCE = 1e-12


def statistics(source, *options, **how):
    text = must("inspect", "--stats", "--json", *options, source, **how)

    def refuse(constant):
        raise AssertionError(f"no JSON: {constant}")
    found = json.loads(text, parse_constant=refuse)
    return found


def stored_values(source, name):
    """The tensor as the figures are defined: float32 where the view decodes, else as stored."""
    if name in source.pairs:
        return source.array(name, "float32"), "MXFP4"
    tensor = source.stored[name]
    if tensor.dtype in FLOATS and tensor.dtype != "F64":
        return source.array(name, "float32"), tensor.dtype
    return tensor.array(), tensor.dtype


def close(found, expected, scale):
    """Relative to the number, or where its summands cancel to what is added up."""
    return abs(found - float(expected)) <= TOLERANCE * max(abs(float(expected)), scale * 1e-3)


def deviation(wide):
    """Of extended floats, whose squares stay in range: a huge mean is taken off first, and what the
    rounding of the rest of it adds afterwards."""
    near = wide - wide[0]
    distances = near - near.mean()
    return np.sqrt((distances ** 2).mean() - distances.mean() ** 2)


def check(found, source, name):
    values, dtype = stored_values(source, name)
    assert (found["name"], found["stored"]) == (name, dtype), found
    assert found["shape"] == list(values.shape), found
    flat = values.reshape(-1)
    if dtype == "C64":
        flat = flat.view("<f4")
    is_float = flat.dtype.kind == "f"
    nan, infinite = (np.isnan(flat), np.isinf(flat)) if is_float else (np.zeros(flat.shape, bool),) * 2
    finite = flat[~nan & ~infinite]
    assert found["values"] == flat.size and found["zeros"] == int((flat == 0).sum()), found
    assert found["nan"] == int(nan.sum()) and found["infinite"] == int(infinite.sum()), found
    if is_float and dtype != "C64":
        half = finite.astype("<f2")
        assert found["float16_overflow"] == int(np.isinf(half).sum()), found
        assert found["float16_underflow"] == int(((half == 0) & (finite != 0)).sum()), found
    else:
        assert found["float16_overflow"] is None and found["float16_underflow"] is None, found
    if finite.size == 0:
        assert [found[key] for key in ("min", "max", "mean", "std")] == [None] * 4, found
        return
    convert = float if is_float else int
    assert found["min"] == convert(finite.min()) and found["max"] == convert(finite.max()), found
    assert isinstance(found["min"], convert) and isinstance(found["max"], convert), found
    wide = finite.astype(np.longdouble)
    scale = float(np.abs(wide).max())
    assert close(found["mean"], wide.mean(), scale), (found, wide.mean())
    std = deviation(wide)
    assert abs(found["std"] - float(std)) <= max(TOLERANCE * float(std), 1e-323), (found, std)


def check_all(path, *options, packed=False):
    source = reference(path)
    found = statistics(path, *options)
    assert list(found) == ["source", "mxfp4", "tensors", "totals"], list(found)
    assert found["source"] == path.name and found["mxfp4"] == ("packed" if packed else "decode")
    names = source.names(packed)
    assert [tensor["name"] for tensor in found["tensors"]] == names
    if packed:
        source.pairs = {}
    for tensor in found["tensors"]:
        check(tensor, source, tensor["name"])
    totals = found["totals"]
    assert totals.pop("tensors") == len(names)
    for key, total in totals.items():
        assert total == sum(tensor[key] or 0 for tensor in found["tensors"]), key
    return found


@test
def kit_checkpoints():
    for name in ("tiny", "small", "llama"):
        check_all(checkpoint(name))
    check_all(checkpoint("tiny"), "--mxfp4=packed", packed=True)
    check_all(checkpoint("tiny"), "--precision=float16")  # as stored, whatever is shown


@test
def edge_files():
    files = sorted((KIT / "files/edge").glob("*.safetensors"))
    assert len(files) > 10
    for file in files:
        check_all(file)


@test
def random_checkpoints():
    with scratch() as folder:
        for seed in range(8):
            shards = Generator(seed).shards(3, 20, 2)
            check_all(write_shards(folder / str(seed), shards))


def f32(values):
    values = np.asarray(values, "<f4")
    return ("F32", values.shape, values.tobytes())


def hard_tensors():
    """Tensors that naive sums get wrong, and those without any number."""
    numbers = np.random.default_rng(5)
    n = 300_007
    f64 = {
        "huge_mean_64": 1e15 + numbers.integers(0, 8, n) / 8,
        "largest": numbers.choice([1.7e308, -1.7e308, 3.0], n),
        "subnormal_64": numbers.integers(0, 1000, n) * 5e-324,
        "ladder": 2.0 ** numbers.integers(-1070, 1020, n),
        "losses": hard_float64(500, 1),
        "nan_64": np.full(1500, np.nan),
    }
    f32s = {
        "huge_mean": 1e7 + numbers.integers(0, 3, n),
        "outlier_first": np.r_[1e30, numbers.normal(size=n) * 1e-3],
        "outlier_last": np.r_[numbers.normal(size=n) * 1e-3, -1e30],
        "constant": np.full(n, 0.1),
        "subnormal": numbers.integers(0, 100, n) * 1e-45,
        "extremes": numbers.choice([3.4028234e38, -3.4028234e38], n),
        "nan_only": np.full(5000, np.nan), "infinite_only": np.array([np.inf, -np.inf] * 700),
        "one_number": np.r_[np.full(3000, np.nan), 2.5, np.full(3000, np.inf)],
        "mixed": np.where(numbers.random(n) < 0.3, np.nan, numbers.normal(size=n)),
        "negative_zero": np.array([-0.0, -0.0]), "zero_first": np.r_[np.zeros(4096), np.ones(5)],
        "limits": np.array([65519.996, 65520, -65520, -65519.996, 2 ** -25, -2 ** -25,
                            np.nextafter(np.float32(2 ** -25), np.float32(1)), 1e-45]),
        "empty": np.zeros((0,)), "empty_3": np.zeros((3, 0, 5)), "scalar": np.array(-7.25),
        "deep": np.ones((1,) * 30) * 3,
    }
    integers = {
        "i64": np.r_[np.array([-2 ** 63, 2 ** 63 - 1, 0, -1]), numbers.integers(-2 ** 63, 2 ** 63 - 1, n)],
        "u64": np.array([2 ** 64 - 1, 2 ** 64 - 2, 2 ** 64 - 9] * 1000, "u8"),
        "i8": numbers.integers(-128, 128, n, "i1"), "u8": np.full(5000, 255, "u1"),
    }
    tensors = {name: ("F64", v.shape, v.astype("<f8").tobytes()) for name, v in f64.items()}
    tensors |= {name: f32(v) for name, v in f32s.items()}
    tensors |= {name: (v.dtype.str[1].upper() + str(8 * v.itemsize), v.shape, v.tobytes())
                for name, v in integers.items()}
    tensors["bool"] = ("BOOL", (7,), bytes([1, 0, 1, 1, 1, 0, 1]))
    complexes = (numbers.normal(size=2001) + 1j * numbers.normal(size=2001)).astype("<c8")
    tensors["complex"] = ("C64", (2001,), complexes.tobytes())
    every = np.arange(65536, dtype="<u2").tobytes()
    tensors["every_bf16"] = ("BF16", (256, 256), every)
    tensors["every_f16"] = ("F16", (65536,), every)
    for name in ("F8_E4M3", "F8_E5M2", "F8_E8M0"):
        tensors[name] = (name, (256,), bytes(range(256)))
    return tensors


@test
def hard_values():
    with scratch() as folder:
        path = write_file(folder / "hard.safetensors", hard_tensors(), padding=3)
        found = {tensor["name"]: tensor for tensor in check_all(path)["tensors"]}
        assert found["constant"]["std"] == 0 and found["constant"]["mean"] == float(np.float32(0.1))
        assert str(found["negative_zero"]["min"]) == "0.0"
        assert found["limits"]["float16_overflow"] == 2 and found["limits"]["float16_underflow"] == 3
        assert found["scalar"]["mean"] == -7.25 and found["scalar"]["std"] == 0


@test
def many_values_with_a_huge_mean():
    """Sixteen million: several parts, and sums that float64 does not hold exactly."""
    with scratch() as folder:
        n = (1 << 24) + 12345
        values = (np.random.default_rng(3).integers(0, 16, n) + (2 ** 24 - 16)).astype("<f4")
        path = write_file(folder / "m.safetensors", {"x": ("F32", (n,), values.tobytes())})
        tensor, = statistics(path)["tensors"]
        wide = values.astype("<f8")
        assert abs(tensor["mean"] / wide.mean() - 1) < TOLERANCE, tensor
        assert abs(tensor["std"] / (wide - 2 ** 24).std() - 1) < TOLERANCE, tensor


@test
def same_digits_whatever_the_machine():
    with scratch() as folder:
        hard = write_file(folder / "hard.safetensors", hard_tensors())
        n = 9 << 20
        big = np.random.default_rng(1).normal(size=n).astype(ml_dtypes.bfloat16)
        big = write_file(folder / "big.safetensors", {"a": ("BF16", (n,), big.tobytes()),
                                                      "b": ("F8_E5M2", (n,), bytes(n))})
        for path in (hard, big, checkpoint("tiny")):
            first = must("inspect", "--stats", "--json", "--workers=1", path)
            for workers in (2, 3, 7, 64):
                assert must("inspect", "--stats", "--json", f"--workers={workers}", path) == first
            for isa in ("scalar", "avx2", "avx512"):
                assert must("inspect", "--stats", "--json", path, env={"TENSORPORT_ISA": isa}) == first


@test
def table():
    with scratch() as folder:
        path = write_file(folder / "t.safetensors", {
            "model.layers.0.experts.gate_up_proj": f32([1, -2, 0, 65520, 1e-9, np.nan, np.inf]),
            "ümlaut.name.of.some.length.that.is.not.short": f32([]),
            "line\nbreak": f32([0.5] * 2)})
        text = must("inspect", "--stats", path)
        lines = text.splitlines()
        assert lines[0].split() == ["NAME", "STORED", "MIN", "MAX", "MEAN", "STD", "ZEROS"], text
        assert lines[1].split(None, 7) == ["model.layers.0.experts.gate_up_proj", "F32", "-2", "6.552e+04",
                                           "1.31e+04", "2.621e+04", "1",
                                           "1 NaN, 1 infinite, 1 overflow, 1 underflow"], text
        assert lines[2].split()[1:] == ["F32", "-", "-", "-", "-", "0"], text
        assert lines[3].startswith("line\\x0abreak"), text
        assert lines[-2:] == ["3 tensors, 9 values: 1 zero, 1 NaN, 1 infinite",
                              "in float16 1 would overflow and 1 underflow to zero"], text
        assert {line.index("F32") for line in lines[1:4]} == {lines[0].index("STORED")}, text


def on_a_terminal(columns, *arguments):
    """What a command prints when standard output is a terminal so wide."""
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    done = tensorport(*arguments, stdout=end)
    os.close(end)
    text = b""
    try:
        while part := os.read(terminal, 65536):
            text += part
    except OSError:  # the other end is closed
        pass
    os.close(terminal)
    assert (done.returncode, done.stderr) == (0, ""), done
    return text.decode().replace("\r\n", "\n")


@test
def fits_a_terminal():
    for columns in (80, 100, 132):
        lines = on_a_terminal(columns, "inspect", "--stats", checkpoint("tiny")).splitlines()
        assert max(map(len, lines)) <= columns, max(lines, key=len)
        names = reference(checkpoint("tiny")).names()
        starts = {line.split("  ")[0] for line in lines}
        assert starts >= set(names), set(names) - starts
        assert (lines[0] == "NAME") == (columns < 108), lines[0]
    on_a_terminal(10, "inspect", "--stats", checkpoint("tiny"))


@test
def mistakes():
    for value in ("0", "-1", "x", "1025", ""):
        refused("inspect", "--stats", f"--workers={value}", checkpoint("tiny"), status=2, says=["--workers"])
    with scratch() as folder:
        broken = folder / "model.safetensors"
        broken.write_bytes(Path(next(checkpoint("tiny").glob("*.safetensors"))).read_bytes()[:-1])
        refused("inspect", "--stats", broken)
        with open("/dev/full", "w") as full:
            done = tensorport("inspect", "--stats", checkpoint("tiny"), stdout=full)
            assert done.returncode == 1 and "No space" in done.stderr, done


@test
def no_tensors():
    found = statistics(KIT / "files/edge/no_tensors.safetensors")
    assert found["tensors"] == [] and found["totals"]["values"] == 0


main()
