"""`tensorport pack` and `unpack`: what comes back is what was there, a second reader agrees, a mount of
the packed checkpoint is the mount of the plain one, and whatever is broken is an error."""

import errno
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np

from packed import HEADER, SUFFIX, Packed, pack
from support import (KIT, PROGRAM, Mount, checkpoint, main, must, refused, scratch, tensorport, test,
                     wait_for)
# in tests/mount, which support knows
from compare import walk  # noqa: E402
from generate import Generator, safetensors_bytes, write_file, write_shards  # noqa: E402

EDGE = KIT / "files" / "edge"
ISAS = [isa for isa in ("scalar", "avx2", "avx512")
        if isa == "scalar" or isa in Path("/proc/cpuinfo").read_text()]


def normal_bf16(n, seed=1):
    """n weights as a trained layer has them."""
    bits = (np.random.default_rng(seed).standard_normal(n).astype("<f4") * 0.02).view("<u4")
    return ((bits + 0x7fff + (bits >> 16 & 1)) >> 16).astype("<u2").tobytes()


def generated(folder, seed, n_shards=3):
    """A random checkpoint: all types, odd shapes, names and widths that take turns."""
    return write_shards(folder, Generator(seed).shards(n_shards, 40, 3), padding=seed % 9)


def contents(folder):
    """{relative path: SHA-256, modification time} of every file."""
    return {path: (hashlib.sha256((folder / path).read_bytes()).hexdigest(),
                   (folder / path).stat().st_mtime_ns)
            for path in walk(folder) if (folder / path).is_file()}


def check_second_reader(plain, packed):
    """Every packed file, read by packed.py, is its original."""
    files = [path for path in walk(packed) if path.name.endswith(SUFFIX)]
    for path in files:
        original = (plain / path).with_name(path.name.removesuffix(SUFFIX))
        assert Packed.parse((packed / path).read_bytes()).original() == original.read_bytes(), path
    return len(files)


def check_round_trip(plain, folder, *options):
    packed, again = folder / "packed", folder / "again"
    must("pack", plain, packed, *options)
    must("unpack", packed, again, *options)
    assert contents(again) == contents(plain), f"{plain} did not come back"
    n = sum(path.name.endswith(".safetensors") for path in walk(plain))
    assert check_second_reader(plain, packed) == n
    return packed


# ---------------------------------------------------------------- there and back

@test
def checkpoints_come_back():
    for name in ("tiny", "small", "llama"):
        with scratch() as folder:
            check_round_trip(checkpoint(name), folder)


@test
def generated_checkpoints_come_back():
    for seed in range(6):
        with scratch() as folder:
            check_round_trip(generated(folder / "plain", seed), folder, "-w", str(1 + seed % 3))


@test
def edge_files_come_back():
    """One by one, given as single files."""
    for file in sorted(EDGE.glob("*.safetensors")):
        with scratch() as folder:
            must("pack", file, folder / "packed", "-q")
            packed = folder / "packed" / (file.name + SUFFIX)
            assert os.listdir(folder / "packed") == [packed.name]
            assert Packed.parse(packed.read_bytes()).original() == file.read_bytes()
            for source in (packed, folder / "packed"):
                must("unpack", source, folder / "again")
                assert (folder / "again" / file.name).read_bytes() == file.read_bytes()
                shutil.rmtree(folder / "again")


@test
def everything_else_is_copied():
    """Subfolders, links to files, odd and long names; weights that no index names; a file that only
    has the name of weights."""
    with scratch() as folder:
        plain = generated(folder / "plain", 1)
        (plain / "sub/deep").mkdir(parents=True)
        for name in ("sub/deep/x.bin", "new\nline", ".hidden", "a" * 255, "x.partial", "x"):
            (plain / name).write_bytes(os.urandom(3_000_000 if name == "x" else 100))
        write_file(plain / "sub/more.safetensors", {"t": ("F32", (3,), bytes(12))})
        write_file(plain / "spare.safetensors", {"t": ("BF16", (40_000,), normal_bf16(40_000))})
        (plain / "broken.safetensors").write_bytes(b"version https://git-lfs\n" * 10_000)
        (plain / "empty.safetensors").write_bytes(b"")
        (folder / "elsewhere").write_bytes(b"linked")
        (plain / "link").symlink_to("../elsewhere")
        packed = check_round_trip(plain, folder)
        assert (packed / "sub/more.safetensors.tpk").exists()
        os.mkfifo(plain / "fifo")
        (plain / "folder").symlink_to("sub")
        done = tensorport("pack", plain, folder / "packed2")
        assert done.returncode == 0 and done.stderr.count("left out") == 2, done


@test
def bytes_do_not_depend_on_workers():
    with scratch() as folder:
        for workers in ("1", "2", "7"):
            must("pack", checkpoint("small"), folder / workers, "-w", workers)
        assert contents(folder / "1") == contents(folder / "2") == contents(folder / "7")


@test
def every_instruction_set_packs_the_same():
    with scratch() as folder:
        plain = generated(folder / "plain", 3)
        for isa in ISAS:
            must("pack", plain, folder / isa, env={"TENSORPORT_ISA": isa})
            must("unpack", folder / "scalar", folder / f"again-{isa}", env={"TENSORPORT_ISA": isa})
            assert contents(folder / isa) == contents(folder / "scalar")
            assert contents(folder / f"again-{isa}") == contents(plain)


@test
def normal_weights_shrink():
    with scratch() as folder:
        file = write_file(folder / "m.safetensors",
                          {"t": ("BF16", (4096, 1024), normal_bf16(4096 * 1024))})
        out = must("pack", file, folder / "packed")
        packed = (folder / "packed/m.safetensors.tpk").stat().st_size
        assert file.stat().st_size / packed >= 1.3, out
        assert "1 file packed, 8.4 MB to 6.4 MB, ratio 1.3" in out, out


@test
def small_tensors_share_blocks():
    with scratch() as folder:
        tensors = {f"t{i}": (("BF16", "F32", "U8")[i % 3], (3,), bytes(3 * (2, 4, 1)[i % 3]))
                   for i in range(50)}
        write_file(folder / "m.safetensors", tensors)
        must("pack", folder / "m.safetensors", folder / "packed")
        packed = Packed.parse((folder / "packed/m.safetensors.tpk").read_bytes())
        assert len(packed.blocks) == 1 and len(packed.regions) == 1, packed.regions


@test
def modes_and_output():
    with scratch() as folder:
        old = os.umask(0o027)
        try:
            out = must("pack", checkpoint("tiny"), folder / "p", "-q")
        finally:
            os.umask(old)
        assert out == ""
        assert all((folder / "p" / path).stat().st_mode & 0o777 == 0o640 for path in walk(folder / "p"))
        lines = [json.loads(line) for line in
                 must("unpack", folder / "p", folder / "u", "--progress", "json").splitlines()]
        weights = [path for path in walk(checkpoint("tiny")) if path.suffix == ".safetensors"]
        assert lines[-1]["event"] == "done" and lines[-1]["files_packed"] == len(weights), lines
        assert lines[-1]["bytes_original"] == sum((checkpoint("tiny") / path).stat().st_size
                                                  for path in weights)
        (folder / "empty").mkdir()
        must("unpack", folder / "p", folder / "empty", "--progress", "none")


# ---------------------------------------------------------------- instead of a checkpoint

def file_facts(path):
    status = path.stat()
    xattrs = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    return (status.st_ino, status.st_size, status.st_blocks, status.st_mtime_ns, xattrs)


def check_same_mounts(plain, packed, *options, env=None):
    with Mount(plain, *options, env=env) as a, Mount(packed, *options, env=env) as b:
        paths = walk(a.path)
        assert paths == walk(b.path)
        for path in paths:
            if (a.path / path).is_file():
                assert file_facts(a.path / path) == file_facts(b.path / path), path
                assert (a.path / path).read_bytes() == (b.path / path).read_bytes(), path
        check_ranges(a.path, b.path, [path for path in paths if path.suffix == ".npy"])


def check_ranges(a, b, paths):
    """Random ranges, most of them short and some across many blocks."""
    numbers = random.Random(5)
    for path in numbers.choices(paths, k=60):
        size = (a / path).stat().st_size
        first, second = os.open(a / path, os.O_RDONLY), os.open(b / path, os.O_RDONLY)
        try:
            for _ in range(8):
                offset = numbers.randrange(size)
                length = int(2 ** numbers.uniform(0, 20))
                assert os.pread(first, length, offset) == os.pread(second, length, offset), path
        finally:
            os.close(first)
            os.close(second)


@test
def mounts_are_the_same():
    """Of folders with one name, because the manifest has it."""
    with scratch() as folder:
        plain = generated(folder / "plain" / "m", 11)
        (plain / "config.json").write_text("{}")
        write_file(plain / "spare.safetensors", {"t": ("BF16", (40_000,), normal_bf16(40_000))})
        (folder / "packed").mkdir()
        must("pack", plain, folder / "packed" / "m")
        packed = folder / "packed" / "m"
        check_same_mounts(plain, packed)
        check_same_mounts(plain, packed, "--direct-io", "--cache-size", "0")
        check_same_mounts(plain, packed, "--direct-io", "--cache-size", "1M", "-p", "source")
        check_same_mounts(plain, packed, "--direct-io", "-p", "float16", "--mxfp4", "packed")
        for isa in ISAS:
            check_same_mounts(plain, packed, "--direct-io", env={"TENSORPORT_ISA": isa})
        for options in ((), ("--json",)):
            assert must("inspect", plain, *options) == must("inspect", packed, *options)


@test
def the_kit_mounts_the_same():
    with scratch() as folder:
        packed = folder / "small"
        must("pack", checkpoint("small"), packed)
        check_same_mounts(checkpoint("small"), packed)


@test
def single_files_are_checkpoints():
    with scratch() as folder:
        must("pack", EDGE / "dtypes.safetensors", folder / "p")
        packed = folder / "p" / "dtypes.safetensors.tpk"
        check_same_mounts(EDGE / "dtypes.safetensors", packed)
        assert must("inspect", EDGE / "dtypes.safetensors") == must("inspect", packed)


@test
def conversions_are_the_same():
    """Of bytes that convert would otherwise copy in the kernel as well."""
    with scratch() as folder:
        plain = generated(folder / "plain" / "m", 21)
        packed = folder / "packed" / "m"
        packed.parent.mkdir()
        must("pack", plain, packed)
        for options in (("--precision", "source"), ("--precision", "float16", "--mxfp4", "packed"),
                        ("--format", "msgpack"), ("--format", "safetensors")):
            for name, source in (("a", plain), ("b", packed)):
                done = tensorport("convert", source, folder / name, "-q", *options)
                assert done.returncode == 0, done
            a, b = ({path: digest for path, (digest, _) in contents(folder / name).items()}
                    for name in ("a", "b"))
            assert a == b
            shutil.rmtree(folder / "a")
            shutil.rmtree(folder / "b")


@test
def readers_share_blocks():
    """The cache stays within what is allowed, is used, and serves several readers at once."""
    with scratch() as folder:
        n = 3_000_000
        write_file(folder / "model.safetensors", {"t": ("BF16", (n,), normal_bf16(n))})
        must("pack", folder / "model.safetensors", folder / "p")
        expected = (folder / "model.safetensors").read_bytes()[-2 * n:]
        with Mount(folder / "p", "-p", "source", "--direct-io", "--cache-size", "2M") as mount:
            path = mount.path / "shard_000/t.npy"
            skip = path.stat().st_size - len(expected)
            code = ("import os,random,sys\n"
                    "f=os.open(sys.argv[1],os.O_RDONLY); r=random.Random(int(sys.argv[2]))\n"
                    "e=open(sys.argv[3],'rb').read()[-6000000:]\n"
                    "for _ in range(1500):\n"
                    "    o=int(r.triangular(0,len(e)-5000,0))\n"
                    f"    assert os.pread(f,4096,o+{skip})==e[o:o+4096]\n")
            readers = [subprocess.Popen([sys.executable, "-c", code, str(path), str(i),
                                         str(folder / "model.safetensors")]) for i in range(3)]
            assert [reader.wait() for reader in readers] == [0, 0, 0]
            blocks, cache = mount.stats()["blocks"], mount.stats()["cache"]
            assert blocks["capacity_bytes"] + cache["capacity_bytes"] <= 2 << 20
            assert blocks["bytes"] <= blocks["capacity_bytes"] and blocks["hits"] > 500, blocks
            assert "tensorport_blocks_hits_total" in (mount.path / ".tensorport/metrics").read_text()


@test
def other_writers_are_read():
    """Other block sizes, regions and widths than ours."""
    with scratch() as folder:
        tensors = {"a": ("BF16", (70_001,), normal_bf16(70_001)), "b": ("U8", (9,), b"123456789"),
                   "c": ("F64", (4_001,), np.random.default_rng(1).normal(size=4_001).tobytes())}
        data = safetensors_bytes(tensors)
        (folder / "plain").mkdir()
        (folder / "packed").mkdir()
        (folder / "plain/model.safetensors").write_bytes(data)
        for block_size in (4096, 65536, 1 << 20):
            for regions in ([(len(data), 0)], [(len(data), 8)], [(1, 1), (77, 2), (len(data) - 78, 4)]):
                file = folder / "packed/model.safetensors.tpk"
                file.write_bytes(pack(data, block_size, regions).bytes())
                must("unpack", file, folder / "again")
                assert (folder / "again/model.safetensors").read_bytes() == data
                shutil.rmtree(folder / "again")
        with Mount(folder / "plain", "-p", "source") as a, Mount(folder / "packed", "-p", "source") as b:
            for path in walk(a.path / "shard_000"):
                assert ((a.path / "shard_000" / path).read_bytes() ==
                        (b.path / "shard_000" / path).read_bytes())


# ---------------------------------------------------------------- mistakes

@test
def mistakes_are_one_line():
    with scratch() as folder:
        packed = folder / "packed"
        must("pack", checkpoint("tiny"), packed)
        name = next(path.name for path in walk(packed) if path.name.endswith(SUFFIX))
        refused("pack", packed, folder / "x", says=["is packed already"])
        refused("pack", packed / name, folder / "x", says=["is packed already"])
        refused("unpack", checkpoint("tiny"), folder / "x", says=["expected a packed checkpoint"])
        refused("unpack", folder / "nowhere", folder / "x", says=["nowhere", "No such file"])
        refused("pack", folder / "nowhere", folder / "x", says=["nowhere", "No such file"])
        refused("pack", checkpoint("tiny"), packed, says=["not empty"])
        refused("unpack", packed, packed, says=["not empty"])
        refused("pack", checkpoint("tiny"), folder / "no/such", says=["No such file"])
        refused("pack", KIT / "files/malformed/gap.safetensors", folder / "x", says=["gap"])
        refused("pack", checkpoint("tiny") / "model.safetensors.index.json", folder / "x",
                says=["expected a folder"])
        assert not (folder / "x").exists()
        for command in ("pack", "unpack"):
            for words in ((), ("a",), ("a", "b", "c"), ("--workers", "0", "a", "b"), ("--what", "a", "b"),
                          ("-w", "65", "a", "b"), ("--progress", "dots", "a", "b")):
                refused(command, *words, status=2)


@test
def both_kinds_of_a_file_are_refused():
    with scratch() as folder:
        packed = folder / "p"
        must("pack", checkpoint("tiny"), packed)
        name = next(path.name for path in walk(packed) if path.name.endswith(SUFFIX))
        plain = name.removesuffix(SUFFIX)
        shutil.copy(checkpoint("tiny") / plain, packed / plain)
        refused("inspect", packed, says=[plain, "found both"])
        refused("unpack", packed, folder / "x", says=[plain, "found both"])
        refused("pack", packed, folder / "x", says=["found both"])
        plain_text, packed_text = (tensorport("inspect", packed / one) for one in (plain, name))
        assert plain_text.returncode == 0 and plain_text.stdout == packed_text.stdout
        (packed / name).unlink()  # now it is a mixture, which is fine
        assert "shard_000" in must("inspect", packed)
        refused("pack", packed, folder / "x", says=["is packed already"])


# ---------------------------------------------------------------- broken files

def broken_by_a_bit(data, at, bit):
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1:]


@test
def verify_names_every_fault():
    with scratch() as folder:
        must("pack", checkpoint("small"), folder / "p", "-q")
        assert "all is right; 2 packed files" in must("verify", folder / "p")
        one, two = sorted(path for path in (folder / "p").iterdir() if path.name.endswith(SUFFIX))
        assert "all is right; 1 packed file" in must("verify", one)
        refused("verify", folder / "p", "--source", checkpoint("small"), says=["needs no --source"])
        data = one.read_bytes()
        for at in (1_000_000, 5_000_000):  # in the middle of two blocks that are stored as they are
            data = broken_by_a_bit(data, at, 3)
        one.write_bytes(data)
        two.write_bytes(two.read_bytes()[:-5])
        done = tensorport("verify", folder / "p", "--quiet")
        assert done.returncode == 1 and done.stdout == "", done
        lines = done.stderr.splitlines()
        assert len(lines) == 3 and all(one.name + ": block" in line for line in lines[:2]), done
        assert two.name in lines[2] and "truncated or corrupt" in lines[2], done
        report = json.loads(tensorport("verify", "--json", folder / "p").stdout)
        assert not report["ok"] and report["format"] == "packed"
        assert [fault["file"] for fault in report["faults"]] == [one.name, one.name, two.name]
        two.unlink()
        one.write_bytes(broken_by_a_bit(broken_by_a_bit(data, 1_000_000, 3), 5_000_000, 3))
        refused("verify", folder / "p", "-q", says=[two.name.removesuffix(SUFFIX), "No such file"])


@test
def every_flipped_bit_is_found():
    """Each byte of header and table, and bytes of every block: unpacking fails with one line, or the
    bytes are right all the same, which LZ4 allows; nothing stays behind."""
    numbers = random.Random(3)
    with scratch() as folder:
        tensors = {"a": ("BF16", (40_000,), normal_bf16(40_000)), "b": ("U8", (70_000,), os.urandom(70_000)),
                   "c": ("F32", (5_000,), np.arange(5_000, dtype="<f4").tobytes())}
        data = pack_bytes(folder, safetensors_bytes(tensors))
        original = (folder / "m.safetensors").read_bytes()
        packed = Packed.parse(data)
        table = len(data) - 16 * len(packed.regions) - 12 * len(packed.blocks)
        places = [*range(HEADER.size), *range(table, len(data)),
                  *(numbers.randrange(HEADER.size, table) for _ in range(60))]
        file, found = folder / "x.safetensors.tpk", 0
        for at in places:
            file.write_bytes(broken_by_a_bit(data, at, numbers.randrange(8)))
            done = tensorport("unpack", file, folder / "out", "-q")
            if done.returncode == 0:
                assert HEADER.size <= at < table
                assert (folder / "out/x.safetensors").read_bytes() == original
                shutil.rmtree(folder / "out")
                continue
            found += 1
            assert done.returncode == 1 and done.stderr.count("\n") == 1, done
            assert "x.safetensors.tpk" in done.stderr and not (folder / "out").exists(), done
        assert found >= len(places) - 10, f"{found} of {len(places)}"


def pack_bytes(folder, data):
    """The packed file of one with these bytes, which is left in the folder as m.safetensors."""
    (folder / "m.safetensors").write_bytes(data)
    must("pack", folder / "m.safetensors", folder / "p", "-q")
    return (folder / "p/m.safetensors.tpk").read_bytes()


@test
def other_lengths_are_refused():
    with scratch() as folder:
        data = pack_bytes(folder, safetensors_bytes({"a": ("BF16", (50_000,), normal_bf16(50_000))}))
        file = folder / "x.safetensors.tpk"
        for length in (0, 1, 7, 8, 79, 80, 81, len(data) // 2, len(data) - 1):
            file.write_bytes(data[:length])
            refused("unpack", file, folder / "out", says=["x.safetensors.tpk"])
            refused("inspect", file, says=["x.safetensors.tpk"])
        file.write_bytes(data + b"x")
        refused("inspect", file, says=["truncated or corrupt"])
        file.write_bytes((folder / "m.safetensors").read_bytes())
        refused("inspect", file, says=["not a packed file"])


def forgeries(data):
    """Packed files whose checksums are right and whose contents are not: (name, bytes)."""
    def forge(name, **overrides):
        packed = Packed.parse(data)
        for key in ("version", "block_size", "regions", "checksums", "blocks"):
            if key in overrides:
                setattr(packed, key, overrides.pop(key))
        packed.overrides = overrides
        return name, packed.bytes()

    good = Packed.parse(data)
    big, lengths = 2 ** 64 - 1, [len(block) for block in good.blocks]
    first = good.regions[0]
    yield forge("version", version=2)
    for size in (0, 1, 4095, 65537, 1 << 21, 1 << 31, 1 << 15, 1 << 17):
        yield forge(f"block size {size}", block_size=size)
    for key in ("original_size", "table_offset", "n_regions", "n_blocks"):
        for value in (0, 1, 80, 1 << 20, 1 << 32, 1 << 62, 1 << 63, big, big // 12, big // 12 + 1, big // 16 + 1):
            if value != {"n_regions": len(good.regions), "n_blocks": len(good.blocks)}.get(key):
                yield forge(f"{key} {value}", **{key: value})
    for width in (3, 5, 6, 7, 9, 16, 1 << 31):
        yield forge(f"width {width}", regions=[(first[0], width), *good.regions[1:]])
    for length in (0, 1, first[0] + 1, 1 << 63, big):
        yield forge(f"region {length}", regions=[(length, 1), *good.regions[1:]])
    yield forge("regions wrap", regions=[(big, 1), (first[0] + 1, 1), *good.regions[1:]])
    yield forge("zero", zero=1)
    for length in (0, 1 << 16 | 1, 1 << 31, 2 ** 32 - 1, lengths[0] + 1, lengths[0] - 1):
        yield forge(f"stored {length}", lengths=[length, *lengths[1:]])
    yield forge("exchanged", lengths=[lengths[1], lengths[0], *lengths[2:]])
    yield forge("no blocks", blocks=[], checksums=[], regions=[])
    for i, junk in enumerate((b"\x00", b"\xff" * 1000, b"\x1f\x01\x00" + b"\xff" * 900, b"\x0f\x00\x00\xff" * 99)):
        yield forge(f"junk {i}", blocks=[good.blocks[0], junk, *good.blocks[2:]])


@test
def forgeries_are_errors():
    """Refused at once, in little memory."""
    with scratch() as folder:
        data = pack_bytes(folder, safetensors_bytes({"a": ("BF16", (90_000,), normal_bf16(90_000))}))
        file, n = folder / "x.safetensors.tpk", 0

        has_limit = not is_sanitized()

        def limit():
            if has_limit:
                resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))

        for name, forged in forgeries(data):
            file.write_bytes(forged)
            done = tensorport("unpack", file, folder / "out", preexec_fn=limit, timeout=20)
            assert (done.returncode, done.stderr.count("\n")) == (1, 1), f"{name}: {done}"
            assert "x.safetensors.tpk" in done.stderr and "memory" not in done.stderr, f"{name}: {done}"
            assert not (folder / "out").exists()
            n += 1
        assert n > 70


@cache
def is_sanitized():
    """Then memory says nothing: most of it is the sanitizer's."""
    libraries = subprocess.run(["ldd", PROGRAM], capture_output=True, text=True).stdout
    return "libasan" in libraries or "libtsan" in libraries


@contextmanager
def opened(path):
    file = os.open(path, os.O_RDONLY)
    try:
        yield file
    finally:
        os.close(file)


def read_or_none(file, offset, length):
    """None for an I/O error, any other error raises."""
    try:
        return os.pread(file, length, offset)
    except OSError as error:
        assert error.errno == errno.EIO, error
        return None


@test
def corrupt_blocks_are_io_errors_in_a_mount():
    """Only where they are; everything else stays readable; one line in the log."""
    n, bad = 400_000, 5
    with scratch() as folder:
        data = pack_bytes(folder, safetensors_bytes({"a": ("BF16", (n,), normal_bf16(n)),
                                                     "b": ("F32", (9_000,), os.urandom(36_000))}))
        original = (folder / "m.safetensors").read_bytes()
        packed = Packed.parse(data)
        start, length, _ = list(packed.places())[bad]
        block = bytearray(packed.blocks[bad])
        block[len(block) // 2] ^= 0x10
        packed.blocks[bad] = bytes(block)
        (folder / "q").mkdir()
        (folder / "q/model.safetensors.tpk").write_bytes(packed.bytes())
        for options in (("--direct-io",), ("--direct-io", "--cache-size", "0"), ()):
            with Mount(folder / "q", "-p", "source", *options) as mount:
                path = mount.path / "shard_000/a.npy"
                size = path.stat().st_size
                at = original.index(normal_bf16(n)) - (size - 2 * n)  # of the file in the original
                with opened(path) as file:
                    for offset in [*range(4096, size - 100, 30_011)] * 2:
                        found, inside = read_or_none(file, offset, 64), offset + at
                        is_bad = start - 64 < inside < start + length
                        # the page cache asks for more than it was asked for, and keeps nothing then
                        assert found == (None if is_bad else original[inside:inside + 64]) or (
                            not options and found is None), offset
                    assert read_or_none(file, start - at + 10, 100) is None
                assert (mount.path / "shard_000/b.npy").read_bytes()[-36_000:] == original[-36_000:]
                lines = [line for line in mount.stderr().splitlines() if "corrupt" in line]
                assert len(lines) == 1, mount.stderr()
                assert f"model.safetensors.tpk: block {bad}," in lines[0], lines
        refused("unpack", folder / "q", folder / "out",
                says=[f"model.safetensors.tpk: block {bad},", "is corrupt"])


@test
def changed_files_are_io_errors():
    """Also where blocks are in the cache; that of tiles is too small to hold any."""
    n = 300_000
    with scratch() as folder:
        pack_bytes(folder, safetensors_bytes({"a": ("BF16", (n,), normal_bf16(n))}))
        file = folder / "p/m.safetensors.tpk"
        for change in ("truncate", "touch", "replace", "remove"):
            copy = folder / change
            copy.mkdir()
            target = copy / "model.safetensors.tpk"
            shutil.copy(file, target)
            with (Mount(copy, "--direct-io", "--cache-size", "8M") as mount,
                  opened(mount.path / "shard_000/a.npy") as a):
                for _ in range(3):
                    assert len(read_or_none(a, 500_000, 1000)) == 1000
                if change == "truncate":
                    os.truncate(target, 200_000)
                elif change == "touch":
                    os.utime(target)
                elif change == "replace":
                    shutil.copy(file, copy / "new")
                    (copy / "new").rename(target)
                else:
                    target.unlink()
                assert read_or_none(a, 500_000, 1000) is None, change
                assert read_or_none(a, 900_000, 1000) is None, change
                assert "model.safetensors.tpk" in mount.stderr()


# ---------------------------------------------------------------- interrupted, and no room

@test
def interrupted_runs_leave_nothing():
    """Ended by the signal, at any time."""
    with scratch() as folder:
        n = 30_000_000
        write_file(folder / "model.safetensors", {"t": ("BF16", (n,), normal_bf16(1_000_000) * 30)})
        must("pack", folder / "model.safetensors", folder / "p", "-q")
        numbers, ended = random.Random(1), 0
        for i in range(12):
            command, source = (("pack", "model.safetensors"), ("unpack", "p"))[i % 2]
            number = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)[i % 3]
            process = subprocess.Popen([PROGRAM, command, folder / source, folder / "out", "-w", "1"],
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            wait_for(lambda: (folder / "out").exists() or process.poll() is not None, "the output")
            time.sleep(numbers.uniform(0, 0.03))
            process.send_signal(number)
            if process.wait(30) != 0:
                assert process.returncode == -number
                assert not (folder / "out").exists()
                ended += 1
            shutil.rmtree(folder / "out", ignore_errors=True)
        assert ended >= 6, ended


@test
def killed_runs_leave_no_half_files():
    """What has its name is whole, and so is then everything else."""
    with scratch() as folder:
        n = 10_000_000
        data = normal_bf16(1_000_000) * 10
        write_shards(folder / "m", [{f"t{i}": ("BF16", (n,), data)} for i in range(4)])
        must("pack", folder / "m", folder / "p", "-q")
        numbers, killed = random.Random(2), 0
        for i in range(10):
            command, source = (("pack", "m"), ("unpack", "p"))[i % 2]
            process = subprocess.Popen([PROGRAM, command, "-q", folder / source, folder / "out"])
            wait_for(lambda: (folder / "out").exists() or process.poll() is not None, "the output")
            time.sleep(numbers.uniform(0, 0.02))
            process.kill()
            if process.wait(30) != 0:
                killed += 1
                whole = folder / ("p" if command == "pack" else "m")
                named = [path for path in walk(folder / "out") if path.suffix != ".partial"]
                for path in walk(folder / "out") if named else ():
                    final = path.with_name(path.name.removesuffix(".partial"))
                    assert (folder / "out" / path).read_bytes() == (whole / final).read_bytes(), path
                refused(command, folder / source, folder / "out", says=["not empty"])
            shutil.rmtree(folder / "out", ignore_errors=True)
        assert killed >= 5, killed


@test
def no_room_is_one_error():
    """A limit on the size of files stands in for a full disk."""
    with scratch() as folder:
        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

        must("pack", checkpoint("tiny"), folder / "p")
        for command, source in (("pack", checkpoint("tiny")), ("unpack", folder / "p")):
            refused(command, source, folder / "out", says=["cannot write", "File too large"],
                    preexec_fn=limit)
            assert not (folder / "out").exists()


@test
def memory_is_bounded():
    with scratch() as folder:
        n = 40_000_000
        write_file(folder / "model.safetensors", {"t": ("BF16", (n,), normal_bf16(1_000_000) * 40)})
        if is_sanitized():
            return
        # started by a small process: a child's maximum counts what it was forked from
        code = ("import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True);"
                "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)")
        for command, source in (("pack", "model.safetensors"), ("unpack", "packout")):
            run = subprocess.run([sys.executable, "-c", code, PROGRAM, command, folder / source,
                                  folder / f"{command}out", "-q", "-w", "16"],
                                 check=True, stdout=subprocess.PIPE)
            assert int(run.stdout) < 64 << 10, f"{command}: {int(run.stdout)} KiB"


main()
