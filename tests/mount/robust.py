"""What the tests of robustness share: attempts to mount that must fail, and the library that makes
the daemon's system calls fail (fault_inject.c)."""

import ctypes
import mmap
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import harness
from compare import npy_bytes
from harness import BUILD, WRAPPER, is_mounted, reference, scratch, wait_for

HERE = Path(__file__).resolve().parent
PROGRAM = BUILD / "tensorport-mount"
NOBODY = 65534
MIB = 1 << 20


def _find_sanitizer():
    symbols = PROGRAM.read_bytes() if PROGRAM.exists() else b""
    for name, symbol in (("address", b"__asan_init"), ("thread", b"__tsan_init")):
        if symbol in symbols:
            return name
    return None


SANITIZER = _find_sanitizer()
SLOW = 15 if SANITIZER or WRAPPER else 1  # how much longer everything may take


def memory_matters(test):
    """Marks a test whose subject is the use of memory, which instrumentation multiplies; says so in
    its TAP line and does not run it there."""
    if not SANITIZER and not WRAPPER:
        return test

    def nothing():
        pass
    nothing.__name__ = f"{test.__name__} (not under instrumentation: memory is not the program's own)"
    return nothing


# ---------------------------------------------------------------- attempts that must fail

@dataclass
class Attempt:
    """How a run of tensorport-mount ended."""
    status: int
    stdout: str
    stderr: str
    seconds: float  # of processor time: that of the clock depends on who else is busy
    rss: int  # bytes at most


# Between us and the program: what wait4 says of its memory must not begin with ours.
_LAUNCHER = """
import os, signal, sys
pid = os.fork()
if pid == 0:
    os.close(int(sys.argv[1]))
    signal.alarm(120)
    os.execvp(sys.argv[2], sys.argv[2:])
_, status, usage = os.wait4(pid, 0)
os.write(int(sys.argv[1]), f"{os.waitstatus_to_exitcode(status)} {usage.ru_utime + usage.ru_stime} "
                           f"{usage.ru_maxrss}".encode())
"""


def attempt(source, mount_point, *options, foreground=True, env=None, prefix=()):
    """Runs the program, which must end by itself; `prefix` is a command to run it under."""
    command = [*map(str, prefix), *WRAPPER, str(PROGRAM), *(["-f"] if foreground else []),
               *map(str, options), "--", str(source), str(mount_point)]
    reader, writer = os.pipe()
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", _LAUNCHER, str(writer), *command],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env={**os.environ, **(env or {})}, pass_fds=[writer]) as process:
        os.close(writer)
        try:
            stdout, stderr = process.communicate(timeout=30 * SLOW)
        except subprocess.TimeoutExpired:
            was_mounted = is_mounted(mount_point)
            if was_mounted:
                subprocess.run(["umount", "-l", str(mount_point)], check=False)
            process.communicate()
            raise AssertionError(f"{source}: {'was mounted' if was_mounted else 'did not end'}")
        finally:
            with os.fdopen(reader) as stream:
                report = stream.read()
    status, seconds, kibibytes = report.split()
    return Attempt(int(status), stdout.decode(errors="backslashreplace"),
                   stderr.decode(errors="backslashreplace"), float(seconds), int(kibibytes) * 1024)


def check_one_line(text, *parts):
    """A message of the program: one line that contains all the parts."""
    assert text.startswith("tensorport-mount: ") and text.endswith("\n") and text.count("\n") == 1, \
        f"expected one line, found: {text!r}"
    for part in parts:
        assert part in text, f"expected {part!r} in: {text}"


def refused(source, *parts, mount_point=None, options=(), status=1, **how):
    """The program refuses: the status, one line with all the parts, and nothing is mounted."""
    with scratch() as folder:
        if mount_point is None:
            mount_point = folder / "mnt"
            mount_point.mkdir()
        before = is_mounted(mount_point)  # something else may be there
        result = attempt(source, mount_point, *options, **how)
        assert result.status == status, result
        check_one_line(result.stderr, *parts)
        assert result.stdout == "", result
        assert is_mounted(mount_point) == before, f"{mount_point}: still mounted"
        return result


# ---------------------------------------------------------------- faults on demand

class Control(ctypes.Structure):
    """The control block: struct control of fault_inject.c."""
    _fields_ = [(name, ctypes.c_uint32) for name in (
        "read_percent", "read_error", "short_percent", "interrupt_percent", "read_delay_ms",
        "hold_reads", "open_error", "open_grace", "allocation_percent", "allocation_from_all",
        "map_percent", "stat_percent", "stat_error")] + [
        (name, ctypes.c_uint32) for name in ("reads", "held", "faults", "failed_allocations")] + [
        ("match", ctypes.c_char * 128)]


class Faults:
    """Makes calls of the daemon fail, from the moment that fields of `control` are set. A path is
    concerned if it contains `control.match`."""

    def __init__(self, folder):
        self.library, self._file = folder / "fault_inject.so", folder / "control"
        compiler = os.environ.get("CC", "cc").split()
        options = ["-DWITHOUT_ALLOCATION"] if SANITIZER else []
        subprocess.run([*compiler, "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared",
                        "-fPIC", *options, str(HERE / "fault_inject.c"), "-o", str(self.library),
                        "-ldl", "-pthread"], check=True)
        self._file.write_bytes(bytes(mmap.PAGESIZE))
        with open(self._file, "r+b") as stream:
            self._map = mmap.mmap(stream.fileno(), mmap.PAGESIZE)
        self.control = Control.from_buffer(self._map)
        self.control.match = b".safetensors"

    @property
    def env(self):
        env = {"LD_PRELOAD": str(self.library), "FAULT_CONTROL": str(self._file)}
        if SANITIZER == "address":  # it wants to be the first library
            others = os.environ.get("ASAN_OPTIONS", "")
            env["ASAN_OPTIONS"] = f"{others}:verify_asan_link_order=0"
        return env

    def clear(self):
        match = self.control.match
        ctypes.memset(ctypes.byref(self.control), 0, ctypes.sizeof(self.control))
        self.control.match = match

    def close(self):
        del self.control
        self._map.close()


@contextmanager
def fault_injection():
    with scratch() as folder:
        faults = Faults(folder)
        try:
            yield faults
        finally:
            faults.clear()
            faults.close()


# ---------------------------------------------------------------- sources to damage

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


def expected_files(mount, source):
    """What each tensor's file of a float32 view holds, by path."""
    stored = reference(source)
    return {mount.path / t["file"]: npy_bytes(stored.array(t["name"], "float32"))
            for t in mount.manifest()["tensors"]}


# ---------------------------------------------------------------- other users

def prefix_of(user):
    """A command that runs another as `user` (a number)."""
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]


def in_own_namespace(function):
    """Runs `function` in a child with mounts of its own, where /dev/fuse is open to everyone, as
    udev makes it, and where the program lies in /usr/local/bin: the machine stays as it is."""
    assert os.geteuid() == 0, "only root can become somebody else: run this test as root"
    sys.stdout.flush()
    child = os.fork()
    if child > 0:
        _, status = os.waitpid(child, 0)
        assert status == 0, "failed in its namespace: see above"
        return
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.unshare(0x00020000) == 0, "no namespace: " + os.strerror(ctypes.get_errno())
        with tempfile.TemporaryDirectory(prefix="tensorport-device-") as folder:
            subprocess.run(["mount", "--make-rprivate", "/"], check=True)
            subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "none", folder], check=True)
            os.mknod(f"{folder}/fuse", 0o020666, os.makedev(10, 229))
            os.chmod(f"{folder}/fuse", 0o666)
            os.mkdir(f"{folder}/bin")
            shutil.copy(PROGRAM, f"{folder}/bin/tensorport-mount")
            subprocess.run(["mount", "--bind", f"{folder}/fuse", "/dev/fuse"], check=True)
            subprocess.run(["mount", "--bind", f"{folder}/bin", "/usr/local/bin"], check=True)
            try:
                function()
            finally:
                for path in ("/usr/local/bin", "/dev/fuse", folder):
                    subprocess.run(["umount", "-l", path], check=True)
        sys.stdout.flush()
        os._exit(0)
    except BaseException:
        for line in traceback.format_exc().splitlines():
            print(f"# {line}")
        sys.stdout.flush()
    finally:
        os._exit(1)


@contextmanager
def program_for_everyone():
    """A copy of the program that any user may run; harness and attempts use it meanwhile."""
    global PROGRAM
    assert os.geteuid() == 0, "only root can become somebody else: run this test as root"
    folder = Path(tempfile.mkdtemp(prefix="tensorport-program-"))
    before, before_build = PROGRAM, harness.BUILD
    try:
        folder.chmod(0o755)
        shutil.copy(PROGRAM, folder / "tensorport-mount")
        PROGRAM, harness.BUILD = folder / "tensorport-mount", folder
        yield folder
    finally:
        PROGRAM, harness.BUILD = before, before_build
        shutil.rmtree(folder, ignore_errors=True)


# ---------------------------------------------------------------- processes and mount points

def mount_line(path):
    """What the kernel's table says of the mount at `path`, which has no odd characters."""
    table = Path("/proc/self/mountinfo").read_text().splitlines()
    line, = [line for line in table if f" {path} " in line]
    return line


def find_daemons(mount_point):
    """The processes whose command line names the mount point and the program."""
    wanted, found = os.fsencode(mount_point), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if any(word.endswith(b"tensorport-mount") for word in words[:1]) and wanted in words:
                found.append(int(folder.name))
        except OSError:
            continue  # it ended while we looked
    return found


def has_ended(pid):
    """All its threads: the first may be a zombie while another one, also killed, still takes a request
    from the kernel, whose reader then gets EIO."""
    try:
        is_zombie = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        return is_zombie and len(os.listdir(f"/proc/{pid}/task")) == 1
    except OSError:
        return True


def wait_for_end_of(pid, seconds=30):
    """Until a process that need not be our child is gone."""
    wait_for(lambda: has_ended(pid), f"process {pid} to end", seconds * SLOW)


def end(process):
    """Ends a process that the test started, whatever it is doing."""
    if process.poll() is None:
        process.kill()
    process.wait()


@contextmanager
def mount_point(name="mnt"):
    """A folder to mount on. Whatever the test leaves mounted or running there goes."""
    with scratch() as folder:
        folder.chmod(0o755)
        path = folder / name
        path.mkdir()
        try:
            yield path
        finally:
            daemons = find_daemons(path)
            while is_mounted(path):
                subprocess.run(["umount", "-l", str(path)], check=True)
            for pid in daemons:
                try:
                    wait_for_end_of(pid, 5)
                except TimeoutError:
                    os.kill(pid, signal.SIGKILL)
                    wait_for_end_of(pid)


def run(*arguments, prefix=(), env=None, program=None, **how):
    """Runs the program as it is, with captured output unless told otherwise."""
    how = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
           "timeout": 30 * SLOW, "text": True, **how}
    return subprocess.run([*map(str, prefix), *WRAPPER, str(program or PROGRAM), *map(str, arguments)],
                          env={**os.environ, **(env or {})}, check=False, **how)
