"""Completion in a real bash and a real zsh, against what the programs themselves say. Both shells are
typed at through a terminal; bash's function is also asked directly, for exact lists."""

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

from support import BUILD, PROGRAM, Mount, checkpoint, main, must, scratch, tensorport, test

TOP = Path(os.environ.get("TP_TEST_SRCDIR") or Path(__file__).resolve().parents[2]).resolve()
BASH_FILE = TOP / "completions/tensorport.bash"
ZSH_FOLDER = TOP / "completions"
MOUNT_PROGRAM = BUILD / "tensorport-mount"

ASK = """
source "$1"; shift
complete -p tensorport tensorport-mount >/dev/null || exit 3
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
_tensorport 2>&1
printf '%s\\0' "${COMPREPLY[@]}"
"""


def ask_bash(*words, folder="/"):
    """What bash would offer for the last word; "=" between blanks stands alone, as bash has it."""
    done = subprocess.run(["bash", "--norc", "-c", ASK, "bash", str(BASH_FILE), *map(str, words)],
                          cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, check=True,
                          timeout=60)
    assert not done.stderr, done
    return sorted(word for word in done.stdout.decode().split("\0") if word)


def commands():
    return re.findall(r"^  ([a-z][a-z0-9-]*) +\S", must("--help"), re.MULTILINE)


def help_of(*command):
    return subprocess.run([*map(str, command), "--help"], capture_output=True, check=True, text=True).stdout


def options_of(*command):
    """{"--name": its argument, or ""}."""
    return {name: argument for name, argument in
            re.findall(r"^  (?:-., |    )(--[a-z0-9-]+)(?:=(\S+))?", help_of(*command), re.MULTILINE)}


def all_programs():
    return [(PROGRAM, name) for name in commands()] + [(MOUNT_PROGRAM,)]


@test
def bash_offers_every_command():
    assert len(commands()) >= 6
    assert ask_bash(PROGRAM, "") == sorted([*commands(), "--help", "--version"])
    assert ask_bash(PROGRAM, "ins") == ["inspect"]
    assert ask_bash(PROGRAM, "zzz") == []


@test
def bash_offers_every_option():
    for command in all_programs():
        expected = sorted(name + ("=" if argument else "") for name, argument in options_of(*command).items())
        assert ask_bash(*command, "--") == expected, command
        assert "--help" in expected


@test
def bash_offers_values():
    precisions = ["bfloat16", "float16", "float32", "source"]
    for command in (PROGRAM, "inspect"), (PROGRAM, "run"), (MOUNT_PROGRAM,):
        assert ask_bash(*command, "--precision", "=", "") == precisions
        assert ask_bash(*command, "--precision", "=") == precisions
        assert ask_bash(*command, "--precision", "") == precisions
        assert ask_bash(*command, "-p", "fl") == ["float16", "float32"]
        assert ask_bash(*command, "--mxfp4", "=", "p") == ["packed"]
        assert ask_bash(*command, "model", "--precision=b") == ["--precision=bfloat16"]
    for command in (PROGRAM, "run"), (MOUNT_PROGRAM,):
        assert ask_bash(*command, "--log-level", "") == ["debug", "error", "info", "warning"]
    assert ask_bash(PROGRAM, "synth", "--dtype", "=", "F") == ["F16", "F32"]
    assert ask_bash(PROGRAM, "synth", "--arch", "") == ["gpt_oss", "llama", "mistral"]
    assert ask_bash(MOUNT_PROGRAM, "--cache-size", "") == []  # any number
    assert "direct_io" in ask_bash(MOUNT_PROGRAM, "-o", "direct")
    assert ask_bash(MOUNT_PROGRAM, "-o", "ro,precis") == ["ro,precision="]


@test
def bash_offers_files_and_folders():
    with scratch() as folder:
        (folder / "a model").mkdir()
        (folder / "a.safetensors").touch()
        (folder / "other").mkdir()
        assert ask_bash(PROGRAM, "inspect", "a", folder=folder) == ["a model", "a.safetensors"]
        assert ask_bash(MOUNT_PROGRAM, "a model", "o", folder=folder) == ["other"]
        assert ask_bash(PROGRAM, "synth", "--tokenizer", "a", folder=folder) == ["a model"]
        assert ask_bash(PROGRAM, "run", "a", folder=folder) == ["a model", "a.safetensors"]
        assert ask_bash(PROGRAM, "mounts", "", folder=folder) == []


@test
def bash_completes_the_command_of_run():
    assert "tensorport-mount" not in ask_bash(PROGRAM, "run", "/", "--", "true")
    assert "true" in ask_bash(PROGRAM, "run", "/", "--", "tru")
    with scratch() as folder:
        (folder / "script.py").touch()
        assert ask_bash(PROGRAM, "run", "/", "--", "python3", "scr", folder=folder) == ["script.py"]


@test
def bash_offers_mount_points():
    with scratch() as folder, Mount(checkpoint("tiny")) as mount:
        odd = folder / "it's odd"
        odd.mkdir()
        subprocess.run([MOUNT_PROGRAM, checkpoint("tiny"), odd], check=True)
        try:
            offered, = ask_bash(PROGRAM, "umount", str(folder))
            words = subprocess.run(["bash", "-c", f"printf %s {offered}"], capture_output=True, text=True, check=True)
            assert words.stdout == str(odd)
        finally:
            must("umount", odd)
        for command in "umount", "doctor":
            assert str(mount.path) in ask_bash(PROGRAM, command, str(mount.path)[:-2])
        os.kill(mount.pid, signal.SIGSTOP)  # nothing may look at it
        try:
            assert ask_bash(PROGRAM, "umount", str(mount.path)) == [str(mount.path)]
        finally:
            os.kill(mount.pid, signal.SIGCONT)


@test
def completing_does_nothing_and_is_fast():
    with scratch() as folder:
        for command in all_programs():
            for option, argument in options_of(*command).items():
                if argument:
                    ask_bash(*command, option, "=", "", folder=folder)
        assert os.listdir(folder) == []
    start = time.monotonic()
    for _ in range(10):
        tensorport("inspect", "--help")
    assert time.monotonic() - start < 10 * 0.1, "too slow to be asked at every key"


@test
def missing_program_is_no_error():
    assert ask_bash("/nowhere/tensorport", "") == []
    assert ask_bash("/nowhere/tensorport-mount", "--") == []


# ---------------------------------------------------------------- typing

@contextmanager
def terminal(command, env, folder):
    """A shell at a terminal: a function that types, and gives what is shown until `expected` is."""
    pid, fd = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execvpe(command[0], command, {**os.environ, **env})
    shown = bytearray()

    def type_in(text, expected, seconds=30):
        del shown[:]
        os.write(fd, text.encode())
        end = time.monotonic() + seconds
        while not re.search(expected, plain(shown)):
            ready, _, _ = select.select([fd], [], [], max(0, end - time.monotonic()))
            assert ready, f"typed {text!r}, expected {expected!r}, found {plain(shown)!r}"
            shown.extend(os.read(fd, 4096))
        return plain(shown)

    try:
        yield type_in
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(fd)


def plain(shown):
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[=>]|\r|\x07", "", shown.decode(errors="replace"))


@contextmanager
def folder_with_tiny():
    with scratch() as folder:
        (folder / "tiny").symlink_to(checkpoint("tiny"))
        yield folder


PATH = f"{BUILD}:{os.environ['PATH']}"


@test
def bash_completes_what_is_typed():
    env = {"PATH": PATH, "PS1": "ready> ", "TERM": "dumb", "INPUTRC": "/dev/null"}
    with folder_with_tiny() as folder, \
            terminal(["bash", "--norc", "--noprofile", "-i"], env, folder) as type_in:
        type_in(f"source '{BASH_FILE}'\n", "ready> $")
        type_in("tensorport insp\t", r"tensorport inspect $")
        type_in("--prec\t", r"--precision=$")
        type_in("bf\t", r"bfloat16 $")
        type_in("tin\t", r"tiny")
        type_in("\x15tensorport-mount --log\t", r"--log-level=$")


@test
def zsh_completes_what_is_typed():
    assert shutil.which("zsh"), "no zsh: install the package zsh"
    with scratch() as home, Mount(checkpoint("tiny")) as mount:
        (home / ".zshrc").write_text(f"fpath=({ZSH_FOLDER} $fpath)\nautoload -Uz compinit\n"
                                     "compinit -u -D\nunsetopt PROMPT_SP\nPS1='ready> '\n")
        env = {"PATH": PATH, "ZDOTDIR": str(home), "TERM": "dumb", "HOME": str(home)}
        with folder_with_tiny() as folder, terminal(["zsh", "-i"], env, folder) as type_in:
            type_in("", "ready> ")
            type_in("echo $_comps[tensorport] $_comps[tensorport-mount]\n",
                    r"\n_tensorport _tensorport\s+ready> ")
            type_in("tensorport insp\t", r"tensorport inspect $")
            type_in("--prec\t", r"--precision=$")
            type_in("bf\t", r"bfloat16 ?$")
            type_in(" --prec\t", r"--prec$")  # was given already
            type_in("\x15tensorport inspect --mx\t", r"--mxfp4=$")
            type_in("pa\t", r"packed ?$")
            type_in(" tin\t", r"tiny/?$")
            type_in("\x15tensorport-mount --log\t", r"--log-level=$")
            listed = type_in("\t", r"warning")
            assert "info" in listed and "debug" in listed, listed
            type_in("\x15\x0ctensorport synth -\t\t", r"--tokenizer")
            type_in(f"\x15\x0ctensorport umount {str(mount.path)[:-2]}\t", re.escape(str(mount.path)))
            type_in("\x15\x0ctensorport run tiny -- zcompil\t", r"zcompile")
            type_in("\x15\x0ctensorport run --dir\t", r"--direct-io")

main()
