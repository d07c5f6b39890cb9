"""Starting: command lines, mount points, the way to the background, mount(8), other users, few or
odd descriptors."""

import errno
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
from pathlib import Path

import numpy as np

import robust
from compare import check_view, fails_with, npy_bytes
from generate import write_file, write_shards
from harness import Mount, checkpoint, is_mounted, main, reference, scratch, test, wait_for
from robust import (NOBODY, SLOW, check_one_line, find_daemons, memory_matters, mount_point,
                    prefix_of, refused, run, wait_for_end_of)

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
        (["--nope", "S", "M"], "--nope"), (["-x", "S", "M"], "-x"), (["S", "M", "--precision"], "--precision"),
        (["S", "M", "--precision=float64"], "float64"), (["--cache-size=many", "S", "M"], "many"),
        (["--threads=0", "S", "M"], "--threads"), (["--direct-io=1", "S", "M"], "--direct-io"),
        ([], "found 0 arguments"), (["S"], "found 1 argument;"), (["S", "M", "X"], "found 3 arguments"),
        (["S", "M", "-o"], "-o"), (["S", "M", "-o", "nope"], '"nope"'), (["S", "M", "-o", "precision=x"], '"x"'),
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
            refused(TINY, f"{folder}/nowhere", "no such folder", "mkdir -p",
                    mount_point=folder / "nowhere", foreground=foreground)
            refused(TINY, "nowhere", "no such folder", mount_point=folder / "nowhere/deeper", foreground=foreground)
            refused(TINY, f"{folder}/file", "expected a folder", mount_point=folder / "file", foreground=foreground)
            refused(TINY, "dangling", "no such folder", mount_point=folder / "dangling", foreground=foreground)
            refused(TINY, "loop", "symbolic links", mount_point=folder / "loop", foreground=foreground)
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
        covering = [model, blobs, folder / "hub", folder, folder / "link", folder / "into", folder / "hub/",
                    folder / "hub/snapshots/1/.", folder / "hub/snapshots/2/../1", folder / "link/blobs"]
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
    for name in ("with space", "tab\there", "new\nline", "a,b", "back\\slash", "back\\040slash", "#hash", "ünï😀",
                 "-dash", "%s%n", "quote'\"", "x" * 255):
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
            subprocess.run(["umount", str(path)], check=True)  # so that the daemon has ended when we go on


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
                with subprocess.Popen([robust.PROGRAM, *options, "--", TINY, path],
                                      env={**os.environ, "NOTIFY_SOCKET": str(folder / "notify")}) as process:
                    assert b"READY=1" in notify.recv(4096).split(b"\n")
                    assert read_norm(path) == norm_bytes()
                    subprocess.run(["umount", str(path)], check=True)
                    assert process.wait(20 * SLOW) == 0


# ---------------------------------------------------------------- mount(8) and fstab

def check_precision(path, precision):
    assert json.loads((path / "manifest.json").read_bytes())["precision"] == precision


def command(*arguments):
    """mount(8) clears PATH, so that only the usual folders are searched."""
    return subprocess.run([*map(str, arguments)], capture_output=True, text=True, timeout=30 * SLOW, check=False,
                          env={**os.environ, "PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"})


def unmount(path):
    pids = find_daemons(path)
    subprocess.run(["umount", str(path)], check=True)
    for pid in pids:
        wait_for_end_of(pid)


@test
def mount_8_works():
    words = "precision=float16,direct_io,cache_size=8M,nosuid,noatime"
    program = "/usr/local/bin/tensorport-mount"

    def check():
        for way in (["mount", "-t", "fuse.tensorport-mount", TINY, None, "-o", words],
                    ["mount", "-t", "fuse", f"{program}#{TINY}", None, "-o", words],
                    ["mount", "-r", "-t", "fuse.tensorport-mount", TINY, None, "-o", words],
                    ["mount.fuse3", TINY, None, "-t", "fuse.tensorport-mount", "-o", words],
                    ["mount.fuse3", f"tensorport-mount#{TINY}", None, "-o", words],
                    [program, TINY, None, "-o", words]):
            with mount_point() as path:
                result = command(*(word or path for word in way))
                assert result.returncode == 0, (way, result)
                check_precision(path, "float16")
                stats = json.loads((path / ".tensorport/stats.json").read_bytes())
                assert "direct_io" in stats["features"] and stats["cache"]["capacity_bytes"] == 8 << 20
                table = Path("/proc/self/mountinfo").read_text().splitlines()
                line, = [line for line in table if f" {path} " in line]
                assert " - fuse.tensorport-mount " in line and " ro," in line and "noatime" in line, line
                unmount(path)
    robust.in_own_namespace(check)


@test
def lines_of_fstab_work():
    words = ("defaults", "rw", "ro", "defaults,nofail,_netdev,x-systemd.automount,precision=float16",
             "rw,user,noauto,x-systemd.mount-timeout=30,allow_other", "users,nofail,relatime",
             "auto,exec,nosuid,async,idle_timeout=100,comment=mine")

    def check():
        for options in words:
            with mount_point("with space") as path:
                table = path.parent / "fstab"
                escaped = str(path).replace(" ", "\\040")
                table.write_text(f"{TINY} {escaped} fuse.tensorport-mount {options} 0 0\n")
                result = command("mount", "-T", table, path)
                assert result.returncode == 0, (options, result)
                check_precision(path, "float16" if "float16" in options else "float32")
                fails_with(errno.EROFS, (path / "new").touch)
                unmount(path)
    robust.in_own_namespace(check)


@test
def mount_8_tells_of_mistakes():
    def check():
        with mount_point() as path:
            for words, part in (("precision=float16,nope", '"nope"'), ("cache_size=many", "many")):
                result = command("mount", "-t", "fuse.tensorport-mount", TINY, path, "-o", words)
                assert result.returncode != 0 and part in result.stderr, result
                assert not is_mounted(path)
            result = command("mount", "-t", "fuse.tensorport-mount", path.parent, path)
            assert result.returncode != 0 and "found none" in result.stderr, result
    robust.in_own_namespace(check)


@test
def words_of_the_kernel_reach_it():
    with Mount(TINY, "-o", "noexec,nosuid,nodev,noatime,fsname=a\\,b\\\\c") as mount:
        line, = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {mount.path} " in line]
        assert "nosuid,nodev,noexec,noatime" in line, line
        assert " a,b\\134c " in line, line
        assert read_norm(mount.path) == norm_bytes()


@test
def size_of_requests_can_be_limited():
    with Mount(TINY, "-o", "max_read=65536") as mount:
        line, = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {mount.path} " in line]
        assert "max_read=65536" in line, line
        check_view(mount.path, reference(TINY), "float32")
    result = run("-f", "-o", "max_read=many", "--", TINY, "/nowhere")
    assert result.returncode == 2
    check_one_line(result.stderr, "many")


@test
def source_is_named_in_the_table_of_mounts():
    for name in ("plain", "a,b", "back\\slash", "with space"):
        with scratch() as folder:
            shutil.copytree(TINY, folder / name)
            with Mount(folder / name) as mount:
                shown = f"{folder}/{name}".replace("\\", "\\134").replace(" ", "\\040")
                table = Path("/proc/self/mountinfo").read_text().splitlines()
                line, = [line for line in table if f" {mount.path} " in line]
                assert f" - fuse.tensorport-mount {shown} ro" in line, line


@test
def owner_and_rights_are_as_asked():
    with Mount(TINY, "-o", f"uid={NOBODY},gid=12") as mount:
        for path in (mount.path, mount.path / "manifest.json", mount.path / "shard_000"):
            status = path.stat()
            assert (status.st_uid, status.st_gid) == (NOBODY, 12)
            assert stat.S_IMODE(status.st_mode) == (0o555 if path.is_dir() else 0o444)


# ---------------------------------------------------------------- other users

def cat_as(user, path):
    return subprocess.run([*prefix_of(user), "cat", str(path)], capture_output=True, timeout=30 * SLOW, check=False)


@test
def other_users_read_only_where_they_are_allowed():
    for options, allowed in (([], False), (["-o", "allow_other"], True)):
        with Mount(TINY, *options) as mount:
            mount.path.parent.chmod(0o755)
            result = cat_as(NOBODY, mount.path / "shard_000/model_norm_weight.npy")
            if allowed:
                assert (result.returncode, result.stdout) == (0, norm_bytes()), result.stderr
            else:
                assert result.returncode != 0 and b"Permission denied" in result.stderr, result


def start_as_nobody(source, path, *options):
    os.chown(path, NOBODY, NOBODY)
    return run(*options, "--", source, path, prefix=prefix_of(NOBODY), program="/usr/local/bin/tensorport-mount")


def as_nobody(*arguments):
    return subprocess.run([*prefix_of(NOBODY), *map(str, arguments)], capture_output=True, timeout=30 * SLOW, check=True)


@test
def ordinary_user_mounts_reads_and_unmounts():
    assert os.stat(shutil.which("fusermount3")).st_mode & stat.S_ISUID, "fusermount3 is not setuid"

    def check():
        with scratch() as folder:
            folder.chmod(0o755)
            source = folder / "a,b c\\d"
            shutil.copytree(TINY, source)
            for way in ("fusermount3", "signal", "idle"):
                with mount_point("m,n o\\p") as path:
                    options = ["--idle-timeout", "1"] if way == "idle" else []
                    result = start_as_nobody(source, path, *options)
                    assert (result.returncode, result.stderr) == (0, ""), result
                    pid, = find_daemons(path)
                    assert as_nobody("cat", path / "shard_000/model_norm_weight.npy").stdout == norm_bytes()
                    assert b" nobody " in as_nobody("ls", "-l", path / "shard_000").stdout
                    fails_with(errno.EACCES, os.listdir, path)  # even root
                    if way == "fusermount3":
                        as_nobody("fusermount3", "-u", path)
                    elif way == "signal":
                        os.kill(pid, signal.SIGTERM)
                    wait_for_end_of(pid)
                    assert not is_mounted(path)
    robust.in_own_namespace(check)


@test
def ordinary_user_can_replace_a_dead_mount():
    def check():
        with scratch() as folder, mount_point() as path:
            folder.chmod(0o755)
            shutil.copytree(TINY, folder / "tiny")
            assert start_as_nobody(folder / "tiny", path).returncode == 0
            pid, = find_daemons(path)
            os.kill(pid, signal.SIGKILL)
            wait_for_end_of(pid)
            result = run("--", folder / "tiny", path, prefix=prefix_of(NOBODY), program="/usr/local/bin/tensorport-mount")
            assert result.returncode == 1
            check_one_line(result.stderr, "dead mount", "--replace")
            result = run("--replace", "--", folder / "tiny", path, prefix=prefix_of(NOBODY),
                         program="/usr/local/bin/tensorport-mount")
            assert (result.returncode, result.stderr) == (0, ""), result
            assert as_nobody("cat", path / "shard_000/model_norm_weight.npy").stdout == norm_bytes()
            as_nobody("fusermount3", "-u", path)
    robust.in_own_namespace(check)


@test
def ordinary_user_is_told_what_is_wrong():
    """By fusermount3 itself, which writes to stderr, or by the program."""
    def check():
        with scratch() as folder, mount_point() as path:
            folder.chmod(0o755)
            shutil.copytree(TINY, folder / "tiny")
            result = run("--", folder / "tiny", path, prefix=prefix_of(NOBODY), program="/usr/local/bin/tensorport-mount")
            assert result.returncode == 1 and "cannot mount" in result.stderr, result
            assert "Permission denied" in result.stderr or "no write access" in result.stderr, result
            if "user_allow_other" not in re.sub("#.*", "", Path("/etc/fuse.conf").read_text()):
                result = start_as_nobody(folder / "tiny", path, "-o", "allow_other")
                assert result.returncode == 1 and "allow_other" in result.stderr, result
            assert not is_mounted(path)
    robust.in_own_namespace(check)


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
                result = run("--", folder / "model", path, prefix=["prlimit", f"--nofile={limit}:{limit}"])
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
        with mount_point() as path, subprocess.Popen([*close, robust.PROGRAM, *options, "--", TINY, path]) as process:
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
