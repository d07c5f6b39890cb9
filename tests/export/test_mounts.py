"""`tensorport mounts` and `tensorport umount`: live, dead, stuck, busy, private and odd mounts."""

import ctypes
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from support import (BUILD, PROGRAM, Mount, checkpoint, main, must, refused, scratch, tensorport, test,
                     wait_for)
import robust  # in the folder that support adds
from robust import NOBODY, SLOW, has_ended, is_mounted, mount_point, prefix_of, wait_for_end_of

TINY = checkpoint("tiny")


def listed(path, **how):
    """What `mounts --json` says of the mount at `path`; None if it is not there."""
    found = [item for item in json.loads(must("mounts", "--json", **how)) if item["mount_point"] == str(path)]
    assert len(found) <= 1
    return found[0] if found else None


def row(path, **how):
    """The same of the table, as a list of cells."""
    rows = [re.split(r"  +", line) for line in must("mounts", **how).splitlines()]
    return next((cells for cells in rows if cells[0] == str(path)), None)


@contextmanager
def dead_mount():
    with Mount(TINY) as mount:
        mount.expected_status = None
        mount.kill()
        wait_for(lambda: has_ended(mount.pid), "the daemon to end")
        yield mount.path


@contextmanager
def stopped(mount):
    os.kill(mount.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(mount.pid, signal.SIGCONT)


@contextmanager
def mute_mount():
    """A daemon that takes every request and answers none but the first: such a request cannot be
    interrupted, not even by SIGKILL."""
    libc = ctypes.CDLL(None, use_errno=True)
    with scratch() as place, open("/dev/fuse", "r+b", buffering=0) as device:
        options = f"fd={device.fileno()},rootmode=40000,user_id=0,group_id=0".encode()
        if libc.mount(b"mute", bytes(place), b"fuse.tensorport-mount", 0, options) != 0:
            raise OSError(ctypes.get_errno(), "cannot mount")
        unique = struct.unpack_from("<Q", device.read(1 << 20), 8)[0]  # of FUSE_INIT
        device.write(struct.pack("<IiQ IIIIHHI 40x", 80, 0, unique, 7, 31, 0, 0, 0, 0, 4096))

        def take():
            with suppress(OSError):  # until it is unmounted
                while True:
                    device.read(1 << 20)
        threading.Thread(target=take, daemon=True).start()
        try:
            yield place
        finally:
            libc.umount2(bytes(place), 3)  # MNT_FORCE: the request fails; MNT_DETACH


# ---------------------------------------------------------------- mounts

@test
def live_mounts_are_listed():
    with Mount(TINY, "-p", "float16", "-c", "64M") as one, Mount(checkpoint("small")) as other:
        for file in sorted((one.path / "shard_000").iterdir()):
            file.read_bytes()
        item = listed(one.path)
        assert item["source"] == str(TINY.resolve()) and item["state"] == "live" and item["user"] == os.geteuid()
        stats = one.stats()
        for group, name in (("files", "tensors"), ("files", "bytes"), ("cache", "capacity_bytes"),
                            ("cache", "hits"), ("cache", "misses")):
            assert item["statistics"][group][name] == stats[group][name], name
        cache = stats["cache"]
        used = cache["hits"] + cache["waits"] + cache["misses"]
        assert abs(item["hit_rate"] - (cache["hits"] + cache["waits"]) / used) < 1e-9
        assert listed(other.path)["hit_rate"] is None
        cells = row(one.path)
        assert cells[1:3] == [str(TINY.resolve()), "live"] and cells[5] == "float16", cells
        assert cells[4] == str(stats["files"]["tensors"])
        size, unit = cells[3].split()
        assert unit == "MB" and abs(float(size) - stats["files"]["bytes"] / 1e6) <= 0.5
        assert cells[6].endswith(" of 67.1 MB") and cells[7].endswith(" %"), cells
        assert row(other.path)[7] == "-"
    assert listed(one.path) is None and row(one.path) is None


@test
def nothing_mounted_is_an_empty_list():
    """In a namespace without our mounts."""
    command = ["unshare", "--mount", "sh", "-c",
               'while grep -q " fuse.tensorport-mount " /proc/self/mounts; do '
               'awk \'$3 == "fuse.tensorport-mount" {print $2}\' /proc/self/mounts | xargs -r umount -l; done; '
               'exec "$@"', "sh", PROGRAM]
    done = subprocess.run([*command, "mounts"], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    done = subprocess.run([*command, "mounts", "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
    done = subprocess.run([*command, "umount", "--all"], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


@test
def dead_and_stuck_mounts_are_listed_in_time():
    with dead_mount() as dead, Mount(TINY) as stuck, Mount(TINY) as also_stuck, Mount(TINY) as live:
        with stopped(stuck), stopped(also_stuck):
            start = time.monotonic()
            items = {item["mount_point"]: item for item in json.loads(must("mounts", "--json"))}
            assert time.monotonic() - start < 3.5 * SLOW  # 2 s, not for each
            states = [items[str(path)]["state"] for path in (dead, stuck.path, also_stuck.path, live.path)]
            assert states == ["dead", "stuck", "stuck", "live"], states
            assert "statistics" not in items[str(dead)]
            assert row(stuck.path)[2:] == ["stuck", "-", "-", "-", "-", "-", "-"]
        assert listed(stuck.path)["state"] == "live"
        assert row(dead)[2] == "dead"


@test
def nobody_waits_for_a_request_without_an_answer():
    """`mounts` leaves a process behind then, which must not hold the pipe that we read."""
    with mute_mount() as path:
        start = time.monotonic()
        assert listed(path, timeout=20 * SLOW)["state"] == "stuck"
        assert time.monotonic() - start < 3.5 * SLOW


@test
def odd_names_are_listed():
    with scratch() as folder:
        for name in "with space", "tab\tnew\nline", "back\\slash\\040", "\u00fcml\u00e4ut", "comma,dash - end":
            place = folder / name
            place.mkdir()
            shutil.copytree(TINY, folder / f"{name}.model")
            subprocess.run([BUILD / "tensorport-mount", folder / f"{name}.model", place], check=True)
            try:
                item = listed(place)
                assert item and item["source"] == f"{folder}/{name}.model" and item["state"] == "live", name
                table = must("mounts")
                shown = str(place).replace("\t", "\\x09").replace("\n", "\\x0a")
                assert shown in table and len(table.splitlines()) >= 2
            finally:
                must("umount", place)
            assert not is_mounted(place)


@test
def table_fits_the_terminal():
    with scratch() as folder:
        place = folder / ("a-rather-long-name-" * 5)
        place.mkdir()
        subprocess.run([BUILD / "tensorport-mount", TINY, place], check=True)
        try:
            whole = must("mounts", env={"COLUMNS": ""})
            assert str(place) in whole
            for columns in 200, 120, 100, 80, 60, 40, 35:
                table = must("mounts", env={"COLUMNS": str(columns)})
                assert all(len(line) <= columns for line in table.splitlines()), (columns, table)
                assert "live" in table and "STATE" in table
                line, = [line for line in table.splitlines() if "rather" in line or "name-" in line]
                assert columns > 150 or "\u2026" in line
            assert "UPTIME" in must("mounts", env={"COLUMNS": "120"})
            assert "UPTIME" not in must("mounts", env={"COLUMNS": "60"})
            # and a real one
            script = f"stty cols 70; {PROGRAM} mounts"
            done = subprocess.run(["script", "-qec", script, "/dev/null"], capture_output=True, text=True,
                                  check=True, env={k: v for k, v in os.environ.items() if k != "COLUMNS"},
                                  stdin=subprocess.DEVNULL)
            lines = done.stdout.replace("\r", "").splitlines()
            assert len(lines) >= 2 and all(len(line) <= 70 for line in lines), lines
        finally:
            must("umount", place)


@test
def private_mounts_of_others_are_listed():
    assert os.geteuid() == 0, "only root can become somebody else: run this test as root"

    def check():
        with scratch() as folder, mount_point() as path, Mount(TINY) as ours:
            folder.chmod(0o755)
            ours.path.parent.chmod(0o755)
            shutil.copytree(TINY, folder / "tiny")
            shutil.copy(PROGRAM, folder / "tensorport")
            os.chown(path, NOBODY, NOBODY)
            mounted = robust.run(folder / "tiny", path, prefix=prefix_of(NOBODY), program="/usr/local/bin/tensorport-mount")
            assert mounted.returncode == 0, mounted
            assert listed(path)["state"] == "private" and listed(path)["user"] == NOBODY
            as_nobody = [*prefix_of(NOBODY), folder / "tensorport"]

            def nobody(*words):
                return subprocess.run([*as_nobody, *map(str, words)], capture_output=True, text=True, check=False)

            items = {item["mount_point"]: item for item in json.loads(nobody("mounts", "--json").stdout)}
            assert items[str(path)]["state"] == "live" and items[str(ours.path)]["state"] == "private"
            # nobody can unmount theirs only, and is told so
            done = nobody("umount", ours.path)
            assert done.returncode == 1 and "user 0 has mounted it" in done.stderr, done
            script = f'exec sleep 100 <"{path}/manifest.json"'
            holder = subprocess.Popen([*prefix_of(NOBODY), "sh", "-c", script])
            try:
                wait_for(lambda: Path(f"/proc/{holder.pid}/comm").read_text() == "sleep\n", "sleep")
                done = nobody("umount", path)
                assert done.returncode == 1 and f"in use by {holder.pid} (sleep)" in done.stderr, done
                assert done.stderr.count("\n") == 1
                assert is_mounted(path)
                pid, = robust.find_daemons(path)
                done = nobody("umount", "--all", "--lazy")
                assert (done.returncode, done.stderr) == (0, ""), done
                assert not is_mounted(path) and is_mounted(ours.path)
            finally:
                holder.kill()
                holder.wait()
            wait_for_end_of(pid)
            # a dead one
            mounted = robust.run(folder / "tiny", path, prefix=prefix_of(NOBODY), program="/usr/local/bin/tensorport-mount")
            assert mounted.returncode == 0, mounted
            pid, = robust.find_daemons(path)
            os.kill(pid, signal.SIGKILL)
            wait_for_end_of(pid)
            done = nobody("umount", path)
            assert (done.returncode, done.stderr) == (0, ""), done
            assert not is_mounted(path)
    robust.in_own_namespace(check)


# ---------------------------------------------------------------- umount

@test
def unmounts_by_any_name():
    with scratch() as folder:
        (folder / "link").symlink_to(folder / "mnt")
        (folder / "up").symlink_to(folder)
        (folder / "mnt").mkdir()
        for name, cwd in ((folder / "mnt", "/"), ("mnt", folder), ("mnt/", folder), ("./mnt//", folder),
                          (folder / "link", "/"), (folder / "up/mnt", "/"), ("../mnt/.", folder / "up"),
                          ("x/../mnt", folder)):
            (folder / "x").mkdir(exist_ok=True)
            name = f"{folder.name}/mnt" if str(name).startswith("..") else name
            cwd = folder.parent if str(name).startswith(folder.name) else cwd
            subprocess.run([BUILD / "tensorport-mount", TINY, folder / "mnt"], check=True)
            must("umount", name, cwd=cwd)
            assert not is_mounted(folder / "mnt"), name


@test
def dead_and_stuck_mounts_can_be_unmounted():
    with dead_mount() as path:
        must("umount", path)
        assert not is_mounted(path)
    with Mount(TINY) as mount:
        with stopped(mount):
            must("umount", mount.path, timeout=10 * SLOW)
            assert not is_mounted(mount.path)


@test
def says_who_is_in_the_way():
    ways = {"open": "f = open(sys.argv[1] + '/manifest.json')", "cwd": "os.chdir(sys.argv[1])",
            "folder": "f = os.open(sys.argv[1], os.O_RDONLY)",
            "map": "import numpy; f = numpy.load(sys.argv[1] + '/shard_000/model_norm_weight.npy', mmap_mode='r')"}
    with Mount(TINY) as mount:
        for way, statement in ways.items():
            script = f"import os, sys, time\n{statement}\nprint('ready', flush=True)\ntime.sleep(100)"
            with subprocess.Popen([sys.executable, "-c", script, mount.path], stdout=subprocess.PIPE) as process:
                assert process.stdout.readline() == b"ready\n"
                name = Path(f"/proc/{process.pid}/comm").read_text().strip()
                try:
                    refused("umount", mount.path, says=[f"in use by {process.pid} ({name})", "--lazy", str(mount.path)])
                    assert is_mounted(mount.path), way
                finally:
                    process.kill()
        must("umount", mount.path)


@test
def many_in_the_way_are_counted():
    with Mount(TINY) as mount:
        holders = [subprocess.Popen(["sleep", "100"], cwd=mount.path) for _ in range(11)]
        try:
            refused("umount", mount.path, says=["(sleep)", " and 3 more"])
        finally:
            for holder in holders:
                holder.kill()
                holder.wait()


@test
def mount_inside_is_in_the_way():
    with Mount(TINY) as outer:
        subprocess.run(["mount", "-t", "tmpfs", "none", outer.path / "shard_000"], check=True)
        try:
            refused("umount", outer.path, says=[f"{outer.path}/shard_000 is mounted in it"])
        finally:
            subprocess.run(["umount", outer.path / "shard_000"], check=True)
        must("umount", outer.path)


@test
def lazily_open_files_stay_readable():
    with Mount(TINY) as mount:
        file = mount.path / "manifest.json"
        expected = file.read_bytes()
        with open(file, "rb") as stream:
            refused("umount", mount.path, says=["in use"])
            must("umount", "--lazy", mount.path)
            assert not is_mounted(mount.path)
            assert stream.read() == expected
        wait_for(lambda: mount.process.poll() is not None, "the daemon to end")


@test
def stacked_mounts_go_one_by_one():
    with scratch() as folder:
        for _ in range(3):
            subprocess.run([BUILD / "tensorport-mount", TINY, folder], check=False, capture_output=True)
            subprocess.run(["mount", "--bind", folder, folder], check=True)
        while is_mounted(folder):
            must("umount", folder)


@test
def only_ours():
    with scratch() as folder:
        (folder / "tmp").mkdir()
        (folder / "plain").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "none", folder / "tmp"], check=True)
        try:
            refused("umount", folder / "tmp", says=["type tmpfs", "umount(8)"])
            refused("umount", "/proc", says=["type proc"])
            assert is_mounted(folder / "tmp")
        finally:
            subprocess.run(["umount", folder / "tmp"], check=True)
        refused("umount", folder / "plain", says=["nothing is mounted there", "tensorport mounts"])
        refused("umount", folder / "missing", says=["missing: No such file or directory"])
    with Mount(TINY) as mount:
        refused("umount", mount.path / "shard_000", says=["it lies in the mount", str(mount.path)])
        refused("umount", mount.path / "manifest.json", says=["it lies in the mount", str(mount.path)])
        assert is_mounted(mount.path)


@test
def several_and_all():
    """--all in a namespace of its own, where nobody else's mounts are."""
    with Mount(TINY) as one, Mount(TINY) as two:
        done = tensorport("umount", one.path, "/proc", two.path)
        assert done.returncode == 1 and done.stderr.count("\n") == 1
        assert not is_mounted(one.path) and not is_mounted(two.path)
    with Mount(TINY) as one, Mount(TINY) as busy, dead_mount() as dead, Mount(TINY) as lazy:
        script = f"""mount --make-rprivate /; cd {busy.path}; {PROGRAM} umount --all 2>{one.path.parent}/errors
            echo $? >{one.path.parent}/status; cd /
            awk '$3 == "fuse.tensorport-mount" {{print $2}}' /proc/self/mounts"""
        done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout.split() == [str(busy.path)], done
        assert (one.path.parent / "status").read_text() == "1\n"
        assert "(sh)" in (one.path.parent / "errors").read_text()
        assert is_mounted(one.path) and is_mounted(dead) and is_mounted(lazy.path)  # out here


@test
def mistakes_on_the_command_line():
    refused("umount", status=2, says=["expected a MOUNTPOINT, or --all"])
    refused("umount", "--all", "/mnt", status=2, says=["no MOUNTPOINT beside --all"])
    refused("umount", "--nope", "/mnt", status=2, says=["unknown"])
    refused("mounts", "/mnt", status=2, says=["expected no argument"])
    with open("/dev/full", "w") as full, Mount(TINY):
        done = tensorport("mounts", stdout=full)
        assert done.returncode == 1 and "No space left" in done.stderr


main()
