"""The cases that read files through a mount and through the null file system, in turns."""

import statistics

from bench import GB, MIB, Read
from checkpoints import SMALL
from measure import Line, in_turns

# What is read in most cases: the name in the table, the tensor, the view's precision.
KINDS = [
    ("bf16 to float32", "bf16_0", "float32"),
    ("bf16 as it is", "bf16_whole", "bfloat16"),
    ("mxfp4 to float32", "mxfp4", "float32"),
    ("mxfp4 to bfloat16", "mxfp4_whole", "bfloat16"),
]


def against_null(bench, name, read, target=None):
    a, b = in_turns(bench.pairs, lambda: bench.read_tensorport(read), lambda: bench.read_null(read))
    bench.drop_pages(read)
    return Line(name, a, b, target=target)


def each_kind(bench, name, read, target=None):
    for kind, tensor, precision in KINDS:
        yield against_null(bench, f"{name}, {kind}", read.but(tensor=tensor, precision=precision),
                           target)


def direct_sequential(bench):
    yield from each_kind(bench, "direct 1 MiB", Read(block=MIB), 0.85)
    yield from each_kind(bench, "direct 8 MiB", Read(block=8 * MIB), 0.85)


def buffered_first_pass(bench):
    yield from each_kind(bench, "buffered first pass", Read(direct_io=False, drop=True), 0.85)


def buffered_second_pass(bench):
    yield from each_kind(bench, "buffered second pass", Read(direct_io=False, refill=True), 0.95)
    yield against_plain_file(bench)


def against_plain_file(bench):
    """Where a copy on a disk is faster, it is so by as much than any FUSE file system: this
    kernel keeps FUSE's pages one by one, those of ext4 and XFS in large folios."""
    read = Read(tensor="bf16_whole", precision="bfloat16", direct_io=False, refill=True)
    a, b = in_turns(bench.pairs, lambda: bench.read_tensorport(read),
                    lambda: bench.read_plain(read))
    bench.drop_pages(read)
    return Line("buffered second pass, bf16 as it is", a, b, other="plain file")


def mapped(bench):
    read = Read(direct_io=False, manner="map", refill=True)
    yield against_null(bench, "mmap, second touch, bf16 to float32", read, 0.95)
    first = read.but(refill=False, drop=True)
    yield against_null(bench, "mmap, first touch, bf16 to float32", first)


def random_reads(bench):
    yield from each_kind(bench, "direct random 4 KiB", Read(manner="random", block=4096), 0.7)


def small_blocks(bench):
    yield from each_kind(bench, "direct 128 KiB", Read(block=MIB // 8))


def two_readers(bench, name, read):
    """1.6 times one reader will do instead: the null file system may itself not scale."""
    one, two = read, read.but(readers=2)
    single, a, b = in_turns(bench.pairs, lambda: bench.read_tensorport(one),
                            lambda: bench.read_tensorport(two), lambda: bench.read_null(two))
    bench.drop_pages(two)
    line = Line(name, a, b, target=0.85)
    scaling = Line(name, a, single).ratio
    line.note = f"{scaling:.2f} x one reader (1.60 will do)"
    line.passed = scaling >= 1.6
    return line


def two_files(bench):
    yield two_readers(bench, "two readers, direct 1 MiB", Read())
    yield two_readers(bench, "two readers, buffered first pass", Read(direct_io=False, drop=True))
    yield against_null(bench, "two readers of one file, direct 1 MiB",
                       Read(readers=2, same_file=True))


# 0.98: not slower, but for noise.
NOT_SLOWER = 0.98


def cache_pays(bench):
    def compare(name, read):
        without = read.but(options=("--cache-size", "0"))
        a, b = in_turns(bench.pairs, lambda: bench.read_tensorport(read),
                        lambda: bench.read_tensorport(without))
        return Line(name, a, b, other="no cache", target=NOT_SLOWER)

    for kind, tensor, precision in KINDS:
        read = Read(tensor=tensor, precision=precision)
        yield compare(f"cache, direct 1 MiB, {kind}", read)
        yield compare(f"cache, direct 128 KiB, {kind}", read.but(block=MIB // 8))
    small = Read(tensor="small")
    again = f"read again, {SMALL // MIB} MiB"
    yield compare(f"cache, {again}, bf16 to float32", small)
    yield against_null(bench, f"direct, {again}, bf16 to float32", small)


def disk_source(bench):
    """The same from a disk: with the source in the page cache, which costs less to read than
    tmpfs, and from the disk itself. Buffered mode drops the source's pages, so the latter is what
    its user meets."""
    for kind, tensor, precision in KINDS:
        direct = Read(tensor=tensor, precision=precision, source="disk")
        first = direct.but(direct_io=False, drop=True)
        yield against_null(bench, f"source cached, direct 1 MiB, {kind}", direct, 0.85)
        yield against_null(bench, f"source cached, first pass, {kind}", first, 0.85)
        yield cold_disk(bench, first, f"source cold, first pass, {kind}")
        yield left_in_memory(bench, first, f"source's pages left, first pass, {kind}")
        bench.drop_pages(first)


def cold_disk(bench, read, name):
    """The source's bytes per second through the mount, and by plain reads of the source."""
    source = bench.sources("disk")[read.tensor]
    path = bench.tensorport(read).file(read.tensor)
    size, shown = source.stat().st_size, path.stat().st_size

    def through_mount():
        bench.drop_source(read)
        return size / bench.reader([path], "--drop")["seconds"] / GB

    def plainly():
        return size / bench.reader([source], "--drop")["seconds"] / GB

    a, b = in_turns(min(bench.pairs, 5), through_mount, plainly)
    return Line(name, a, b, other="cat source", unit="GB/s of source",
                note=f"{statistics.median(a) * shown / size:.2f} GB/s of output")


def left_in_memory(bench, read, name):
    """How much of the source the page cache still holds when the mount's pages hold it all."""
    source = bench.sources("disk")[read.tensor]
    shares = []
    for _ in range(min(bench.pairs, 5)):
        bench.read_tensorport(read)
        resident = bench.reader([source], "--manner", "resident")["bytes"]
        shares.append(100 * resident / source.stat().st_size)
    return Line(name, shares, unit="%", target=5, at_most=True)
