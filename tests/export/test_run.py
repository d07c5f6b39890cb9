"""`tensorport run`: the command has its files, and afterwards there is no mount, folder or process,
whoever was killed. Each test looks for all three."""

import json
import os
import pty
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from support import (BUILD, PROGRAM, checkpoint, main, reference, refused, scratch, tensorport, test,
                     wait_for)
import robust  # in the folder that support adds
from robust import NOBODY, SLOW, has_ended, memory_matters, prefix_of

TINY = checkpoint("tiny")
NORM = "shard_000/model_norm_weight.npy"
TOUCH = 'echo > "$0"; '  # tells the test that the command runs; $0 of `sh -c`


# ---------------------------------------------------------------- what is left

def mounts_below(folder):
    text = Path("/proc/self/mountinfo").read_text()
    return [line for line in text.splitlines() if line.split()[4].startswith(f"{folder}/")]


def processes_of(folder):
    """Those that still run and name the folder, or were started with it as XDG_RUNTIME_DIR."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            text = (entry / "cmdline").read_bytes() + b"\0" + (entry / "environ").read_bytes()
            if os.fsencode(folder) in text and int(entry.name) != os.getpid() and not has_ended(int(entry.name)):
                found.append((int(entry.name), (entry / "comm").read_text().strip()))
        except OSError:
            continue  # it ended while we looked
    return found


@contextmanager
def runtime(mode=0o700, owner=None):
    """A folder for XDG_RUNTIME_DIR, in which nothing may be left at the end."""
    with scratch() as folder:
        folder.chmod(mode)
        if owner is not None:
            os.chown(folder, owner, owner)
        try:
            yield folder
            wait_for(lambda: not processes_of(folder), "processes to end", 30 * SLOW)
            assert mounts_below(folder) == []
            assert os.listdir(folder) == []
        finally:
            for pid, _ in processes_of(folder):
                os.kill(pid, signal.SIGKILL)
            for line in mounts_below(folder):
                subprocess.run(["umount", "-l", line.split()[4]], check=False)


def run(folder, *words, **how):
    return tensorport("run", *words, env={"XDG_RUNTIME_DIR": str(folder), **how.pop("env", {})}, **how)


@contextmanager
def started(folder, *words, **how):
    """The same in the background; a Popen whose output is kept."""
    process = subprocess.Popen([*how.pop("prefix", []), str(how.pop("program", PROGRAM)), "run",
                                *map(str, words)],
                               env={**os.environ, "XDG_RUNTIME_DIR": str(folder)}, text=True,
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               **how)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_for_file(path):
    wait_for(path.exists, f"{path}", 30 * SLOW)


def process_called(folder, name):
    return wait_for(lambda: [pid for pid, comm in processes_of(folder) if comm == name], name)[0]


# ---------------------------------------------------------------- as it should be

@test
def command_finds_the_view():
    with runtime() as folder:
        done = run(folder, TINY, "--", sys.executable, "-c", """
import numpy, os, stat, sys
path = os.environ["TENSORPORT_MNT"]
assert os.path.ismount(path) and os.path.dirname(path) == sys.argv[1], path
status = os.stat(path)
assert status.st_uid == os.geteuid()
sys.stdout.buffer.write(numpy.load(path + "/" + sys.argv[2]).tobytes())
""", str(folder), NORM, text=False)
        assert (done.returncode, done.stderr) == (0, b""), done
        expected = reference(TINY).array("model.norm.weight", "float32")
        assert np.array_equal(np.frombuffer(done.stdout, expected.dtype), expected.ravel())


@test
def options_reach_the_mount():
    script = 'cat "$TENSORPORT_MNT/.tensorport/stats.json"'
    with runtime() as folder:
        done = run(folder, "-p", "float16", "--mxfp4", "packed", "--cache-size=8M", "--direct-io", "-t3",
                   "--include", "*norm*", "--include=*embed*", "--exclude", "*layers*", TINY, "--",
                   "sh", "-c", script)
        stats = json.loads(done.stdout)
        assert (stats["precision"], stats["mxfp4"]) == ("float16", "packed")
        assert stats["cache"]["capacity_bytes"] == 8 << 20 and "direct_io" in stats["features"]
        assert stats["files"]["tensors"] == 2
        done = run(folder, TINY, "-s", "0.001", "--", "sh", "-c", script)  # behind MODEL as well
        assert json.loads(done.stdout)["files"]["shards"] > 2


@test
def arguments_are_left_alone():
    with runtime() as folder:
        odd = ["-p", "--json", "--", "a b", "", "*", "$HOME", "\u00e9"]
        done = run(folder, TINY, "--", sys.executable, "-c", "import sys; print(sys.argv[1:])", *odd)
        assert done.stdout == f"{odd}\n", done


@test
def standard_descriptors_are_the_callers():
    with runtime() as folder, scratch() as place:
        done = run(folder, TINY, "--", "cat", stdin=None, input="what comes in\n")
        assert (done.returncode, done.stdout, done.stderr) == (0, "what comes in\n", "")
        with open(place / "file", "w+") as file:
            os.set_inheritable(file.fileno(), True)
            done = run(folder, TINY, "--", "sh", "-c",
                       f"echo here >&{file.fileno()}; ls /proc/self/fd", pass_fds=[file.fileno()])
            assert (place / "file").read_text() == "here\n"
            # and nothing of ours beside it; ls has one for the folder
            assert set(map(int, done.stdout.split())) <= {0, 1, 2, 3, 4, file.fileno()}, done
        for closed in "<&-", ">&-", "2>&-", "<&- >&- 2>&-":
            script = f"""exec "$@" -- sh -c '
                closed=; for n in 0 1 2; do [ -e /proc/$$/fd/$n ] || closed=$closed$n; done
                printf %s "$closed" > "$0"; exit 9' "{place}/closed" {closed}"""
            done = subprocess.run(["sh", "-c", script, "sh", PROGRAM, "run", TINY], text=True,
                                  env={**os.environ, "XDG_RUNTIME_DIR": str(folder)}, check=False)
            assert done.returncode == 9
            assert len((place / "closed").read_text()) == closed.count("&-"), closed


@test
def status_is_the_commands():
    with runtime() as folder:
        for status in 0, 1, 2, 77, 255:
            assert run(folder, TINY, "--", "sh", "-c", f"exit {status}").returncode == status
        for number in signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSEGV, signal.SIGUSR1:
            done = run(folder, TINY, "--", "sh", "-c", f"ulimit -c 0; kill -{int(number)} $$")
            assert done.returncode == 128 + number, done


@test
def command_that_cannot_run():
    with runtime() as folder, scratch() as place:
        (place / "plain").write_text("no program")
        for command, status in (("no-such-command", 127), (place / "missing", 127), (place / "plain", 126),
                                (place, 126), ("", 127)):
            done = run(folder, TINY, "--", command)
            expected = subprocess.run(["env", "--", "sh", "-c", '"$0"', command], capture_output=True,
                                      check=False).returncode
            assert done.returncode == status == expected, (command, done, expected)
            assert done.stderr.count("\n") == 1 and str(command) in done.stderr


@test
def mount_that_fails():
    with runtime() as folder, scratch() as place:
        done = run(folder, place, "--", "touch", place / "ran")
        assert (done.returncode, done.stdout) == (1, ""), done
        assert done.stderr.count("\n") == 1 and "found none" in done.stderr, done
        done = run(folder, place / "missing", "--", "touch", place / "ran")
        assert done.returncode == 1 and "missing: No such file" in done.stderr, done
        shutil.copytree(TINY, place / "broken")
        for shard in (place / "broken").glob("*.safetensors"):
            os.truncate(shard, 100)
        done = run(folder, place / "broken", "--", "touch", place / "ran")
        assert done.returncode == 1 and done.stderr.count("\n") == 1 and "broken" in done.stderr, done
        assert not (place / "ran").exists()


@test
@memory_matters
def mount_that_fails_when_it_is_mounted_already():
    """The cache is made last."""
    limit = 4 << 30
    with runtime() as folder, scratch() as place:
        done = run(folder, "--cache-size=1T", TINY, "--", "touch", place / "ran",
                   preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
        assert done.returncode == 1 and "for the cache" in done.stderr, done
        assert done.stderr.count("\n") == 1
        assert not (place / "ran").exists()


@test
def mistakes_on_the_command_line():
    with runtime() as folder:
        env = {"XDG_RUNTIME_DIR": str(folder)}
        for words, says in (([], "no \"--\""), ([TINY], "no \"--\""), ([TINY, "--"], "no COMMAND"),
                            (["--", "true"], "found 0"), ([TINY, TINY, "--", "true"], "found 2"),
                            ([TINY, "true"], "no \"--\""), (["-x", TINY, "--", "true"], "unknown option"),
                            (["-p", "float", TINY, "--", "true"], "float32"),
                            (["--threads=0", TINY, "--", "true"], "from 1 to 256"),
                            (["--cache-size=x", TINY, "--", "true"], "a size")):
            refused("run", *words, status=2, says=[says, "tensorport run: "], env=env)


@test
def folder_is_in_tmp_without_a_runtime_folder():
    script = 'echo "$TENSORPORT_MNT"'
    for value in "", "relative", "/nowhere", "/dev/null", "/dev/null/x":
        done = tensorport("run", TINY, "--", "sh", "-c", script, env={"XDG_RUNTIME_DIR": value})
        assert done.returncode == 0 and done.stdout.startswith("/tmp/tensorport-run-"), done
        assert not os.path.lexists(done.stdout.strip())
    with scratch() as folder:  # somebody else's is not used
        os.chown(folder, NOBODY, NOBODY)
        done = run(folder, TINY, "--", "sh", "-c", script)
        assert done.stdout.startswith("/tmp/tensorport-run-"), done
    with runtime() as folder, scratch() as place:
        with started(folder, TINY, "--", "sh", "-c", TOUCH + "exec sleep 100", place / "ready") as process:
            wait_for_file(place / "ready")
            made, = folder.iterdir()
            line, = mounts_below(folder)
            assert line.split()[4] == str(made)
            process.terminate()


# ---------------------------------------------------------------- the end of each

def run_until_ready(folder, place, script="sleep 100", **how):
    return started(folder, TINY, "--", "sh", "-c", TOUCH + script, place / "ready", **how)


@test
def run_is_killed():
    """The command gets SIGTERM; everything goes."""
    with runtime() as folder, scratch() as place:
        with run_until_ready(folder, place, "exec sleep 100") as process:
            wait_for_file(place / "ready")
            process.kill()
            assert process.wait() == -signal.SIGKILL


@test
def run_is_killed_while_files_are_open():
    """The command holds a file, and does not care about SIGTERM: the mount is gone, the file stays."""
    script = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
path = os.environ["TENSORPORT_MNT"]
file = open(path + "/" + sys.argv[2], "rb")
open(sys.argv[1], "w").close()
while os.path.ismount(path) or os.path.lexists(path):
    time.sleep(0.01)
with open(sys.argv[1] + ".read", "wb") as out:
    out.write(file.read())
os.rename(sys.argv[1] + ".read", sys.argv[1] + ".done")
"""
    with runtime() as folder, scratch() as place:
        ready = place / "ready"
        with started(folder, TINY, "--", sys.executable, "-c", script, ready, NORM) as process:
            wait_for_file(ready)
            process.kill()
            process.wait()
            wait_for_file(Path(f"{ready}.done"))
        array = reference(TINY).array("model.norm.weight", "float32")
        assert Path(f"{ready}.done").read_bytes().endswith(array.tobytes())


@test
def run_is_killed_at_any_moment():
    """From before the folder is made to after it is gone."""
    with runtime() as folder:
        for step in range(60):
            with started(folder, TINY, "--", "true") as process:
                time.sleep(step * 0.00025 * SLOW)
                process.kill()
                process.communicate()


@test
def command_is_killed():
    with runtime() as folder, scratch() as place:
        with run_until_ready(folder, place, "exec sleep 100") as process:
            wait_for_file(place / "ready")
            os.kill(process_called(folder, "sleep"), signal.SIGKILL)
            assert process.wait(30 * SLOW) == 128 + signal.SIGKILL


@test
def mount_is_killed():
    script = """
file=$TENSORPORT_MNT/.tensorport/stats.json  # never cached
while cat "$file" >/dev/null 2>&1; do sleep 0.01; done
cat "$file"; exit 5"""
    with runtime() as folder, scratch() as place:
        with run_until_ready(folder, place, script) as process:
            wait_for_file(place / "ready")
            os.kill(process_called(folder, "tensorport-moun"), signal.SIGKILL)
            _, errors = process.communicate(timeout=30 * SLOW)
            assert process.returncode == 5
            assert "killed by signal 9" in errors, errors
            assert "not connected" in errors or "aborted" in errors, errors


@test
def keeper_is_killed():
    with runtime() as folder, scratch() as place:
        with run_until_ready(folder, place, "sleep 0.5; exit 6") as process:
            wait_for_file(place / "ready")
            os.kill(process_called(folder, "tensorport-keep"), signal.SIGKILL)
            assert process.wait(30 * SLOW) == 6


@test
def all_but_the_command_are_killed():
    """Even then the mount goes: the kernel tells the daemon. Only the empty folder may stay."""
    with runtime() as folder, scratch() as place:
        with run_until_ready(folder, place, "exec sleep 100") as process:
            wait_for_file(place / "ready")
            os.kill(process_called(folder, "tensorport-keep"), signal.SIGKILL)
            process.kill()
            process.wait()
            wait_for(lambda: not mounts_below(folder), "the mount to go", 30 * SLOW)
        for path in folder.iterdir():
            path.rmdir()


@test
def process_group_is_killed():
    with runtime() as folder, scratch() as place:
        with run_until_ready(folder, place, start_new_session=True) as process:
            wait_for_file(place / "ready")
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@test
def somebody_unmounts_it():
    with runtime() as folder, scratch() as place:
        with run_until_ready(folder, place, "sleep 0.5; exit 4") as process:
            wait_for_file(place / "ready")
            path, = folder.iterdir()
            assert tensorport("umount", path).returncode == 0
            _, errors = process.communicate(timeout=30 * SLOW)
            assert (process.returncode, errors) == (4, "")


@test
def background_process_keeps_files():
    """It is named, the mount is gone, and it reads on. The caller's pipes are not held by us."""
    reader = """
import os, sys, time
file = open(os.environ["TENSORPORT_MNT"] + "/" + sys.argv[2], "rb")
if os.fork() == 0:
    for fd in (0, 1, 2):
        os.close(fd)
    while os.path.lexists(os.environ["TENSORPORT_MNT"]):
        time.sleep(0.01)
    time.sleep(0.2)
    with open(sys.argv[1] + ".part", "wb") as out:
        out.write(file.read())
    os.rename(sys.argv[1] + ".part", sys.argv[1])
    os._exit(0)
sys.exit(3)
"""
    with runtime() as folder, scratch() as place:
        done = run(folder, TINY, "--", sys.executable, "-c", reader, place / "copy", NORM)
        assert done.returncode == 3, done
        assert not (place / "copy").exists(), "run has waited for it"
        assert done.stderr.count("\n") == 1 and "still in use by" in done.stderr, done
        assert re.search(r"by \d+ \(python[0-9.]*\)", done.stderr), done
        assert mounts_below(folder) == [] and os.listdir(folder) == []
        wait_for_file(place / "copy")
        assert (place / "copy").read_bytes().endswith(reference(TINY).array("model.norm.weight", "float32").tobytes())


@test
def many_at_once():
    with runtime() as folder:
        processes = [subprocess.Popen([PROGRAM, "run", TINY, "--", "sh", "-c", 'ls "$TENSORPORT_MNT"'],
                                      env={**os.environ, "XDG_RUNTIME_DIR": str(folder)},
                                      stdout=subprocess.PIPE, text=True) for _ in range(8)]
        for process in processes:
            output, _ = process.communicate(timeout=60 * SLOW)
            assert process.returncode == 0 and "manifest.json" in output


# ---------------------------------------------------------------- signals and terminals

REPORT = """
import os, signal, sys, time
def note(number, frame):
    with open(sys.argv[1] + ".got", "a") as out:
        out.write(signal.Signals(number).name + " ")
    if number in (signal.SIGTERM, signal.SIGINT):
        os._exit(33)
for name in "SIGINT SIGTERM SIGHUP SIGUSR1 SIGUSR2 SIGQUIT".split():
    if signal.getsignal(getattr(signal, name)) != signal.SIG_IGN:
        signal.signal(getattr(signal, name), note)
open(sys.argv[1], "w").close()
while True:
    time.sleep(0.01)
"""


@test
def signals_are_forwarded():
    with runtime() as folder, scratch() as place:
        ready, got = place / "ready", place / "ready.got"
        with started(folder, TINY, "--", sys.executable, "-c", REPORT, ready) as process:
            wait_for_file(ready)
            expected = ""
            for name in "SIGHUP SIGUSR1 SIGUSR2 SIGQUIT SIGTERM".split():
                process.send_signal(getattr(signal, name))
                expected += f"{name} "
                wait_for(lambda: got.exists() and got.read_text() == expected, name, 30 * SLOW)
            assert process.wait(30 * SLOW) == 33


@test
def command_that_dies_of_a_forwarded_signal():
    for number in signal.SIGTERM, signal.SIGHUP, signal.SIGINT:
        with runtime() as folder, scratch() as place:
            with run_until_ready(folder, place, "exec sleep 100") as process:
                wait_for_file(place / "ready")
                process_called(folder, "sleep")
                process.send_signal(number)
                assert process.wait(30 * SLOW) == 128 + number


@test
def ignored_signals_stay_ignored():
    """nohup."""
    with runtime() as folder, scratch() as place:
        with started(folder, TINY, "--", sys.executable, "-c", REPORT, place / "ready",
                     preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)) as process:
            wait_for_file(place / "ready")
            process.send_signal(signal.SIGHUP)
            time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30 * SLOW) == 33
        assert (place / "ready.got").read_text() == "SIGTERM "


@contextmanager
def program_with(script):
    """A tensorport beside which lies another tensorport-mount."""
    with scratch() as place:
        shutil.copy(PROGRAM, place / "tensorport")
        (place / "tensorport-mount").write_text(f"#!/bin/sh\n{script}\n")
        (place / "tensorport-mount").chmod(0o755)
        yield place / "tensorport"


@test
def signal_before_the_mount_is_there():
    for number in signal.SIGTERM, signal.SIGINT:
        with runtime() as folder, scratch() as place:
            with program_with(f"echo > {place}/ready; exec sleep 100") as program, \
                    started(folder, TINY, "--", "touch", place / "ran", program=program) as process:
                wait_for_file(place / "ready")
                process.send_signal(number)
                assert process.wait(30 * SLOW) == 128 + number
            assert not (place / "ran").exists()


@test
def killed_before_the_mount_is_there():
    with runtime() as folder, scratch() as place:
        with program_with(f"echo > {place}/ready; exec sleep 100") as program, \
                started(folder, TINY, "--", "touch", place / "ran", program=program) as process:
            wait_for_file(place / "ready")
            process.kill()
            process.wait()
        assert not (place / "ran").exists()


@test
def mount_program_that_ends_early():
    for script, status, says in (("kill -9 $$", 1, "killed by signal 9"), ("exit 0", 1, "status 0"),
                                 ("echo one line >&2; exit 1", 1, "one line"), ("exit 2", 2, "")):
        with runtime() as folder, scratch() as place, program_with(script) as program, \
                started(folder, TINY, "--", "touch", place / "ran", program=program) as process:
            _, errors = process.communicate(timeout=30 * SLOW)
            assert process.returncode == status and says in errors, (script, process.returncode, errors)
            assert not (place / "ran").exists()


class Terminal:
    """`tensorport run` as the foreground job of a terminal, through a shell that makes it one."""

    def __init__(self, folder, script):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            env = {**os.environ, "XDG_RUNTIME_DIR": str(folder), "PS1": "prompt> ", "TERM": "dumb"}
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], env)
        self.shown = ""
        self.type("", "prompt> ")
        self.send(script + "\n")

    def send(self, text):
        os.write(self.fd, text.encode())

    def type(self, text, expected):
        self.shown = ""
        self.send(text)
        self.expect(expected)

    def expect(self, expected):
        end = time.monotonic() + 30 * SLOW
        while not re.search(expected, self.shown):
            ready, _, _ = select.select([self.fd], [], [], max(0, end - time.monotonic()))
            assert ready, f"expected {expected!r}, found {self.shown!r}"
            self.shown += os.read(self.fd, 4096).decode(errors="replace")

    def states_of_job(self):
        """Of the processes that share the terminal with the shell: "R", "S", "T"..."""
        states = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue  # it ended while we looked
            if int(session) == self.pid and path.parent.name != str(self.pid):
                states.append(state)
        return states

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.fd)


@test
def interrupt_from_the_terminal_reaches_both_once():
    """The command decides; run waits for it, and is not killed."""
    with runtime() as folder, scratch() as place:
        (place / "report.py").write_text(REPORT)
        line = f"{PROGRAM} run {TINY} -- {sys.executable} {place}/report.py {place}/ready; echo status=$?"
        with Terminal(folder, line) as terminal:
            wait_for_file(place / "ready")
            terminal.send("\x03")
            terminal.expect(r"status=33\r?\n")
        assert (place / "ready.got").read_text() == "SIGINT "
        # a command that goes on after Ctrl-C
        script = f"trap : INT; echo > {place}/again; sleep 1; echo went-on; exit 8"
        line = f"{PROGRAM} run {TINY} -- sh -c '{script}'; echo status=$?"
        with Terminal(folder, line) as terminal:
            wait_for_file(place / "again")
            terminal.send("\x03")
            terminal.expect(r"went-on\r?\n(?s:.*)status=8\r?\n")


@test
def job_control_works():
    """The command reads from the terminal; Ctrl-Z stops it, fg goes on."""
    with runtime() as folder:
        with Terminal(folder, f"{PROGRAM} run {TINY} -- sh -c 'read a; echo \"<$a>\"; read b; echo \"<$b>\"'; "
                              "echo status=$?") as terminal:
            terminal.type("one\n", "<one>")
            terminal.type("\x1a", r"Stopped(?s:.*)prompt> ")
            # The shell goes on when the first has stopped; one that still waits for input would take some.
            wait_for(lambda: set(terminal.states_of_job()) == {"T"}, "the whole job to stop", 30 * SLOW)
            terminal.type("fg\n", "tensorport run")
            terminal.type("two\n", "<two>")


@test
def interactive_shell_gets_the_terminal():
    with runtime() as folder:
        with Terminal(folder, f"{PROGRAM} run {TINY} -- bash --norc --noprofile -i; echo status=$?") as terminal:
            terminal.type("ls $TENSORPORT_MNT\n", "manifest.json")
            terminal.type("sleep 100\n", "sleep")
            time.sleep(0.1)
            terminal.type("\x03", "prompt> ")
            terminal.type("exit 21\n", r"status=21\r?\n")


# ---------------------------------------------------------------- other users

@test
def ordinary_user():
    assert os.geteuid() == 0, "only root can become somebody else: run this test as root"

    def check():
        with runtime(owner=NOBODY) as folder, scratch() as place:
            place.chmod(0o777)
            shutil.copytree(TINY, place / "tiny")
            for name in "tensorport", "tensorport-mount":
                shutil.copy(BUILD / name, place / name)
            prefix = prefix_of(NOBODY)
            words = [*prefix, str(place / "tensorport"), "run", str(place / "tiny"), "--"]
            env = {**os.environ, "XDG_RUNTIME_DIR": str(folder)}
            done = subprocess.run([*words, "cat", "/nowhere"], env=env, check=False, capture_output=True)
            assert done.returncode == 1, done
            done = subprocess.run([*words, "sh", "-c", f'cat "$TENSORPORT_MNT/{NORM}"; exit 9'], env=env,
                                  check=False, capture_output=True, timeout=60 * SLOW)
            assert (done.returncode, done.stderr) == (9, b""), done
            assert done.stdout.endswith(reference(TINY).array("model.norm.weight", "float32").tobytes())
            # killed, with a file that stays open for a while
            script = f'exec 3<"$TENSORPORT_MNT/{NORM}"; trap "" TERM; echo > {place}/ready; exec sleep 1'
            process = subprocess.Popen([*words, "sh", "-c", script], env=env, stderr=subprocess.DEVNULL)
            wait_for_file(place / "ready")
            process.kill()
            process.wait()
            wait_for(lambda: not mounts_below(folder) and not os.listdir(folder), "the mount to go", 10 * SLOW)
            # and one in the background
            done = subprocess.run([*words, "sh", "-c", f'sleep 1 <"$TENSORPORT_MNT/{NORM}" >/dev/null 2>&1 & '
                                   "sleep 0.1"], env=env, check=False, capture_output=True, text=True)
            assert done.returncode == 0 and "still in use by" in done.stderr and "(sleep)" in done.stderr, done
    robust.in_own_namespace(check)


@test
def mount_program_is_found_in_path():
    with runtime() as folder, scratch() as place:
        shutil.copy(PROGRAM, place / "tensorport")
        env = {"XDG_RUNTIME_DIR": str(folder), "PATH": f"{BUILD}:{os.environ['PATH']}"}
        command = [place / "tensorport", "run", TINY, "--", "true"]
        done = subprocess.run(command, env={**os.environ, **env}, check=False, capture_output=True)
        assert (done.returncode, done.stderr) == (0, b""), done
        if not any(Path(p, "tensorport-mount").exists() for p in ("/usr/local/bin", "/usr/local/sbin")):
            env["PATH"] = "/usr/bin:/bin"
            done = subprocess.run(command, env={**os.environ, **env}, check=False, capture_output=True, text=True)
            assert done.returncode == 1 and "tensorport-mount: not found" in done.stderr, done


main()
