"""Mounts of tensorport-mount and of the null file system, and how they end.

A Mounts object unmounts all it mounted when it is closed, whatever happened in between.
"""

import os
import subprocess
import tempfile
import time
from functools import cached_property
from pathlib import Path


def processes_with_argument(argument):
    """Their ids: a daemon says its own to nobody, but has its mount point in its command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if os.fsencode(argument) in words:
                found.append(int(entry.name))
    return found


def wait_until(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def unmount(path):
    tool = ["umount"] if os.geteuid() == 0 else ["fusermount3", "-u"]
    lazily = [["-l"], ["-z"]][tool != ["umount"]]
    if subprocess.run([*tool, path], stderr=subprocess.DEVNULL).returncode != 0:
        subprocess.run([*tool, *lazily, path], check=False)


class Mount:
    """`command` and the mount point behind it; `pid` is the daemon's."""

    def __init__(self, command, path, process=None):
        self.command, self.path, self.process = command, Path(path), process
        self._files = {}

    @cached_property
    def pid(self):
        if self.process is not None:
            return self.process.pid
        return processes_with_argument(str(self.path))[0]

    def processor_seconds(self):
        """What the daemon's threads have used so far; none of them ends before it does."""
        threads = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9

    def file(self, name):
        """NAME.npy, in whichever shard it is; name may begin with a view's folder."""
        if name not in self._files:
            folder, _, stem = name.rpartition("/")
            found = sorted((self.path / folder).glob(f"shard_*/{stem}.npy"))
            if not found:
                raise FileNotFoundError(f"{name}.npy in {self.path}: {' '.join(self.command)}")
            self._files[name] = found[0]
        return self._files[name]

    def close(self):
        unmount(str(self.path))
        if self.process is not None:
            self.process.wait(30)
        else:
            wait_until(lambda: not processes_with_argument(str(self.path)), 30)
        self.path.rmdir()


class Mounts:
    """Mounts by what they were asked for; the same request gives the same mount."""

    def __init__(self, programs, folder):
        self.programs, self.folder = programs, folder
        self._mounts = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        while self._mounts:
            self._mounts.popitem()[1].close()

    def tensorport(self, source, *options):
        return self._get("tensorport", str(source), options, self._start_tensorport)

    def null(self, size, *options):
        return self._get("null", str(size), options, self._start_null)

    def close(self, mount):
        """Now, for one that is not needed again."""
        self._mounts = {key: other for key, other in self._mounts.items() if other is not mount}
        mount.close()

    def _get(self, kind, what, options, start):
        key = (kind, what, options)
        if key not in self._mounts:
            path = tempfile.mkdtemp(prefix=f"{kind}-", dir=self.folder)
            try:
                self._mounts[key] = start(what, options, path)
            except BaseException:
                os.rmdir(path)
                raise
        return self._mounts[key]

    def _start_tensorport(self, source, options, path):
        command = [self.programs["tensorport-mount"], "--log-level", "error", *options, source,
                   path]
        subprocess.run(command, check=True)
        return Mount(command, path)

    def _start_null(self, size, options, path):
        command = [self.programs["nullfs"], "--size", size, *options, path]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True,
                                   start_new_session=True)  # Ctrl-C is for us, who unmount it
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{command[0]} ended with {process.wait()}")
        return Mount(command, path, process)
