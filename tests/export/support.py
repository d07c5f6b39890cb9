"""What the tests of `tensorport COMMAND` share: the harness of tests/mount, and running a command.

    from support import checkpoint, main, scratch, tensorport, test
"""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "mount"))

from harness import BUILD, KIT, Mount, checkpoint, main, reference, scratch, test, wait_for  # noqa: E402

__all__ = ["BUILD", "KIT", "PROGRAM", "Mount", "checkpoint", "main", "must", "reference", "refused",
           "scratch", "tensorport", "test", "wait_for"]

PROGRAM = BUILD / "tensorport"


def tensorport(*arguments, env=None, **how):
    """Runs a command with captured output unless told otherwise; how it ended."""
    how = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
           "timeout": 600, "text": True, **how}
    return subprocess.run([str(PROGRAM), *map(str, arguments)], env={**os.environ, **(env or {})},
                          check=False, **how)


def must(*arguments, **how):
    """The same for a command that has to succeed without a word on stderr; its stdout."""
    done = tensorport(*arguments, **how)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def refused(*arguments, status=1, says=(), **how):
    """The same for one that has to fail with one line, which contains all of `says`."""
    done = tensorport(*arguments, **how)
    assert done.returncode == status, done
    assert done.stderr.endswith("\n") and done.stderr.count("\n") == 1, done
    for part in says:
        assert part in done.stderr, f"expected {part!r} in: {done.stderr}"
    return done
