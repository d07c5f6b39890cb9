"""The table, line by line as the figures come, and the plot."""

import statistics

HEAD = ("case", "tensorport", "other", "", "ratio", "quartiles", "cpu", "target", "verdict")
ROW = "{:<60} {:>10} {:>8} {:<10} {:>6} {:>11} {:>5} {:>7}  {}"


def print_machine(machine):
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    print("\n" + ROW.format(*HEAD), flush=True)


def number(value):
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def print_line(line):
    def figure(values):
        return number(statistics.median(values)) if values else ""

    low, high = line.spread
    target = "" if line.target is None else f"{'<=' if line.at_most else '>='} {line.target:g}"
    ratio = f"{line.ratio:.2f}" if line.b else ""
    spread = f"{number(low)}-{number(high)}" if len(line.a) > 1 else ""
    cpu = f"{line.cpu_ratio:.2f}" if line.cpu_ratio else ""
    verdict = line.verdict + (f" ({line.note})" if line.note else "")
    case = line.case if line.unit == "GB/s" else f"{line.case} ({line.unit})"
    print(ROW.format(case, figure(line.a), figure(line.b), line.other if line.b else "", ratio,
                     spread, cpu, target, verdict), flush=True)


def print_left_out(name, reason):
    print(f"{name}: left out: {reason}", flush=True)


def print_end(machine, lines, left_out):
    shares = ", ".join(f"{name} {share:.0%}" for name, share in machine["busy"].items() if share)
    print(f"\nprocessors meanwhile: {shares}")
    for verdict in ("ok", "unclear", "SHORT"):
        print(f"{verdict}: {sum(line.verdict == verdict for line in lines)}", end="  ")
    print(f"left out: {len(left_out)}")


def plot(lines, path):
    """Ratio to the other side, with its quartiles, and the target as a mark."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [line for line in lines if line.b][::-1]
    figure, axes = pyplot.subplots(figsize=(9, 0.28 * len(shown) + 1.2), layout="constrained")
    for row, line in enumerate(shown):
        low, high = line.spread
        axes.errorbar(line.ratio, row, xerr=[[line.ratio - low], [high - line.ratio]], fmt="o",
                      color="tab:red" if line.verdict == "SHORT" else "tab:blue", capsize=2)
        if line.target is not None:
            axes.plot(line.target, row, "k|", markersize=12)
    axes.set_xscale("log")
    names = [f"{line.case} / {line.other}" for line in shown]
    axes.set_yticks(range(len(shown)), names, fontsize=7)
    axes.set_xlabel("ratio (points: medians; bars: quartiles; black: targets)")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=150)
