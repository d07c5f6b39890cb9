"""Starting: command lines, mount points, the way to the background, few or odd descriptors."""

import json
import os
import shutil
import socket
import subprocess
from pathlib import Path

import numpy as np

import robust
from compare import check_view, npy_bytes
from generate import write_file, write_shards
from harness import Mount, checkpoint, is_mounted, main, reference, scratch, test, wait_for
from robust import (SLOW, check_one_line, find_daemons, memory_matters, mount_point, refused, run,
                    wait_for_end_of)

TINY = checkpoint("tiny")
NORM = "model.norm.weight"


def norm_bytes():
    return npy_bytes(reference(TINY).array(NORM, "float32"))


def read_norm(path):
    return (path / "shard_000" / "model_norm_weight.npy").read_bytes()


# ---------------------------------------------------------------- command lines

@test
def mistakes_of_usage_are_one_line_and_status_2():
    cases = [
        (["--nope", "S", "M"], "--nope"), (["-x", "S", "M"], "-x"),
        (["S", "M", "--precision"], "--precision"),
        (["S", "M", "--precision=float64"], "float64"), (["--cache-size=many", "S", "M"], "many"),
        (["--threads=0", "S", "M"], "--threads"), (["--direct-io=1", "S", "M"], "--direct-io"),
        ([], "found 0 arguments"), (["S"], "found 1 argument;"), (["S", "M", "X"], "found 3 arguments"),
        (["S", "M", "-o"], "-o"), (["S", "M", "-o", "nope"], '"nope"'),
        (["S", "M", "-o", "precision=x"], '"x"'),
        (["S", "M", "-o", "no\nlines"], "no\\x0alines"), (["--pre\ncision", "S", "M"], "\\x0a"),
    ]
    for arguments, part in cases:
        for more in ([], ["-f"]):
            result = run(*more, *arguments)
            assert result.returncode == 2, result
            check_one_line(result.stderr, part)
            assert result.stdout == "", result


@test
def help_and_version_go_to_stdout():
    for option, start in (("--help", "Usage: tensorport-mount "), ("-h", "Usage: "),
                          ("--version", "tensorport-mount "), ("-V", "tensorport-mount ")):
        result = run(option)
        assert (result.returncode, result.stderr) == (0, ""), result
        assert result.stdout.startswith(start)


@test
def full_device_for_output_does_no_harm():
    with open("/dev/full", "w") as full:
        assert run("--help", stdout=full).returncode in (0, 1)
        assert run("--nope", stderr=full).returncode == 2
        with scratch() as folder:
            assert run("-f", folder / "nowhere", folder, stderr=full).returncode == 1
            assert run(folder / "nowhere", folder, stderr=full).returncode == 1


# ---------------------------------------------------------------- mount points

@test
def mount_point_must_be_a_folder_that_is_there():
    with scratch() as folder:
        (folder / "file").touch()
        (folder / "loop").symlink_to("loop")
        (folder / "dangling").symlink_to("nowhere")
        for foreground in (True, False):
            for name, *parts in (("nowhere", f"{folder}/nowhere", "no such folder", "mkdir -p"),
                                 ("nowhere/deeper", "nowhere", "no such folder"),
                                 ("file", f"{folder}/file", "expected a folder"),
                                 ("dangling", "dangling", "no such folder"),
                                 ("loop", "loop", "symbolic links")):
                refused(TINY, *parts, mount_point=folder / name, foreground=foreground)
        refused(TINY, "no such folder", mount_point="")


@test
def mount_point_may_not_cover_the_source():
    with scratch() as folder:
        model, blobs = folder / "hub/snapshots/1", folder / "hub/blobs"
        model.mkdir(parents=True)
        blobs.mkdir()
        write_file(blobs / "aaaa", {"a": ("U8", (1,), b"a")})
        (blobs / "bbbb").write_text("{}")
        (model / "model.safetensors").symlink_to("../../blobs/aaaa")
        (folder / "link").symlink_to("hub")
        (folder / "into").symlink_to(model)
        covering = [model, blobs, folder, *(folder / name for name in (
            "hub", "link", "into", "hub/snapshots/1/.", "hub/snapshots/2/../1", "link/blobs")),
            f"{folder}/hub/"]
        (folder / "hub/snapshots/2").mkdir()
        for source in (model, model / "model.safetensors", folder / "into"):
            for over in covering:
                refused(source, "would cover the checkpoint", mount_point=over)
        # A plain file that lies elsewhere counts as well: it would be read through the mount.
        (model / "model.safetensors").unlink()
        write_file(model / "model.safetensors", {"a": ("U8", (1,), b"a")})
        (model / "config.json").symlink_to("../../blobs/bbbb")
        refused(model, "would cover the checkpoint", mount_point=blobs)


@test
def relative_mount_point_may_not_cover_the_source_either():
    with scratch() as folder:
        write_file(folder / "model.safetensors", {"a": ("U8", (1,), b"a")})
        (folder / "sub").mkdir()
        for where, path in ((folder, "."), (folder / "sub", ".."), (folder.parent, folder.name)):
            result = run("-f", "--", folder, path, cwd=where)
            assert result.returncode == 1
            check_one_line(result.stderr, "would cover the checkpoint")


@test
def mount_point_may_lie_beside_or_inside_the_source():
    with mount_point("models") as models:
        for name in ("model", "model2"):
            shutil.copytree(TINY, models / name)
        (models / "model" / "sub").mkdir()
        for inner in ("model/sub", "model2"):  # "model2" begins like "model"
            assert run("--", models / "model", models / inner).returncode == 0
            pid, = find_daemons(models / inner)
            assert read_norm(models / inner) == norm_bytes()
            subprocess.run(["umount", str(models / inner)], check=True)
            wait_for_end_of(pid)


@test
def mount_point_need_not_be_empty():
    with mount_point() as path:
        (path / "mine.txt").write_text("mine")
        assert run("--", TINY, path).returncode == 0
        assert not (path / "mine.txt").exists()
        subprocess.run(["umount", str(path)], check=True)
        assert (path / "mine.txt").read_text() == "mine"


@test
def mount_point_and_source_may_have_any_name():
    for name in ("with space", "tab\there", "new\nline", "a,b", "back\\slash", "back\\040slash",
                 "#hash", "ünï😀", "-dash", "%s%n", "quote'\"", "x" * 255):
        with mount_point(name) as path, scratch() as folder:
            source = folder / name
            shutil.copytree(TINY, source)
            assert run("--", source, path).returncode == 0
            assert read_norm(path) == norm_bytes()
            refused(source, "already", "--replace", mount_point=path)
            before, = find_daemons(path)
            assert run("--replace", "--", source, path).returncode == 0, name
            wait_for_end_of(before)
            assert read_norm(path) == norm_bytes()


@test
def mount_point_may_be_a_link():
    with mount_point() as path:
        (path.parent / "link").symlink_to("mnt")
        assert run("--", TINY, path.parent / "link").returncode == 0
        assert is_mounted(path)
        assert read_norm(path) == norm_bytes()
        subprocess.run(["umount", str(path)], check=True)


@test
def same_source_may_be_mounted_many_times():
    with Mount(TINY) as first, Mount(TINY, "--precision", "float16") as second, Mount(TINY) as third:
        assert read_norm(first.path) == read_norm(third.path) == norm_bytes()
        assert read_norm(second.path) != norm_bytes()


# ---------------------------------------------------------------- to the background

@test
def prompt_returns_when_the_mount_is_usable():
    for _ in range(10):
        with mount_point() as path:
            assert run("--", TINY, path).returncode == 0
            assert read_norm(path) == norm_bytes()
            subprocess.run(["umount", str(path)], check=True)


@test
def daemon_leaves_the_callers_pipes_alone():
    for options in ([], ["-o", "auto_unmount"], ["--idle-timeout", "100"]):
        with mount_point() as path:
            result = run(*options, "--", TINY, path, timeout=10 * SLOW)  # until end of file
            assert (result.returncode, result.stdout, result.stderr) == (0, "", ""), result
            pid, = find_daemons(path)
            links = {os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()}
            assert not any(link.startswith("pipe:") for link in links), links
            assert [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)] == 3 * ["/dev/null"]
            assert os.readlink(f"/proc/{pid}/cwd") == "/"
            assert os.getsid(pid) == pid


@test
@memory_matters  # sanitizers reserve terabytes of address space
def failure_after_the_fork_reaches_the_caller():
    with mount_point() as path:
        limit = ["prlimit", f"--as={400 << 20}"]
        result = run("--cache-size=1G", "--", TINY, path, prefix=limit)
        assert (result.returncode, result.stdout) == (1, ""), result
        check_one_line(result.stderr, "cannot reserve 1073741824 bytes for the cache")
        wait_for(lambda: not is_mounted(path), "the mount to be gone")
        wait_for(lambda: not find_daemons(path), "the daemon to be gone")


@test
def daemon_warns_before_the_prompt_returns():
    with mount_point() as path, scratch() as folder:
        shutil.copytree(TINY, folder / "model")
        (folder / "model/manifest.json").write_text("mine")
        result = run("--", folder / "model", path)
        assert result.returncode == 0
        check_one_line(result.stderr, "warning: ", "manifest.json")


@test
def systemd_is_told_when_the_mount_is_usable():
    assert b"sd_notify" in robust.PROGRAM.read_bytes(), "built without systemd: nothing to test"
    for options in (["-f"], []):
        with mount_point() as path, scratch() as folder:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
                notify.settimeout(20 * SLOW)
                notify.bind(str(folder / "notify"))
                env = {**os.environ, "NOTIFY_SOCKET": str(folder / "notify")}
                command = [robust.PROGRAM, *options, "--", TINY, path]
                with subprocess.Popen(command, env=env) as process:
                    assert b"READY=1" in notify.recv(4096).split(b"\n")
                    assert read_norm(path) == norm_bytes()
                    subprocess.run(["umount", str(path)], check=True)
                    assert process.wait(20 * SLOW) == 0


# ---------------------------------------------------------------- descriptors

@test
def full_descriptor_table_is_explained():
    """From too few descriptors to enough: each start either works or says what to do."""
    started = 0
    with scratch() as folder:
        write_shards(folder / "model", [{f"t{i}": ("U8", (5,), b"bytes")} for i in range(5)])
        for name in ("config.json", "a.txt", "b.txt"):
            (folder / "model" / name).write_text("{}")
        for limit in range(6, 60):
            with mount_point() as path:
                few = ["prlimit", f"--nofile={limit}:{limit}"]
                result = run("--", folder / "model", path, prefix=few)
                if result.returncode == 0:
                    started += 1
                    assert result.stderr == "", (limit, result)
                    check_view(path, reference(folder / "model"), "float32")
                    assert (path / "config.json").read_text() == "{}"
                    json.loads((path / ".tensorport/stats.json").read_bytes())
                    subprocess.run(["umount", str(path)], check=True)
                else:
                    assert started == 0 and result.returncode == 1, (limit, result)
                    check_one_line(result.stderr, "oo many open files", "ulimit -n")
                    assert not is_mounted(path)
            if started == 3:
                return
    raise AssertionError(f"started {started} times with less than 60 descriptors")


@test
def closed_standard_descriptors_stay_out_of_the_way():
    close = ["sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-']
    for options in ([], ["-f"]):
        with mount_point() as path, \
                subprocess.Popen([*close, robust.PROGRAM, *options, "--", TINY, path]) as process:
            if not options:
                assert process.wait(20 * SLOW) == 0
            wait_for(lambda: is_mounted(path), "the mount")
            check_view(path, reference(TINY), "float32")
            pid, = find_daemons(path)
            for fd in range(3):
                assert os.readlink(f"/proc/{pid}/fd/{fd}") == "/dev/null"
            subprocess.run(["umount", str(path)], check=True)
            wait_for_end_of(pid)


@test
def failure_is_told_by_the_status_without_any_descriptor():
    close = ["sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-']
    with scratch() as folder:
        for options in ([], ["-f"]):
            assert run(*options, "--", folder / "nowhere", folder, prefix=close).returncode == 1


@test
def numpy_loads_right_after_the_prompt():
    with mount_point() as path:
        assert run("-o", "precision=float16,direct_io", "--", TINY, path).returncode == 0
        found = np.load(path / "shard_000/model_norm_weight.npy")
        assert found.dtype == np.float16
        assert (found == reference(TINY).array(NORM, "float16")).all()
        subprocess.run(["umount", str(path)], check=True)


if __name__ == "__main__":
    main()
