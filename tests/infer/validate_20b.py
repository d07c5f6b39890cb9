"""Validates the true shape of gpt-oss-20b, off a mount, against transformers' goldens, and watches what
memory that takes. `make validate-20b [CHECKPOINT=FOLDER]`; a minute or two, and without a checkpoint
13.8 GB of disk and another minute.

    validate_20b.py [CHECKPOINT]

The checkpoint is what `tensorport synth --preset 20b` writes; its files are compared with
goldens/CHECKPOINTS.sha256 before anything is blamed on the engine."""

import hashlib
import subprocess
import sys
import threading
import time
from pathlib import Path

from support import BUILD, KIT, Mount, scratch

GIB = 1 << 30
MEMORY = 20 * GIB  # for everything
ENGINES = ([], ["--activations", "bf16"], ["--activations", "bf16", "--kv-type", "bf16"])


def check_files(folder):
    for line in (KIT / "goldens/CHECKPOINTS.sha256").read_text().splitlines():
        expected, name = line.split(maxsplit=1)
        path = folder / name.removeprefix("20b/")
        if not name.startswith("20b/") or path.suffix != ".safetensors":
            continue
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while piece := file.read(1 << 24):
                digest.update(piece)
        assert digest.hexdigest() == expected, f"{path} is not what the goldens belong to"


def memory_of(pid):
    """Resident bytes: of its own, and of files."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return [int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile")]


def watch(process, daemon, peaks):
    while process.poll() is None:
        try:
            own, files = memory_of(process.pid)
            peaks["own"] = max(peaks["own"], own)
            peaks["all"] = max(peaks["all"], own + files + sum(memory_of(daemon)))
        except (OSError, KeyError):
            pass  # it has just ended
        time.sleep(0.2)


def validate(mount, options):
    """True if all holds."""
    peaks = {"own": 0, "all": 0}
    print(f"tpinfer validate {' '.join(options)}", flush=True)
    start = time.monotonic()
    with subprocess.Popen([BUILD / "tpinfer", "validate", mount.path, KIT / "goldens/20b", *options]) as process:
        watcher = threading.Thread(target=watch, args=(process, mount.pid, peaks))
        watcher.start()
        watcher.join()
    print(f"{time.monotonic() - start:.0f} s; at most {peaks['own'] / GIB:.2f} GiB of its own, "
          f"{peaks['all'] / GIB:.2f} GiB with the pages of files and the mount\n", flush=True)
    return process.returncode == 0 and 0 < peaks["all"] <= MEMORY


def main():
    with scratch() as folder:
        checkpoint = Path(sys.argv[1]) if sys.argv[1:] else folder / "20b"
        if not sys.argv[1:]:
            subprocess.run([BUILD / "tensorport", "synth", "--preset", "20b", checkpoint], check=True)
        check_files(checkpoint)
        with Mount(checkpoint) as mount:
            held = [validate(mount, options) for options in ENGINES]
    print("all holds" if all(held) else "something does not hold")
    sys.exit(not all(held))


main()
