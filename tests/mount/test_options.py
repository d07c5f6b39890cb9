"""What the options of tensorport-mount do to the tree, and the live files in .tensorport: shards by
size, filters, checksums, counters."""

import fnmatch
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

from compare import check_view
from generate import write_file
from harness import KIT, Mount, checkpoint, main, reference, scratch, test

HIDDEN = ".tensorport"
HEADER = 128  # bytes of the npy header of a short vector


def shards(mount):
    """The files' sizes by shard, in the manifest's order."""
    found = {}
    for tensor in mount.manifest()["tensors"]:
        shard, _ = tensor["file"].split("/")
        found.setdefault(shard, []).append((mount.path / tensor["file"]).stat().st_size)
    assert list(found) == [f"shard_{i:03}" for i in range(len(found))]
    assert sorted(found) == sorted(path.name for path in mount.path.glob("shard_*"))
    return list(found.values())


def filled_shards(sizes, limit):
    """How files of these sizes fill shards: each takes what fits."""
    filled = []
    for size in sizes:
        if not filled or sum(filled[-1]) + size > limit:
            filled.append([])
        filled[-1].append(size)
    return filled


def warned_of(mount):
    """Which tensor stderr says is larger than a shard, and how many there are: (None, 0) if none."""
    warning = re.search(r'tensor "([^"]*)".*larger than a shard.*?(?:, like (\d+) more)?\n', mount.stderr())
    return (warning[1], 1 + int(warning[2] or 0)) if warning else (None, 0)


# ---------------------------------------------------------------- --shard-size

@test
def shards_are_filled_up_to_their_size():
    for name, gigabytes in (("tiny", "0.001"), ("tiny", "0.0001"), ("llama", "0.0005"), ("small", "0.01")):
        with Mount(checkpoint(name), "--shard-size", gigabytes) as mount:
            found = shards(mount)
            limit = round(float(gigabytes) * 10 ** 9)
            assert mount.manifest()["shard_size"] == limit
            sizes = [size for shard in found for size in shard]
            assert found == filled_shards(sizes, limit), found
            assert len(found) > 2
            too_large = [shard for shard in found if sum(shard) > limit]
            assert all(len(shard) == 1 for shard in too_large)
            assert warned_of(mount)[1] == len(too_large), mount.stderr()


def write_sized(folder, sizes):
    """A checkpoint of tensors whose .npy files have these sizes."""
    return write_file(folder / "sized.safetensors", {
        f"t{i:03}": ("U8", (size - HEADER,), bytes(size - HEADER)) for i, size in enumerate(sizes)})


def check_sized(sizes, expected, warned=(None, 0)):
    with scratch() as folder, Mount(write_sized(folder, sizes), "--shard-size", "0.001") as mount:
        found = shards(mount)
        assert found == expected, f"{found} instead of {expected}"
        assert warned_of(mount) == warned, mount.stderr()


@test
def a_shard_may_be_exactly_full():
    check_sized([500_000, 500_000, 300], [[500_000, 500_000], [300]])
    check_sized([500_000, 500_001, 300], [[500_000], [500_001, 300]])
    check_sized([1_000_000, 1_000_000], [[1_000_000], [1_000_000]])
    check_sized([999_872, HEADER, HEADER], [[999_872, HEADER], [HEADER]])  # empty tensors


@test
def a_tensor_larger_than_a_shard_stands_alone():
    check_sized([200, 1_000_001, 200], [[200], [1_000_001], [200]], ("t001", 1))
    check_sized([1_000_001, 5_000_000], [[1_000_001], [5_000_000]], ("t000", 2))
    check_sized([1_000_001], [[1_000_001]], ("t000", 1))


@test
def more_than_a_thousand_shards():
    n = 1100
    with scratch() as folder, Mount(write_sized(folder, [200] * n), "--shard-size", "0.0000002") as mount:
        names = {path.name for path in mount.path.glob("shard_*")}
        assert names == {f"shard_{i:03}" for i in range(n)}
        assert [len(list((mount.path / name).iterdir())) for name in ("shard_000", "shard_1099")] == [1, 1]
        assert mount.path.stat().st_nlink == 2 + n


@test
def shards_are_the_same_however_they_are_asked_for():
    with Mount(checkpoint("tiny"), "--shard-size", "0.001") as one, \
            Mount(checkpoint("tiny"), "-o", "shard_size=0.001,noatime") as two, \
            Mount(checkpoint("tiny"), "-s0.001", foreground=False) as three:
        assert shards(one) == shards(two) == shards(three)


# ---------------------------------------------------------------- --include, --exclude

def expected_names(ref, packed, include, exclude):
    """A pair, decoded or not, matches by any of its three names."""
    aliases = {name: [name] for name in ref.names(packed)}
    for name, (blocks, scales) in ref.pairs.items():
        for shown in (name, blocks.name, scales.name):
            if shown in aliases:
                aliases[shown] = [name, blocks.name, scales.name]

    def matches(name, patterns):
        return any(fnmatch.fnmatchcase(alias, pattern) for alias in aliases[name] for pattern in patterns)

    return [name for name in aliases if (not include or matches(name, include)) and not matches(name, exclude)]


FILTERS = [
    (["*experts*"], []),
    (["model.layers.0.*", "lm_head.weight"], []),
    ([], ["*_bias", "*.bias"]),
    (["*.mlp.*"], ["*router*", "model.layers.[12].*"]),
    (["model.layers.?.mlp.experts.down_proj"], []),                   # a pair by its decoded name
    (["*gate_up_proj_scales"], ["model.layers.3.*_blocks"]),          # by either half
    ([], ["*"]),
    (["nothing"], []),
    (["lm_head_weight"], []),                                        # the file's name is not the tensor's
    (["*"], []),
    (["lm_head?weight", "MODEL.*"], []),
]


@test
def filters_choose_tensors_by_name():
    ref = reference(checkpoint("tiny"))
    for include, exclude in FILTERS:
        for packed in (False, True):
            options = [*(f"--include={glob}" for glob in include), *(f"--exclude={glob}" for glob in exclude)]
            with Mount(checkpoint("tiny"), "--mxfp4", "packed" if packed else "decode", *options) as mount:
                expected = expected_names(ref, packed, include, exclude)
                manifest = mount.manifest()
                assert [tensor["name"] for tensor in manifest["tensors"]] == expected, (include, exclude)
                assert len(list(mount.path.glob("shard_*/*.npy"))) == len(expected)
                assert manifest["total_size"] == sum(ref.array(name, "float32").nbytes for name in expected)
                assert (mount.path / "config.json").exists()


@test
def filtered_tensors_keep_their_values():
    ref = reference(checkpoint("tiny"))
    ref.stored = {name: tensor for name, tensor in ref.stored.items() if "down_proj" in name}
    ref.pairs = {name: pair for name, pair in ref.pairs.items() if "down_proj" in name}
    with Mount(checkpoint("tiny"), "--include", "*down_proj*", "--shard-size", "0.0002") as mount:
        assert check_view(mount.path, ref, "float32") == len(ref.names())
        check_view(mount.path / HIDDEN / "views/packed", ref, "source", True)


@test
def total_parameters_count_what_is_shown():
    ref = reference(checkpoint("tiny"))
    name = "model.layers.1.mlp.experts.down_proj"
    for packed in ("decode", "packed"):
        with Mount(checkpoint("tiny"), "--include", name, "--mxfp4", packed) as mount:
            assert mount.manifest()["total_parameters"] == 2 * ref.pairs[name][0].nbytes


# ---------------------------------------------------------------- XXH3SUMS

def unescape(line):
    """As md5sum and xxh128sum (since 0.8.2) write names with a backslash or a newline."""
    if not line.startswith("\\"):
        return line
    return re.sub(r"\\(.)", lambda match: {"n": "\n"}.get(match[1], match[1]), line[1:])


def sums(mount):
    """{path: hash} of .tensorport/XXH3SUMS."""
    lines = (mount.path / HIDDEN / "XXH3SUMS").read_text().splitlines()
    found = {path: digest for digest, path in (unescape(line).split("  ", 1) for line in lines)}
    assert len(found) == len(lines)
    return found


def xxh128(path):
    with open(path, "rb") as stream:
        result = subprocess.run(["xxh128sum", "-"], stdin=stream, capture_output=True, text=True, check=True)
    return result.stdout.split()[0]


def check_sums(folder):
    """xxh128sum's own verdict on a copy: its status, and how many files it found good."""
    result = subprocess.run(["xxh128sum", "-c", "XXH3SUMS"], cwd=folder, capture_output=True, text=True)
    return result.returncode, result.stdout.count(": OK\n")


@test
def checksums_cover_a_copy():
    for source in (checkpoint("tiny"), KIT / "files/edge/shapes.safetensors"):
        with scratch() as folder, Mount(source) as mount:
            assert sums(mount) == {}
            subprocess.run(["cp", "-r", f"{mount.path}/.", folder / "copy"], check=True)
            n_files = sum(path.is_file() for path in (folder / "copy").rglob("*"))
            shutil.copy(mount.path / HIDDEN / "XXH3SUMS", folder / "copy")
            assert check_sums(folder / "copy") == (0, n_files)
            next((folder / "copy/shard_000").iterdir()).write_bytes(b"wrong")
            assert check_sums(folder / "copy") == (1, n_files - 1)


@test
def checksums_name_awkward_files():
    """Checked line by line: xxh128sum before 0.8.2 cannot read what later ones write for a newline."""
    with Mount(KIT / "files/edge/names.safetensors") as mount:
        for path in mount.path.glob("*/*.npy"):
            path.read_bytes()
        found = sums(mount)
        assert sorted(found) == sorted(tensor["file"] for tensor in mount.manifest()["tensors"])
        for path, digest in found.items():
            assert xxh128(mount.path / path) == digest, path


@test
def checksums_cover_an_empty_file():
    """Nothing of it is left to read once it was opened."""
    with scratch() as folder:
        source = shutil.copytree(checkpoint("tiny"), folder / "tiny")
        (source / "empty.txt").touch()
        with Mount(source) as mount:
            subprocess.run(["cp", "-r", f"{mount.path}/.", folder / "copy"], check=True)
            assert "empty.txt" in sums(mount)


def read_parts(path, *parts):
    with open(path, "rb", buffering=0) as stream:
        for begin, end in parts:
            assert len(os.pread(stream.fileno(), end - begin, begin)) == end - begin


@test
def checksums_leave_out_what_was_read_in_part():
    """With --direct-io nothing but what we ask for is read."""
    with Mount(checkpoint("tiny"), "--direct-io") as mount:
        name = "shard_000/lm_head_weight.npy"
        size = (mount.path / name).stat().st_size
        half = size // 2
        read_parts(mount.path / name, (half, size - 1), (0, half - 1))
        assert sums(mount) == {}, "two bytes are missing"
        read_parts(mount.path / name, (half - 1, half))
        assert sums(mount) == {}, "the last byte is missing"
        read_parts(mount.path / name, (size - 1, size))
        assert list(sums(mount)) == [name]
        (mount.path / "config.json").read_bytes()
        assert set(sums(mount)) == {name, "config.json"}
        for path, digest in sums(mount).items():
            assert xxh128(mount.path / path) == digest, path


@test
def checksums_are_there_at_once():
    """`cp -r` and then a copy of XXH3SUMS: the last file must not be missing. Read and asked for in the
    same breath, many times, for the daemon may be quick enough by chance."""
    with Mount(checkpoint("tiny"), "--direct-io") as mount:
        for i, path in enumerate(sorted(mount.path.glob("shard_000/*.npy")), 1):
            path.read_bytes()
            assert len(sums(mount)) == i, path


@test
def checksums_are_of_the_main_view():
    with Mount(checkpoint("tiny"), "--include", "*down_proj*") as mount:
        for path in (mount.path / HIDDEN / "views").glob("*/*/*.npy"):
            path.read_bytes()
        assert sums(mount) == {}


@test
def checksums_are_not_known_before_reading():
    """A look at the attributes or the first page of a large file does not count as reading it."""
    with Mount(checkpoint("small")) as mount:
        for path in mount.path.rglob("*"):
            path.stat()
        large = max(mount.path.glob("shard_*/*.npy"), key=lambda path: path.stat().st_size)
        with open(large, "rb", buffering=0) as stream:
            stream.read(4096)
        assert sums(mount) == {}, sums(mount)


# ---------------------------------------------------------------- stats.json, metrics

SAMPLE = re.compile(r"(tensorport_[a-z0-9_]+) (\d+)")
COMMENT = re.compile(r"# (HELP|TYPE) (tensorport_[a-z0-9_]+) (.+)")


def parse_metrics(text):
    """Prometheus' text format 0.0.4, strictly: HELP, TYPE, then the sample of that name."""
    assert text.endswith("\n")
    found, about = {}, {}
    for line in text.splitlines():
        if comment := COMMENT.fullmatch(line):
            kind, name, rest = comment.groups()
            assert (kind, name) not in about and name not in found, line
            assert kind == "HELP" or rest in ("counter", "gauge"), line
            about[kind, name] = rest
            continue
        name, value = SAMPLE.fullmatch(line).groups()
        assert name not in found and ("HELP", name) in about, line
        assert (about["TYPE", name] == "counter") == name.endswith("_total"), line
        found[name] = int(value)
    return found


def flatten(stats):
    """{"cache_hits": 3, ...}"""
    return {f"{group}_{name}": value for group, values in stats.items() if isinstance(values, dict)
            for name, value in values.items()}


@test
def counters_move():
    with Mount(checkpoint("tiny"), "--cache-size", "8M", "--direct-io") as mount:
        file = mount.path / "shard_000/model_layers_0_mlp_experts_gate_up_proj.npy"
        before = flatten(mount.stats())
        data = file.read_bytes()
        with open(file, "rb") as stream:
            during = flatten(mount.stats())
            stream.read(1)
        after = flatten(mount.stats())
    grown = {name: after[name] - before[name] for name in after}
    assert during["files_open"] == before["files_open"] + 1 == after["files_open"] + 1, during
    assert grown["requests_bytes_read"] >= len(data), grown
    for name in ("requests_opens", "requests_reads", "requests_lookups"):
        assert grown[name] > 0, (name, grown)
    assert grown["requests_read_errors"] == 0
    assert after["cache_capacity_bytes"] == 8 << 20 and 0 <= after["cache_bytes"] <= 8 << 20
    assert after["process_max_rss_bytes"] > 1 << 20


@test
def metrics_say_what_stats_say():
    with Mount(checkpoint("tiny"), "--precision", "float16") as mount:
        (mount.path / "config.json").read_bytes()
        stats = mount.stats()
        metrics = parse_metrics((mount.path / HIDDEN / "metrics").read_text())
        expected = {re.sub("_total$", "", name).removeprefix("tensorport_") for name in metrics}
        assert expected == set(flatten(stats)), expected ^ set(flatten(stats))
        for name in ("files_tensors", "files_bytes", "files_shards", "cache_capacity_bytes"):
            assert metrics[f"tensorport_{name}"] == flatten(stats)[name], name
        assert stats["files"]["tensors"] == len(mount.manifest()["tensors"])
        assert stats["precision"] == "float16" and stats["mxfp4"] == "decode"
        assert Path(stats["source"]) == checkpoint("tiny").resolve()


@test
def live_files_are_whole_and_new_at_each_opening():
    with Mount(checkpoint("tiny")) as mount:
        file = mount.path / HIDDEN / "stats.json"
        with open(file, "rb") as stream:
            first = stream.read(10)
            for path in mount.path.glob("shard_000/*"):
                path.read_bytes()
            held = json.loads(first + stream.read())  # as of its opening
        now = mount.stats()
        assert held["requests"]["bytes_read"] < now["requests"]["bytes_read"]
        assert json.loads(subprocess.run(["cat", file], capture_output=True, check=True).stdout)
        assert abs(time.time() - file.stat().st_mtime) < 60


@test
def live_files_are_right_at_every_length():
    """Their texts grow with the numbers, also between the kernel's look at the size and the read."""
    with Mount(checkpoint("tiny"), "--direct-io") as mount:
        file, last = mount.path / "shard_000/lm_head_weight.npy", 0
        with open(file, "rb", buffering=0) as stream:
            for i in range(300):
                os.pread(stream.fileno(), 1 + i * i, 0)
                now = mount.stats()["requests"]["bytes_read"]
                assert now > last, f"{now} bytes, {last} before"
                last = now
                parse_metrics((mount.path / HIDDEN / "metrics").read_text())


main()
