"""A source that changes or vanishes under load: EIO for what depends on it, one line in the log,
everything else goes on; never zeros, never bytes of another state."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from compare import check_view, fails_with
from harness import Mount, checkpoint, main, reference, test, wait_for
from robust import MIB, SLOW, Victim, copy_of, sources_of

TINY, SMALL = checkpoint("tiny"), checkpoint("small")
DIRECT = ["--direct-io", "--cache-size", "0"]


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
    assert len(lines) == n, mount.stderr()
    assert all(line.startswith("tensorport-mount: ") for line in lines), lines


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
            assert affected.before["right"] > 0, name
            assert set(affected.before) <= {"right", errno.EIO}, (name, affected.before)
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
            assert set(load.after) <= {"right", "cut", errno.EIO}, (name, load.after)
            assert errno.EIO in load.after, (name, load.after)
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
    code = ("import mmap, sys\nf = open(sys.argv[1], 'rb')\n"
            "m = mmap.mmap(f.fileno(), 0, prot=1)\nsum(m[::4096])\n")
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
            list(pool.map(lambda t: fails_with(errno.EIO, (mount.path / t["file"]).read_bytes),
                          tensors * 3))
        lines = mount.stderr().splitlines()
        assert len(lines) == len(names), lines
        assert all(sum(name in line for line in lines) == 1 for name in names), lines
        assert (mount.path / "manifest.json").read_bytes()
        assert b".npy" not in (mount.path / ".tensorport/XXH3SUMS").read_bytes()
        copy.mkdir()  # for the end of copy_of()


if __name__ == "__main__":
    main()
