"""What the tests of the Python package share: the package as it was built, the programs that it runs, and
the harness of tests/infer.

    from jax_support import Mount, checkpoint, main, scratch, test, tensorport
"""

import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "infer"))

from support import (BUILD, KIT, Mount, checkpoint, convert, main, mxfp4_decode, read, scratch, test,  # noqa: E402
                     wait_for, write_view)

PACKAGE = BUILD / "infer/jax/python"
LIBRARY = PACKAGE / "tensorport/tensorport-xla.so"


def start_under_sanitizer():
    """A library with the address sanitizer wants its runtime loaded before anything else, and that the
    one of C++, whose exceptions it watches."""
    if not LIBRARY.exists() or "LD_PRELOAD" in os.environ:
        return
    needed = subprocess.run(["ldd", LIBRARY], capture_output=True, text=True, check=True).stdout
    runtimes = [line.split()[2] for line in needed.splitlines() if re.match(r"\s*lib(asan|tsan)\.", line)]
    if runtimes:
        os.environ["LD_PRELOAD"] = ":".join([*runtimes, "libstdc++.so.6"])
        os.environ["ASAN_OPTIONS"] = "detect_leaks=0"  # of Python and XLA, which leak
        os.execv(sys.executable, [sys.executable, *sys.argv])


start_under_sanitizer()
sys.path.insert(0, str(PACKAGE))
os.environ.pop("TENSORPORT_XLA", None)
os.environ["TENSORPORT_MOUNT"] = str(BUILD / "tensorport-mount")
os.environ["TPINFER"] = str(BUILD / "tpinfer")
os.environ["JAX_PLATFORMS"] = "cpu"
# Every shape is compiled anew, which takes longer than all there is to compute.
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"

import tensorport  # noqa: E402

__all__ = ["BUILD", "HERE", "KIT", "LIBRARY", "PACKAGE", "Mount", "checkpoint", "convert", "main", "mxfp4_decode",
           "python", "raises", "read", "scratch", "tensorport", "test", "wait_for", "write_view"]


def python(program, *arguments, **environment):
    """What a Python of its own prints, with the package on its path."""
    done = subprocess.run([sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True,
                          timeout=200, check=False,
                          env={**os.environ, "PYTHONPATH": str(PACKAGE), **{k: str(v) for k, v in environment.items()}})
    assert done.returncode == 0, done.stderr
    return done.stdout


def raises(kind, function, *says):
    """The message of the error, which contains all of `says`."""
    try:
        function()
    except kind as error:
        message = str(error)
        for part in says:
            assert str(part) in message, f"expected {part!r} in: {message}"
        return message
    raise AssertionError(f"expected {kind.__name__}")
