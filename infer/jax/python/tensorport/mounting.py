"""A checkpoint mounted for as long as it is needed: `tensorport.mount`.

    with tensorport.mount("~/models/gpt-oss-20b") as mount:
        view = tensorport.open(mount.path)

The program tensorport-mount runs in the foreground as a child, in a session of its own, for Ctrl-C is
not meant for it. To unmount it is sent SIGTERM: the mount disappears at once, and arrays that still
lie on its pages go on working until they are gone; the child ends then, or with this process. A shell
waits beside it for a pipe to close, which it does however this process ends, and unmounts then.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .view import View, open_view

__all__ = ["Mount", "MountError", "find_program", "mount"]

PROGRAM = "tensorport-mount"
# Arguments: the process, and a folder to remove, or "".
_HEIR = 'read _; kill -TERM "$1"; while kill -0 "$1" 2>/dev/null; do sleep 0.1; done; [ -z "$2" ] || rmdir "$2"'
_LINGER = 0.2  # seconds for a child to end that has nothing left to serve


class MountError(OSError):
    """The checkpoint could not be mounted; the message is the program's own line."""


def find_program() -> str:
    """$TENSORPORT_MOUNT, else from PATH, else beside the package or where `make install` puts it."""
    named = os.environ.get("TENSORPORT_MOUNT")
    if named:
        return named
    package = Path(__file__).resolve().parent
    folders = [package, package / "bin", *(Path(prefix) / name for prefix in (sys.prefix, "/usr/local", "/usr")
                                            for name in ("sbin", "bin"))]
    found = shutil.which(PROGRAM) or next((str(folder / PROGRAM) for folder in folders
                                           if os.access(folder / PROGRAM, os.X_OK)), None)
    if found is None:
        raise MountError(f"no {PROGRAM} found; install tensorport, or name the program in $TENSORPORT_MOUNT")
    return found


def _arguments(options: dict[str, Any]) -> list[str]:
    """cache_size="2G" becomes --cache-size=2G; True an option alone; a list one for each."""
    arguments = []
    for key, value in options.items():
        for item in value if isinstance(value, (list, tuple)) else [value]:
            name = "--" + key.replace("_", "-")
            if item is True:
                arguments.append(name)
            elif item is not False and item is not None:
                arguments.append(f"{name}={item}")
    return arguments


def _is_mounted(path: Path) -> bool:
    """By the kernel's table: a daemon that hangs would not answer for the path itself."""
    escaped = "".join(f"\\{ord(c):03o}" if c in " \t\n\\" else c for c in str(path))
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        return any(line.split(" ", 5)[4] == escaped for line in table)


class Mount:
    """A checkpoint that is mounted; a context manager. `path` is where."""

    def __init__(self, model: str | os.PathLike[str], mountpoint: str | os.PathLike[str] | None = None, *,
                 timeout: float = 60, **options: Any) -> None:
        self.model = Path(model).expanduser()
        self._own = mountpoint is None
        self._log = tempfile.TemporaryFile()
        folder = tempfile.mkdtemp(prefix="tensorport-") if mountpoint is None else mountpoint
        self.path = Path(folder).resolve()
        self._process: subprocess.Popen[bytes] | None = None
        self._heir: subprocess.Popen[bytes] | None = None
        try:
            self._start(find_program(), _arguments(options), timeout)
        except BaseException:
            self.unmount()
            raise
        _live.add(self)

    def __enter__(self) -> Mount:
        return self

    def __exit__(self, *_: object) -> None:
        self.unmount()

    def __fspath__(self) -> str:
        return str(self.path)

    def open(self, view: str | None = None) -> View:
        """tensorport.open of it."""
        return open_view(self.path, view)

    def unmount(self) -> None:
        """The mount is gone afterwards, whoever still uses its files. Twice does no harm."""
        process, self._process = self._process, None
        heir, self._heir = self._heir, None
        if heir is not None:
            heir.kill()
            heir.communicate()
        if process is not None:
            self._stop(process)
            self._log.close()
            if self._own:
                self.path.rmdir()
        elif self._own and not self._log.closed:  # nothing was ever started
            self._log.close()
            self.path.rmdir()
        _live.discard(self)

    def _start(self, program: str, arguments: list[str], timeout: float) -> None:
        try:
            self._process = subprocess.Popen([program, "-f", *arguments, "--", str(self.model), str(self.path)],
                                             stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
                                             start_new_session=True)
        except OSError as error:
            raise MountError(f"cannot run {program}: {error.strerror}") from None
        leaves = str(self.path) if self._own else ""
        self._heir = subprocess.Popen(["/bin/sh", "-c", _HEIR, "sh", str(self._process.pid), leaves],
                                      stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                      start_new_session=True)
        deadline = time.monotonic() + timeout
        while not _is_mounted(self.path):
            if self._process.poll() is not None:
                raise MountError(self._said() or f"{program} ended with status {self._process.returncode}")
            if time.monotonic() > deadline:
                raise MountError(f"{program} did not mount {self.model} in {timeout:g} s")
            time.sleep(0.002)
        os.stat(self.path)  # answered by the daemon: it serves

    def _said(self) -> str:
        """The last line that the program wrote."""
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 30
        while _is_mounted(self.path):
            if process.poll() is not None:  # somebody killed it: what is left answers nobody
                command = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-uz"]
                subprocess.run([*command, str(self.path)], capture_output=True, check=False)
            if time.monotonic() > deadline:
                raise MountError(f"cannot unmount {self.path}; {PROGRAM} is process {process.pid}")
            time.sleep(0.002)
        try:
            process.wait(_LINGER)
        except subprocess.TimeoutExpired:
            pass  # arrays lie on its pages


_live: set[Mount] = set()  # whoever forgets a mount keeps it


@atexit.register
def _unmount_all() -> None:
    for each in list(_live):
        each.unmount()


def mount(model: str | os.PathLike[str], mountpoint: str | os.PathLike[str] | None = None, *, timeout: float = 60,
          **options: Any) -> Mount:
    """Mounts a checkpoint (a folder, a .safetensors file, a packed one) and waits until it is there.

    Into a temporary folder, or into `mountpoint`. `options` are those of tensorport-mount(8):
    precision="bfloat16", cache_size="2G", include=["*.layers.0.*"]. MountError with the program's
    line if it fails. Unmounted by the end of `with`, by unmount(), or when the interpreter exits.
    """
    return Mount(model, mountpoint, timeout=timeout, **options)
