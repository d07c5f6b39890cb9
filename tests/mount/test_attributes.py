"""Attributes of the mounted files, stable and true; extended attributes; and that nothing can be
changed."""

import errno
import json
import os
import shutil
import stat
from pathlib import Path

from compare import fails_with, walk
from harness import KIT, Mount, checkpoint, main, scratch, test

EDGE = KIT / "files/edge"
HIDDEN = ".tensorport"

FIELDS = ("st_ino", "st_size", "st_mode", "st_nlink", "st_mtime_ns", "st_ctime_ns", "st_blocks",
          "st_blksize", "st_uid", "st_gid")


def attributes(path):
    status = os.lstat(path)
    return {field: getattr(status, field) for field in FIELDS}


@test
def two_mounts_have_equal_attributes():
    with Mount(checkpoint("tiny")) as one, Mount(checkpoint("tiny"), "--threads", "1") as two:
        paths = [Path("."), Path(HIDDEN), *(Path(HIDDEN, "views", view) / path
                 for view in ("packed", "float16") for path in walk(one.path / HIDDEN / "views" / view)),
                 *walk(one.path)]
        # The other order: a number must not depend on who is looked up first.
        found = {path: attributes(two.path / path) for path in reversed(paths)}
        for path in paths:
            assert attributes(one.path / path) == found[path], path
        numbers = [found[path]["st_ino"] for path in paths]
        assert len(set(numbers)) == len(numbers) > 200 and 0 not in numbers


@test
def attributes_are_true():
    with scratch() as folder:
        source = shutil.copytree(checkpoint("tiny"), folder / "tiny")
        for second, file in enumerate(sorted(source.iterdir())):
            os.utime(file, ns=(0, (10 ** 9 + second) * 10 ** 9 + 123456789))
        with Mount(source) as mount:
            for path in walk(mount.path):
                check_attributes(mount.path / path)
            for tensor in mount.manifest()["tensors"]:
                stored = tensor["source"].get("blocks", tensor["source"])
                check_mtime(mount.path / tensor["file"], source / stored["file"])
            for file in source.glob("*.json"):
                if "index" not in file.name:
                    check_mtime(mount.path / file.name, file)
            n_shards = len(list(mount.path.glob("shard_*")))
            assert mount.path.stat().st_nlink == 2 + n_shards


def check_mtime(shown, stored):
    assert shown.stat().st_mtime_ns == stored.stat().st_mtime_ns, shown


def check_attributes(path):
    status = path.lstat()
    assert status.st_uid == os.getuid() and status.st_gid == os.getgid(), path
    assert not status.st_mode & 0o222, path
    if stat.S_ISDIR(status.st_mode):
        assert status.st_nlink == 2 + sum(entry.is_dir() for entry in path.iterdir()), path
        return
    assert stat.S_ISREG(status.st_mode) and status.st_nlink == 1, path
    assert len(path.read_bytes()) == status.st_size, path
    assert status.st_blocks == (status.st_size + 511) // 512, path
    assert 128 << 10 <= status.st_blksize <= 1 << 20, path


@test
def statfs_gives_the_totals():
    with Mount(checkpoint("small")) as mount:
        files = [path for path in walk(mount.path) if (mount.path / path).is_file()]
        total = sum((mount.path / path).stat().st_size for path in files)
        status = os.statvfs(mount.path / files[0])
        assert 0 <= status.f_blocks * status.f_frsize - total < status.f_frsize, (status, total)
        assert status.f_bfree == status.f_bavail == status.f_ffree == 0
        assert len(files) <= status.f_files <= len(walk(mount.path)) + 1
        assert status.f_namemax == 255 and status.f_flag & os.ST_RDONLY


# ---------------------------------------------------------------- extended attributes

@test
def extended_attributes_repeat_the_manifest():
    for source in (EDGE / "names.safetensors", EDGE / "mxfp4.safetensors", checkpoint("tiny")):
        with Mount(source) as mount:
            for tensor in mount.manifest()["tensors"]:
                check_xattrs(mount.path / tensor["file"], tensor)
            for path in (mount.path, mount.path / "manifest.json", mount.path / HIDDEN):
                assert os.listxattr(path) == [], path
                fails_with(errno.ENODATA, os.getxattr, path, "user.tensorport.name")


def check_xattrs(path, tensor):
    stored = tensor["source"].get("blocks", tensor["source"])
    expected = {"name": tensor["name"], "dtype": tensor["dtype"],
                "source_dtype": "MXFP4" if "blocks" in tensor["source"] else stored["dtype"],
                "source_file": stored["file"], "source_offset": str(stored["offset"])}
    prefix = "user.tensorport."
    assert sorted(os.listxattr(path)) == sorted(prefix + name for name in [*expected, "shape"])
    for name, value in expected.items():
        assert os.getxattr(path, prefix + name) == value.encode(), (path, name)
    assert json.loads(os.getxattr(path, prefix + "shape")) == tensor["shape"], path
    fails_with(errno.ENODATA, os.getxattr, path, prefix + "nothing")
    fails_with(errno.ENODATA, os.getxattr, path, "security.capability")


# ---------------------------------------------------------------- read-only

def changes(root):
    """Every way to change a file system."""
    file, folder, live = root / "shard_000/lm_head_weight.npy", root / "shard_000", root / HIDDEN / "metrics"
    for target in (file, root / "manifest.json", live):
        for mode in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND, os.O_WRONLY | os.O_TRUNC):
            yield os.open, target, mode
        yield os.truncate, target, 0
        yield os.unlink, target
        yield os.chmod, target, 0o777
        yield os.chown, target, 0, 0
        yield os.utime, target
        yield os.setxattr, target, "user.tensorport.name", b"x"
        yield os.removexattr, target, "user.tensorport.name"
        yield os.rename, target, root / "new"
        yield os.link, target, root / "new"
    for target in (root, folder, root / HIDDEN):
        yield os.open, target / "new", os.O_WRONLY | os.O_CREAT
        yield os.mkdir, target / "new"
        yield os.symlink, "x", target / "new"
        yield os.mknod, target / "new"
        yield os.chmod, target, 0o777
        yield os.open, target, os.O_WRONLY | os.O_TMPFILE
    yield os.rmdir, folder


@test
def every_change_is_refused():
    for options in ((), ("-o", "rw")):  # mount(8) passes rw unless told otherwise
        with Mount(checkpoint("tiny"), *options) as mount:
            before = walk(mount.path)
            for function, *arguments in changes(mount.path):
                fails_with(errno.EROFS, function, *arguments)
            assert walk(mount.path) == before


main()
