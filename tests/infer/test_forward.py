"""The forward pass against itself: however the tokens are cut into steps, however many threads there are
and whatever type holds the weights, the bits are the same. test_validate.py holds it to transformers."""

import subprocess

import numpy as np
from support import BUILD, KIT, checkpoint, convert, main, scratch, test

FORWARD = BUILD / "tests/infer/forward"
MODELS = ("tiny", "small", "llama", "mistral")


def packed_copy(name, folder):
    return convert(checkpoint(name), folder / name, "--precision", "source", "--mxfp4", "packed")


def logits(view, ids, n, chunk=512, threads=2):
    """Of the last `n` positions."""
    done = subprocess.run([FORWARD, view, str(chunk), str(threads), str(n)],
                          input=ids.astype("<u4").tobytes(), capture_output=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, b""), done.stderr
    return np.frombuffer(done.stdout, "<f4").reshape(n, -1)


def case_of(name, case):
    return [np.load(KIT / f"goldens/{name}/{case}.{part}.npy") for part in ("prompt", "greedy")]


@test
def steps_and_threads_make_no_difference():
    """Around the window as well."""
    with scratch() as folder:
        for name in MODELS:
            view = packed_copy(name, folder)
            ids = np.concatenate(case_of(name, "past_window"))
            expected = logits(view, ids, 60, threads=1)
            for chunk, threads in ((1, 1), (1, 3), (2, 2), (7, 2), (64, 1), (127, 2), (128, 2), (129, 5)):
                found = logits(view, ids, 60, chunk, threads)
                assert np.array_equal(found, expected), f"{name}: chunks of {chunk}, {threads} threads"


@test
def decoded_copies_compute_the_same():
    """Experts in BF16 or float32 instead of MXFP4: the values are the same, and so are the bits."""
    with scratch() as folder:
        packed = packed_copy("tiny", folder)
        prompt, _ = case_of("tiny", "window")
        expected = logits(packed, prompt, 8)
        for precision in ("float32", "bfloat16", "source"):
            copy = convert(checkpoint("tiny"), folder / precision, "--precision", precision)
            assert np.array_equal(logits(copy, prompt, 8), expected), precision


main()
