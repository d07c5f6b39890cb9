"""Figures that hold on a noisy machine: pairs in turns, medians, and the spread beside them."""

import statistics
from dataclasses import dataclass, field


class Rate(float):
    """GB/s, with the processor seconds per GB of all who took part: those depend far less than
    the rate on what else the machine is doing."""

    def __new__(cls, rate, cpu):
        self = super().__new__(cls, rate)
        self.cpu = cpu
        return self


@dataclass
class Line:
    """One line of the table. `a` is ours and `b` the other's; both in `unit`, pair by pair. A
    line without `b` compares `a` with the target itself, which then is in `unit`."""
    case: str
    a: list
    b: list = field(default_factory=list)
    other: str = "null fs"
    unit: str = "GB/s"
    target: float | None = None
    at_most: bool = False  # the target is an upper limit
    note: str = ""
    passed: bool = False  # on other grounds than the target: the note says which

    @property
    def ratios(self):
        return [ours / others for ours, others in zip(self.a, self.b)] or self.a

    @property
    def ratio(self):
        return statistics.median(self.ratios)

    @property
    def spread(self):
        """The quartiles of the ratios."""
        if len(self.ratios) < 3:
            return min(self.ratios), max(self.ratios)
        low, _, high = statistics.quantiles(self.ratios, n=4, method="inclusive")
        return low, high

    @property
    def cpu_ratio(self):
        """Our processor time over the other's, or None."""
        if not self.b or not all(isinstance(rate, Rate) for rate in self.a + self.b):
            return None
        return statistics.median(ours.cpu / others.cpu for ours, others in zip(self.a, self.b))

    @property
    def verdict(self):
        """`unclear`: the median misses the target, but lies no further from it than the noise."""
        if self.target is None:
            return "info"
        sign = -1 if self.at_most else 1
        if self.passed or sign * self.ratio >= sign * self.target:
            return "ok"
        best = self.spread[0 if self.at_most else 1]
        return "unclear" if sign * best >= sign * self.target else "SHORT"

    def as_json(self):
        cpu = self.cpu_ratio
        return {"case": self.case, "unit": self.unit, "other": self.other if self.b else None,
                "tensorport": self.a, "others": self.b, "ratio": round(self.ratio, 4),
                "spread": [round(edge, 4) for edge in self.spread],
                "cpu_ratio": cpu and round(cpu, 3), "target": self.target, "at_most": self.at_most,
                "verdict": self.verdict, "note": self.note}


def in_turns(n, *measures):
    """A B A B ...: a list of n figures for each. What disturbs the machine for longer than one
    run disturbs both sides of a pair. The first round is not counted: it makes memory warm."""
    results = [[] for _ in measures]
    for turn in range(n + 1):
        for measure, result in zip(measures, results):
            figure = measure()
            if turn > 0:
                result.append(figure)
    return results
