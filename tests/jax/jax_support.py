"""What the tests of the Python package share: the package as it lies in the source tree, the programs
that it runs, and the harness of tests/infer.

    from jax_support import Mount, checkpoint, main, scratch, test, tensorport
"""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parents[1] / "infer/jax/python"
sys.path.insert(0, str(HERE.parent / "infer"))
sys.path.insert(0, str(PACKAGE))

from support import BUILD, KIT, Mount, checkpoint, convert, main, mxfp4_decode, read, scratch, test, wait_for, write_view  # noqa: E402

os.environ.setdefault("TENSORPORT_XLA", str(BUILD / "tensorport-xla.so"))
os.environ["TENSORPORT_MOUNT"] = str(BUILD / "tensorport-mount")
os.environ["TPINFER"] = str(BUILD / "tpinfer")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import tensorport  # noqa: E402

__all__ = ["BUILD", "HERE", "KIT", "PACKAGE", "Mount", "checkpoint", "convert", "main", "mxfp4_decode", "python", "raises", "read",
           "scratch", "tensorport", "test", "wait_for", "write_view"]


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
