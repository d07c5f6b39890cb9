"""`tensorport verify`: right folders of every making are right; every kind of damage is a fault that
is named, and nothing in a folder, however malicious, makes it crash."""

import json
import os
import random
import re
import shutil
import socket
import struct
import subprocess
from pathlib import Path

import numpy as np

from support import Mount, checkpoint, main, must, refused, scratch, tensorport, test
from generate import Generator, write_file, write_shards

KINDS = ("manifest", "unfinished", "missing", "extra", "type", "unreadable", "size", "header", "sums",
         "checksum", "source", "value")
FORMATS = re.search(r"expected one of (.*), found", tensorport("convert", "--format=?").stderr)[1].split(", ")


def verify(folder, *options):
    """The report as an object; its exit status has to agree with it."""
    done = tensorport("verify", "--json", folder, *options)
    assert done.returncode in (0, 1) and done.stderr == "", done
    report = json.loads(done.stdout)
    assert report["ok"] == (done.returncode == 0) == (report["faults"] == []), report
    assert sum(report["fault_counts"].values()) >= len(report["faults"]), report
    assert set(report["fault_counts"]) == {fault["kind"] for fault in report["faults"]} <= set(KINDS)
    return report


def right(folder, *options):
    report = verify(folder, *options)
    assert report["ok"], report["faults"][:5]
    return report


def faults(folder, *options):
    """What is wrong: a sorted list of (kind, file)."""
    return sorted((fault["kind"], fault["file"]) for fault in verify(folder, *options)["faults"])


def convert(source, folder, *options):
    must("convert", "--quiet", source, folder, *options)
    return folder


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


def some_file(folder, dtype="float32", least=1000):
    """The path of a tensor's file that has a certain type and length."""
    return next(t["file"] for t in manifest_of(folder)["tensors"]
                if t["dtype"] == dtype and t["nbytes"] >= least)


def make_sums(folder, program="xxh128sum", name="XXH3SUMS"):
    """As a user would, with paths that begin with "./"."""
    files = subprocess.run(["find", ".", "-type", "f", "!", "-name", "*SUMS", "-print0"], cwd=folder,
                           capture_output=True, check=True).stdout
    text = subprocess.run(["xargs", "-0", program], cwd=folder, input=files, capture_output=True,
                          check=True).stdout
    (folder / name).write_bytes(text)


def flip(path, at, bit=0):
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))


class Damaged:
    """A converted folder in which one file at a time is damaged and made whole again."""

    def __init__(self, scratch_folder, source, *options):
        self.good = convert(source, scratch_folder / "good", *options)
        self.folder = scratch_folder / "damaged"
        shutil.copytree(self.good, self.folder)

    def restore(self):
        shutil.rmtree(self.folder)
        shutil.copytree(self.good, self.folder)


def odd_checkpoint(folder):
    """All types, empty tensors, scalars, names that need escapes, and other files."""
    shards = Generator(11).shards(2, 25, 2)
    shards[0]["new\nline and \\ backslash"] = ("I16", (3,), bytes(6))
    shards[0]["scalar"] = ("F64", (), struct.pack("<d", 1.5))
    shards[1]["empty"] = ("BF16", (0, 7), b"")
    shards[1]["complex"] = ("C64", (5,), bytes(range(40)))
    source = write_shards(folder / "odd source", shards)
    (source / "config.json").write_text("{}")
    (source / "an empty file").write_text("")
    (source / "od\\d\nname.txt").write_text("x")
    return source


# ---------------------------------------------------------------- what is right

@test
def converted_folders():
    with scratch() as folder:
        odd = odd_checkpoint(folder)
        for i, source in enumerate((checkpoint("tiny"), checkpoint("llama"), odd)):
            for precision in ("float32", "float16", "bfloat16", "source"):
                made = convert(source, folder / f"{i} {precision}", f"--precision={precision}",
                               "--shard-size=0.01" if source == odd else "--shard-size=0.001", "--sha256")
                report = right(made)
                assert report["checksums"] == ["XXH3SUMS", "SHA256SUMS"] and not report["compared"]
                assert report["tensors"] == len(manifest_of(made)["tensors"]), report
                assert report["unchecked_files"] == 0 and report["format"] == "numpy-direct"
                size = sum(f.stat().st_size for f in made.rglob("*") if f.is_file() and "SUMS" not in f.name)
                assert report["bytes"] == size, report
                report = right(made, "--source", source)
                assert report["compared"] and report["absent"] == [], report
        packed = convert(odd, folder / "packed", "--precision=source", "--mxfp4=packed")
        right(packed, "--source", odd)


@test
def copies_of_mounts():
    with scratch() as folder:
        for name in ("float32", "packed"):
            with Mount(checkpoint("tiny")) as mount:
                copy = folder / name
                subprocess.run(["cp", "-r", mount.path / ".tensorport/views" / name, copy], check=True)
            report = right(copy)
            assert report["checksums"] == [] and report["unchecked_files"] > 0
            assert right(copy, "--source", checkpoint("tiny"))["unchecked_files"] == 0
            make_sums(copy)
            assert right(copy)["unchecked_files"] == 0
            make_sums(copy, "sha256sum", "SHA256SUMS")
            report = right(copy, "--source", checkpoint("tiny"))
            assert report["checksums"] == ["XXH3SUMS", "SHA256SUMS"], report


@test
def live_mounts():
    for options in ([], ["--precision=bfloat16"], ["--mxfp4=packed", "--precision=source"]):
        with Mount(checkpoint("tiny"), *options) as mount:
            right(mount.path)
            right(mount.path, "--source", checkpoint("tiny"))
            right(mount.path / ".tensorport/views/float16", "--source", checkpoint("tiny"))


@test
def every_format():
    assert "numpy-direct" in FORMATS
    with scratch() as folder:
        for name in FORMATS:
            made = convert(checkpoint("tiny"), folder / name, "--format", name, "--shard-size=0.003")
            assert right(made)["format"] == name
            right(made, "--source", checkpoint("tiny"))
            if name == "numpy-direct":
                continue
            tensor = next(t for t in manifest_of(made)["tensors"] if t["nbytes"] > 4000)
            width = {"float32": 4, "bfloat16": 2, "float16": 2}[tensor["dtype"]]
            at = tensor.get("offset", tensor.get("chunks", [{}])[0].get("offset"))
            flip(made / tensor["file"], at + 100 * width + 1)
            (made / "XXH3SUMS").unlink()
            report = verify(made, "--source", checkpoint("tiny"))
            assert [(f["kind"], f["tensor"], f["element"]) for f in report["faults"]] == [
                ("value", tensor["name"], 100)], report
            os.truncate(made / tensor["file"], at + 50)
            assert ("size", tensor["file"]) in faults(made)
            check_places(made, tensor["file"])


def check_places(folder, file):
    """Places in a container that cannot be."""
    good = manifest_of(folder)
    one, two = [i for i, t in enumerate(good["tensors"])
                if t["file"] == file and "offset" in t and t["nbytes"]][:2]
    offset = good["tensors"][two]["offset"]
    for edit, kind in ((set_field("tensors", one, "offset", 2 ** 64 - 1), "size"),
                       (set_field("tensors", one, "offset", 2 ** 40), "size"),
                       (set_field("tensors", one, "offset", offset), "manifest"),
                       (set_field("tensors", one, "offset", offset + 1), "manifest"),
                       (set_field("tensors", one, "offset", "0"), "manifest"),
                       (drop_field("tensors", one, "offset"), "manifest"),
                       (set_field("tensors", one, "chunks", [{"offset": 0, "nbytes": 1}]), "manifest"),
                       (set_field("tensors", one, "transposed", 1), "manifest"),
                       (drop_field("format"), "manifest")):
        manifest = json.loads(json.dumps(good))
        edit(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest))
        assert kind in {kind for kind, _ in faults(folder)}, (kind, faults(folder))
    (folder / "manifest.json").write_text(json.dumps(good))


@test
def a_choice_of_tensors():
    with scratch() as folder:
        source = checkpoint("tiny")
        made = convert(source, folder / "some", "--include=*layers.0*", "--exclude=*bias")
        report = right(made, "--source", source)
        names = [t["name"] for t in manifest_of(made)["tensors"]]
        everything = [t["name"] for t in json.loads(must("inspect", "--json", source))["tensors"]]
        assert names and sorted(report["absent"] + names) == sorted(everything), report
        text = must("verify", made, "--source", source)
        assert 'not here, but in the source: tensor "lm_head.weight"' in text, text


@test
def a_renamed_source():
    with scratch() as folder:
        shutil.copytree(checkpoint("tiny"), folder / "another name")
        made = convert(checkpoint("tiny"), folder / "made")
        right(made, "--source", folder / "another name")


@test
def what_people_see():
    with scratch() as folder:
        made = convert(checkpoint("tiny"), folder / "made")
        text = must("verify", made)
        assert re.fullmatch(r".*/made: all is right; \d+ tensors, 7\.\d* MB in \d+ files, \d\.\d s, .*/s; "
                            r"checksums: XXH3SUMS; values not compared\n", text), text
        assert must("verify", "--quiet", made) == ""
        (made / "config.json").unlink()
        (made / "one\ntwo").write_text("")
        done = tensorport("verify", made)
        assert done.returncode == 1 and done.stdout.startswith(f"{made}: 2 faults: 1 missing, 1 extra; "), done
        lines = done.stderr.splitlines()
        assert lines[0] == f"tensorport verify: {made}/config.json: is not here as a file, but in XXH3SUMS"
        assert lines[1].startswith(f"tensorport verify: {made}/one\\x0atwo: ") and len(lines) == 2, lines
        done = tensorport("verify", "--quiet", made)
        assert done.stdout == "" and done.stderr.splitlines() == lines, done
        lines = tensorport("verify", "--progress=json", "--json", made).stdout.splitlines()
        assert not json.loads(lines[-1])["ok"] and all(json.loads(line) for line in lines)
        for n in range(250):
            (made / f"extra {n}").write_text("")
        done = tensorport("verify", made)
        assert len(done.stderr.splitlines()) == 1 + 100 + 1, done.stderr
        assert 'and 151 more of kind "extra"' in done.stderr and "252 faults" in done.stdout, done


@test
def mistakes():
    refused("verify", status=2, says=["expected one DIR"])
    refused("verify", "a", "b", status=2)
    refused("verify", "--workers=0", ".", status=2, says=["--workers"])
    refused("verify", "--progress=no", ".", status=2, says=["bar, json, none"])
    refused("verify", "--no-such-option", ".", status=2)
    with scratch() as folder:
        refused("verify", folder / "nothing", says=["expected a folder"])
        (folder / "file").write_text("")
        refused("verify", folder / "file", says=["expected a folder"])
        assert faults(folder) == [("missing", "manifest.json")]
        made = convert(checkpoint("tiny"), folder / "made")
        refused("verify", made, "--source", folder / "nothing", says=["nothing"])
        with open("/dev/full", "w") as full:
            done = tensorport("verify", made, stdout=full)
            assert done.returncode == 1 and "No space" in done.stderr, done


# ---------------------------------------------------------------- damaged files

@test
def a_bit_in_every_region():
    with scratch() as folder:
        source = checkpoint("tiny")
        case = Damaged(folder, source)
        file = some_file(case.good)
        size, tensor = (case.good / file).stat().st_size, next(
            t for t in manifest_of(case.good)["tensors"] if t["file"] == file)
        head = size - tensor["nbytes"]
        numbers = random.Random(3)
        for at in (0, 6, 8, 20, head - 1, head, head + 1, size // 2, size - 1, numbers.randrange(head, size)):
            flip(case.folder / file, at, numbers.randrange(8))
            found = faults(case.folder)
            expected = [("checksum", file)] + ([("header", file)] if at < head else [])
            assert found == expected, (at, found)
            report = verify(case.folder, "--source", source)
            kinds = {fault["kind"] for fault in report["faults"]}
            assert kinds == {"checksum", "header" if at < head else "value"} | (
                {"value"} if at < head else set()), (at, report["faults"])
            if at >= head:
                value = next(f for f in report["faults"] if f["kind"] == "value")
                index = (at - head) // 4
                assert (value["tensor"], value["element"]) == (tensor["name"], index), value
                with np.errstate(all="ignore"):
                    for name, root in (("found", case.folder), ("expected", case.good)):
                        number = np.fromfile(root / file, "<f4", 1, offset=head + 4 * index)
                        text = value[name].split()
                        assert text[1] == f"(0x{number.view('<u4')[0]:08x})", value
                        assert np.float32(text[0]) == number[0] or np.isnan(number[0]), value
            (case.folder / "XXH3SUMS").unlink()
            found = faults(case.folder, "--source", source)
            assert ("value", file) in found, found
            assert faults(case.folder) == ([("header", file)] if at < head else [])
            case.restore()


@test
def every_type_names_its_values():
    """The first of two differences of each tensor, in all types and precisions."""
    with scratch() as folder:
        source = odd_checkpoint(folder)
        for precision in ("source", "bfloat16"):
            (folder / precision).mkdir()
            case = Damaged(folder / precision, source, f"--precision={precision}", "--no-checksum")
            wanted = set()
            for tensor in manifest_of(case.good)["tensors"]:
                path = case.folder / tensor["file"]
                if tensor["nbytes"] == 0:
                    continue
                n, size = int(np.prod(tensor["shape"], dtype=object)), path.stat().st_size
                width, element = tensor["nbytes"] // n, n // 2
                for at in {size - 1, size - tensor["nbytes"] + element * width}:
                    flip(path, at, 1)
                wanted.add((tensor["name"], element))
            report = verify(case.folder, "--source", source)
            assert {(f["tensor"], f["element"]) for f in report["faults"]} == wanted
            assert all(f["found"] != f["expected"] for f in report["faults"])


@test
def lengths_and_names():
    with scratch() as folder:
        source = checkpoint("tiny")
        case = Damaged(folder, source)
        file = some_file(case.good)
        path, shard = case.folder / file, case.folder / "shard_000"
        size = path.stat().st_size
        second = next(t["file"] for t in manifest_of(case.good)["tensors"]
                      if t["file"] != file and (case.good / t["file"]).stat().st_size != size)
        twin = next(t for t in manifest_of(case.good)["tensors"] if t["file"] == file)
        twin = next(t["file"] for t in manifest_of(case.good)["tensors"]
                    if t["file"] != file and t["shape"] == twin["shape"])

        def links():
            path.unlink()
            path.symlink_to(case.good / file)

        def folder_link():
            shard.rename(folder / "elsewhere")
            shard.symlink_to(folder / "elsewhere")

        def folder_for_file():
            path.unlink()
            path.mkdir()

        def swap(other):
            def action():
                path.rename(folder / "swap")
                (case.folder / other).rename(path)
                (folder / "swap").rename(case.folder / other)
            return action

        def pipe():
            path.unlink()
            os.mkfifo(path)

        def plug():
            path.unlink()
            with socket.socket(socket.AF_UNIX) as listener:
                here = os.getcwd()
                os.chdir(path.parent)  # such names are short
                listener.bind("s")
                os.chdir(here)
            (path.parent / "s").rename(path)

        n_files = len(list((case.good / "shard_000").iterdir()))
        for action, expected in (
                (lambda: os.truncate(path, size - 1), [("size", file)]),
                (lambda: os.truncate(path, 0), [("size", file)]),
                (lambda: os.truncate(path, 50), [("size", file)]),
                (lambda: path.open("ab").write(b"\0"), [("size", file)]),
                (path.unlink, [("missing", file)]),
                (lambda: (case.folder / "config.json").unlink(), [("missing", "config.json")]),
                (lambda: path.rename(shard / "x.npy"), [("extra", "shard_000/x.npy"), ("missing", file)]),
                (lambda: (shard / "x").write_text(""), [("extra", "shard_000/x")]),
                (lambda: (case.folder / "x").write_text(""), [("extra", "x")]),
                (lambda: (case.folder / ".hidden").write_text(""), [("extra", ".hidden")]),
                (lambda: (case.folder / "x").symlink_to("nowhere"), [("extra", "x")]),
                (lambda: (case.folder / "shard_001").mkdir(), [("extra", "shard_001")]),
                (lambda: (shard / "deeper").mkdir(), [("extra", "shard_000/deeper")]),
                (lambda: (shard / "x.npy.partial").write_text(""), [("unfinished", "shard_000/x.npy.partial")]),
                (lambda: (case.folder / "config.json.partial").write_text(""), [("unfinished", "config.json.partial")]),
                (lambda: (case.folder / ".tensorport-convert").mkdir(), [("unfinished", ".tensorport-convert")]),
                (links, [("type", file)]), (pipe, [("type", file)]), (plug, [("type", file)]),
                (folder_for_file, [("extra", file), ("missing", file)]),
                (swap(twin), sorted([("checksum", file), ("checksum", twin)])),
                (swap(second), sorted([("size", file), ("size", second)])),
                (lambda: flip(case.folder / "config.json", 3), [("checksum", "config.json")]),
        ):
            action()
            assert faults(case.folder) == expected, (expected, faults(case.folder))
            with_source = faults(case.folder, "--source", source)
            assert set(with_source) >= set(expected), (expected, with_source)
            case.restore()
        swap(twin)()
        (case.folder / "XXH3SUMS").unlink()
        assert faults(case.folder) == []  # nothing can tell
        assert faults(case.folder, "--source", source) == sorted([("value", file), ("value", twin)])
        case.restore()
        folder_link()
        found = faults(case.folder)
        assert ("extra", "shard_000") in found and len(found) == 1 + n_files, found[:3]
        shutil.rmtree(folder / "elsewhere")


@test
def other_files_without_checksums():
    with scratch() as folder:
        source = checkpoint("tiny")
        case = Damaged(folder, source, "--no-checksum")
        for action, without, compared in (
                (lambda: (case.folder / "x").write_text(""), [], [("extra", "x")]),
                (lambda: (case.folder / "config.json").unlink(), [], [("missing", "config.json")]),
                (lambda: flip(case.folder / "config.json", 5), [], [("value", "config.json")]),
                (lambda: os.truncate(case.folder / "config.json", 5), [], [("size", "config.json")]),
                (lambda: (case.folder / "shard_000/x").write_text(""), [("extra", "shard_000/x")],
                 [("extra", "shard_000/x")])):
            action()
            assert faults(case.folder) == without
            assert faults(case.folder, "--source", source) == compared
            case.restore()


@test
def unreadable_files():
    """A checkpoint that is cut below a mount: reading gives EIO."""
    with scratch() as folder:
        source = folder / "model"
        shutil.copytree(checkpoint("tiny"), source)
        with Mount(source, "--log-level=error") as mount:
            shard = sorted(source.glob("*.safetensors"))[-1]
            os.truncate(shard, shard.stat().st_size - 100)
            found = verify(mount.path)["faults"]
            assert found and {f["kind"] for f in found} == {"unreadable"}, found
            assert "Input/output error" in found[0]["message"], found
        made = convert(checkpoint("tiny"), folder / "made")
        os.truncate(shard, shard.stat().st_size - 100)
        refused("verify", made, "--source", source, says=[shard.name])


@test
def another_source():
    with scratch() as folder:
        n = 2000
        def tensors(**changes):
            values = np.arange(n, dtype="<f4")
            return {"a": ("F32", (n,), values.tobytes()), "b": ("F32", (4, n // 4), values.tobytes()),
                    "c": ("I64", (2,), bytes(16)), **changes}
        source = write_file(folder / "a.safetensors", tensors())
        made = convert(source, folder / "made")
        def compare(**changes):
            other = write_file(folder / "other.safetensors", tensors(**changes))
            return [(f["kind"], f["file"], f.get("tensor")) for f in verify(made, "--source", other)["faults"]
                    if f["file"] != "manifest.json"]
        assert compare() == []
        values = np.arange(n, dtype="<f4")
        values[17] = -0.0
        assert compare(a=("F32", (n,), values.tobytes())) == [("value", "shard_000/a.npy", "a")]
        found = compare(a=("F32", (n // 2, 2), np.arange(n, dtype="<f4").tobytes()))
        assert ("source", "shard_000/a.npy", None) in found, found
        found = compare(c=("I32", (4,), bytes(16)))
        assert ("source", "shard_000/c.npy", None) in found, found
        other = write_file(folder / "less.safetensors", {k: v for k, v in tensors().items() if k != "b"})
        assert ("source", "shard_000/b.npy") in faults(made, "--source", other)


# ---------------------------------------------------------------- damaged descriptions

@test
def damaged_sums():
    with scratch() as folder:
        case = Damaged(folder, odd_checkpoint(folder), "--sha256")
        for name in ("XXH3SUMS", "SHA256SUMS"):
            path = case.folder / name
            good = path.read_bytes()
            lines = good.splitlines(keepends=True)
            plain = next(i for i, line in enumerate(lines) if line.endswith(b".npy\n") and line[:1] != b"\\")
            line, rest = lines[plain], lines[:plain] + lines[plain + 1:]
            file = line.split(b"  ", 1)[1][:-1].decode()
            for text, expected in (
                    (b"".join(rest), {("sums", name)}),
                    (good + line, {("sums", name)}),
                    (good + b"\n", {("sums", name)}),
                    (good + b"no line\n", {("sums", name)}),
                    (good + line[:-1].replace(file.encode(), b"nothing here") + b"\n", {("missing", "nothing here")}),
                    (good + line[:32] + b"  /etc/passwd\n", {("sums", name)}),
                    (good + line.split(b"  ")[0] + b"  ../x\n", {("sums", name)}),
                    (good + b"\\" + line.split(b"  ")[0] + b"  a\\qb\n", {("sums", name)}),
                    (good[:-1], {("sums", name)}),
                    (good.replace(line, line.replace(b"  ", b" ", 1)), {("sums", name)}),
                    (good.replace(line, line[1:]), {("sums", name)}),
                    (good.replace(line, b"g" + line[1:]), {("sums", name)}),
                    (good.replace(line, bytes([line[0] ^ 1 if line[0] in b"01245678" else ord("0")]) + line[1:]),
                     {("checksum", file)}),
                    (b"", {("sums", name)}), (bytes(1000), {("sums", name)}),
                    (b"\xff" * 5000 + b"\n", {("sums", name)})):
                path.write_bytes(text)
                found = set(faults(case.folder))
                assert found == expected, (name, text[-100:], found)
            upper = b"".join(l.split(b"  ")[0].upper() + b" *./" + l.split(b"  ", 1)[1] for l in lines
                             if l[:1] != b"\\") + b"".join(l for l in lines if l[:1] == b"\\")
            path.write_bytes(upper)
            assert faults(case.folder) == []
            path.unlink()
            path.mkdir()
            assert ("unreadable", name) in faults(case.folder)
            case.restore()


def set_field(*path):
    """Sets a field of the manifest, deep in it."""
    *way, last, value = path

    def edit(manifest):
        for part in way:
            manifest = manifest[part]
        manifest[last] = value
    return edit


def drop_field(*path):
    *way, last = path

    def edit(manifest):
        for part in way:
            manifest = manifest[part]
        del manifest[last]
    return edit


@test
def edited_manifests():
    """Without checksums and without the source: what contradicts itself or the folder."""
    with scratch() as folder:
        case = Damaged(folder, checkpoint("tiny"), "--no-checksum")
        good = manifest_of(case.good)
        pair = next(i for i, t in enumerate(good["tensors"]) if "blocks" in t["source"])
        plain = next(i for i, t in enumerate(good["tensors"]) if "dtype" in t["source"] and len(t["shape"]) == 2)
        here, t = ("tensors", plain), good["tensors"][plain]
        wrong = ([], {}, None, True, "text", -1, 1.5, 1e300, 2 ** 64, "")
        edits = [drop_field(field) for field in good if field != "format"]
        edits += [drop_field(*here, field) for field in t]
        edits += [drop_field(*here, "source", field) for field in t["source"]]
        edits += [drop_field("tensors", pair, "source", half) for half in ("blocks", "scales")]
        edits += [drop_field("tensors", pair, "source", "scales", field) for field in t["source"]]
        edits += [set_field(field, value) for field in ("format_version", "precision", "mxfp4", "shard_size",
                                                        "total_size", "total_parameters", "tensors", "format")
                  for value in wrong if (field, value) != ("tensors", [])]
        edits += [set_field("source", value) for value in wrong if not isinstance(value, str)]
        edits += [set_field(*here, field, value) for field in t for value in wrong]
        edits += [set_field(*here, "source", field, value) for field in t["source"] for value in wrong
                  if not (field == "file" and isinstance(value, str))]
        edits += [set_field(*here, "file", value) for value in (
            "/etc/passwd", "../good/" + t["file"], "shard_000/../" + t["file"], "shard_000//x", "a/b/c", ".",
            "..", "shard_000/", "x\0y", "x" * 300, "shard_000/new.npy", "shard_001/" + t["file"].split("/")[1],
            good["tensors"][0 if plain else 1]["file"], "manifest.json", "config.json")]
        edits += [set_field(*here, "shape", value) for value in (
            [2 ** 32, 2 ** 32], [2 ** 63, 2], [0, 2 ** 64 - 1, 2], t["shape"][::-1] + [2], t["shape"] + [0], [1] * 5000,
            [[]], ["3"], [-1], [t["shape"][0] + 1, t["shape"][1]])]
        edits += [set_field(*here, "dtype", value) for value in ("float16", "<f4", "FLOAT32", "object", "int32")]
        edits += [set_field(*here, "nbytes", value) for value in (0, t["nbytes"] + 1, 2 ** 64 - 1)]
        edits += [set_field(*here, "offset", 0), set_field(*here, "chunks", []), set_field(*here, "chunks", [{}]),
                  set_field(*here, "source", "dtype", "F64"), set_field(*here, "source", "nbytes", 4),
                  set_field("tensors", pair, "source", "scales", "nbytes", 4),
                  set_field("tensors", pair, "source", "blocks", "dtype", "F32"),
                  set_field("format_version", 2), set_field("format_version", 0), set_field("format", "zip"),
                  set_field("precision", "float16"), set_field("precision", "bfloat16"),
                  set_field("mxfp4", "packed"), set_field("shard_size", 1000),
                  set_field("total_size", good["total_size"] + 1), set_field("total_parameters", 0),
                  lambda m: m["tensors"].pop(), lambda m: m["tensors"].append(t),
                  lambda m: m["tensors"].append({**t, "file": "shard_000/other.npy"}),
                  lambda m: m["tensors"].append({**t, "name": "other"}), set_field(*here, "name", good["tensors"][0]["name"])
                  if plain else set_field(*here, "name", good["tensors"][1]["name"])]
        for number, edit in enumerate(edits):
            manifest = json.loads(json.dumps(good))
            edit(manifest)
            if manifest == good:
                continue
            (case.folder / "manifest.json").write_text(json.dumps(manifest))
            found = verify(case.folder)["faults"]
            assert found, (number, edit.__closure__ and [c.cell_contents for c in edit.__closure__])
        for text in ("", "{", "[]", "null", "1", '"', "{}", "\xff", json.dumps(good)[:-1], json.dumps(good) + "x",
                     json.dumps(good).replace('"precision"', '"mxfp4"'), "[" * 100000,
                     json.dumps(good).replace("{", '{"tensors": [], ', 1)):
            (case.folder / "manifest.json").write_text(text, encoding="latin1")
            found = verify(case.folder)["faults"]
            assert any(f["kind"] == "manifest" and f["file"] == "manifest.json" for f in found), text[:50]
        (case.folder / "manifest.json").write_text(json.dumps({**good, "of a later edition": [1, {"x": 2}]}))
        assert faults(case.folder) == []


@test
def manifests_against_the_source():
    """What only the source, or a checksum, can tell."""
    with scratch() as folder:
        case = Damaged(folder, checkpoint("tiny"))
        text = (case.good / "manifest.json").read_text()
        for old, new in (('"offset":', '"offset":1'), ('"file":"model', '"file":"medel')):
            (case.folder / "manifest.json").write_text(text.replace(old, new, 1))
            assert faults(case.folder) == [("checksum", "manifest.json")]
            (case.folder / "XXH3SUMS").unlink()
            found = faults(case.folder, "--source", checkpoint("tiny"))
            assert found and found[0][1] == "manifest.json" and len(found) == 1, found
            case.restore()


@test
def random_manifests():
    """Mutations of the text: whatever it says, the answer is a report and 0 or 1."""
    with scratch() as folder:
        case = Damaged(folder, odd_checkpoint(folder), "--no-checksum")
        good = (case.good / "manifest.json").read_bytes()
        numbers = random.Random(17)
        words = [b'"', b"{", b"}", b"[", b"]", b",", b":", b"-", b"1e9", b"18446744073709551615", b"null", b"\\u0000",
                 b"../", b"/", b'"file"', b'"shape"', b"\xff", b"0", b"true", b'"chunks":[{"offset":1,"nbytes":2}],']
        for round_ in range(150):
            text = bytearray(good)
            for _ in range(numbers.choice((1, 1, 1, 2, 5))):
                at, kind = numbers.randrange(len(text)), numbers.randrange(4)
                if kind == 0:
                    text[at] = numbers.randrange(256)
                elif kind == 1:
                    text[at:at] = numbers.choice(words)
                elif kind == 2:
                    del text[at:at + numbers.randrange(1, 40)]
                else:
                    end = numbers.randrange(at, min(len(text), at + 300))
                    text[at:at] = text[at:end]
            (case.folder / "manifest.json").write_bytes(text)
            options = ["--source", folder / "odd source"] if round_ % 3 == 0 else []
            report = verify(case.folder, *options)
            assert not report["ok"] or bytes(text) == good or not options, text


@test
def tensors_with_huge_ranks():
    with scratch() as folder:
        source = write_file(folder / "x.safetensors", {"deep": ("U8", (1,) * 2000, b"\1"),
                                                      "long.name." * 40: ("U8", (2,), b"ab")})
        made = convert(source, folder / "made")
        right(made, "--source", source)


@test
def workers_see_the_same():
    with scratch() as folder:
        case = Damaged(folder, checkpoint("small"))
        for tensor in manifest_of(case.good)["tensors"][::7]:
            path = case.folder / tensor["file"]
            flip(path, path.stat().st_size - 1)
        first = faults(case.folder, "--source", checkpoint("small"), "--workers=1")
        assert len(first) > 10
        for n in (2, 3, 8, 50):
            assert faults(case.folder, "--source", checkpoint("small"), f"--workers={n}") == first


main()
