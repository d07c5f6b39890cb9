"""What the tests of `tpinfer run` share: views to run, and a model that writes what a test wants.

    from run_support import golden_cases, must, packed, refused, run_json, script_view
"""

import json
import subprocess

import ml_dtypes
import numpy as np
from support import BUILD, KIT, checkpoint, convert, read, write_view

TPINFER = BUILD / "tpinfer"


def tpinfer(*arguments, **how):
    if "input" not in how:
        how.setdefault("stdin", subprocess.DEVNULL)
    how.setdefault("stdout", subprocess.PIPE)
    return subprocess.run([str(TPINFER), *map(str, arguments)], stderr=subprocess.PIPE, timeout=120, check=False, **how)


def must(*arguments, **how):
    done = tpinfer(*arguments, **how)
    assert done.returncode == 0, done
    return done


def refused(*arguments, status=1, says=(), **how):
    """One line on standard error that contains all of `says`, and nothing on standard output."""
    done = tpinfer(*arguments, **how)
    stderr = done.stderr.decode()
    assert done.returncode == status and stderr.count("\n") == 1 and not done.stdout, done
    for part in says:
        assert part in stderr, f"expected {part!r} in: {stderr}"


def run_json(view, *options, **how):
    """The object that --json prints; what it must have in any case is checked."""
    done = must("run", view, "--json", *options, **how)
    assert done.stderr == b"", done.stderr
    out = json.loads(done.stdout)
    assert done.stdout.count(b"\n") == 1 and out["stop"] in ("eos", "length", "stop", "context"), out
    assert all(isinstance(token, int) for token in out["prompt_tokens"] + out["tokens"])
    times = out["timings"]
    assert set(times) == {"load_seconds", "prompt_seconds", "decode_seconds", "first_token_seconds",
                          "prompt_tokens_per_second", "decode_tokens_per_second"}
    assert all(value >= 0 for value in times.values()) and times["load_seconds"] > 0, times
    assert out["memory"]["private_bytes"] > 0, out["memory"]
    return out


def ids(tokens):
    return ",".join(map(str, tokens))


def logits_of(view, folder, *options, **how):
    """(object, logits) of a run with --logits."""
    path = folder / "logits.npy"
    out = run_json(view, *options, "--logits", path, **how)
    array = np.load(path)
    assert path.stat().st_size == 128 + array.nbytes and array.dtype == np.float32
    path.unlink()
    assert len(array) == len(out["prompt_tokens"]) + max(0, len(out["tokens"]) - 1), (array.shape, out)
    return out, array


def packed(name, folder):
    return convert(checkpoint(name), folder / name, "--precision", "source", "--mxfp4", "packed")


def golden_cases(name, longest=10_000):
    folder = KIT / "goldens" / name
    for case in json.loads((folder / "manifest.json").read_text())["cases"]:
        if case["prompt_length"] <= longest:
            yield case, *(np.load(folder / f"{case['name']}.{part}.npy") for part in ("prompt", "greedy", "logits"))


def encode(text, *options):
    done = subprocess.run([TPINFER, "tokenize", "--no-bos", "--json", *options, checkpoint("tiny")], input=text.encode(),
                          capture_output=True, check=True)
    return json.loads(done.stdout)["tokens"]


def decode(tokens, *options):
    done = subprocess.run([TPINFER, "tokenize", "--decode", *options, checkpoint("tiny")],
                          input=ids(tokens).encode(), capture_output=True, check=True)
    return done.stdout


def script_view(folder, script, after=None, sharpness=0.25, architecture="tiny"):
    """A copy of a kit's model whose likeliest next token after script[i] is script[i + 1], and script[0] after
    the last one and after the token `after`. Attention and experts stay as they are and move the other logits
    a little, so that two ways to compute one position can be compared."""
    assert len(set(script)) == len(script) and after not in script, "a token has one successor"
    tensors = read(checkpoint(architecture))
    n, width = tensors["model.embed_tokens.weight"].shape
    signs = np.random.default_rng(1).choice([-1.0, 1.0], (n, width))
    head = np.zeros((n, width))
    for token, following in zip(script, [*script[1:], script[0]], strict=True):
        head[following] += signs[token]
    if after is not None:
        head[script[0]] += signs[after]
    tensors["model.embed_tokens.weight"] = (16 * signs).astype(ml_dtypes.bfloat16)
    tensors["lm_head.weight"] = (sharpness * head).astype(ml_dtypes.bfloat16)
    source = checkpoint(architecture)
    write_view(folder, tensors, json.loads((source / "config.json").read_text()))
    for name in ("tokenizer.json", "generation_config.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    return folder
