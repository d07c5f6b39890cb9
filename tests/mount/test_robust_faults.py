"""System calls of the daemon that fail, and little memory: requests may fail, the mount goes on."""

import errno
import json
import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import robust
from compare import check_view
from harness import Mount, checkpoint, main, reference, test, wait_for
from robust import (MIB, SLOW, Victim, copy_of, expected_files, fault_injection, has_ended,
                    memory_matters, read_all)

TINY, SMALL = checkpoint("tiny"), checkpoint("small")
DIRECT = ["--direct-io", "--cache-size", "0"]


# ---------------------------------------------------------------- system calls that fail

def check_all_right(mount, source=TINY):
    check_view(mount.path, reference(source), "float32")


@test
def short_and_interrupted_reads_are_continued():
    for options in ([], DIRECT, ["--direct-io", "--cache-size", "8M"]):
        with fault_injection() as faults, Mount(TINY, *options, env=faults.env) as mount:
            faults.control.short_percent = 60
            faults.control.interrupt_percent = 40
            check_all_right(mount)
            assert faults.control.faults > 100
            assert mount.stderr() == ""


@test
def failing_reads_are_eio_and_pass():
    for code in (errno.EIO, errno.ENOMEM, errno.EAGAIN, errno.ESTALE, errno.EBADF):
        with fault_injection() as faults, \
                Mount(TINY, "--direct-io", "--cache-size", "8M", env=faults.env) as mount:
            files = expected_files(mount, TINY)
            faults.control.read_error, faults.control.read_percent = code, 50
            failed = sum(read_all(files, {errno.EIO}) for _ in range(5))
            assert 0 < failed < 5 * len(files), failed
            faults.clear()
            assert read_all(files, {}) == 0
            for file in TINY.glob("*.safetensors"):
                assert mount.stderr().count(file.name) == 1, mount.stderr()


@test
def failing_checks_of_identity_are_eio_and_pass():
    with fault_injection() as faults, Mount(TINY, *DIRECT, env=faults.env) as mount:
        files = expected_files(mount, TINY)
        faults.control.stat_error, faults.control.stat_percent = errno.EIO, 50
        assert 0 < sum(read_all(files, {errno.EIO}) for _ in range(3)) < 3 * len(files)
        faults.clear()
        assert read_all(files, {}) == 0


@test
def source_that_hangs_holds_up_its_own_readers_only():
    with copy_of(TINY) as copy, fault_injection() as faults, \
            Mount(copy, "--direct-io", "--cache-size", "8M", env=faults.env) as mount:
        victim = Victim(mount, copy)
        faults.control.match = victim.name.encode()
        affected, unaffected = list(victim.affected.items()), list(victim.unaffected.items())
        with ThreadPoolExecutor(5) as pool:
            faults.control.hold_reads = 1
            try:
                # Several of one file, which wait for each other's tile, and of different ones.
                hanging = [pool.submit(path.read_bytes) for path, _ in affected[:1] * 3 + affected[1:3]]
                wait_for(lambda: faults.control.held >= 3, "readers that hang")
                start = time.monotonic()
                for path, expected in unaffected:
                    assert path.read_bytes() == expected
                assert len(os.listdir(mount.path / "shard_000")) > 1
                assert mount.stats()["files"]["open"] >= 5
                (mount.path / "config.json").read_bytes()
                (mount.path / ".tensorport/views/float16").stat()
                assert time.monotonic() - start < 10 * SLOW
                assert not any(future.done() for future in hanging)
            finally:
                faults.control.hold_reads = 0
            for future, (_, expected) in zip(hanging, affected[:1] * 3 + affected[1:3]):
                assert future.result() == expected


@test
def slow_source_is_read_by_many_at_once():
    """Requests overlap: each takes 50 ms, and eight readers wait at the same time."""
    with fault_injection() as faults, Mount(TINY, *DIRECT, env=faults.env) as mount:
        files = sorted(expected_files(mount, TINY).items(), key=lambda item: len(item[1]))[:40]
        faults.control.read_delay_ms = 50
        start, before = time.monotonic(), faults.control.reads
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(lambda item: item[0].read_bytes() == item[1], files))
        taken, one_by_one = time.monotonic() - start, (faults.control.reads - before) * 0.050
        assert taken < one_by_one / 3, f"{taken:.2f} s for {one_by_one:.2f} s one by one"


@test
def unmounting_while_the_source_hangs_ends_when_it_goes_on():
    with fault_injection() as faults, Mount(TINY, *DIRECT, env=faults.env) as mount:
        path, expected = next(iter(expected_files(mount, TINY).items()))
        with ThreadPoolExecutor(1) as pool:
            faults.control.hold_reads = 1
            try:
                future = pool.submit(path.read_bytes)
                wait_for(lambda: faults.control.held > 0, "a reader that hangs")
                os.kill(mount.pid, signal.SIGTERM)
                assert not future.done()
            finally:
                faults.control.hold_reads = 0
            assert future.result() == expected
        assert mount.process.wait(30 * SLOW) == 0


# ---------------------------------------------------------------- little memory

def touch_everything(mount, files, allowed):
    """Every kind of request, again and again; how many failed."""
    failed = read_all(files, allowed)

    def attempt(function, *arguments):
        try:
            return function(*arguments)
        except OSError as error:
            assert error.errno in allowed, error
            return None
    for name in ("stats.json", "metrics", "XXH3SUMS"):
        text = attempt((mount.path / ".tensorport" / name).read_bytes)
        failed += text is None
        if text is not None and name == "stats.json":
            json.loads(text)
    for view in ("float16", "packed", "bfloat16"):
        failed += attempt(os.listdir, mount.path / ".tensorport/views" / view) is None
    failed += attempt(os.listdir, mount.path / "shard_000") is None
    for path in list(files)[:10]:
        failed += attempt(os.getxattr, path, "user.tensorport.shape") is None
        failed += attempt(os.stat, path) is None
    return failed


@test
@memory_matters
def lack_of_memory_fails_requests_but_not_the_mount():
    allowed = {errno.ENOMEM, errno.EIO}
    for options in (["--direct-io", "--cache-size", "4M"], []):
        for percent in (5, 40, 100):
            with fault_injection() as faults, Mount(TINY, *options, env=faults.env) as mount:
                files = expected_files(mount, TINY)
                faults.control.allocation_percent = faults.control.map_percent = percent
                failed = sum(touch_everything(mount, files, allowed) for _ in range(3))
                assert failed > 0 and faults.control.failed_allocations > 0
                faults.clear()
                assert not has_ended(mount.pid)
                wait_for(lambda: mount.stats()["files"]["open"] == 0, "the files to be released")
                assert touch_everything(mount, files, {}) == 0


@test
@memory_matters
def lack_of_memory_in_libfuse_ends_the_mount_at_worst():
    """libfuse 3.14 gives up when it cannot allocate a buffer: then nobody may hang."""
    allowed = {errno.ENOMEM, errno.EIO, errno.ENOTCONN, errno.ECONNABORTED}
    with fault_injection() as faults:
        mount = Mount(TINY, "--direct-io", "--cache-size", "4M", env=faults.env)
        mount.expected_status = None
        with mount:
            files = expected_files(mount, TINY)
            faults.control.allocation_from_all = 1
            faults.control.allocation_percent = faults.control.map_percent = 30
            sum(read_all(files, allowed | {errno.ENOENT}) for _ in range(3))
            faults.clear()


@test
def lack_of_descriptors_while_serving_fails_nothing():
    """Opening is for the start; reading needs no new descriptor."""
    for code in (errno.EMFILE, errno.ENFILE):
        with fault_injection() as faults, Mount(TINY, *DIRECT, env=faults.env) as mount:
            faults.control.open_error = code
            files = expected_files(mount, TINY)
            assert touch_everything(mount, files, {}) == 0


@test
def failing_opens_while_starting_are_one_line():
    """Each open in turn is the first that fails."""
    with fault_injection() as faults, copy_of(TINY) as copy:
        (copy / "extra.txt").write_text("extra")
        for grace in range(40):
            faults.control.open_error, faults.control.open_grace = errno.EMFILE, grace
            with robust.mount_point() as path:
                result = robust.run("--", copy, path, env=faults.env)
                faults.clear()
                if result.returncode == 0:
                    assert grace > 5 and (path / "extra.txt").read_text() == "extra"
                    return
                assert result.returncode == 1, result
                robust.check_one_line(result.stderr, "oo many open files")
                assert not robust.is_mounted(path)
    raise AssertionError("40 opens were not enough")


def memory_of(pid, field):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) * 1024


def read_through(path):
    with open(path, "rb", buffering=0) as stream:
        while stream.read(MIB):
            pass


@test
@memory_matters
def memory_stays_below_the_cache_and_a_little():
    for options in (["--direct-io", "--cache-size", "8M"], ["--cache-size", "8M"]):
        with Mount(SMALL, *options) as mount:
            paths = [mount.path / tensor["file"] for tensor in mount.manifest()["tensors"]]
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(read_through, paths))
            for field in ("VmRSS", "VmHWM"):
                used = memory_of(mount.pid, field)
                assert used < 8 * MIB + 40 * MIB, f"{field} {used >> 20} MiB with {options}"


@test
@memory_matters
def memory_does_not_grow_with_use():
    with Mount(TINY, "--direct-io", "--cache-size", "4M") as mount:
        path = mount.path / mount.manifest()["tensors"][0]["file"]

        def use(n):
            for _ in range(n):
                with open(path, "rb", buffering=0) as stream:
                    stream.read(1000)
                (mount.path / ".tensorport/stats.json").read_bytes()
                os.listdir(mount.path)
                os.getxattr(path, "user.tensorport.shape")
        use(200)
        before = memory_of(mount.pid, "VmRSS")
        use(2000)
        grown = memory_of(mount.pid, "VmRSS") - before
        assert grown < 2 * MIB, f"{grown >> 10} KiB more"


@test
def source_pages_are_dropped_behind_a_buffered_reader():
    """The mount's page cache keeps what was delivered; two more copies would be one too many."""
    with copy_of(SMALL) as copy:
        for shard in copy.glob("*.safetensors"):
            with open(shard, "rb") as stream:  # what is not on disk yet cannot be dropped
                os.fsync(stream.fileno())
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with Mount(copy) as mount:
            for tensor in mount.manifest()["tensors"]:
                read_through(mount.path / tensor["file"])
            for shard in copy.glob("*.safetensors"):
                command = ["fincore", "--bytes", "--noheadings", "--output", "RES", str(shard)]
                result = subprocess.run(command, capture_output=True, text=True, check=True)
                assert int(result.stdout) < shard.stat().st_size / 4, result.stdout


if __name__ == "__main__":
    main()
