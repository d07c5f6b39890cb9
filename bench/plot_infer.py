#!/usr/bin/env python3
"""Draws what `tpinfer bench --json` wrote: rates by batch size and length, with their quartiles, and
below the roofs that the machine gives them.

    plot_infer.py RESULT.json... OUTPUT.png        (needs matplotlib)
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot, ticker  # noqa: E402


def series(whole, kind, across):
    """{what stays the same: cases along `across`}"""
    lines = {}
    for case in whole["cases"]:
        if case["case"] == kind and case["first_prompt"] is None:
            key = f"batch {case['batch']}" if across == "length" else f"after {case['length']}"
            lines.setdefault(key, []).append(case)
    return lines


def roof(case):
    """Tokens a second if the machine did nothing but read, or but multiply, as fast as it could
    then."""
    tokens, peak = case["tokens"], case["peak_gflop_per_second"]
    by_reading = tokens / case["bytes"] * case["read_gb_per_second"] * 1e9
    by_computing = tokens / case["multiply_adds"] * peak * 1e9 / 2 if peak else by_reading
    return min(by_reading, by_computing)


def draw(axes, wholes, kind, across):
    for path, whole in wholes:
        settings = whole["settings"]
        about = f"{settings['activations']}, {settings['instructions']}"
        about = f"{path.stem}: {about}" if len(wholes) > 1 else about
        for key, cases in series(whole, kind, across).items():
            x = [case[across] for case in cases]
            rates = [case["tokens_per_second"] for case in cases]
            middle = [rate["median"] for rate in rates]
            spread = [[rate["median"] - rate["low"] for rate in rates],
                      [rate["high"] - rate["median"] for rate in rates]]
            drawn = axes.errorbar(x, middle, yerr=spread, fmt="o-", capsize=3, label=f"{key}, {about}")
            axes.plot(x, [roof(case) for case in cases], ":", color=drawn[0].get_color())
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(ticker.ScalarFormatter())
    axes.set_ylim(bottom=0)
    axes.set_title(kind)
    axes.set_xlabel({"batch": "texts at once", "length": "tokens of each prompt"}[across])
    axes.set_ylabel("tokens/s (bars: quartiles; dots: the machine's limit)")
    axes.grid(alpha=0.3)
    if axes.has_data():
        axes.legend(fontsize=7)


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    wholes = [(Path(name), json.loads(Path(name).read_text())) for name in sys.argv[1:-1]]
    figure, both = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for axes, kind, across in zip(both, ("decode", "prefill"), ("batch", "length")):
        draw(axes, wholes, kind, across)
    figure.savefig(sys.argv[-1], dpi=150)


main()
