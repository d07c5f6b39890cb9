"""Holds the layer drawing: no include points upward or sideways, headers compile alone.

Arrows point at what is known:

    fs/mount, fs/export -> fs/view -> fs/checkpoint -> fs/cache -> fs/base -> decode

    fs/export (the commands) -> fs/export/verify -> fs/export/convert, pack -> fs/export/common
                             -> fs/export/doctor -> fs/export/mounts
                             -> fs/export/inspect, synth -> fs/export/common

Behind the files of the view, knowing nothing of how they are made:

    infer/cli -> infer/engine -> infer/backend.h <- infer/cpu, cuda
                 infer/backend.h, infer/cpu, cuda -> infer/model -> infer/weights -> fs/base, decode
    infer/cli -> infer/validate -> infer/engine, infer/model
    infer/jax -> infer/cpu, infer/weights (what XLA calls; nothing knows it)
    infer/jax/cuda -> infer/jax, cuda (the same for a GPU)
    infer/cli -> infer/chat -> infer/tokenizer                              -> fs/base, decode
"""

import re
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
BELOW_INFER = {"decode", "fs/base"}
BELOW_EXPORT = {"decode", "fs/base", "fs/checkpoint", "fs/view"}
EXPORTS = ["fs/export/" + name for name in ("common", "convert", "doctor", "inspect", "mounts", "pack",
                                            "synth", "verify")]
KNOWS = {
    "decode": {"decode"},
    "fs/base": {"decode", "fs/base"},
    "fs/cache": {"fs/base", "fs/cache"},
    "fs/checkpoint": {"decode", "fs/base", "fs/cache", "fs/checkpoint"},
    "fs/view": {"decode", "fs/base", "fs/cache", "fs/checkpoint", "fs/view"},
    **{folder: BELOW_EXPORT | {folder, *others} for folder, others in {
        "fs/export": EXPORTS,
        "fs/export/common": (),
        "fs/export/convert": ("fs/export/common",),
        "fs/export/doctor": ("fs/export/mounts",),
        "fs/export/inspect": ("fs/export/common",),
        "fs/export/mounts": (),
        "fs/export/pack": ("fs/export/common",),
        "fs/export/synth": ("fs/export/common",),
        "fs/export/verify": ("fs/export/common", "fs/export/convert", "fs/export/pack"),
    }.items()},
    **{folder: BELOW_INFER | {folder, *others} for folder, others in {
        "cuda": ("infer", "infer/model", "infer/weights"),
        "infer": ("infer/model",),  # backend.h
        "infer/chat": ("infer/tokenizer",),
        "infer/cli": ("infer", "infer/chat", "infer/cpu", "infer/engine", "infer/model",
                      "infer/tokenizer", "infer/validate", "infer/weights"),
        "infer/cpu": ("infer", "infer/model", "infer/weights"),
        "infer/engine": ("infer", "infer/model"),
        "infer/jax": ("infer/cpu", "infer/weights"),
        "infer/jax/cuda": ("cuda", "infer/jax", "infer/weights"),
        "infer/model": ("infer/weights",),
        "infer/tokenizer": (),
        "infer/validate": ("infer", "infer/engine", "infer/model"),
        "infer/weights": (),
    }.items()},
    "fs/mount": {"decode", "fs/base", "fs/cache", "fs/checkpoint", "fs/view", "fs/mount"},
}
ONLY_MOUNT = re.compile(r"fuse|sd-daemon")
LINES_MAX = 800


def sources():
    for folder in ("cuda", "decode", "fs", "infer"):
        yield from sorted((TOP / folder).rglob("*.[ch]"))


def includes(path):
    for number, line in enumerate(path.read_text().splitlines(), 1):
        match = re.match(r'\s*#\s*include\s+(["<])([^">]+)', line)
        if match:
            yield number, match[1] == '"', match[2]


def check_includes(path):
    layer = str(path.parent.relative_to(TOP))
    for number, own, name in includes(path):
        where = f"{path.relative_to(TOP)}:{number}"
        if own and name != "config.h" and str(Path(name).parent) not in KNOWS[layer]:
            yield f"{where}: {layer} must not know {name}"
        if not own and layer != "fs/mount" and ONLY_MOUNT.search(name):
            yield f"{where}: only fs/mount may include <{name}>"


def check_header(path):
    command = ["cc", "-std=gnu11", "-D_GNU_SOURCE", "-D_FILE_OFFSET_BITS=64", f"-I{TOP}",
               "-I/usr/include/fuse3", "-fsyntax-only", "-x", "c", "-"]
    run = subprocess.run(command, input=f'#include "{path.relative_to(TOP)}"\n', text=True,
                         capture_output=True)
    if run.returncode != 0:
        yield f"{path.relative_to(TOP)} does not compile alone: {run.stderr.splitlines()[0]}"


def main():
    faults = []
    for path in sources():
        if str(path.parent.relative_to(TOP)) not in KNOWS:
            faults.append(f"{path.relative_to(TOP)}: a folder without a place in the layers")
            continue
        faults += check_includes(path)
        if path.suffix == ".h":
            faults += check_header(path)
        lines = len(path.read_text().splitlines())
        if lines > LINES_MAX:
            faults.append(f"{path.relative_to(TOP)}: {lines} lines; split it")
    print("\n".join(faults) if faults else "layers hold")
    sys.exit(bool(faults))


main()
