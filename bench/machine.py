"""What a figure means nothing without: the machine, and what else it was doing."""

import os
import platform
import re
import subprocess
from pathlib import Path


def _first(pattern, path):
    with open(path) as file:
        found = re.search(pattern, file.read(), re.MULTILINE)
    return found.group(1).strip() if found else "unknown"


def _output(command, **options):
    try:
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                text=True, check=True, **options)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return result.stdout.strip()


def _filesystem(folder):
    return _output(["findmnt", "--noheadings", "--output=FSTYPE", "--target", str(folder)])


def describe(options, programs):
    here = Path(__file__).parent
    version = _output([programs["tensorport-mount"], "--version"]).splitlines()
    return {
        "processor": _first(r"^model name\s*: (.*)$", "/proc/cpuinfo"),
        "processors": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(_first(r"^MemTotal:\s*(\d+)", "/proc/meminfo")) / 2**20, 1),
        "kernel": platform.release(),
        "libfuse": _output(["pkg-config", "--modversion", "fuse3"]),
        "tensorport": version[0] if version else "unknown",
        "commit": _output(["git", "describe", "--always", "--dirty"], cwd=here),
        "root": os.geteuid() == 0,
        "source": options.source,
        "scratch": f"{options.scratch} ({_filesystem(options.scratch)})",
        "tensor_mib": options.size >> 20,
        "pairs": options.pairs,
        "load_before": os.getloadavg()[0],
    }


class Busy:
    """Shares of the processors' time since it was made: what others took shows in them."""

    def __init__(self):
        self._before = self._now()

    @staticmethod
    def _now():
        with open("/proc/stat") as file:
            return [int(word) for word in file.readline().split()[1:9]]

    def shares(self):
        spent = [now - before for now, before in zip(self._now(), self._before)]
        whole = max(sum(spent), 1)
        names = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"]
        return {name: round(ticks / whole, 3) for name, ticks in zip(names, spent)}
