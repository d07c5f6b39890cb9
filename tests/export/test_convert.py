"""`tensorport convert`: what it writes equals the mounted tree, whatever happens on the way."""

import errno
import filecmp
import fcntl
import json
import os
import pty
import random
import re
import resource
import shutil
import signal
import struct
import subprocess
import termios
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from support import (PROGRAM, Mount, checkpoint, main, must, reference, refused, scratch, tensorport,
                     test, wait_for)

from compare import check_view
from generate import Generator, write_file, write_shards
from reference import DTYPES

TINY, SMALL = checkpoint("tiny"), checkpoint("small")
STATE = ".tensorport-convert"
SEED = int(os.environ.get("TP_TEST_SEED") or 77)


def files_of(folder):
    """{relative path: bytes} of everything in it."""
    return {str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*")) if not path.is_dir()}


def check_same(found, expected):
    """Two folders hold the same files."""
    a, b = files_of(found), files_of(expected)
    assert a.keys() == b.keys(), f"differ: {sorted(a.keys() ^ b.keys())}"
    for name, content in a.items():
        assert content == b[name], f"{name} differs"


def check_sums(folder, name="XXH3SUMS", program="xxh128sum"):
    """The outside judge finds them right, and they cover every other file."""
    result = subprocess.run([program, "-c", name], cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    listed = {line.split("  ", 1)[1] for line in (folder / name).read_text().splitlines()
              if not line.startswith("\\")}
    escaped = sum(line.startswith("\\") for line in (folder / name).read_text().splitlines())
    others = files_of(folder).keys() - {"XXH3SUMS", "SHA256SUMS"}
    assert len(listed) + escaped == len(others), listed ^ others


@contextmanager
def copy_of(source):
    """That may be changed; dated back, so that no change falls into the same instant."""
    with scratch() as folder:
        shutil.copytree(source, folder / "model")
        for file in (folder / "model").iterdir():
            os.utime(file, ns=(10 ** 18, 10 ** 18))
        yield folder / "model"


# ---------------------------------------------------------------- what is written

@test
def equals_the_mounted_tree():
    """`cp -r` of the mount, plus the checksums."""
    for options in ([], ["--precision", "bfloat16"], ["-p", "float16", "--shard-size", "0.001"],
                    ["--precision", "source", "--mxfp4", "packed"],
                    ["--include", "*experts*", "--exclude", "*bias*"]):
        with scratch() as folder, Mount(TINY, *options) as mount:
            must("convert", TINY, folder / "out", *options)
            check_sums(folder / "out")
            (folder / "out/XXH3SUMS").unlink()
            check_same(folder / "out", mount.path)


@test
def unseen_checkpoints_convert():
    for seed in range(SEED, SEED + 4):
        with scratch() as folder:
            source = write_shards(folder / "in", Generator(seed).shards(3, 30, 4), padding=seed % 8)
            (source / "odd \n name.txt").write_text("odd")
            for precision in ("float32", "float16", "bfloat16", "source"):
                out = folder / precision
                must("convert", "--input", source, "--output", out, "--precision", precision,
                     "--workers", 1 + seed % 5)
                check_sums(out)
                check_view(out, reference(source), precision)


@test
def workers_make_no_difference():
    with scratch() as folder:
        for n in (1, 2, 3, 16):
            must("convert", SMALL, folder / str(n), "-w", n)
            check_same(folder / str(n), folder / "1")


@test
def single_file_and_empty_ones_convert():
    tensors = {"empty": ("F32", (0, 3), b""), "scalar": ("BF16", (), b"\x80\x3f"),
               "whole": ("I64", (2,), struct.pack("<2q", -1, 2 ** 62))}
    with scratch() as folder:
        source = write_file(folder / "one.safetensors", tensors)
        must("convert", source, folder / "out")
        out = folder / "out/shard_000"
        assert np.load(out / "empty.npy").shape == (0, 3)
        assert np.load(out / "scalar.npy") == 1.0
        assert np.load(out / "whole.npy").tolist() == [-1, 2 ** 62]
        nothing = write_file(folder / "none.safetensors", {})
        must("convert", nothing, folder / "nothing")
        assert json.loads((folder / "nothing/manifest.json").read_text())["tensors"] == []


@test
def checksums_as_asked():
    with scratch() as folder:
        must("convert", TINY, folder / "both", "--sha256", "--checksum")
        check_sums(folder / "both")
        check_sums(folder / "both", "SHA256SUMS", "sha256sum")
        must("convert", TINY, folder / "none", "--no-checksum")
        assert not (folder / "none/XXH3SUMS").exists()
        for name in ("XXH3SUMS", "SHA256SUMS"):
            (folder / "both" / name).unlink()
        check_same(folder / "none", folder / "both")


@test
def float16_losses_are_counted():
    """Against numpy, over every dtype that can lose something."""
    numbers = np.random.default_rng(SEED)
    tensors, overflowed, became_zero = {}, 0, 0
    for dtype in ("BF16", "F32", "F64"):
        values = (numbers.normal(size=40_001) ** 15).astype(DTYPES[dtype])
        values[:9] = (0, -0.0, np.inf, -np.inf, np.nan, 65519, 65520, 2.0 ** -25, 2.0 ** -24)
        tensors[dtype] = (dtype, (40_001,), values.tobytes())
        exact = values.astype("f4") if dtype != "F64" else values
        with np.errstate(over="ignore"):
            half = exact.astype("f2")
        overflowed += int((np.isinf(half) & np.isfinite(exact)).sum())
        became_zero += int(((half == 0) & (exact != 0)).sum())
    tensors["F16"] = ("F16", (2,), np.array([np.inf, 1], "f2").tobytes())
    assert overflowed > 100 and became_zero > 100
    with scratch() as folder:
        source = write_file(folder / "model.safetensors", tensors)
        expected = f"float16: {overflowed} values overflowed, {became_zero} became zero"
        assert expected in must("convert", source, folder / "out", "-p", "float16")
        last = must("convert", source, folder / "json", "-p", "float16", "--progress", "json")
        done = json.loads(last.splitlines()[-1])
        assert (done["float16_overflowed"], done["float16_became_zero"]) == (overflowed, became_zero)
        assert expected in must("convert", source, folder / "out", "-p", "float16", "--resume")
        assert "float16" not in must("convert", source, folder / "exact")


# ---------------------------------------------------------------- how it is said

@test
def dry_run_writes_nothing():
    with scratch() as folder:
        lines = must("convert", TINY, folder / "out", "--dry-run").splitlines()
        assert not (folder / "out").exists()
        must("convert", TINY, folder / "out")
        sizes = {line.split(None, 1)[1]: int(line.split()[0]) for line in lines[:-1]}
        found = {name: len(data) for name, data in files_of(folder / "out").items()}
        del found["XXH3SUMS"]
        assert sizes == found


@test
def summary_and_silence():
    with scratch() as folder:
        assert must("convert", TINY, folder / "a", "--quiet") == ""
        summary = must("convert", TINY, folder / "b")
        assert re.match(r"\S+: 71 tensors, \d+ parameters; .* read, .* written in .* s, .*/s; "
                        r"peak memory .* MB\n$", summary), summary
        lines = must("convert", SMALL, folder / "c", "--progress=json").splitlines()
        events = [json.loads(line) for line in lines]
        assert [e["event"] for e in events] == ["progress"] * (len(events) - 1) + ["done"]
        total = sum(len(data) for name, data in files_of(folder / "c").items() if name != "XXH3SUMS")
        assert events[-1]["bytes_written"] == total == events[0]["total"]


def run_on_terminal(columns, *arguments, resize=None):
    """What a terminal of that width receives; `resize` is its width after the first picture."""
    master, slave = pty.openpty()

    def set_width(width):
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    set_width(columns)
    with subprocess.Popen([PROGRAM, *map(str, arguments)], stdin=slave, stdout=slave,
                          stderr=slave) as process:
        os.close(slave)
        received = b""
        while True:
            try:
                received += os.read(master, 1 << 16)
            except OSError:
                break
            if resize:
                set_width(resize)
        assert process.wait(60) == 0, received
    os.close(master)
    return received.decode()


@test
def progress_bar_fits_the_terminal():
    with scratch() as folder:
        for i, (columns, resize) in enumerate([(120, None), (40, None), (12, None), (2, None), (100, 20)]):
            text = run_on_terminal(columns, "convert", SMALL, folder / str(i), resize=resize)
            pictures = re.findall(r"\r([^\r\n]*)\x1b\[K", text)
            assert pictures, text
            assert all(len(picture) < columns for picture in pictures), pictures
            if columns >= 100:
                assert "%" in pictures[0] and " of " in pictures[0], pictures
            assert "peak memory" in text.rpartition("\x1b[K")[2], "the summary follows the erased bar"


# ---------------------------------------------------------------- what is refused

@test
def mistakes_are_usage_errors():
    with scratch() as folder:
        out = folder / "out"
        refused("convert", TINY, status=2, says=["expected SOURCE and DIR", "--help"])
        refused("convert", TINY, out, "x", status=2)
        refused("convert", "--input", TINY, out, "x", status=2)
        refused("convert", TINY, out, "--format", "gguf", status=2, says=["numpy-direct", "gguf"])
        refused("convert", TINY, out, "--workers", "0", status=2, says=["--workers"])
        refused("convert", TINY, out, "--shard-size", "-1", status=2)
        refused("convert", TINY, out, "--nonsense", status=2, says=["nonsense"])
        refused("convert", folder / "nothing", out, says=["No such file"])
        refused("convert", TINY, folder / "a/b/c", says=["a/b/c", "No such file"])
        assert not out.exists()


@test
def other_folders_are_left_alone():
    with scratch() as folder:
        for name in ("a file", ".hidden", "manifest.json"):
            other = folder / name.replace(" ", "_")
            other.mkdir()
            (other / name).write_text("mine")
            refused("convert", TINY, other, says=["not empty"])
            refused("convert", TINY, other, "--resume", says=["holds something else"])
            assert files_of(other) == {name: b"mine"}
        (folder / "file").write_text("mine")
        refused("convert", TINY, folder / "file", says=["file"])
        (folder / "empty").mkdir()
        must("convert", TINY, folder / "empty")
        before = files_of(folder / "empty")
        refused("convert", TINY, folder / "empty", says=["not empty"])
        assert files_of(folder / "empty") == before


@test
def name_of_ours_in_the_checkpoint_is_refused():
    with copy_of(TINY) as source, scratch() as folder:
        (source / STATE).write_text("mine")
        refused("convert", source, folder / "out", says=[STATE, "rename it"])
        assert not (folder / "out").exists()


@test
def changed_source_is_an_error():
    """A source that shrinks while it is read: one message, nothing wrong under a final name."""
    with copy_of(SMALL) as source, scratch() as folder:
        must("convert", source, folder / "good")
        with slow_conversion(source, folder / "out") as process:
            wait_for(lambda: list((folder / "out").glob("shard_000/*")), "a first file")
            for file in source.glob("*.safetensors"):
                os.truncate(file, file.stat().st_size // 3)
            process.wait(60)
            stderr = process.stderr.read()
        assert process.returncode == 1, stderr
        assert stderr.count("\n") <= 2 and ".safetensors" in stderr, stderr
        for name, data in files_of(folder / "out").items():
            if not name.startswith(STATE):
                assert data == (folder / "good" / name).read_bytes(), name


# ---------------------------------------------------------------- interrupted, killed, resumed

@contextmanager
def slow_conversion(source, out, *options):
    """One that is stopped now and then, so that there is time to do something to it."""
    process = subprocess.Popen([PROGRAM, "convert", source, out, "-w", "1", *options],
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stderr.close()


@test
def killed_at_any_moment_it_resumes():
    """SIGKILL, at least 100 times; what comes out at last is what an undisturbed run writes."""
    chance, kills = random.Random(SEED), 0
    with scratch() as folder:
        source = write_shards(folder / "in", Generator(SEED).shards(2, 60, 6))
        plain = folder / "plain"
        must("convert", TINY, plain, "--format", "safetensors")
        for model, options in ((source, ["--sha256"]), (plain, ["--quantize", "mxfp4", "--shard-size", "0.0001"]), (TINY, []), (TINY, ["--no-checksum", "-p", "source"]),
                               (TINY, ["--format", "safetensors", "--shard-size", "0.001"]),
                               (TINY, ["--format", "msgpack"])):
            expected = folder / f"expected{kills}"
            start = time.monotonic()
            must("convert", model, expected, *options)
            duration = time.monotonic() - start
            rounds = 0
            while rounds < 20:
                out = folder / "out"
                for _ in range(100):
                    process = subprocess.Popen([PROGRAM, "convert", model, out, "--resume", "-q", *options],
                                               stderr=subprocess.PIPE, text=True)
                    try:
                        stderr = process.communicate(timeout=chance.uniform(0, duration))[1]
                        assert process.returncode == 0, stderr
                        break
                    except subprocess.TimeoutExpired:
                        process.kill()
                        process.communicate()
                        rounds += 1
                        for name, data in files_of(out).items() if out.exists() else ():
                            if not name.startswith(STATE):
                                assert data == (expected / name).read_bytes(), f"half written: {name}"
                else:
                    must("convert", model, out, "--resume", "-q", *options)
                check_same(out, expected)
                shutil.rmtree(out)
            kills += rounds
    assert kills >= 100


@test
def interrupt_leaves_what_can_be_resumed():
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        with scratch() as folder:
            out = folder / "out"
            with slow_conversion(SMALL, out) as process:
                wait_for(lambda: list(out.glob("shard_000/*")), "a first file")
                process.send_signal(number)
                process.wait(60)
                stderr = process.stderr.read()
            assert process.returncode == -number, stderr
            assert "--resume" in stderr and stderr.count("\n") == 1, stderr
            assert [path.name for path in (out / STATE).iterdir()] == ["journal"]
            refused("convert", SMALL, out, says=["unfinished", "--resume"])
            refused("convert", SMALL, out, "--resume", "-p", "float16", says=["was begun with", "float32"])
            refused("convert", SMALL, out, "--resume", "--include", "*a*", says=["was begun with"])
            refused("convert", TINY, out, "--resume", says=["another checkpoint"])
            assert "files were there and right" in must("convert", SMALL, out, "--resume")
            must("convert", SMALL, folder / "whole")
            check_same(out, folder / "whole")


@test
def interrupt_before_the_first_file_leaves_nothing():
    with scratch() as folder:
        out = folder / "out"
        for step in range(20):
            process = subprocess.Popen([PROGRAM, "convert", SMALL, out], stdout=subprocess.DEVNULL,
                                       stderr=subprocess.PIPE)
            time.sleep(step / 1000)  # no event to wait for: all moments are to be tried
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
            if out.exists():
                assert any(not name.startswith(STATE) for name in files_of(out)), files_of(out).keys()
                shutil.rmtree(out)


@test
def resume_checks_and_mends():
    with copy_of(TINY) as source, scratch() as folder:
        out = folder / "out"
        must("convert", source, out)
        expected = files_of(out)
        names = sorted(name for name in expected if name.endswith(".npy"))
        damage = [
            lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\xff"),
            lambda path: path.write_bytes(path.read_bytes() + b"more"),
            lambda path: path.write_bytes(b""),
            lambda path: path.unlink(),
            lambda path: (path.unlink(), path.symlink_to("/etc/passwd")),
        ]
        for i, spoil in enumerate(damage):
            spoil(out / names[i * 3])
        (out / "XXH3SUMS").unlink()
        passwd = Path("/etc/passwd").read_bytes()
        assert re.search(r"\d+ files were there and right, 1 were not", must("convert", source, out, "--resume"))
        assert files_of(out) == expected and not (out / names[12]).is_symlink()
        assert Path("/etc/passwd").read_bytes() == passwd
        refused("convert", source, out, "--resume", "-p", "bfloat16", says=["other options"])
        os.utime(next(source.glob("*.safetensors")), ns=(2 * 10 ** 18, 2 * 10 ** 18))
        must("convert", source, out, "--resume")  # the bytes are the same: nothing to complain of
        assert files_of(out) == expected


@test
def changed_source_is_not_mixed_in():
    with copy_of(SMALL) as source, scratch() as folder:
        out = folder / "out"
        with slow_conversion(source, out) as process:
            wait_for(lambda: list(out.glob("shard_000/*")), "a first file")
            process.kill()
        os.utime(next(source.glob("*.safetensors")), ns=(2 * 10 ** 18, 2 * 10 ** 18))
        refused("convert", source, out, "--resume", says=["another checkpoint", "changed"])


@test
def damaged_journal_is_one_clear_error():
    with scratch() as folder:
        out = folder / "out"
        with slow_conversion(SMALL, out) as process:
            wait_for(lambda: list(out.glob("shard_000/*")), "a first file")
            process.kill()
        for text in (b"", b"\0" * 100, b"tensorport convert 2\n", b"x" * (2 << 20)):
            (out / STATE / "journal").write_bytes(text)
            refused("convert", SMALL, out, "--resume", says=["journal"])


@test
def two_at_once_do_not_mix():
    with scratch() as folder:
        out = folder / "out"
        with slow_conversion(SMALL, out) as process:
            wait_for(lambda: (out / STATE / "journal").exists(), "the journal")
            process.send_signal(signal.SIGSTOP)
            refused("convert", SMALL, out, "--resume", says=["another conversion"])
            process.send_signal(signal.SIGCONT)
            assert process.wait(60) == 0
        check_sums(out)


# ---------------------------------------------------------------- disks

@contextmanager
def small_disk(kind, mebibytes):
    """A file system of its own, in a file."""
    with scratch() as folder:
        image, path = folder / "image", folder / "disk"
        path.mkdir()
        image.touch()
        os.truncate(image, mebibytes << 20)
        subprocess.run([f"mkfs.{kind}", "-q", image], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", image, path], check=True)
        try:
            yield path
        finally:
            subprocess.run(["umount", path], check=True)


@test
def full_disk_is_one_error_and_resumable():
    with small_disk("ext4", 40) as disk, scratch() as folder:
        filler, out = disk / "filler", disk / "out"
        room = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        filler.write_bytes(bytes(room - (4 << 20)))
        done = tensorport("convert", TINY, out, "-w", "2")
        lines = done.stderr.splitlines()
        assert done.returncode == 1 and len(lines) == 2, done
        assert "warning" in lines[0] and "are free" in lines[0], done
        assert "No space left" in lines[1] and "--resume" in lines[1], done
        assert os.listdir(out / STATE) == ["journal"], "no half file stays"
        filler.unlink()
        assert "were there and right" in must("convert", TINY, out, "--resume")
        must("convert", TINY, folder / "whole")
        check_same(out, folder / "whole")


@test
def limit_on_file_sizes_is_one_error():
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    with scratch() as folder:
        refused("convert", TINY, folder / "out", says=["File too large"], preexec_fn=limit)


@test
def files_are_shared_with_the_checkpoint_where_the_disk_can():
    with small_disk("xfs", 320) as disk:
        shutil.copytree(SMALL, disk / "model")
        for options in ([], ["--no-checksum"]):
            out = disk / "out"
            last = must("convert", disk / "model", out, "-p", "source", "--mxfp4", "packed",
                        "--progress", "json", *options).splitlines()[-1]
            assert json.loads(last)["bytes_cloned"] >= (SMALL / "tokenizer.json").stat().st_size
            check_view(out, reference(SMALL), "source", packed=True)
            assert filecmp.cmp(out / "tokenizer.json", SMALL / "tokenizer.json", shallow=False)
            shutil.rmtree(out)


@test
def read_only_places_are_one_error():
    with Mount(TINY) as mount:
        refused("convert", TINY, mount.path / "out", says=[os.strerror(errno.EROFS)])
        refused("convert", TINY, mount.path, says=["not empty"])


@test
def memory_stays_bounded():
    with scratch() as folder:
        source = write_file(folder / "big.safetensors",
                            {"w": ("BF16", (6000, 10000), bytes(120_000_000))})
        done = must("convert", source, folder / "out", "-w", "4", "--progress", "json")
        assert json.loads(done.splitlines()[-1])["peak_memory"] < 64 << 20
        assert np.load(folder / "out/shard_000/w.npy", mmap_mode="r")[::50].any() == False  # noqa: E712


main()
