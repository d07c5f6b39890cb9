"""What the tests of `tpinfer` share: the harness of tests/mount, and running a command.

    from support import KIT, encode_all, main, refused, test, tpinfer
"""

import json
import lzma
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "mount"))

from harness import BUILD, KIT, main, scratch, test  # noqa: E402

__all__ = ["BUILD", "FULL_IS_MISSING", "KIT", "PROGRAM", "full_tokenizer", "lines_of", "main", "must",
           "refused", "scratch", "test", "tpinfer", "vectors"]

PROGRAM = BUILD / "tpinfer"
TOKENIZERS = KIT / "tokenizer"

# The vocabulary of gpt-oss itself is not ours to distribute: it is taken from where the kit it came
# with lies, beside the repository, or from TP_TEST_SHARED.
SHARED = Path(os.environ.get("TP_TEST_SHARED") or HERE.parents[2] / "shared")
FULL = SHARED / "refkit/tokenizer/full/tokenizer.json.xz"
FULL_IS_MISSING = not FULL.exists()


def full_tokenizer(folder):
    """A copy of the o200k tokenizer.json in `folder`, or None."""
    if FULL_IS_MISSING:
        return None
    path = Path(folder) / "tokenizer.json"
    path.write_bytes(lzma.decompress(FULL.read_bytes()))
    return path


def tpinfer(*arguments, **how):
    """Runs a command; how it ended. Bytes in and out, unless `text` is given."""
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 600, **how}
    if "input" not in how:
        how.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run([str(PROGRAM), *map(str, arguments)], check=False, **how)


def must(*arguments, **how):
    """The same for a command that has to succeed without a word on stderr; its stdout."""
    done = tpinfer(*arguments, **how)
    assert (done.returncode, bytes(done.stderr)) == (0, b""), (done.args, done.returncode, done.stderr[:3000])
    return done.stdout


def refused(*arguments, status=1, says=(), **how):
    """The same for one that has to fail with one line, which contains all of `says`."""
    done = tpinfer(*arguments, **how)
    text = done.stderr.decode(errors="backslashreplace")
    assert done.returncode == status, (done.args, done.returncode, text)
    assert text.endswith("\n") and text.count("\n") == 1, text
    for part in says:
        assert part in text, f"expected {part!r} in: {text}"
    return text


def lines_of(tokenizer, items, *options):
    """One run of `tokenize --lines` over JSON values; the line of output for each."""
    feed = "".join(json.dumps(item) + "\n" for item in items).encode()
    lines = must("tokenize", "--lines", *options, tokenizer, input=feed).decode().split("\n")
    assert len(lines) == len(items) + 1 and lines[-1] == "", (len(lines), len(items))
    return lines[:-1]


def vectors(name):
    return [json.loads(line) for line in (TOKENIZERS / name).read_text().splitlines()]
