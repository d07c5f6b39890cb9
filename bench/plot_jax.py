#!/usr/bin/env python3
"""Draws what bench/jax found: rates of the model, and where a token's time goes.

    plot_jax.py RESULTS.json FOLDER        (needs matplotlib)
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from jax_tables import median, speed  # noqa: E402
from matplotlib import pyplot  # noqa: E402


def _models(whole, platform):
    return [result for result in whole["results"] if result["part"] == "model" and result["platform"] == platform]


def _rates(axes, whole, platform, kind, across):
    for result in _models(whole, platform):
        cases = [case for case in result["cases"] if case["case"] == kind and (kind == "decode" or case["batch"] == 1)]
        cases.sort(key=lambda case: case[across])
        if cases:
            axes.plot([case[across] for case in cases], [speed(case) for case in cases], "o-", label=result["implementation"])
    axes.set_title(f"{kind}, {platform}")
    axes.set_xlabel({"length": "tokens of the prompt", "batch": "texts at once"}[across])
    axes.set_ylabel("tokens/s")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.grid(alpha=0.3)
    if axes.has_data():
        axes.legend(fontsize=8)


def _times(axes, whole, platform):
    """Bars of milliseconds, part on part; what is left of the whole on top."""
    shown = [result for result in _models(whole, platform) if result["parts"]]
    for row, result in enumerate(shown):
        token = next(median(case) / case["tokens"] for case in result["cases"] if case["case"] == "decode" and case["batch"] == 1)
        parts = [(part["part"], median(part)) for part in result["parts"]]
        parts.append(("the rest", max(token - sum(spent for _, spent in parts), 0)))
        left = 0.0
        for i, (name, spent) in enumerate(parts):
            axes.barh(row, spent / token, left=left, color=f"C{i}", label=name if row == 0 else None)
            left += spent / token
    axes.set_yticks(range(len(shown)), [result["implementation"] for result in shown])
    axes.set_title(f"where a token's time goes, {platform}")
    axes.set_xlabel("share of a token's time")
    if shown:
        axes.legend(fontsize=8)


def plot(whole, folder):
    platforms = [platform for platform in whole["about"]["platforms"] if _models(whole, platform)]
    if not platforms:
        return
    figure, rows = pyplot.subplots(len(platforms), 3, figsize=(14, 4 * len(platforms)), squeeze=False, layout="constrained")
    for axes, platform in zip(rows, platforms):
        _rates(axes[0], whole, platform, "prefill", "length")
        _rates(axes[1], whole, platform, "decode", "batch")
        _times(axes[2], whole, platform)
    figure.savefig(Path(folder) / "model.png", dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    plot(json.loads(Path(sys.argv[1]).read_text()), sys.argv[2])
