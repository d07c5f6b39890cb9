"""Random reads of every kind against the reference's bytes, in the manner of fsx: several
processes with several threads each, all on the same few files, in every way the daemon can be
asked to serve them.

The choices follow from TP_TEST_SEED (default 1), their order in time does not. TP_TEST_SECONDS is
the time for each mode (default 2).
"""

import mmap
import multiprocessing
import os
import random
import threading
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from compare import npy_bytes
from harness import Mount, checkpoint, main, reference, test

SEED = int(os.environ.get("TP_TEST_SEED") or 1)
SECONDS = float(os.environ.get("TP_TEST_SECONDS") or 2)
PROCESSES, THREADS = 2, 4
LARGEST = 3 << 20  # bytes of a read: more than the kernel asks for in one request
PAGE = mmap.PAGESIZE

# Several tiles long, of odd length, small, copied and decoded; by view, name and precision.
FILES = [
    (".", "model.layers.0.mlp.experts.gate_up_proj", "float32"),
    (".", "model.layers.1.mlp.experts.down_proj", "float32"),
    (".", "lm_head.weight", "float32"),
    (".", "model.layers.2.input_layernorm.weight", "float32"),
    (".tensorport/views/bfloat16", "model.layers.3.mlp.experts.down_proj", "bfloat16"),
    (".tensorport/views/float16", "model.embed_tokens.weight", "float16"),
    (".tensorport/views/packed", "model.layers.0.mlp.experts.gate_up_proj_blocks", "source"),
]


def expected_files():
    """[(path below the mount, its bytes)]; made once, shared with the readers by fork()."""
    ref = reference(checkpoint("small"))
    return [(f"{view}/shard_000/{name.replace('.', '_')}.npy", npy_bytes(ref.array(name, precision)))
            for view, name, precision in FILES]


# ---------------------------------------------------------------- ways to read
#
# Each reads something of the open file and returns pairs (offset, bytes).

class Target:
    """An open file that several threads share."""

    def __init__(self, root, path, expected, buffered):
        self.path, self.expected, self.size, self.buffered = path, expected, len(expected), buffered
        self.fd = os.open(f"{root}/{path}", os.O_RDONLY)
        self.direct = os.open(f"{root}/{path}", os.O_RDONLY | os.O_DIRECT)
        # direct_io cannot be mapped (libfuse 3.14).
        self.map = mmap.mmap(self.fd, 0, prot=mmap.PROT_READ) if buffered else None
        self.lock = threading.Lock()  # the position of `fd`

    def close(self):
        if self.map is not None:
            self.map.close()
        os.close(self.fd)
        os.close(self.direct)


def pick_length(rng):
    """Every order of magnitude is as likely."""
    return min(LARGEST, int(2 ** rng.uniform(0, 22)))


def pick_offset(rng, target):
    """Often next to something: the header's end, a page, a tile, the file's end."""
    near = rng.choice([None, None, 0, 128, PAGE, 128 << 10, 1 << 20, 2 << 20, target.size])
    if near is None:
        return rng.randrange(target.size)
    return max(0, min(target.size - 1, near + rng.randint(-70, 70)))


def read_exactly(target, length, offset):
    """Only the file's end may cut a read short."""
    data = os.pread(target.fd, length, offset)
    wanted = max(0, min(length, target.size - offset))
    assert len(data) == wanted, f"{target.path}: {len(data)} of {wanted} bytes at {offset}"
    return data


def read_at(rng, target):
    offset = pick_offset(rng, target)
    yield offset, read_exactly(target, pick_length(rng), offset)


def read_into_several(rng, target):
    offset, parts = pick_offset(rng, target), [bytearray(rng.randint(1, 100_000)) for _ in range(3)]
    n = os.preadv(target.fd, parts, offset)
    yield offset, b"".join(parts)[:n]


def read_stream(rng, target, length=None, step=1):
    """Forwards from somewhere, in equal steps; backwards with step -1."""
    offset, length = pick_offset(rng, target), length or 1 + pick_length(rng) // 8
    for _ in range(rng.randint(2, 12)):
        if not 0 <= offset < target.size:
            return
        yield offset, read_exactly(target, length, offset)
        offset += step * length


def read_backwards(rng, target):
    yield from read_stream(rng, target, step=-1)


def read_pages(rng, target):
    yield from read_stream(rng, target, length=PAGE * rng.choice([1, 2, 32]))


def read_interleaved(rng, target):
    """Several streams on one descriptor, one step of each in turn."""
    streams = [read_stream(rng, target, 1 + pick_length(rng) // 16) for _ in range(rng.randint(2, 10))]
    while streams:
        for stream in list(streams):
            piece = next(stream, None)
            if piece is None:
                streams.remove(stream)
            else:
                yield piece


def read_shared_position(rng, target):
    """read(2) moves a position that all threads of this process share."""
    with target.lock:
        offset = pick_offset(rng, target)
        os.lseek(target.fd, offset, os.SEEK_SET)
        for _ in range(4):
            data = os.read(target.fd, 1 + pick_length(rng) // 4)
            yield offset, data
            offset = os.lseek(target.fd, 0, os.SEEK_CUR)
            if offset >= target.size:
                return


def read_past_the_end(rng, target):
    offset = max(0, target.size - rng.randint(0, 5000))
    yield offset, read_exactly(target, 100_000, offset)
    offset = target.size + rng.randint(0, 10 ** 6)
    yield offset, read_exactly(target, 100, offset)


def read_directly(rng, target):
    """O_DIRECT into aligned memory, aligned offsets and lengths; now and then odd ones, which FUSE
    serves as well."""
    pages = rng.randint(1, 300)
    with mmap.mmap(-1, pages * PAGE) as memory:
        offset = pick_offset(rng, target)
        offset -= offset % rng.choice([512, PAGE, 1])
        n = os.preadv(target.direct, [memory], offset)
        yield offset, memory[:n]


def read_mapped(rng, target):
    if target.map is None:
        return
    target.map.madvise(rng.choice([mmap.MADV_NORMAL, mmap.MADV_RANDOM, mmap.MADV_SEQUENTIAL]))
    offset = pick_offset(rng, target)
    yield offset, target.map[offset:offset + pick_length(rng)]


def read_by_sendfile(rng, target):
    offset = pick_offset(rng, target)
    memory = os.memfd_create("target")
    try:
        n = os.sendfile(memory, target.fd, offset, pick_length(rng))
        yield offset, os.pread(memory, n, 0)
    finally:
        os.close(memory)


def read_anew(rng, target):
    """Through a descriptor of its own, from the start, closed early."""
    with open(f"/proc/self/fd/{target.fd}", "rb", buffering=rng.choice([0, 4096, 131072])) as stream:
        offset = 0
        for _ in range(rng.randint(1, 20)):
            data = stream.read(rng.choice([1, 128, 65536, 300_000]))
            if not data:
                return
            yield offset, data
            offset += len(data)


WAYS = [read_at, read_at, read_into_several, read_stream, read_stream, read_backwards, read_pages,
        read_interleaved, read_shared_position, read_past_the_end, read_directly, read_mapped,
        read_by_sendfile, read_anew]


# ---------------------------------------------------------------- readers

def check_piece(target, way, offset, data):
    expected = memoryview(target.expected)[offset:offset + len(data)]
    if data == expected and (data or offset >= target.size):
        return
    at = next((i for i, (a, b) in enumerate(zip(data, expected)) if a != b), len(expected))
    raise AssertionError(f"{way.__name__} of {target.path}: {len(data)} bytes at {offset}: "
                         f"wrong from {offset + at} on: {bytes(data[at:at + 16]).hex()} instead of "
                         f"{bytes(expected[at:at + 16]).hex()}")


def read_until(deadline, seed, targets, counts, faults):
    """One thread. Drops the mount's pages again and again, or only the first reads would reach the
    daemon."""
    rng, n = random.Random(seed), 0
    try:
        while time.monotonic() < deadline and not faults:
            target, way = rng.choice(targets), rng.choice(WAYS)
            if rng.random() < 0.3:
                os.posix_fadvise(target.fd, 0, 0, os.POSIX_FADV_DONTNEED)
            for offset, data in way(rng, target):
                check_piece(target, way, offset, data)
                n += len(data)
    except Exception as error:
        faults.append(f"seed {seed}: {error!r}")
    counts.append(n)


def read_in_process(root, files, buffered, seed):
    """Bytes read and the faults found by one process."""
    targets = [Target(root, path, expected, buffered) for path, expected in files]
    counts, faults, deadline = [], [], time.monotonic() + SECONDS
    threads = [threading.Thread(target=read_until, args=(deadline, f"{seed}.{i}", targets, counts, faults))
               for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for target in targets:
        target.close()
    return sum(counts), faults


_files = []  # for the forked readers


def read_in_worker(root, buffered, seed):
    return read_in_process(root, _files, buffered, seed)


def check_mode(*options, env=None):
    if not _files:
        _files.extend(expected_files())
        print(f"# TP_TEST_SEED={SEED}")
    buffered = "--direct-io" not in options
    with Mount(checkpoint("small"), *options, env=env) as mount:
        with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("fork")) as pool:
            jobs = [pool.submit(read_in_worker, mount.path, buffered, f"{SEED}.{i}") for i in range(PROCESSES)]
            results = [job.result() for job in jobs]
        faults = [fault for _, found in results for fault in found]
        assert not faults, "\n".join(faults)
        n = sum(count for count, _ in results)
        print(f"# {n / 1e6:.0f} MB in {SECONDS:g} s")
        assert n > 1_000_000
        check_statistics(mount)
        return mount.stats()


def check_statistics(mount):
    stats = mount.stats()
    cache = stats["cache"]
    assert cache["bytes"] <= cache["capacity_bytes"], cache
    assert cache["failures"] == 0 and stats["requests"]["read_errors"] == 0, stats
    assert stats["requests"]["reads"] > 20, stats


@test
def buffered():
    assert check_mode()["cache"]["capacity_bytes"] == 256 << 20


@test
def direct_io():
    assert check_mode("--direct-io")["cache"]["hits"] > 0


@test
def without_cache():
    cache = check_mode("--cache-size", "0")["cache"]
    assert cache["capacity_bytes"] == cache["bytes"] == cache["fills"] == 0, cache


@test
def direct_io_without_cache():
    assert check_mode("--cache-size", "0", "--direct-io")["cache"]["bytes"] == 0


@test
def tiny_cache():
    assert check_mode("--cache-size", "4M")["cache"]["capacity_bytes"] == 4 << 20


@test
def direct_io_with_a_tiny_cache():
    cache = check_mode("--cache-size", "4M", "--direct-io")["cache"]
    assert cache["capacity_bytes"] == 4 << 20 and cache["evictions"] > 0, cache


@test
def one_tile_of_cache():
    assert check_mode("--cache-size", "1M", "--direct-io")["cache"]["capacity_bytes"] <= 1 << 20


@test
def one_thread():
    check_mode("--threads", "1")


@test
def one_thread_and_direct_io():
    check_mode("--threads", "1", "--direct-io", "--cache-size", "4M")


@test
def scalar_code():
    assert check_mode(env={"TENSORPORT_ISA": "scalar"})["isa"] == "scalar"


@test
def wrong_bytes_are_noticed():
    """By every way to read: each must find the file different from bytes that are not its own."""
    name = "shard_000/lm_head_weight.npy"
    with Mount(checkpoint("tiny")) as mount:
        expected = np.frombuffer((mount.path / name).read_bytes(), "u1") ^ 0x10
        target = Target(mount.path, name, expected.tobytes(), buffered=True)
        unaware = [way.__name__ for way in WAYS if not notices(way, target)]
        target.close()
        assert not unaware, unaware


def notices(way, target):
    try:
        for offset, data in way(random.Random(SEED), target):
            check_piece(target, way, offset, data)
    except AssertionError as error:
        return "wrong from" in str(error)
    return False


main()
