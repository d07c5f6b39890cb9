#!/usr/bin/env python3
"""Draws doc/tensorport.png: a terminal on a real mount, and how fast reading was.

    make_picture.py BUILD-DIRECTORY BENCH.json OUTPUT.png

The left half is what the commands print on a checkpoint made for the occasion; the right half
is the table of `make bench`. Needs numpy, ml_dtypes and matplotlib.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

BACKGROUND, TEXT, COMMAND, OURS, OTHER = "#1d2330", "#d6dbe5", "#8bd5a0", "#3a7bd5", "#b9c3d3"
SESSION = [
    "tensorport-mount gpt-oss/ /mnt/jax",
    "ls /mnt/jax",
    "ls -lh /mnt/jax/shard_000 | head -6",
    """python -c 'import numpy as np
w = np.load("/mnt/jax/shard_000/model_layers_0_mlp_experts_down_proj.npy")
print(w.shape, w.dtype, w[3, 5, :4])'""",
    "cp -r /mnt/jax/shard_000 copy && ls copy | wc -l",
    "fusermount3 -u /mnt/jax",
]


def record(build):
    """The commands and what they print, with /mnt/jax standing for a folder made here."""
    lines = []
    with tempfile.TemporaryDirectory() as scratch:
        mount = Path(scratch, "mnt")
        mount.mkdir()
        subprocess.run([build / "tensorport", "synth", "--quiet", "--preset", "small",
                        Path(scratch, "gpt-oss")], check=True)
        try:
            for command in SESSION:
                real = command.replace("/mnt/jax", str(mount)).replace("python", sys.executable, 1)
                run = subprocess.run(["bash", "-c", real], cwd=scratch, text=True, check=True,
                                     capture_output=True,
                                     env={"PATH": f"{build}:/usr/bin:/bin", "LC_ALL": "C.UTF-8"})
                lines += [("$ " + command.split("\n")[0], COMMAND)]
                lines += [("  " + rest, COMMAND) for rest in command.split("\n")[1:]]
                lines += [(line, TEXT) for line in run.stdout.replace(scratch, "").splitlines()]
        finally:
            if mount.is_mount():
                subprocess.run(["umount", "-l", mount], check=False)
    return lines


def draw_terminal(axes, lines):
    axes.set_facecolor(BACKGROUND)
    axes.set_xticks([])
    axes.set_yticks([])
    step = 0.94 / len(lines)
    for row, (text, colour) in enumerate(lines):
        axes.text(0.02, 0.97 - row * step, text[:86], color=colour, family="monospace",
                  fontsize=6.6, va="top", transform=axes.transAxes)


def draw_rates(axes, bench):
    shown = [line for line in bench["lines"]
             if line["others"] and line["unit"] == "GB/s" and line["target"] is not None
             and line["other"] == "null fs"][::-1]
    for row, line in enumerate(shown):
        axes.barh(row + 0.2, median(line["tensorport"]), 0.38, color=OURS)
        axes.barh(row - 0.2, median(line["others"]), 0.38, color=OTHER)
        axes.text(median(line["tensorport"]), row + 0.2, f" {line['ratio']:.2f}", va="center",
                  fontsize=6)
    axes.set_yticks(range(len(shown)), [line["case"] for line in shown], fontsize=6.5)
    axes.set_xlabel("GB/s; blue: TensorPort, grey: a file system that does nothing; "
                    "numbers: ratios", fontsize=7)
    axes.tick_params(axis="x", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def main():
    build, bench, output = Path(sys.argv[1]).resolve(), Path(sys.argv[2]), sys.argv[3]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(13, 5.2), layout="constrained",
                                            width_ratios=[1.05, 1])
    draw_terminal(left, record(build))
    draw_rates(right, json.loads(bench.read_text()))
    figure.savefig(output, dpi=110)


main()
