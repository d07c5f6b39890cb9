"""A source that changes, vanishes or fails under load: EIO for what depends on it, one line in the
log, everything else goes on; never zeros, never bytes of another state. And little memory."""

import errno
import json
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import robust
from compare import check_view, fails_with, npy_bytes
from harness import Mount, checkpoint, main, reference, scratch, test, wait_for
from robust import MIB, SLOW, fault_injection, has_ended, memory_matters

TINY, SMALL = checkpoint("tiny"), checkpoint("small")
DIRECT = ["--direct-io", "--cache-size", "0"]


def sources_of(tensor):
    """The shard files that a tensor of the manifest comes from."""
    source = tensor["source"]
    return {part["file"] for part in ([source] if "file" in source else source.values())}


@contextmanager
def copy_of(checkpoint_folder):
    """A copy that may be damaged; dated back, so that no change falls into the same instant."""
    with scratch() as folder:
        copy = folder / "model"
        shutil.copytree(checkpoint_folder, copy)
        for file in copy.iterdir():
            os.utime(file, ns=(10 ** 18, 10 ** 18 + 123456789))
        yield copy


class Victim:
    """A shard of a copy: what depends on it alone, and what does not at all."""

    def __init__(self, mount, copy):
        manifest = mount.manifest()["tensors"]
        self.name = sorted({name for tensor in manifest for name in sources_of(tensor)})[0]
        self.file = copy / self.name
        expected = reference(copy)

        def pick(wanted):
            return {mount.path / t["file"]: npy_bytes(expected.array(t["name"], "float32"))
                    for t in manifest if wanted(sources_of(t))}
        self.affected = pick(lambda names: names == {self.name})
        self.unaffected = pick(lambda names: self.name not in names)
        assert self.affected and self.unaffected


class Load:
    """Threads that read random ranges of files and compare them. `changed` tells a read that began
    after the change from those before."""

    def __init__(self, files, n_threads, header=128):
        self.files, self.header = list(files.items()), header
        self.changed, self._stop = threading.Event(), threading.Event()
        # How many reads ended how: "right", "cut" (right, but an error came in the middle), "wrong",
        # or an errno.
        self.before, self.after = {}, {}
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(n_threads)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, seed):
        choose = random.Random(seed)
        descriptors = {}
        try:
            while not self._stop.is_set():
                path, expected = choose.choice(self.files)
                if path not in descriptors:
                    descriptors[path] = os.open(path, os.O_RDONLY)
                # A range of nothing but the header needs no source.
                offset = choose.randrange(min(self.header, len(expected) - 1), len(expected))
                length = choose.randrange(1, len(expected))
                results = self.after if self.changed.is_set() else self.before
                outcome = self._read(descriptors[path], offset, length, expected)
                with self._lock:
                    results[outcome] = results.get(outcome, 0) + 1
        finally:
            for descriptor in descriptors.values():
                os.close(descriptor)

    @staticmethod
    def _read(descriptor, offset, length, expected):
        try:
            found = os.pread(descriptor, length, offset)
        except OSError as error:
            return error.errno
        wanted = expected[offset:offset + length]
        if found == wanted:
            return "right"
        return "cut" if found and wanted.startswith(found) else "wrong"

    def wait(self, n=40):
        """Until so many more reads were done in the present state."""
        results = self.after if self.changed.is_set() else self.before
        goal = sum(results.values()) + n
        wait_for(lambda: sum(results.values()) >= goal, "reads", 30 * SLOW)


# ---------------------------------------------------------------- changes of a source

def rewrite(file, data):
    with open(file, "r+b") as stream:
        stream.write(data)
        stream.truncate()


def replace(file, data):
    other = file.with_name("other.tmp")
    other.write_bytes(data)
    os.utime(other, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))  # only the inode differs
    other.rename(file)


CHANGES = {
    "truncated by a byte": lambda file, data: os.truncate(file, len(data) - 1),
    "truncated by half": lambda file, data: os.truncate(file, len(data) // 2),
    "truncated to nothing": lambda file, data: os.truncate(file, 0),
    "truncated and extended": lambda file, data: (os.truncate(file, 0), os.truncate(file, len(data))),
    "overwritten in place": lambda file, data: rewrite(file, random.Random(1).randbytes(len(data))),
    "overwritten with the same": rewrite,
    "extended": lambda file, data: rewrite(file, data + b"more"),
    "touched": lambda file, data: os.utime(file),
    "replaced": lambda file, data: replace(file, random.Random(1).randbytes(len(data))),
    "replaced by the same": replace,
    "deleted": lambda file, data: file.unlink(),
    "replaced by a folder": lambda file, data: (file.unlink(), file.mkdir()),
    "replaced by a loop": lambda file, data: (file.unlink(), file.symlink_to(file.name)),
}


@contextmanager
def changed_source(victim, change):
    """Applies a change; undoes it in the end: same inode, same bytes, same time."""
    data, status = victim.file.read_bytes(), victim.file.stat()
    backup = victim.file.with_name("backup.tmp")
    os.link(victim.file, backup)
    change(victim.file, data)
    yield
    if victim.file.is_dir():
        victim.file.rmdir()
    rewrite(backup, data)
    os.utime(backup, ns=(status.st_atime_ns, status.st_mtime_ns))
    backup.rename(victim.file)
    assert victim.file.stat().st_ino == status.st_ino


def check_log(mount, victim, n=1):
    lines = [line for line in mount.stderr().splitlines() if victim.name in line]
    assert len(lines) == n and all(line.startswith("tensorport-mount: ") for line in lines), mount.stderr()
    return lines


@test
def changes_of_a_source_are_seen_by_every_new_read():
    for name, change in CHANGES.items():
        with copy_of(TINY) as copy, Mount(copy, *DIRECT) as mount:
            victim = Victim(mount, copy)
            with Load(victim.affected, 3) as affected, Load(victim.unaffected, 2) as unaffected:
                affected.wait()
                unaffected.wait()
                with changed_source(victim, change):
                    affected.changed.set()
                    unaffected.changed.set()
                    affected.wait()
                    unaffected.wait()
                    affected.__exit__()
                    unaffected.__exit__()
            assert set(affected.before) <= {"right", errno.EIO} and affected.before["right"] > 0, (name, affected.before)
            assert set(affected.after) == {errno.EIO}, (name, affected.after)
            assert set(unaffected.before) | set(unaffected.after) == {"right"}, (name, unaffected.after)
            check_log(mount, victim)
            assert mount.stats()["requests"]["read_errors"] >= affected.after[errno.EIO]
            check_view(mount.path, reference(copy), "float32")  # it is as it was: all is well again


@test
def cached_tiles_are_never_mixed_with_a_changed_source():
    """With tiles and read-ahead: right bytes, of before the change, or EIO."""
    for name, change in CHANGES.items():
        with copy_of(SMALL) as copy, Mount(copy, "--direct-io", "--cache-size", "8M") as mount:
            victim = Victim(mount, copy)
            large = {path: data for path, data in victim.affected.items() if len(data) > 2 * MIB}
            with Load(large, 3) as load:
                load.wait(15)
                with changed_source(victim, change):
                    load.changed.set()
                    load.wait(15)
                    load.__exit__()
            assert set(load.before) <= {"right", "cut", errno.EIO}, (name, load.before)
            assert set(load.after) <= {"right", "cut", errno.EIO} and errno.EIO in load.after, (name, load.after)
            check_log(mount, victim)


@test
def uncached_ranges_fail_behind_the_page_cache():
    for name, change in CHANGES.items():
        with copy_of(TINY) as copy, Mount(copy) as mount:
            victim = Victim(mount, copy)
            read_before, *not_read = victim.affected
            assert read_before.read_bytes() == victim.affected[read_before]
            with changed_source(victim, change):
                for path in not_read[:5]:
                    fails_with(errno.EIO, path.read_bytes)
                assert read_before.read_bytes() == victim.affected[read_before], "the kernel has it"
                for path, expected in list(victim.unaffected.items())[:5]:
                    assert path.read_bytes() == expected
                assert len(os.listdir(mount.path / "shard_000")) > 1
            for path in not_read:
                assert path.read_bytes() == victim.affected[path], name
            check_log(mount, victim)


@test
def mapped_file_of_a_changed_source_harms_its_reader_only():
    code = "import mmap, sys\nf = open(sys.argv[1], 'rb')\nm = mmap.mmap(f.fileno(), 0, prot=1)\nsum(m[::4096])\n"
    with copy_of(TINY) as copy, Mount(copy) as mount:
        victim = Victim(mount, copy)
        path = max(victim.affected, key=lambda path: len(victim.affected[path]))
        command = [sys.executable, "-I", "-S", "-c", code, str(path)]
        with changed_source(victim, CHANGES["truncated by half"]):
            assert subprocess.run(command, check=False).returncode == -signal.SIGBUS
        assert subprocess.run(command, check=False).returncode == 0
        check_view(mount.path, reference(copy), "float32")


@test
def rights_of_a_source_matter_when_it_is_opened_only():
    with copy_of(TINY) as copy, Mount(copy, *DIRECT) as mount:
        for file in copy.iterdir():
            file.chmod(0)
        copy.chmod(0)
        try:
            check_view(mount.path, reference(TINY), "float32")
        finally:
            copy.chmod(0o755)
        assert mount.stderr() == ""


@test
def folder_of_the_source_may_move():
    with copy_of(TINY) as copy, Mount(copy, *DIRECT) as mount:
        copy.rename(copy.with_name("elsewhere"))
        check_view(mount.path, reference(TINY), "float32")
        copy.mkdir()
        check_view(mount.path, reference(TINY), "float32")
        assert mount.stderr() == ""


@test
def link_that_leads_elsewhere_is_a_changed_source():
    """The hub cache moves its links from blob to blob."""
    with copy_of(TINY) as copy:
        blob = copy / "model-link-target"
        shard = sorted(copy.glob("*.safetensors"))[0]
        shard.rename(blob)
        shard.symlink_to(blob.name)
        with Mount(copy, *DIRECT) as mount:
            victim = Victim(mount, copy)
            path, expected = next(iter(victim.affected.items()))
            assert path.read_bytes() == expected
            shutil.copy(blob, copy / "another")
            shard.unlink()
            shard.symlink_to("another")
            fails_with(errno.EIO, path.read_bytes)
            shard.unlink()
            shard.symlink_to(blob.name)
            assert path.read_bytes() == expected
            check_log(mount, victim)


@test
def other_files_are_watched_in_the_same_way():
    with copy_of(TINY) as copy, Mount(copy, *DIRECT) as mount:
        before = (mount.path / "config.json").read_bytes()
        os.truncate(copy / "config.json", 10)
        fails_with(errno.EIO, (mount.path / "config.json").read_bytes)
        check_view(mount.path, reference(TINY), "float32")
        rewrite(copy / "config.json", before)
        os.utime(copy / "config.json", ns=(10 ** 18, 10 ** 18 + 123456789))
        assert (mount.path / "config.json").read_bytes() == before
        assert mount.stderr().count("config.json") == 1, mount.stderr()


@test
def all_sources_gone_is_one_line_for_each():
    with copy_of(TINY) as copy, Mount(copy, *DIRECT) as mount:
        tensors = mount.manifest()["tensors"]
        names = sorted({name for tensor in tensors for name in sources_of(tensor)})
        shutil.rmtree(copy)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda t: fails_with(errno.EIO, (mount.path / t["file"]).read_bytes), tensors * 3))
        lines = mount.stderr().splitlines()
        assert len(lines) == len(names) and all(sum(name in line for line in lines) == 1 for name in names), lines
        assert (mount.path / "manifest.json").read_bytes()
        assert b".npy" not in (mount.path / ".tensorport/XXH3SUMS").read_bytes()
        copy.mkdir()  # for the end of copy_of()


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


def read_all(files, allowed):
    """Reads each file once; how many failed, with an error that is allowed."""
    def read(item):
        try:
            found = item[0].read_bytes()
        except OSError as error:
            assert error.errno in allowed, error
            return 1
        assert found == item[1], f"{item[0]}: wrong bytes"
        return 0
    with ThreadPoolExecutor(4) as pool:
        return sum(pool.map(read, files.items()))


def expected_files(mount, source=TINY):
    stored = reference(source)
    return {mount.path / t["file"]: npy_bytes(stored.array(t["name"], "float32")) for t in mount.manifest()["tensors"]}


@test
def failing_reads_are_eio_and_pass():
    for code in (errno.EIO, errno.ENOMEM, errno.EAGAIN, errno.ESTALE, errno.EBADF):
        with fault_injection() as faults, Mount(TINY, "--direct-io", "--cache-size", "8M", env=faults.env) as mount:
            files = expected_files(mount)
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
        files = expected_files(mount)
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
        files = sorted(expected_files(mount).items(), key=lambda item: len(item[1]))[:40]
        faults.control.read_delay_ms = 50
        start, before = time.monotonic(), faults.control.reads
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(lambda item: item[0].read_bytes() == item[1], files))
        taken, one_by_one = time.monotonic() - start, (faults.control.reads - before) * 0.050
        assert taken < one_by_one / 3, f"{taken:.2f} s for {one_by_one:.2f} s one by one"


@test
def unmounting_while_the_source_hangs_ends_when_it_goes_on():
    with fault_injection() as faults, Mount(TINY, *DIRECT, env=faults.env) as mount:
        path, expected = next(iter(expected_files(mount).items()))
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
                files = expected_files(mount)
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
            files = expected_files(mount)
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
            files = expected_files(mount)
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
                result = subprocess.run(["fincore", "--bytes", "--noheadings", "--output", "RES", str(shard)],
                                        capture_output=True, text=True, check=True)
                assert int(result.stdout) < shard.stat().st_size / 4, result.stdout


if __name__ == "__main__":
    main()
