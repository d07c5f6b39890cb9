"""Ending: signals, unmounting, dead mounts and --replace, idleness, readers that are killed."""

import errno
import mmap
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import robust
from compare import check_view, npy_bytes
from harness import Mount, checkpoint, is_mounted, main, reference, test, wait_for
from robust import (SLOW, fault_injection, find_daemons, has_ended, mount_point, refused, run,
                    wait_for_end_of)

TINY, SMALL = checkpoint("tiny"), checkpoint("small")
NORM = "shard_000/model_norm_weight.npy"
EMBEDDING = "model.embed_tokens.weight"
DEAD = (errno.ENOTCONN, errno.ECONNABORTED, errno.ECONNREFUSED)


def norm_bytes():
    return npy_bytes(reference(TINY).array("model.norm.weight", "float32"))


def path_of(mount, name):
    file, = [t["file"] for t in mount.manifest()["tensors"] if t["name"] == name]
    return mount.path / file


def start(path, *options, source=TINY):
    """A daemon at `path`; its pid."""
    before = set(find_daemons(path))
    result = run(*options, "--", source, path)
    assert (result.returncode, result.stderr) == (0, ""), result
    pid, = set(find_daemons(path)) - before
    return pid


def fails_as_dead(function, *arguments):
    try:
        function(*arguments)
    except OSError as error:
        assert error.errno in DEAD, error
    else:
        raise AssertionError(f"{function} succeeded on a dead mount")


# ---------------------------------------------------------------- signals and unmounting

class Reader:
    """A file of the mount, open and mapped, of which nothing was read so far but its start."""

    def __init__(self, mount, expected):
        self.expected = expected
        self.stream = open(path_of(mount, EMBEDDING), "rb", buffering=0)
        self.map = mmap.mmap(self.stream.fileno(), 0, prot=mmap.PROT_READ)
        assert self.stream.read(100) == expected[:100]

    def finish(self):
        """Reads the rest both ways and lets go."""
        rest = b"".join(iter(lambda: self.stream.read(1 << 20), b""))
        assert rest == self.expected[100:]
        assert self.map[:] == self.expected
        self.map.close()
        self.stream.close()


def embedding_bytes(source):
    return npy_bytes(reference(source).array(EMBEDDING, "float32"))


@test
def signal_lets_readers_finish():
    expected = embedding_bytes(SMALL)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        for foreground in (True, False):
            with Mount(SMALL, foreground=foreground) as mount:
                reader = Reader(mount, expected)
                os.kill(mount.pid, number)
                wait_for(lambda: not is_mounted(mount.path), "the name to be gone")
                assert os.listdir(mount.path) == []
                assert not has_ended(mount.pid)
                reader.finish()
                wait_for_end_of(mount.pid)  # status 0: the harness checks


@test
def signal_without_readers_ends_at_once():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        with Mount(TINY) as mount:
            mount.stats()
            os.kill(mount.pid, number)
            assert mount.process.wait(20 * SLOW) == 0
            assert not is_mounted(mount.path)
            assert mount.stderr() == ""


@test
def second_signal_ends_at_once():
    with Mount(TINY) as mount:
        with open(mount.path / NORM, "rb", buffering=0) as stream:
            os.kill(mount.pid, signal.SIGTERM)
            wait_for(lambda: not is_mounted(mount.path), "the name to be gone")
            assert not has_ended(mount.pid)
            os.kill(mount.pid, signal.SIGTERM)
            assert mount.process.wait(20 * SLOW) == 0
            fails_as_dead(stream.read)


@test
def signal_while_starting_leaves_nothing_behind():
    """Whenever it comes, the process ends and no mount stays, dead or alive."""
    with mount_point() as path:
        for step in range(40):
            process = subprocess.Popen([robust.PROGRAM, "-f", "--", TINY, path], stderr=subprocess.PIPE)
            time.sleep(step / 2000 * SLOW)  # no event to wait for: all moments are to be tried
            process.send_signal(signal.SIGTERM)
            _, stderr = process.communicate(timeout=30 * SLOW)
            assert process.returncode in (0, -signal.SIGTERM), stderr
            assert not is_mounted(path), f"{step / 2} ms after the start"


@test
def busy_mount_refuses_to_go_and_goes_on():
    with Mount(TINY) as mount:
        with open(mount.path / NORM, "rb", buffering=0) as stream:
            for command in (["umount"], ["fusermount3", "-u"]):
                result = subprocess.run([*command, str(mount.path)], capture_output=True, text=True,
                                        check=False)
                assert result.returncode != 0 and "busy" in result.stderr, result
            assert stream.read() == norm_bytes()
        assert (mount.path / NORM).read_bytes() == norm_bytes()


@test
def unmounting_ends_the_daemon():
    for command in (["umount"], ["fusermount3", "-u"], ["umount", "-l"], ["fusermount3", "-uz"]):
        for foreground in (True, False):
            with Mount(TINY, foreground=foreground) as mount:
                assert (mount.path / NORM).read_bytes() == norm_bytes()
                subprocess.run([*command, str(mount.path)], check=True)
                wait_for_end_of(mount.pid)


@test
def lazy_unmount_lets_readers_finish():
    expected = embedding_bytes(TINY)
    with Mount(TINY) as mount:
        reader = Reader(mount, expected)
        subprocess.run(["umount", "-l", str(mount.path)], check=True)
        reader.finish()
        assert mount.process.wait(20 * SLOW) == 0


@test
def working_directory_inside_does_not_outlive_a_signal():
    with Mount(TINY) as mount:
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, cwd=mount.path / "shard_000") as process:
            os.kill(mount.pid, signal.SIGTERM)
            wait_for(lambda: not is_mounted(mount.path), "the name to be gone")
            assert not has_ended(mount.pid)
            process.stdin.close()
        assert mount.process.wait(20 * SLOW) == 0


# ---------------------------------------------------------------- dead mounts and --replace

@test
def killed_daemon_leaves_a_mount_that_can_be_replaced():
    for options in (["-f"], []):
        with mount_point() as path:
            pid = start(path)
            os.kill(pid, signal.SIGKILL)
            wait_for_end_of(pid)
            fails_as_dead(os.listdir, path)
            for name in (path, f"{path}/", f"{path.parent}/./mnt//"):
                refused(TINY, "dead mount", "--replace", "fusermount3 -u", mount_point=name,
                        foreground="-f" in options)
            start(f"{path}/", "--replace")
            assert (path / NORM).read_bytes() == norm_bytes()


@test
def replacing_takes_a_pile_of_dead_and_live_mounts_away():
    """Ours, one on top of the other, as other programs may have left them."""
    with mount_point() as path:
        other = path.parent / "other"
        for _ in range(3):
            other.mkdir()
            start(other)
            subprocess.run(["mount", "--move", str(other), str(path)], check=True)
            other.rmdir()
        top, *_ = find_daemons(other)
        os.kill(top, signal.SIGKILL)
        wait_for_end_of(top)
        rest = find_daemons(other)
        start(path, "--replace")
        assert Path("/proc/self/mountinfo").read_text().count(f" {path} ") == 1
        assert (path / NORM).read_bytes() == norm_bytes()
        for pid in rest:
            wait_for_end_of(pid)


@test
def replacing_a_live_mount_lets_its_readers_finish():
    expected = embedding_bytes(SMALL)
    with Mount(SMALL) as mount:
        reader = Reader(mount, expected)
        refused(TINY, "already", "--replace", mount_point=mount.path)
        refused(TINY, "already", "--replace", mount_point=mount.path, foreground=False)
        second = start(mount.path, "--replace")
        assert (mount.path / NORM).read_bytes() == norm_bytes()
        assert not has_ended(mount.pid)
        reader.finish()
        assert mount.process.wait(20 * SLOW) == 0
        assert (mount.path / NORM).read_bytes() == norm_bytes(), "the second one stays"
        subprocess.run(["umount", str(mount.path)], check=True)
        wait_for_end_of(second)


@test
def replacing_where_nothing_is_mounted_mounts():
    with mount_point() as path:
        start(path, "--replace")
        assert (path / NORM).read_bytes() == norm_bytes()


@test
def replacing_with_a_broken_checkpoint_leaves_the_mount_alone():
    with Mount(TINY) as mount:
        refused("/nowhere", "No such file", mount_point=mount.path, options=["--replace"])
        assert (mount.path / NORM).read_bytes() == norm_bytes()


@test
def replacing_never_unmounts_what_is_not_ours():
    with mount_point() as path:
        subprocess.run(["mount", "-t", "tmpfs", "none", str(path)], check=True)
        try:
            (path / "mine.txt").write_text("mine")
            pid = start(path, "--replace")
            assert (path / NORM).read_bytes() == norm_bytes()
            subprocess.run(["umount", str(path)], check=True)
            wait_for_end_of(pid)
            assert (path / "mine.txt").read_text() == "mine"
        finally:
            subprocess.run(["umount", "-l", str(path)], check=True)


@test
def many_daemons_killed_and_replaced():
    with mount_point() as path:
        for _ in range(10):
            pid = start(path, "--replace")
            assert (path / NORM).read_bytes() == norm_bytes()
            os.kill(pid, signal.SIGKILL)
            wait_for_end_of(pid)


@test
def auto_unmount_cleans_up_after_a_crash():
    """fusermount3 does, if it finds the mount dead already when it looks: the one time that it does
    look may come too early, so there are several tries."""
    with mount_point() as path:
        for _ in range(5):
            pid = start(path, "--replace", "-o", "auto_unmount")
            assert (path / NORM).read_bytes() == norm_bytes()
            os.kill(pid, signal.SIGKILL)
            wait_for_end_of(pid)
            try:
                wait_for(lambda: not is_mounted(path), "fusermount3 to unmount", 2 * SLOW)
                return
            except TimeoutError:
                continue
        raise AssertionError("never unmounted")


# ---------------------------------------------------------------- idleness

@test
def idle_mount_goes_by_itself():
    for foreground in (True, False):
        with Mount(TINY, "--idle-timeout", "1", foreground=foreground) as mount:
            mount.manifest()
            wait_for(lambda: not is_mounted(mount.path), "the idle mount to go", 10 * SLOW)
            wait_for_end_of(mount.pid)


@test
def open_or_mapped_file_is_no_idleness():
    with Mount(TINY, "--idle-timeout", "1") as mount:
        stream = open(mount.path / NORM, "rb", buffering=0)
        time.sleep(2.5)  # that nothing happens is no event
        assert is_mounted(mount.path)
        mapped = mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ)
        stream.close()
        time.sleep(2.5)
        assert is_mounted(mount.path)
        assert mapped[:] == norm_bytes()
        mapped.close()
        wait_for(lambda: not is_mounted(mount.path), "the idle mount to go", 10 * SLOW)
        wait_for_end_of(mount.pid)


@test
def idle_timeout_of_zero_never_ends():
    with Mount(TINY, "--idle-timeout", "0") as mount:
        time.sleep(1.5)
        assert is_mounted(mount.path)


# ---------------------------------------------------------------- readers

def count_threads(pid):
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


@test
def killed_readers_do_no_harm():
    """SIGKILL in the middle of huge reads, again and again."""
    loop = "import sys\nwhile True:\n    open(sys.argv[1], 'rb', buffering=0).read()\n"
    with Mount(SMALL, "--direct-io", "--cache-size", "8M", "--threads", "4") as mount:
        path = path_of(mount, EMBEDDING)
        for _ in range(5):
            before = mount.stats()["requests"]["reads"]
            command = [sys.executable, "-I", "-S", "-c", loop, str(path)]
            readers = [subprocess.Popen(command) for _ in range(6)]
            try:
                wait_for(lambda: mount.stats()["requests"]["reads"] > before + 20, "reads")
            finally:
                for reader in readers:
                    robust.end(reader)
        wait_for(lambda: mount.stats()["files"]["open"] == 0, "the files to be released")
        assert count_threads(mount.pid) <= 4 + 8 + 3
        check_view(mount.path, reference(SMALL), "float32",
                   wanted=lambda name: name.startswith("model.layers.0"))


@test
def readers_killed_while_the_source_hangs_do_no_harm():
    """Their requests are in the daemon's hands then; it answers them into the void."""
    with fault_injection() as faults, Mount(TINY, "--threads", "4", env=faults.env) as mount:
        names = [t["file"] for t in mount.manifest()["tensors"]][:12]
        faults.control.hold_reads = 1
        readers = [subprocess.Popen(["cat", mount.path / name], stdout=subprocess.DEVNULL)
                   for name in names]
        try:
            wait_for(lambda: faults.control.held >= 3, "readers that hang")
            for reader in readers:
                reader.kill()
            faults.control.hold_reads = 0
            for reader in readers:
                assert reader.wait(20 * SLOW) == -signal.SIGKILL
        finally:
            faults.clear()
            for reader in readers:
                robust.end(reader)
        wait_for(lambda: mount.stats()["files"]["open"] == 0, "the files to be released")
        check_view(mount.path, reference(TINY), "float32")


@test
def interrupted_readers_do_no_harm():
    """Signals that are handled restart or cut their reads; what they get is right."""
    with Mount(SMALL, "--direct-io") as mount:
        path, expected = path_of(mount, EMBEDDING), embedding_bytes(SMALL)
        reader, stop = threading.main_thread().ident, threading.Event()

        def send():
            while not stop.wait(0.0005):
                signal.pthread_kill(reader, signal.SIGALRM)
        sender = threading.Thread(target=send)
        before = signal.signal(signal.SIGALRM, lambda *_: None)
        sender.start()
        try:
            for _ in range(5):
                assert path.read_bytes() == expected
        finally:
            stop.set()
            sender.join()
            signal.signal(signal.SIGALRM, before)


@test
def hundred_files_open_at_once():
    with Mount(SMALL) as mount:
        tensors = mount.manifest()["tensors"][:100]
        expected = reference(SMALL)
        with ExitStack() as stack:
            streams = [stack.enter_context(open(mount.path / tensor["file"], "rb", buffering=0))
                       for tensor in tensors]
            wait_for(lambda: mount.stats()["files"]["open"] == 100, "100 open files")

            def read(i):
                return streams[i].readall() == npy_bytes(expected.array(tensors[i]["name"], "float32"))
            with ThreadPoolExecutor(100) as pool:
                assert all(pool.map(read, range(100)))
        wait_for(lambda: mount.stats()["files"]["open"] == 0, "the files to be released")


@test
def hundred_opens_of_one_file():
    with Mount(TINY) as mount:
        with ExitStack() as stack:
            streams = [stack.enter_context(open(mount.path / NORM, "rb", buffering=0))
                       for _ in range(100)]
            assert all(stream.readall() == norm_bytes() for stream in streams)


@test
def copying_the_whole_tree_twice_at_once_works():
    with Mount(TINY) as mount, robust.scratch() as folder:
        copies = [subprocess.Popen(["cp", "-r", mount.path, folder / name]) for name in "ab"]
        assert [copy.wait(60 * SLOW) for copy in copies] == [0, 0]
        for name in "ab":
            assert sorted(os.listdir(folder / name)) == sorted(os.listdir(mount.path))
            assert (folder / name / NORM).read_bytes() == norm_bytes()
            shutil.rmtree(folder / name)


if __name__ == "__main__":
    main()
