"""mount(8) and fstab, what the kernel is told, and other users."""

import errno
import json
import os
import re
import shutil
import signal
import stat
import subprocess
from pathlib import Path

import robust
from compare import check_view, fails_with, npy_bytes
from harness import Mount, checkpoint, is_mounted, main, reference, scratch, test
from robust import (NOBODY, SLOW, check_one_line, find_daemons, mount_line, mount_point, prefix_of,
                    run, wait_for_end_of)

TINY = checkpoint("tiny")
INSTALLED = "/usr/local/bin/tensorport-mount"  # as robust.in_own_namespace() has it


def norm_bytes():
    return npy_bytes(reference(TINY).array("model.norm.weight", "float32"))


def read_norm(path):
    return (path / "shard_000/model_norm_weight.npy").read_bytes()


# ---------------------------------------------------------------- mount(8) and fstab

def check_precision(path, precision):
    assert json.loads((path / "manifest.json").read_bytes())["precision"] == precision


def command(*arguments):
    """mount(8) clears PATH, so that only the usual folders are searched."""
    env = {**os.environ, "PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    return subprocess.run([*map(str, arguments)], capture_output=True, text=True, check=False,
                          timeout=30 * SLOW, env=env)


def unmount(path):
    pids = find_daemons(path)
    subprocess.run(["umount", str(path)], check=True)
    for pid in pids:
        wait_for_end_of(pid)


@test
def mount_8_works():
    words = "precision=float16,direct_io,cache_size=8M,nosuid,noatime"

    def check():
        for way in (["mount", "-t", "fuse.tensorport-mount", TINY, None, "-o", words],
                    ["mount", "-t", "fuse", f"{INSTALLED}#{TINY}", None, "-o", words],
                    ["mount", "-r", "-t", "fuse.tensorport-mount", TINY, None, "-o", words],
                    ["mount.fuse3", TINY, None, "-t", "fuse.tensorport-mount", "-o", words],
                    ["mount.fuse3", f"tensorport-mount#{TINY}", None, "-o", words],
                    [INSTALLED, TINY, None, "-o", words]):
            with mount_point() as path:
                result = command(*(word or path for word in way))
                assert result.returncode == 0, (way, result)
                check_precision(path, "float16")
                stats = json.loads((path / ".tensorport/stats.json").read_bytes())
                assert "direct_io" in stats["features"] and stats["cache"]["capacity_bytes"] == 8 << 20
                line = mount_line(path)
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
        line = mount_line(mount.path)
        assert "nosuid,nodev,noexec,noatime" in line, line
        assert " a,b\\134c " in line, line
        assert read_norm(mount.path) == norm_bytes()


@test
def size_of_requests_can_be_limited():
    with Mount(TINY, "-o", "max_read=65536") as mount:
        line = mount_line(mount.path)
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
                line = mount_line(mount.path)
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
    return subprocess.run([*prefix_of(user), "cat", str(path)], capture_output=True, check=False,
                          timeout=30 * SLOW)


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
    return run(*options, "--", source, path, prefix=prefix_of(NOBODY), program=INSTALLED)


def as_nobody(*arguments):
    return subprocess.run([*prefix_of(NOBODY), *map(str, arguments)], capture_output=True, check=True,
                          timeout=30 * SLOW)


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
                    os.chown(path, NOBODY, NOBODY)
                    file = path / "shard_000/model_norm_weight.npy"
                    options = ["--idle-timeout", "1"] if way == "idle" else []
                    result = start_as_nobody(source, path, *options)
                    assert (result.returncode, result.stderr) == (0, ""), result
                    pid, = find_daemons(path)
                    assert as_nobody("cat", file).stdout == norm_bytes()
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
            os.chown(path, NOBODY, NOBODY)
            assert start_as_nobody(folder / "tiny", path).returncode == 0
            pid, = find_daemons(path)
            os.kill(pid, signal.SIGKILL)
            wait_for_end_of(pid)
            result = start_as_nobody(folder / "tiny", path)
            assert result.returncode == 1
            check_one_line(result.stderr, "dead mount", "--replace")
            result = start_as_nobody(folder / "tiny", path, "--replace")
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
            result = start_as_nobody(folder / "tiny", path)
            assert result.returncode == 1 and "cannot mount" in result.stderr, result
            assert "Permission denied" in result.stderr or "no write access" in result.stderr, result
            if "user_allow_other" not in re.sub("#.*", "", Path("/etc/fuse.conf").read_text()):
                os.chown(path, NOBODY, NOBODY)
                result = start_as_nobody(folder / "tiny", path, "-o", "allow_other")
                assert result.returncode == 1 and "allow_other" in result.stderr, result
            assert not is_mounted(path)
    robust.in_own_namespace(check)


if __name__ == "__main__":
    main()
