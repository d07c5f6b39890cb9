"""`tpinfer run`: from a mount to text."""

import re
import subprocess

import numpy as np
from support import BUILD, KIT, Mount, checkpoint, main, scratch, test

TPINFER = BUILD / "tpinfer"
SMALL = checkpoint("small")
LINE = re.compile(r"prompt: (\d+) tokens, .* tokens/s; generated: (\d+) tokens, .* tokens/s; ended: (.*)\n")


def tpinfer(*arguments, **how):
    return subprocess.run([TPINFER, *map(str, arguments)], capture_output=True, timeout=120, check=False,
                          **{"stdin": subprocess.DEVNULL, **how})


def must(*arguments, **how):
    done = tpinfer(*arguments, **how)
    assert done.returncode == 0, done
    return done


def refused(*arguments, status=1, says=(), **how):
    done = tpinfer(*arguments, **how)
    stderr = done.stderr.decode()
    assert done.returncode == status and stderr.count("\n") == 1 and done.stdout == b"", done
    for part in says:
        assert part in stderr, f"expected {part!r} in: {stderr}"


def text_of(ids):
    """What the tokenizer makes of them."""
    numbers = " ".join(map(str, ids)).encode()
    return subprocess.run([TPINFER, "tokenize", "--decode", "--bytes", SMALL], input=numbers, check=True,
                          capture_output=True).stdout


@test
def greedy_text_off_the_mount_is_the_reference_s():
    folder = KIT / "goldens/small"
    prompt, greedy = np.load(folder / "text.prompt.npy"), np.load(folder / "text.greedy.npy")
    text = text_of(prompt)
    with Mount(SMALL) as mount:
        done = must("run", mount.path, "-n", 40, "--temp", 0, "--ignore-eos", input=text, stdin=None)
        assert done.stdout.rstrip(b"\n") == text_of(greedy).decode(errors="replace").encode().rstrip(b"\n")
        assert LINE.fullmatch(done.stderr.decode())[2] == "40"


@test
def seeds_decide_and_nothing_else():
    with Mount(SMALL) as mount:
        def run(*options):
            return must("run", mount.path, "-p", "Once", "-n", 24, "--temp", 1, "-q", *options).stdout
        assert run("--seed", 1) == run("--seed", 1, "-t", 1) == run("-s", 1, "-t", 3)
        assert len({run("--seed", seed) for seed in range(6)}) == 6
        assert run("--seed", 1, "--top-k", 1) == run("--temp", 0) == run("--seed", 5, "--top-p", 0)
        assert run("--seed", 7, "--min-p", 1) == run("--temp", 0)
        long = ("--temp", 2, "-n", 300, "--ignore-eos")  # greedy text never repeats itself
        assert run(*long, "--repeat-penalty", 1000) != run(*long)


@test
def what_does_not_fit_is_said():
    with Mount(SMALL) as mount, scratch() as folder:
        refused("run", mount.path, "-p", "a b c d e f", "-c", 3, says=["context", "room for 3"])
        refused("run", mount.path, "-p", "", says=["prompt is empty"])
        refused("run", mount.path, "-p", "x", "-c", 4_000_000_000, says=["context"])
        refused("run", mount.path, "-p", "x", "--temp", "hot", status=2, says=["--temp", "hot"])
        refused("run", mount.path, "-p", "x", "--top-p", "2", status=2, says=["--top-p"])
        refused("run", status=2, says=["expected one VIEW"])
        refused("run", folder, "-p", "x", says=["manifest.json"])
        refused("run", mount.path, input=b"\xff\xfe", stdin=None, says=["UTF-8"])
        done = must("run", mount.path, "-p", "a b c", "-c", 6, "-n", 50, "--temp", 0, "--ignore-eos")
        assert LINE.fullmatch(done.stderr.decode())[3] == "context is full"


main()
