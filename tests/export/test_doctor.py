"""`tensorport doctor` on machines that do not exist: a folder with their /dev, /etc, /proc and /sys stands
in for each; and on real mounts, checkpoints and limits."""

import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

from support import BUILD, PROGRAM, Mount, checkpoint, main, refused, scratch, tensorport, test, wait_for
from robust import NOBODY, SLOW, has_ended, prefix_of  # in the folder that support adds

TINY = checkpoint("tiny")
GIB = 1 << 30


class Machine:
    """A folder for TENSORPORT_DOCTOR_ROOT; as made, nothing is wrong with it."""

    def __init__(self, root):
        self.root = root
        self.write("proc/sys/kernel/osrelease", "6.1.0-13-amd64\n")
        self.write("proc/filesystems", "nodev\tsysfs\nnodev\tfuse\n\text4\n\tfuseblk\n")
        self.write("proc/self/status", "Name:\tcat\nNoNewPrivs:\t0\nCapEff:\t000001ffffffffff\n"
                                       "CapBnd:\t000001ffffffffff\n")
        self.write("proc/self/mountinfo", "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n")
        self.write("proc/self/cgroup", "0::/user.slice/me\n")
        self.write("proc/meminfo", f"MemTotal:       {64 * GIB // 1024} kB\nMemFree: 1 kB\n")
        self.write("etc/fuse.conf", "# mine\n  user_allow_other \n")
        self.write("usr/bin/apt-get", "").chmod(0o755)
        self.write("usr/bin/fusermount3", "").chmod(0o4755)
        self.path("dev").mkdir()
        self.path("dev/fuse").symlink_to("/dev/null")  # a device that everyone may open

    def path(self, name):
        return self.root / name

    def write(self, name, text):
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def doctor(self, *words, status=None, prefix=(), program=PROGRAM, env=None, **how):
        """{check: [(status, found, remedy), ...]} as the table says it, which --json must confirm."""
        env = {**os.environ, "TENSORPORT_DOCTOR_ROOT": str(self.root), "PATH": "/usr/sbin:/usr/bin:/bin",
               **(env or {})}
        command = [*prefix, str(program), "doctor", *map(str, words)]
        how = {"capture_output": True, "text": True, "check": False, "env": env, **how}
        done = subprocess.run(command, **how)
        assert done.stderr == "", done
        found, n = {}, {"ok": 0, "warning": 0, "problem": 0}
        lines = done.stdout.splitlines()
        for i, line in enumerate(lines[:-1]):
            if line.startswith("    "):
                continue
            kind, check, text = line.split(": ", 2)
            remedy = lines[i + 1].strip() if lines[i + 1].startswith("    ") else None
            assert (remedy is None) == (kind == "ok"), line
            found.setdefault(check, []).append((kind, text, remedy))
            n[kind] += 1
        assert done.returncode == (1 if n["problem"] else 0), done
        assert lines[-1].startswith(f"{n['problem']} problem") and f", {n['warning']} warning" in lines[-1]
        whole = json.loads(subprocess.run([*command, "--json"], **how).stdout)
        assert (whole["problems"], whole["warnings"]) == (n["problem"], n["warning"])
        assert [item["check"] for item in whole["findings"]] == \
            [line.split(": ")[1] for line in lines[:-1] if not line.startswith("    ")]
        for item in whole["findings"]:
            stated = [(kind, remedy) for kind, _, remedy in found[item["check"]]]
            assert (item["status"], item["remedy"]) in stated, item
        if status is not None:
            assert done.returncode == status, done.stdout
        return found


@contextmanager
def machine():
    with scratch() as root:
        root.chmod(0o755)
        yield Machine(root)


def check(found, name, kind, says="", remedy=""):
    """The one finding of that name is of that kind, says that and has that remedy."""
    (found_kind, text, found_remedy), = found[name]
    assert found_kind == kind and says in text and remedy in (found_remedy or ""), (name, found[name])


def faults(found):
    return {name for name, findings in found.items() if any(kind != "ok" for kind, _, _ in findings)}


@contextmanager
def programs_for_everyone():
    assert os.geteuid() == 0, "only root can become somebody else: run this test as root"
    with scratch() as place:
        place.chmod(0o755)
        for name in "tensorport", "tensorport-mount":
            shutil.copy(BUILD / name, place / name)
        yield place / "tensorport"


# ---------------------------------------------------------------- the machine

@test
def healthy_machine_has_nothing():
    with machine() as it:
        found = it.doctor(status=0)
        assert faults(found) == set()
        assert set(found) == {"kernel", "module", "device", "rights", "fusermount3", "fuse.conf",
                              "tensorport-mount"}
        found = it.doctor(TINY, status=0)
        assert faults(found) <= {"disk"}
        assert {"checkpoint", "file system", "descriptors", "cache", "memory", "disk"} < set(found)


@test
def healthy_for_an_ordinary_user():
    with machine() as it, programs_for_everyone() as program:
        assert faults(it.doctor(program=program, prefix=prefix_of(NOBODY), status=0)) == set()


@test
def kernels():
    for release, kind in (("3.10.0-1160.el7", "problem"), ("4.1.0", "problem"), ("4.2.0", "warning"),
                          ("5.0.21", "warning"), ("5.1.0", "ok"), ("6.12.1-arch", "ok")):
        with machine() as it:
            it.write("proc/sys/kernel/osrelease", f"{release}\n")
            check(it.doctor(), "kernel", kind, release, "reboot" if kind != "ok" else "")


@test
def module_is_not_loaded():
    with machine() as it:
        it.write("proc/filesystems", "nodev\tsysfs\n\tfuseblk\nnodev\tfusectl\n")
        check(it.doctor(status=1), "module", "problem", "not loaded", "sudo modprobe fuse")


@test
def device_is_missing():
    with machine() as it:
        it.path("dev/fuse").unlink()
        check(it.doctor(status=1), "device", "problem", "No such file", "modprobe fuse || sudo mknod -m 666 /dev/fuse")
        for mark in ".dockerenv", "run/.containerenv":
            it.write(mark, "")
            check(it.doctor(status=1), "device", "problem", "No such file", "docker run --device /dev/fuse")
            it.path(mark).unlink()


@test
def device_is_closed_to_the_user():
    with machine() as it, programs_for_everyone() as program:
        it.path("dev/fuse").unlink()
        subprocess.run(["mknod", "-m", "600", it.path("dev/fuse"), "c", "10", "229"], check=True)
        found = it.doctor(program=program, prefix=prefix_of(NOBODY), status=1)
        check(found, "device", "problem", "Permission denied", "sudo chmod 666 /dev/fuse")
        it.path("dev/fuse").unlink()
        it.write("dev/fuse", "")
        check(it.doctor(status=1), "device", "problem", "not a device", "mknod")


@test
def nobody_may_mount():
    with machine() as it, programs_for_everyone() as program:
        as_nobody = {"program": program, "prefix": prefix_of(NOBODY)}
        it.write("proc/self/status", "Name:\tcat\nNoNewPrivs:\t1\nCapEff:\t00000000a80425fb\nCapBnd:\t000001ffffffffff\n")
        check(it.doctor(status=1), "rights", "problem", "CAP_SYS_ADMIN", "--cap-add SYS_ADMIN")
        check(it.doctor(status=1, **as_nobody), "rights", "problem", "no_new_privs", "no-new-privileges=false")
        it.write("proc/self/status", "Name:\tcat\nNoNewPrivs:\t0\nCapEff:\t0\nCapBnd:\t00000000a80425fb\n")
        check(it.doctor(status=1, **as_nobody), "rights", "problem", "CAP_SYS_ADMIN", "--cap-add SYS_ADMIN")


@test
def fusermount_is_missing():
    with machine() as it, programs_for_everyone() as program:
        it.path("usr/bin/fusermount3").unlink()
        check(it.doctor(status=0), "fusermount3", "warning", "not found", "sudo apt-get install fuse3")
        as_nobody = {"program": program, "prefix": prefix_of(NOBODY)}
        check(it.doctor(status=1, **as_nobody), "fusermount3", "problem", "not found", "sudo apt-get install fuse3")
        it.path("usr/bin/apt-get").rename(it.path("usr/bin/dnf"))
        check(it.doctor(status=0), "fusermount3", "warning", "not found", "sudo dnf install fuse3")
        it.path("usr/bin/dnf").unlink()
        check(it.doctor(status=0), "fusermount3", "warning", "not found", "package fuse3")


@test
def fusermount_is_not_setuid():
    with machine() as it, programs_for_everyone() as program:
        as_nobody = {"program": program, "prefix": prefix_of(NOBODY)}
        file = it.path("usr/bin/fusermount3")
        file.chmod(0o755)
        remedy = "sudo chown root /usr/bin/fusermount3 && sudo chmod u+s /usr/bin/fusermount3"
        check(it.doctor(status=0), "fusermount3", "warning", "not setuid root", remedy)
        check(it.doctor(status=1, **as_nobody), "fusermount3", "problem", "not setuid root", remedy)
        os.chown(file, NOBODY, NOBODY)
        file.chmod(0o4755)  # setuid, but not root's
        check(it.doctor(status=1, **as_nobody), "fusermount3", "problem", "not setuid root", remedy)


@test
def fuse_conf_matters_to_ordinary_users():
    with machine() as it, programs_for_everyone() as program:
        as_nobody = {"program": program, "prefix": prefix_of(NOBODY)}
        for text in "#user_allow_other\n", "# user_allow_other\nmount_max = 5\n", "", "user_allow_others\n":
            it.write("etc/fuse.conf", text)
            check(it.doctor(status=0), "fuse.conf", "ok")
            check(it.doctor(status=0, **as_nobody), "fuse.conf", "warning", "allow_other is refused",
                  "echo user_allow_other | sudo tee -a /etc/fuse.conf")
        it.path("etc/fuse.conf").unlink()
        check(it.doctor(status=0, **as_nobody), "fuse.conf", "warning")
        it.write("etc/fuse.conf", "mount_max=3\nuser_allow_other")
        check(it.doctor(status=0, **as_nobody), "fuse.conf", "ok")


@test
def mount_program_is_missing_or_another():
    with machine() as it, scratch() as place:
        shutil.copy(PROGRAM, place / "tensorport")
        if not any(Path(p, "tensorport-mount").exists() for p in ("/usr/local/bin", "/usr/local/sbin", "/usr/bin")):
            check(it.doctor(program=place / "tensorport", status=1), "tensorport-mount", "problem", "not found",
                  "make install")
        other = place / "tensorport-mount"
        for script in "echo tensorport-mount 0.0.9", "exit 1", "echo what | cat; sleep 0":
            other.write_text(f"#!/bin/sh\n{script}\n")
            other.chmod(0o755)
            check(it.doctor(program=place / "tensorport", status=1), "tensorport-mount", "problem", "expected tensorport-mount",
                  "make install")


# ---------------------------------------------------------------- mounts

@contextmanager
def dead_mount():
    with Mount(TINY) as mount:
        mount.expected_status = None
        mount.kill()
        wait_for(lambda: has_ended(mount.pid), "the daemon to end")
        yield mount.path


def findings_of(path, words=("doctor",)):
    done = tensorport(*words, path, "--json")
    assert done.stderr == "", done
    return {item["check"]: item for item in json.loads(done.stdout)["findings"]}, done.returncode


@test
def dead_and_stuck_mounts_are_found():
    with dead_mount() as path:
        found, status = findings_of(path)
        assert status == 1 and found["mount"]["status"] == "problem" and "dead" in found["mount"]["found"]
        assert found["mount"]["remedy"] == f"tensorport umount {path}"
        done = tensorport("doctor")  # without being told where
        assert done.returncode == 1 and f"problem: mount: {path}: dead" in done.stdout
        words = found["mount"]["remedy"].split()
        subprocess.run([PROGRAM, *words[1:]], check=True)  # it helps
        assert f"{path}: dead" not in tensorport("doctor").stdout
    with Mount(TINY) as mount:
        os.kill(mount.pid, signal.SIGSTOP)
        try:
            start = time.monotonic()
            found, status = findings_of(mount.path)
            assert time.monotonic() - start < 10 * SLOW
            assert status == 1 and found["mount"]["status"] == "problem" and "stuck" in found["mount"]["found"]
            minor = os.minor(device_of(mount.path))
            assert found["mount"]["remedy"] == f"echo 1 | sudo tee /sys/fs/fuse/connections/{minor}/abort"
        finally:
            os.kill(mount.pid, signal.SIGCONT)
        assert findings_of(mount.path)[0]["mount"]["status"] == "ok"


def device_of(path):
    line, = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if line.split()[4] == str(path)]
    return os.makedev(*map(int, line.split()[2].split(":")))


@test
def read_ahead_is_found():
    with Mount(TINY) as mount:
        device = device_of(mount.path)
        file = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
        assert findings_of(mount.path)[0]["read-ahead"]["status"] == "ok"
        file.write_text("128\n")
        item = findings_of(mount.path)[0]["read-ahead"]
        assert item["status"] == "warning" and "128 KiB" in item["found"]
        assert item["remedy"] == f"echo 8192 | sudo tee {file}"
        subprocess.run(["sh", "-c", item["remedy"].replace("sudo ", "")], check=True, stdout=subprocess.DEVNULL)
        assert findings_of(mount.path)[0]["read-ahead"]["status"] == "ok"


@test
def mount_point_is_told_from_a_model():
    with Mount(TINY, "-p", "float16", "-c", "32M") as mount, Mount(TINY) as other:
        found, status = findings_of(mount.path)
        assert status == 0 and found["checkpoint"]["found"].startswith(f"{TINY.resolve()}: ")
        assert "33.6 MB" in found["cache"]["found"] and "as float16" in found["memory"]["found"]
        assert "disk" not in found
        assert str(other.path) not in tensorport("doctor", mount.path).stdout


# ---------------------------------------------------------------- memory

def write_checkpoint(path, tensors, data=True):
    """A file with BF16 tensors {name: elements}, full of holes."""
    header, at = {}, 0
    for name, n in tensors.items():
        header[name] = {"dtype": "BF16", "shape": [n], "data_offsets": [at, at + 2 * n]}
        at += 2 * n
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        if data:
            file.truncate(8 + len(text) + at)
    return path


@contextmanager
def large_model(gib):
    """So many GiB as float32, on a file system that does not mind."""
    with scratch() as folder:
        subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=True)
        try:
            yield write_checkpoint(folder / "large.safetensors", {f"w{i}": GIB // 4 for i in range(gib)})
        finally:
            subprocess.run(["umount", "-l", folder], check=True)


def limit_v2(it, text, file="sys/fs/cgroup/user.slice/me/memory.max"):
    it.write(file, f"{text}\n")


@test
def memory_of_the_machine():
    with machine() as it, large_model(4) as model:
        found = it.doctor(model)
        check(found, "memory", "ok", "of 68.7 GB")
        check(found, "cache", "ok", "268 MB, of 68.7 GB")
        for total, option in ((3, "--precision=bfloat16"), (1, "--include='*.layers.0.*'")):
            it.write("proc/meminfo", f"MemTotal: {total * GIB // 1024} kB\n")
            check(it.doctor(model, status=0), "memory", "warning", "/proc/meminfo allows",
                  f"tensorport-mount {option} {model} MOUNTPOINT")


@test
def memory_of_the_cgroup_version_2():
    with machine() as it, large_model(4) as model:
        limit_v2(it, "max")
        check(it.doctor(model), "memory", "ok", "of 68.7 GB")
        for file in ("sys/fs/cgroup/user.slice/me/memory.max", "sys/fs/cgroup/user.slice/memory.max",
                     "sys/fs/cgroup/memory.max", "sys/fs/cgroup/user.slice/me/memory.high"):
            limit_v2(it, 3 * GIB, file)  # also one of those above
            check(it.doctor(model, status=0), "memory", "warning", f"/{file} allows 3.2 GB", "--precision=bfloat16")
            it.path(file).unlink()
        limit_v2(it, 3 * GIB, "sys/fs/cgroup/user.slice/memory.max")
        limit_v2(it, 1 * GIB)
        found = it.doctor(model, status=0)
        remedy = f"| sudo tee /sys/fs/cgroup/user.slice/me/memory.max"
        check(found, "memory", "warning", "allows 1.1 GB", remedy)
        wanted = int(found["memory"][0][2].split()[1])
        assert wanted > 4 * GIB
        limit_v2(it, wanted)
        it.path("sys/fs/cgroup/user.slice/memory.max").unlink()
        check(it.doctor(model), "memory", "ok")


@test
def memory_of_a_container_whose_group_is_the_hosts():
    with machine() as it, large_model(4) as model:
        it.write("proc/self/cgroup", "0::/system.slice/docker-ab12.scope\n")
        limit_v2(it, 3 * GIB, "sys/fs/cgroup/memory.max")
        check(it.doctor(model), "memory", "warning", "/sys/fs/cgroup/memory.max allows 3.2 GB")


@test
def memory_of_the_cgroup_version_1():
    with machine() as it, large_model(4) as model:
        it.write("proc/self/cgroup", "12:cpu,cpuacct:/x\n9:hugetlb,memory:/docker/ab\n1:name=systemd:/y\n0::/z\n")
        file = "sys/fs/cgroup/memory/docker/ab/memory.limit_in_bytes"
        limit_v2(it, 9223372036854771712, file)  # no limit
        check(it.doctor(model), "memory", "ok", "of 68.7 GB")
        limit_v2(it, 3 * GIB, file)
        check(it.doctor(model), "memory", "warning", f"/{file} allows 3.2 GB", "--precision=bfloat16")


@test
def cache_against_memory():
    with machine() as it:
        for megabytes, kind in ((1024, "ok"), (512, "ok"), (511, "warning"), (300, "warning"), (256, "problem"),
                                (64, "problem")):
            limit_v2(it, megabytes << 20)
            check(it.doctor(TINY, status=1 if kind == "problem" else 0), "cache", kind,
                  "" if kind == "ok" else "would be killed",
                  "" if kind == "ok" else f"tensorport-mount --cache-size={megabytes // 8}M {TINY} MOUNTPOINT")
        with Mount(TINY, "-c", "64M") as mount:
            line = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(mount.path) in line]
            it.write("proc/self/mountinfo", "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + "\n".join(line) + "\n")
            target = it.path(str(mount.path)[1:])
            target.parent.mkdir(parents=True)
            target.symlink_to(mount.path)
            limit_v2(it, 64 << 20)
            found = it.doctor(mount.path, status=1)
            check(found, "cache", "problem", "may take 67.1 MB",
                  f"tensorport-mount --replace --cache-size=8M {TINY.resolve()} {mount.path}")
            assert "read-ahead" not in found  # this machine has no such file


@test
def odd_files_of_the_kernel_do_no_harm():
    with machine() as it:
        for name in ("proc/self/cgroup", "proc/meminfo", "proc/self/status", "proc/filesystems",
                     "proc/sys/kernel/osrelease", "proc/self/mountinfo", "etc/fuse.conf"):
            for text in ("", "\0\0\0", ":::::\n", "0::" + "/x" * 3000 + "\n", "a" * 200000, "9:memory\n", "\n\n- - -\n"):
                it.write(name, text)
                it.doctor(TINY)
            it.path(name).unlink()
            it.path(name).mkdir()
            it.doctor(TINY)


# ---------------------------------------------------------------- the checkpoint

@test
def broken_checkpoints_are_named():
    with machine() as it, scratch() as folder:
        def broken(name, damage):
            shutil.copytree(TINY, folder / name)
            damage(folder / name)
            return folder / name

        def first(path):
            return sorted(path.glob("*.safetensors"))[0]

        cases = (("truncated", lambda path: os.truncate(first(path), 1000), "safetensors", "hf download"),
                 ("absent", lambda path: first(path).unlink(), "safetensors", "hf download"),
                 ("nothing", lambda path: [file.unlink() for file in path.iterdir()], "found none", "hf download"),
                 ("pointer", lambda path: first(path).write_text(
                     "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"),
                  "Git LFS pointers", "lfs pull"))
        for name, damage, says, remedy in cases:
            path = broken(name, damage)
            found = it.doctor(path, status=1)
            check(found, "checkpoint", "problem", says, remedy)
            assert str(path) in found["checkpoint"][0][2]
            inspected = refused("inspect", path).stderr.strip().split(": ", 1)[1]
            assert inspected in found["checkpoint"][0][1]
            assert "memory" not in found
        check(it.doctor(folder / "missing", status=1), "checkpoint", "problem", "No such file", "ls -l")
        odd = folder / "it's a (model)"
        (folder / "pointer").rename(odd)
        remedy = it.doctor(odd, status=1)["checkpoint"][0][2]
        words = subprocess.run(["sh", "-c", f"printf '%s\\n' {remedy}"], capture_output=True, text=True, check=True)
        assert words.stdout.splitlines() == ["git", "-C", str(odd), "lfs", "pull"]


@test
def dead_mount_as_model():
    with dead_mount() as path:
        done = tensorport("doctor", path / "shard_000")
        assert done.returncode == 1 and "problem: checkpoint" in done.stdout


@test
def descriptors_against_shards():
    with machine() as it, scratch() as folder:
        for i in range(100):
            write_checkpoint(folder / f"m-{i}.safetensors", {f"t{i}": 4})

        def limit(soft, hard):
            return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

        check(it.doctor(folder, preexec_fn=limit(64, 1000)), "descriptors", "ok")  # raised, as the mount does
        for hard in 120, 60:  # the latter is too low for looking at them, too
            found = it.doctor(folder, status=1, preexec_fn=limit(hard, hard))
            check(found, "descriptors", "problem", "164" if hard == 120 else "needs", "sudo prlimit --pid $$ --nofile=328:328")
            assert found.get("checkpoint", [("ok", "", "")])[0][0] == "ok"


@test
def slow_file_systems():
    for kind, finding in (("nfs4", "warning"), ("cifs", "warning"), ("9p", "warning"), ("fuse.sshfs", "warning"),
                          ("fuse", "warning"), ("ext4", "ok"), ("xfs", "ok"), ("tmpfs", "ok"), ("fuseblk", "ok"),
                          ("overlay", "ok"), ("fuse.gcsfuse", "warning")):
        with machine() as it, scratch() as folder:
            shutil.copytree(TINY, folder / "a model")
            escaped = str(folder).replace(" ", "\\040")
            it.write("proc/self/mountinfo", "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
                     f"30 21 0:40 / {escaped} rw,relatime shared:5 - {kind} server:/models rw\n"
                     "31 21 0:41 / /elsewhere rw - nfs server:/other rw\n")
            check(it.doctor(folder / "a model", status=0), "file system", finding, kind,
                  "" if finding == "ok" else f"cp -r '{folder}/a model' /var/tmp/")


@test
def disk_against_the_model():
    with machine() as it, large_model(4) as model, scratch() as folder:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3G", "none", folder], check=True)
        try:
            check(it.doctor(model, cwd=folder, status=0), "disk", "warning", "4.3 GB, but 3.2 GB are free",
                  f"tensorport convert --precision=bfloat16 {model} OUTPUT")
            subprocess.run(["mount", "-o", "remount,size=1G", folder], check=True)
            check(it.doctor(model, cwd=folder, status=0), "disk", "warning", "1.1 GB are free", "df -h")
            subprocess.run(["mount", "-o", "remount,size=8G", folder], check=True)
            check(it.doctor(model, cwd=folder, status=0), "disk", "ok")
        finally:
            subprocess.run(["umount", folder], check=True)


@test
def this_machine():
    """Where these tests run, mounts work."""
    done = tensorport("doctor", TINY)
    lines = [line for line in done.stdout.splitlines() if line.startswith("problem: ") and not line.startswith("problem: mount")]
    assert not lines, done.stdout


@test
def mistakes_on_the_command_line():
    refused("doctor", "a", "b", status=2, says=["found 2"])
    refused("doctor", "--nope", status=2, says=["unknown"])
    with open("/dev/full", "w") as full:
        done = tensorport("doctor", stdout=full)
        assert done.returncode == 1 and "No space left" in done.stderr


main()
