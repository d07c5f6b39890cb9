"""What every test of the mounted tree needs: a mount that cleans up after itself, checkpoints to
mount, and a runner that prints TAP.

    from harness import Mount, checkpoint, main, test

    @test
    def shows_the_manifest():
        with Mount(checkpoint("tiny"), "--precision", "float16") as mount:
            assert (mount.path / "manifest.json").exists()

    main()

A test fails by raising. Whatever way it ends (Ctrl-C and SIGTERM included) no mount, process or
file stays behind: each Mount unmounts in its `__exit__`; what an interrupt prevents is done again
at exit. A test that hangs in a read of a daemon that does not answer cannot be interrupted by
anything but the daemon's end: after a limit the runner kills the daemons of this process by pid.

Environment: TP_TEST_BUILDDIR, where tensorport-mount lies; TP_TEST_WRAPPER, a command to run it
under (valgrind).
"""

import atexit
import ctypes
import fcntl
import gc
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from contextlib import contextmanager
from pathlib import Path

from reference import reference

__all__ = ["BUILD", "HERE", "KIT", "Mount", "MountFailed", "checkpoint", "is_mounted", "main", "reference",
           "scratch", "test", "wait_for"]

HERE = Path(__file__).resolve().parent
KIT = HERE.parent / "kit"
BUILD = Path(os.environ.get("TP_TEST_BUILDDIR") or HERE.parent.parent).resolve()
WRAPPER = shlex.split(os.environ.get("TP_TEST_WRAPPER", ""))
# Instrumented daemons (a wrapper, sanitizers) are an order of magnitude slower.
DEADLINE = 120 if WRAPPER else 30  # seconds for a mount to appear or a process to end

SANITIZER_REPORT = re.compile(r"(Address|Leak|Memory|Thread)Sanitizer|runtime error:")
PR_SET_CHILD_SUBREAPER = 36
OWNER = os.getpid()  # forked readers must not clean up their parent's mounts

_live_mounts = set()


class MountFailed(AssertionError):
    """tensorport-mount ended instead of mounting."""

    def __init__(self, status, stderr):
        super().__init__(f"tensorport-mount ended with status {status}: {stderr.strip()}")
        self.status, self.stderr = status, stderr


def wait_for(condition, what, seconds=DEADLINE):
    """Polls until `condition()` is true; the value that it had then."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(0.002)


def is_mounted(path):
    """Looks in the kernel's table, never at the path, which a dead daemon would not answer for."""
    escaped = "".join(f"\\{ord(c):03o}" if c in " \t\n\\" else c for c in str(path))
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        return any(line.split(" ", 5)[4] == escaped for line in table)


class Mount:
    """A mounted checkpoint; a context manager.

    `options` follow SOURCE and MOUNTPOINT on the command line. `wrapper` replaces TP_TEST_WRAPPER.
    With foreground=False the program goes to the background by itself, as it does for users.
    `env` adds to the environment. On exit the status must be `expected_status` (None: any).
    """

    def __init__(self, source, *options, wrapper=None, foreground=True, env=None):
        self.source, self.foreground = source, foreground
        self.options = [str(option) for option in options]
        self.wrapper = WRAPPER if wrapper is None else wrapper
        self.env = {**os.environ, **(env or {})}
        self.expected_status = 0
        self.path = self.process = self.pid = self._folder = None

    def __enter__(self):
        self._folder = Path(tempfile.mkdtemp(prefix="tensorport-test-")).resolve()
        self.path = self._folder / "mnt"
        self.path.mkdir()
        _live_mounts.add(self)
        try:
            self._start()
        except BaseException:
            if self.pid:
                self.kill()
            self._end()
            raise
        return self

    def __exit__(self, kind, error, trace):
        faults = self._end()
        if faults and error is None:
            raise AssertionError("; ".join(faults))
        for fault in faults:
            error.add_note(f"and then: {fault}")

    def stderr(self):
        return (self._folder / "stderr").read_text(errors="backslashreplace")

    def stats(self):
        return json.loads((self.path / ".tensorport/stats.json").read_bytes())

    def manifest(self):
        return json.loads((self.path / "manifest.json").read_bytes())

    # -- starting

    def _start(self):
        command = [*self.wrapper, str(BUILD / "tensorport-mount"), *(["-f"] if self.foreground else []),
                   *self.options, "--", str(self.source), str(self.path)]
        if not self.foreground:  # the daemon becomes our child when the one that started it ends
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        with open(self._folder / "stderr", "wb") as stderr:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stderr,
                                            stderr=stderr, env=self.env)
        if self.foreground:
            self.pid = self.process.pid
            wait_for(self._is_usable, f"the mount of {self.source}")
        else:
            status = self.process.wait(DEADLINE)
            if status != 0 or not is_mounted(self.path):
                raise MountFailed(status, self.stderr())
            self.pid = wait_for(self._find_daemon, "the daemon's process")
        os.statvfs(self.path)  # answered by the daemon: it serves

    def _is_usable(self):
        status = self.process.poll()
        if status is not None:
            raise MountFailed(status, self.stderr())
        return is_mounted(self.path)

    def _find_daemon(self):
        wanted = os.fsencode(self.path)
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == OWNER and wanted in (folder / "cmdline").read_bytes().split(b"\0"):
                    return int(folder.name)
            except (OSError, IndexError):
                continue  # it ended while we looked
        return None

    # -- ending; every step is tried even if one before it failed

    def _end(self):
        """What went wrong, as a list of texts."""
        if self not in _live_mounts:
            return []
        faults = []
        if is_mounted(self.path):
            faults += self._unmount()
        faults += self._wait_for_end() if self.pid else []
        stderr = self.stderr() if self.process else ""
        if SANITIZER_REPORT.search(stderr):
            faults.append(f"sanitizer report:\n{stderr}")
        shutil.rmtree(self._folder, ignore_errors=True)
        _live_mounts.discard(self)
        return faults

    def _unmount(self):
        command = ["umount"] if os.geteuid() == 0 else ["fusermount3", "-u"]
        for _ in range(100):
            result = subprocess.run([*command, str(self.path)], capture_output=True, text=True)
            if result.returncode == 0:
                return []
            gc.collect()  # mappings and files that a failed test left open
            time.sleep(0.02)
        lazy = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-uz"]
        subprocess.run([*lazy, str(self.path)], capture_output=True)
        return [f"cannot unmount: {result.stderr.strip()}"]

    def _wait_for_end(self):
        try:
            status, = wait_for(self._ended, "the daemon to end")
        except TimeoutError as error:
            self.kill()
            wait_for(self._ended, "the killed daemon to end")
            return [str(error)]
        if self.expected_status is not None and status != self.expected_status:
            return [f"the daemon ended with status {status}: {self.stderr().strip()}"]
        return []

    def _ended(self):
        """A tuple of the exit status, minus the signal's number for one killed; () while it lives."""
        if self.foreground:
            status = self.process.poll()
            return () if status is None else (status,)
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return () if pid == 0 else (os.waitstatus_to_exitcode(status),)

    def kill(self):
        """SIGKILL; its readers get ENOTCONN."""
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def _end_all():
    if os.getpid() == OWNER:
        for mount in list(_live_mounts):
            mount._end()
        for folder in list(_live_folders):
            shutil.rmtree(folder, ignore_errors=True)


def _exit_on_signal(number, frame):
    if os.getpid() != OWNER:
        os._exit(128 + number)
    sys.exit(128 + number)


atexit.register(_end_all)
for _number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(_number, _exit_on_signal)


# ---------------------------------------------------------------- files

_live_folders = set()


@contextmanager
def scratch():
    """A private folder."""
    folder = Path(tempfile.mkdtemp(prefix="tensorport-scratch-")).resolve()
    _live_folders.add(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _live_folders.discard(folder)


def _need_programs():
    """Before anything is made where the programs should be: that might be the source tree."""
    if not (BUILD / "tensorport-mount").exists():
        print(f"Bail out! no tensorport-mount in {BUILD}: TP_TEST_BUILDDIR names its folder")
        sys.exit(1)


def checkpoint(name):
    """The folder of the kit's checkpoint `name` (tiny, small, mid, llama, mistral), made when it is
    first asked for; it is there in full or not at all, and is what the goldens belong to."""
    _need_programs()
    folder = BUILD / "tests" / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / name
    with open(folder / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in parallel
        if not made.exists():
            partial = folder / f"{name}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            _make_checkpoint(name, partial)
            _verify_checkpoint(name, partial)
            partial.rename(made)
    return made


def _make_checkpoint(name, folder):
    kind = ["--arch", name] if name in ("llama", "mistral") else ["--preset", name]
    subprocess.run([sys.executable, "-B", str(KIT / "make_checkpoint.py"), str(folder), *kind],
                   check=True, stdout=subprocess.DEVNULL)


def _verify_checkpoint(name, folder):
    sums = dict(reversed(line.split("  ", 1)) for line in
                (KIT / "goldens/CHECKPOINTS.sha256").read_text().splitlines())
    for file in sorted(folder.iterdir()):
        with open(file, "rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        assert found == sums[f"{name}/{file.name}"], f"{name}/{file.name} is not the golden one"


# ---------------------------------------------------------------- runner

_tests = []


def test(function=None, *, limit=300):
    """Registers a test; after `limit` seconds its daemons are killed, so that it fails."""
    def register(function):
        _tests.append((function, limit))
        return function
    return register(function) if function else register


def _kill_all(name, limit):
    print(f"# {name}: not done after {limit} s; killing its daemons", flush=True)
    for mount in list(_live_mounts):
        if mount.pid:
            mount.kill()


def _run(function, limit):
    """True if it passed."""
    watchdog = threading.Timer(limit, _kill_all, (function.__name__, limit))
    watchdog.daemon = True
    watchdog.start()
    try:
        function()
        return True
    except Exception:
        for line in traceback.format_exc().splitlines():
            print(f"# {line}")
        return False
    finally:
        watchdog.cancel()


def main():
    """Runs the registered tests, or those named on the command line, and exits."""
    _need_programs()
    wanted = [item for item in _tests if not sys.argv[1:] or item[0].__name__ in sys.argv[1:]]
    passed = 0
    for number, (function, limit) in enumerate(wanted, 1):
        start = time.monotonic()
        ok = _run(function, limit)
        passed += ok
        name = function.__name__.replace("_", " ")
        print(f"{'ok' if ok else 'not ok'} {number} - {name}")
        print(f"# {time.monotonic() - start:.1f} s", flush=True)
    print(f"1..{len(wanted)}", flush=True)
    sys.exit(0 if wanted and passed == len(wanted) else 1)
