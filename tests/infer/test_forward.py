"""The whole forward pass against what transformers computed in float32, and against itself: however
the tokens are cut into steps and however many threads there are, the bits are the same."""

import json
import subprocess

import numpy as np
from support import BUILD, KIT, checkpoint, convert, main, scratch, test

FORWARD = BUILD / "tests/infer/forward"
MODELS = ("tiny", "small", "llama", "mistral")


def packed_copy(name, folder):
    return convert(checkpoint(name), folder / name, "--precision", "source", "--mxfp4", "packed")


def logits(view, ids, n, chunk=512, threads=2, env=None):
    """Of the last `n` positions."""
    done = subprocess.run([FORWARD, view, str(chunk), str(threads), str(n)],
                          input=ids.astype("<u4").tobytes(), capture_output=True, timeout=300, check=False,
                          env=env)
    assert (done.returncode, done.stderr) == (0, b""), done.stderr
    return np.frombuffer(done.stdout, "<f4").reshape(n, -1)


def cases(name, longest=600):
    folder = KIT / "goldens" / name
    for case in json.loads((folder / "manifest.json").read_text())["cases"]:
        if case["prompt_length"] <= longest:
            yield case["name"], *(np.load(folder / f"{case['name']}.{part}.npy")
                                  for part in ("prompt", "greedy", "logits"))


@test
def logits_and_greedy_tokens_are_those_of_the_reference():
    with scratch() as folder:
        for name in MODELS:
            view = packed_copy(name, folder)
            for case, prompt, greedy, expected in cases(name):
                ids = np.concatenate([prompt, greedy])
                found = logits(view, ids, len(greedy) + 1)
                worst = np.abs(found[:len(expected)] - expected).max()
                assert worst < 1e-4 * max(1, np.abs(expected).max() / 4), f"{name} {case}: {worst}"
                assert (found[:-1].argmax(-1) == greedy).all(), f"{name} {case}"


@test
def four_thousand_tokens_agree():
    with scratch() as folder:
        view = packed_copy("tiny", folder)
        (_, prompt, greedy, expected), = [case for case in cases("tiny", 10_000) if len(case[1]) > 4000]
        found = logits(view, np.concatenate([prompt, greedy]), len(greedy) + 1)
        assert np.abs(found[:len(expected)] - expected).max() < 2e-4
        assert (found[:-1].argmax(-1) == greedy).all()


@test
def steps_and_threads_make_no_difference():
    """Around the window as well."""
    with scratch() as folder:
        for name in MODELS:
            view = packed_copy(name, folder)
            _, prompt, greedy, _ = next(case for case in cases(name) if case[0] == "past_window")
            ids = np.concatenate([prompt, greedy])
            expected = logits(view, ids, 60, threads=1)
            for chunk, threads in ((1, 1), (1, 3), (2, 2), (7, 2), (64, 1), (127, 2), (128, 2), (129, 5)):
                found = logits(view, ids, 60, chunk, threads)
                assert np.array_equal(found, expected), f"{name}: chunks of {chunk}, {threads} threads"


@test
def decoded_copies_compute_the_same():
    """Experts in BF16 or float32 instead of MXFP4: the values are the same, and so are the bits."""
    with scratch() as folder:
        packed = packed_copy("tiny", folder)
        _, prompt, _, _ = next(case for case in cases("tiny") if case[0] == "window")
        expected = logits(packed, prompt, 8)
        for precision in ("float32", "bfloat16", "source"):
            copy = convert(checkpoint("tiny"), folder / precision, "--precision", precision)
            assert np.array_equal(logits(copy, prompt, 8), expected), precision


@test
def bfloat16_activations_stay_close():
    """As the published model computes: rms below what the kit's README measured of it."""
    import os
    with scratch() as folder:
        for name in ("tiny", "small"):
            view = packed_copy(name, folder)
            for _, prompt, _, expected in cases(name):
                found = logits(view, prompt, 1, env={**os.environ, "BF16": "1"})
                rms = float(np.sqrt(np.mean((found[0] - expected[0]) ** 2)))
                assert rms < 0.2, (name, rms)


main()
