"""A whole checkpoint in the shape of gpt-oss-20b: how soon it is there, and what it costs to
have read all of it."""

import os
import subprocess
import time
from pathlib import Path

from bench import GB, Skipped
from measure import Line

MIB = 1 << 20
CACHE = 256  # MiB, the default of --cache-size
DAEMON = 40  # MiB, what the daemon may need besides


def _memory(pid, field):
    """MiB, by a field of /proc/PID/status."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise KeyError(field)


def _source_files(folder):
    return sorted(folder.glob("*.safetensors"))


def _resident(bench, folder):
    """MiB of the checkpoint in the page cache."""
    return bench.reader(_source_files(folder), "--manner", "resident")["bytes"] / MIB


def _mount_once(bench, folder):
    """(milliseconds until a tensor's size is known, MiB of the daemon)"""
    mounted_before = bench.mounts.tensorport(folder)
    tensor = sorted(mounted_before.path.glob("shard_*/*.npy"))[-1]
    name = tensor.relative_to(mounted_before.path)
    bench.mounts.close(mounted_before)
    start = time.perf_counter()
    mount = bench.mounts.tensorport(folder)
    os.stat(mount.path / name)
    elapsed = time.perf_counter() - start
    memory = _memory(mount.pid, "VmRSS")
    bench.mounts.close(mount)
    return elapsed * 1000, memory


def _read_everything(bench, folder, *options):
    """Lines: the daemon's peak memory, what stays of the source in memory, and the speed."""
    name = "direct-io" if options else "buffered"
    bench.reader(_source_files(folder), "--manner", "nothing", "--drop")
    before = _resident(bench, folder)
    mount = bench.mounts.tensorport(folder, *options)
    files = sorted(map(str, mount.path.glob("shard_*/*.npy")))
    size = sum(os.stat(file).st_size for file in files)
    start = time.perf_counter()
    subprocess.run(["cat", "--", *files], stdout=subprocess.DEVNULL, check=True)
    elapsed = time.perf_counter() - start
    yield Line(f"20b, cat of all files, {name}", [size / elapsed / GB],
               note=f"{size / GB:.1f} GB, source not in memory before")
    yield Line(f"20b, daemon's peak, all read, {name}", [_memory(mount.pid, "VmHWM")], unit="MiB",
               target=CACHE + DAEMON, at_most=True)
    yield Line(f"20b, source's pages, all read, {name}", [_resident(bench, folder) - before],
               unit="MiB", note="of the page cache, more than before")
    bench.mounts.close(mount)


def model_20b(bench):
    folder = bench.options.model_20b
    if folder is None:
        raise Skipped("no checkpoint was given with --model-20b")
    if not _source_files(folder):
        raise Skipped(f"{folder} has no .safetensors files")
    times, memory = zip(*(_mount_once(bench, folder) for _ in range(bench.pairs)))
    yield Line("20b, mount until usable", list(times), unit="ms", target=50, at_most=True)
    yield Line("20b, daemon's memory, mounted", list(memory), unit="MiB", target=DAEMON,
               at_most=True)
    yield from _read_everything(bench, folder, "--direct-io")
    yield from _read_everything(bench, folder)
